"""Is everything there that a run needs? Asked before anything is made, and all told at once.

    python -m lib.checks.preflight [--target local|gcp] [--env dev|prod] [--permissions]

`--permissions` prints the least-privilege table instead. Exit status: 0 nothing stands in the way
(warnings are told), 1 something does, 2 a bad command line or config.yaml.
"""

import argparse
import itertools
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import requests
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors
from google.cloud.service_usage_v1 import State

from lib import cloud as clouds
from lib import config, images, stages, warehouse
from lib.cloud import Cloud
from lib.config import Settings
from lib.stages import Needed, Outcome

STORES, VIEWS = 10, 30  # quotas a project and region: Google's "Agent Platform quotas" page
MOST_PERMISSIONS = 100  # of one testIamPermissions call
MOST_SERVICES = 30  # of one services.batchGet call: its reference page
STAGE = "00_preflight"
REFUSALS = (google_errors.GoogleAPIError, auth_errors.GoogleAuthError, requests.RequestException)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. need and command: only where the level is not "ok"."""

    name: str
    level: Literal["ok", "warning", "blocker"]
    found: str
    need: str = ""
    command: str = ""


# -- permissions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Permission:
    """One permission of the flow. unless: it is not needed when this ("bucket", "dataset")
    stands already; with: it is needed only then."""

    step: str
    name: str
    unless: str = ""
    with_: str = ""


def _of(step: str, *names: str, **when: str) -> tuple[Permission, ...]:
    return tuple(Permission(step, name, **when) for name in names)


PERMISSIONS = (
    *_of("preflight", "resourcemanager.projects.get", "serviceusage.services.get"),
    *_of("BigQuery tables", "bigquery.jobs.create", "bigquery.readsessions.create",
         "bigquery.readsessions.getData"),
    # Who makes a dataset owns it, and may do all the rest inside.
    *_of("BigQuery tables", "bigquery.datasets.create", unless="dataset"),
    *_of("BigQuery tables", "bigquery.tables.create", "bigquery.tables.get",
         "bigquery.tables.getData", "bigquery.tables.update", "bigquery.tables.updateData",
         with_="dataset"),
    *_of("images", "artifactregistry.repositories.get", "artifactregistry.dockerimages.get",
         "artifactregistry.repositories.uploadArtifacts"),
    *_of("feature store", "aiplatform.featureGroups.create", "aiplatform.featureGroups.get",
         "aiplatform.features.create", "aiplatform.features.list",
         "aiplatform.featureOnlineStores.create", "aiplatform.featureOnlineStores.get",
         "aiplatform.featureViews.create", "aiplatform.featureViews.get",
         "aiplatform.featureViews.sync", "aiplatform.featureViewSyncs.get",
         "aiplatform.featureViewSyncs.list"),
    *_of("training", "aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get",
         "aiplatform.customJobs.create", "aiplatform.metadataStores.get",
         "iam.serviceAccounts.actAs", "storage.objects.create", "storage.objects.get"),
    *_of("training", "storage.buckets.get", with_="bucket"),
    *_of("training", "storage.buckets.create", unless="bucket"),
    *_of("registry and endpoint", "aiplatform.models.upload", "aiplatform.models.get",
         "aiplatform.modelEvaluations.import", "aiplatform.endpoints.create",
         "aiplatform.endpoints.deploy", "aiplatform.endpoints.undeploy"),
    *_of("prediction", "aiplatform.featureViews.fetchFeatureValues",
         "aiplatform.endpoints.predict"),
    *_of("teardown", "aiplatform.featureGroups.delete", "aiplatform.features.delete",
         "aiplatform.featureOnlineStores.delete", "aiplatform.featureViews.delete",
         "aiplatform.models.delete", "aiplatform.endpoints.delete"),
)

# Predefined roles, with those of our permissions that each has. aiplatform.user: Google's
# access-control page for Vertex AI. The others: the role references of BigQuery, Cloud Storage,
# Artifact Registry, IAM, Resource Manager and Service Usage, from memory, not read again here.
_VERTEX = {p.name for p in PERMISSIONS if p.name.startswith("aiplatform.")}
_READ = {"bigquery.readsessions.create", "bigquery.readsessions.getData"}
_TABLES = {p.name for p in PERMISSIONS if p.name.startswith("bigquery.tables.")}
_OBJECTS = {"storage.objects.create", "storage.objects.get"}
_IMAGES = {"artifactregistry.repositories.get", "artifactregistry.dockerimages.get"}
ROLES: dict[str, set[str]] = {
    "roles/aiplatform.user": _VERTEX | {"resourcemanager.projects.get"},
    "roles/bigquery.jobUser": {"bigquery.jobs.create"},
    "roles/bigquery.readSessionUser": _READ,
    "roles/bigquery.user": {"bigquery.jobs.create", "bigquery.datasets.create"} | _READ,
    "roles/bigquery.dataEditor": {"bigquery.datasets.create"} | _TABLES,
    "roles/storage.objectUser": _OBJECTS,
    "roles/storage.admin": {"storage.buckets.create", "storage.buckets.get"} | _OBJECTS,
    "roles/artifactregistry.reader": _IMAGES,
    "roles/artifactregistry.writer": {"artifactregistry.repositories.uploadArtifacts"} | _IMAGES,
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/serviceusage.serviceUsageViewer": {"serviceusage.services.get"},
    "roles/browser": {"resourcemanager.projects.get"},
}


def smallest_roles(permissions: set[str]) -> list[str]:
    """The predefined roles that together have these permissions, and the least besides.

    Raises:
        KeyError: a permission that no role of ROLES has.
    """
    left = set(permissions)
    chosen: list[str] = []
    for service in sorted({name.split(".")[0] for name in left}):
        wanted = {name for name in left if name.startswith(service + ".")}
        held = set().union(*(ROLES[role] for role in chosen)) if chosen else set()
        if wanted <= held:
            continue
        roles = [role for role, has in ROLES.items() if has & wanted]
        sets = [s for n in range(1, len(roles) + 1) for s in itertools.combinations(roles, n)
                if wanted <= set().union(*(ROLES[role] for role in s))]
        if not sets:
            raise KeyError(f"no role for all of {sorted(wanted)}")
        # Few permissions first, then few roles.
        chosen += min(sets, key=lambda s: (len(set().union(*(ROLES[r] for r in s))), len(s)))
    return sorted(set(chosen))


def permission_table() -> str:
    """The least-privilege table, as Markdown: step, permission, smallest predefined role."""
    lines = ["| step | permission | smallest predefined role |", "|---|---|---|"]
    for step in dict.fromkeys(p.step for p in PERMISSIONS):
        for permission in (p for p in PERMISSIONS if p.step == step):
            when = {"unless": f" (no {permission.unless} yet)",
                    "with": f" (the {permission.with_} stands)"}
            note = when["unless"] if permission.unless else when["with"] if permission.with_ else ""
            (role,) = smallest_roles({permission.name})
            lines.append(f"| {step} | `{permission.name}`{note} | `{role}` |")
    return "\n".join(lines)


# -- the checks -----------------------------------------------------------------------------------


def check(cloud: Cloud) -> list[Finding]:
    """Everything, looked at: a check that cannot be made is itself a finding."""
    findings: list[Finding] = []
    for name, look in CHECKS.items():
        try:
            findings += look(cloud, name)
        except (*REFUSALS, Needed) as error:
            told = stages.explain(error, STAGE, name, cloud.settings)
            findings.append(Finding(name, "blocker", told.cause, told.need, told.command))
    return findings


def run(cloud: Cloud) -> Outcome:
    """`check`, as the first stage of a run; the Outcome's value is the list of findings.

    Raises:
        Needed: something stands in the way; all of it is printed before.
    """
    findings = check(cloud)
    blockers = [f for f in findings if f.level == "blocker"]
    if blockers:
        _print(findings)
        raise Needed(
            "; ".join(f"{f.name}: {f.found}" for f in blockers),
            "; ".join(dict.fromkeys(f.need for f in blockers)),
            "\n           ".join(dict.fromkeys(f.command for f in blockers if f.command)))
    warnings = [f for f in findings if f.level == "warning"]
    _print(warnings)
    return Outcome("done", figures={"checks ok": len(findings) - len(warnings),
                                    "warnings": len(warnings)}, value=findings)


def _project(cloud: Cloud, name: str) -> list[Finding]:
    project = cloud.settings.project
    try:
        found = cloud.projects.get_project(name=f"projects/{project}")
    except google_errors.Forbidden as error:
        if "SERVICE_DISABLED" in str(error) or "has not been used" in str(error):
            raise
        return [Finding(
            name, "blocker", f"{project} does not exist, or these credentials may not see it",
            "the right project id in config.yaml, and an account that is a member of it",
            "gcloud projects list")]
    return [Finding(name, "ok", f"{found.project_id}, number {found.name.split('/')[1]}")]


def _apis(cloud: Cloud, name: str) -> list[Finding]:
    settings, off = cloud.settings, []
    parent = f"projects/{settings.project}"
    for part in _chunks(settings.apis, MOST_SERVICES):
        answer = cloud.services.batch_get_services(request={
            "parent": parent, "names": [f"{parent}/services/{api}" for api in part]})
        on = {s.config.name or s.name.rsplit("/", 1)[1] for s in answer.services
              if s.state == State.ENABLED}
        off += [api for api in part if api not in on]
    if off:
        return [Finding(name, "blocker", f"not enabled: {', '.join(off)}",
                        "these APIs; enabling takes some minutes to count",
                        f"gcloud services enable {' '.join(off)} --project {settings.project}")]
    return [Finding(name, "ok", f"all {len(settings.apis)} are enabled")]


def _chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[at:at + size] for at in range(0, len(names), size)]


def _permissions(cloud: Cloud, name: str) -> list[Finding]:
    stands = {"bucket": _bucket_stands(cloud), "dataset": _find_dataset(cloud) is not None}
    wanted = {p.name for p in PERMISSIONS
              if not (stands.get(p.unless) or p.with_ and not stands[p.with_])}
    granted: set[str] = set()
    for part in _chunks(sorted(wanted), MOST_PERMISSIONS):
        granted |= set(cloud.projects.test_iam_permissions(
            resource=f"projects/{cloud.settings.project}", permissions=list(part)).permissions)
    missing = wanted - granted
    missing -= _granted_on_bucket(cloud, missing, stands["bucket"])
    missing -= _granted_on_tables(cloud, missing, stands["dataset"])
    if not missing:
        return [Finding(name, "ok", f"all {len(wanted)} that the flow needs")]
    return [_missing(cloud, name, role, missing) for role in smallest_roles(missing)]


def _missing(cloud: Cloud, name: str, role: str, missing: set[str]) -> Finding:
    project = cloud.settings.project
    lacking = sorted(missing & ROLES[role])
    return Finding(
        name, "blocker", f"missing {', '.join(lacking)}", f"{role} on project {project}",
        f"gcloud projects add-iam-policy-binding {project} --member {member(cloud)} --role {role}")


def member(cloud: Cloud) -> str:
    """Who asks, as gcloud wants it; credentials of a person do not tell the address."""
    email = getattr(cloud.credentials, "service_account_email", "") or ""
    return f"serviceAccount:{email}" if "@" in email else "user:YOU@EXAMPLE.COM"


def _granted_on_bucket(cloud: Cloud, missing: set[str], stands: bool) -> set[str]:
    asked = sorted(p for p in missing if p.startswith("storage."))
    if not (asked and stands):
        return set()
    bucket = cloud.storage.bucket(cloud.settings.names.bucket)
    return set(bucket.test_iam_permissions(asked))


def _granted_on_tables(cloud: Cloud, missing: set[str], stands: bool) -> set[str]:
    """A dataset has no testIamPermissions of its own (BigQuery's API v2); its tables have. Who
    may write to one is taken to be let make others: both are in the role of a data editor."""
    asked = sorted(p for p in missing if p.startswith("bigquery.tables.") and "create" not in p)
    tables = list(cloud.bigquery.list_tables(cloud.settings.dataset)) if asked and stands else []
    if not tables:
        return set()
    answer = cloud.bigquery.test_iam_permissions(tables[0].reference, asked)
    granted = set(answer.get("permissions", []))
    return granted | ({"bigquery.tables.create"} if "bigquery.tables.updateData" in granted
                      else set())


def _region(cloud: Cloud, name: str) -> list[Finding]:
    # config.load has refused every other region, with the nearest one that has it.
    return [Finding(name, "ok", f"{cloud.settings.region} offers the Feature Store")]


def _dataset(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    location, found = settings.place.location, _find_dataset(cloud)
    if found is not None and found.location.upper() != location.upper():
        return [Finding(
            name, "blocker", f"{settings.dataset} stands in {found.location}, not in {location}",
            f"a dataset in {location}, or another names.dataset in config.yaml",
            f"bq rm -r -d {settings.project}:{settings.names.dataset}")]
    stands = "stands" if found else "will be made"
    return [Finding(name, "ok", f"{settings.dataset} {stands} in {location}"),
            *_source(cloud, "source")]


def _source(cloud: Cloud, name: str) -> list[Finding]:
    """BigQuery joins nothing across locations: the source must stand where our tables will."""
    settings = cloud.settings
    if settings.source_is_folder:
        return [Finding(name, "ok", f"a folder: {settings.source}")]
    cloud.bigquery.get_table(f"{settings.source_dataset}.orders")
    location = cloud.bigquery.get_dataset(settings.source_dataset).location
    if location.upper() != settings.place.location.upper():
        return [Finding(
            name, "blocker", f"{settings.source} stands in {location}, the data are to be in "
            f"{settings.place.location}", f"targets.{settings.target}.location: {location}, and "
            "a region inside it", "edit config.yaml")]
    return [Finding(name, "ok", f"{settings.source} can be read, in {location}")]


def _find_dataset(cloud: Cloud):
    try:
        return cloud.bigquery.get_dataset(cloud.settings.dataset)
    except google_errors.NotFound:
        return None


def _bucket_stands(cloud: Cloud) -> bool:
    try:
        return cloud.storage.lookup_bucket(cloud.settings.names.bucket) is not None
    except google_errors.Forbidden:
        return False  # _bucket tells


def _bucket(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    wanted, location = settings.names.bucket, settings.place.location
    try:
        found = cloud.storage.lookup_bucket(wanted)
    except google_errors.Forbidden:
        return [Finding(
            name, "blocker", f"gs://{wanted} stands and may not be looked at: perhaps it is "
            "somebody else's, for names are unique in the world",
            "another names.bucket in config.yaml, or access to that one",
            f"gcloud storage buckets add-iam-policy-binding gs://{wanted} --member "
            f"{member(cloud)} --role roles/storage.admin")]
    if found is not None and found.location.upper() != location.upper():
        return [Finding(
            name, "blocker", f"gs://{wanted} stands in {found.location}, not in {location}",
            f"a bucket in {location}, or another names.bucket in config.yaml",
            f"gcloud storage rm --recursive gs://{wanted}")]
    return [Finding(name, "ok", f"gs://{wanted} {'stands' if found else 'will be made'} "
                                f"in {location}")]


def _quotas(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    stores = list(cloud.online_admin.list_feature_online_stores(parent=cloud.parent))
    views = [v for store in stores
             for v in cloud.online_admin.list_feature_views(parent=store.name)]
    # The run makes its view, and beside it one copy at a time (planted faults, freshness).
    ours = {settings.names.feature_view, f"{settings.names.feature_view}_freshness"}
    new_views = len(ours - {v.name.rsplit("/", 1)[1] for v in views})
    new_stores = int(settings.names.online_store not in {s.name.rsplit("/", 1)[1] for s in stores})
    findings = []
    for kind, count, new, limit in (("online stores", len(stores), new_stores, STORES),
                                    ("feature views", len(views), new_views, VIEWS)):
        told = f"{count} of {limit} {kind} stand in {settings.region}, {new} more to be made"
        if count + new > limit:
            findings.append(Finding(
                name, "blocker", told, f"room for {new} more: delete one, or ask for more quota",
                "https://console.cloud.google.com/iam-admin/quotas?project=" + settings.project))
        else:
            findings.append(Finding(name, "ok", told))
    return findings


def _service_agent(cloud: Cloud, name: str) -> list[Finding]:
    """Who reads BigQuery for a sync: Google's guide to feature views."""
    if cloud.settings.feature_view.service_agent == "project":
        return [Finding(name, "ok", "the project's Vertex AI agent reads BigQuery; within one "
                                    "project it needs nothing")]
    return [Finding(
        name, "warning", "the view gets an account of its own, which the run lets read "
        f"{cloud.settings.dataset}; the grant counts after 2 to 10 minutes",
        f"patience: a refused sync is tried again for {cloud.settings.waits.iam_seconds} s")]


def _images(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    if not settings.place.pinned_images:
        return [Finding(name, "ok", "run from their folders: nothing to build")]
    repository = settings.serve.image_repository
    host, project, folder = repository.split("/", 2)
    parent = (f"projects/{project}/locations/{host.removesuffix('-docker.pkg.dev')}"
              f"/repositories/{folder}")
    try:
        cloud.artifacts.get_repository(name=parent)
    except google_errors.NotFound:
        return [Finding(
            name, "blocker", f"there is no repository {repository}", "a repository for images",
            f"gcloud artifacts repositories create {folder} --repository-format docker "
            f"--location {parent.split('/')[3]} --project {project}")]
    lock = images.read_lock().get(repository, {})
    gone = [image for image in images.names()
            if image not in lock or not _in_registry(cloud, parent, image, lock[image])]
    if not gone:
        return [Finding(name, "ok", f"{len(lock)} in {repository}, by digest")]
    command = f"scripts/build_push_all.sh --target {settings.target} --env {settings.env}"
    locked = [image for image in gone if image in lock]
    if not locked and (shutil.which("docker") or shutil.which("gcloud")):
        return [Finding(name, "warning", f"not built yet: {', '.join(gone)}",
                        "nothing: the run starts with building them", command)]
    return [Finding(name, "blocker", f"not in {repository}: {', '.join(gone)}",
                    "these images, and their digests in lib/images.lock.json", command)]


def _in_registry(cloud: Cloud, parent: str, image: str, digest: str) -> bool:
    try:
        cloud.artifacts.get_docker_image(name=f"{parent}/dockerImages/{image}@{digest}")
        return True
    except google_errors.NotFound:
        return False


def _cost(cloud: Cloud, name: str) -> list[Finding]:
    """What sql/01 would scan, by a dry run of its queries without the table that they make."""
    settings = cloud.settings
    queries = [statement.split("\nas\n", 1)[1]
               for statement in warehouse.render("01_prepare_bq", settings)]
    scanned = sum(warehouse.estimate(cloud, query) for query in queries)
    hours = (f"by the hour while they stand: {settings.online_store.min_node_count} Bigtable "
             f"node, {settings.serve.min_replica_count} {settings.serve.machine_type}")
    if not settings.place.billed:
        return [Finding(name, "ok", "nothing is billed here")]
    return [Finding(
        name, "ok", f"sql/01 scans {scanned / 1e9:.2f} GB of the source, at most "
        f"${warehouse.dollars(settings, scanned):.4f} (${settings.costs.usd_per_tib_scanned}/TiB, "
        f"the first TiB a month is free); {hours}")]


CHECKS: dict[str, Callable[[Cloud, str], list[Finding]]] = {
    "project": _project, "APIs": _apis, "permissions": _permissions, "region": _region,
    "dataset": _dataset, "bucket": _bucket, "quotas": _quotas, "service agent": _service_agent,
    "images": _images, "cost": _cost,
}


# -- the command ----------------------------------------------------------------------------------


def _print(findings: list[Finding]) -> None:
    words = {"ok": "ok   ", "warning": "WARN ", "blocker": "BLOCK"}
    for finding in findings:
        print(f"{words[finding.level]} {finding.name}: {finding.found}")
        if finding.level != "ok":
            print(f"      needed:  {finding.need}")
            if finding.command:
                print(f"      command: {finding.command}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.checks.preflight", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    parser.add_argument("--permissions", action="store_true",
                        help="print the least-privilege table, ask nothing")
    options = parser.parse_args(arguments)
    if options.permissions:
        print(permission_table())
        return 0
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    cloud = None
    try:
        cloud = clouds.connect(settings)
        print(f"{cloud.note}, env {settings.env}")
        findings = check(cloud)
    except Exception as error:
        told = stages.explain(error, STAGE, "connecting", settings)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1
    finally:
        if cloud and cloud.started_local:
            clouds.stop_local()
    _print(findings)
    blockers = sum(f.level == "blocker" for f in findings)
    print(f"{len(findings)} findings, {blockers} in the way")
    return 1 if blockers else 0


if __name__ == "__main__":
    sys.exit(main())
