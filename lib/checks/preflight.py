"""Is everything there that a run needs? Asked before anything is made, and all told at once.

    python -m lib.checks.preflight [--target local|gcp] [--env dev|prod] [--permissions]

`--permissions` prints the least-privilege table instead. Exit status: 0 nothing stands in the way
(warnings are told), 1 something does, 2 a bad command line or config.yaml.
"""

import argparse
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from google.api_core import exceptions as google_errors
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud.bigquery import Dataset
from google.cloud.service_usage_v1 import State

from lib import cloud as clouds
from lib import config, images, stages, warehouse
from lib.cloud import Cloud
from lib.stages import Needed, Outcome

STORES, VIEWS = 10, 30  # quotas a project and region: Google's "Agent Platform quotas" page
NEAR = 0.9  # of a quota: from here on there is a warning
COPY = "_freshness"  # lib/checks make their copies one at a time: one view beside the run's own
MOST_PERMISSIONS = 100  # of one testIamPermissions call
MOST_SERVICES = 30  # of one services.batchGet call: its reference page
PRICE_READ = "2026-09-28"  # when costs.usd_per_tib_scanned of config.yaml was read
# Cities that are in Europe, but not in BigQuery's multi-region EU: London and Zurich, by
# cloud.google.com/bigquery/docs/locations (from memory, not read again here).
NOT_IN_EU = ("europe-west2", "europe-west6")
# What the training's containers do: read train_dataset, write artifacts, report to the pipeline.
TRAINING_ROLES = ("roles/bigquery.dataViewer", "roles/bigquery.user", "roles/storage.objectUser",
                  "roles/aiplatform.user")
STAGE = "00_preflight"
UNKNOWN = "user:YOU@EXAMPLE.COM"  # in commands, where the credentials do not tell


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
    stands already; with_: it is needed only then ("own view": if the dataset stands, and
    feature_view.service_agent is view)."""

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
    # The run writes the view's account into the dataset's access list.
    *_of("feature store", "bigquery.datasets.update", with_="own view"),
    *_of("training", "aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get",
         "aiplatform.customJobs.create", "aiplatform.metadataStores.get",
         "aiplatform.metadataStores.create",
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
         "aiplatform.models.delete", "aiplatform.endpoints.delete", "storage.objects.list",
         "storage.objects.delete"),
)

# Predefined roles, with those of our permissions that each has. aiplatform.*: Google's
# access-control page for Vertex AI. The others: the role references of BigQuery, Cloud Storage,
# Artifact Registry, IAM, Resource Manager and Service Usage, from memory, not read again here.
_VERTEX = {p.name for p in PERMISSIONS if p.name.startswith("aiplatform.")}
_READ = {"bigquery.readsessions.create", "bigquery.readsessions.getData"}
_TABLES = {p.name for p in PERMISSIONS if p.name.startswith("bigquery.tables.")}
_OBJECTS = {p.name for p in PERMISSIONS if p.name.startswith("storage.objects.")}
_IMAGES = {"artifactregistry.repositories.get", "artifactregistry.dockerimages.get"}
ROLES: dict[str, set[str]] = {
    "roles/aiplatform.user": _VERTEX | {"resourcemanager.projects.get"},
    "roles/aiplatform.featurestoreDataViewer": {"aiplatform.featureViews.fetchFeatureValues"},
    "roles/bigquery.jobUser": {"bigquery.jobs.create"},
    "roles/bigquery.readSessionUser": _READ,
    "roles/bigquery.user": {"bigquery.jobs.create", "bigquery.datasets.create"} | _READ,
    "roles/bigquery.dataEditor": {"bigquery.datasets.create"} | _TABLES,
    "roles/bigquery.dataOwner":
        {"bigquery.datasets.create", "bigquery.datasets.update"} | _TABLES,
    "roles/storage.objectUser": _OBJECTS,
    # Can be given on a bucket only: so it has here what is asked only where a bucket stands.
    "roles/storage.legacyBucketReader": {"storage.buckets.get"},
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
            (role,) = smallest_roles({permission.name})
            lines.append(f"| {step} | `{permission.name}`{_when(permission)} | `{role}` |")
    return "\n".join(lines)


def _when(permission: Permission) -> str:
    if permission.with_ == "own view":
        return " (the dataset stands, and `service_agent: view`)"
    if permission.with_:
        return f" (the {permission.with_} stands)"
    return f" (no {permission.unless} yet)" if permission.unless else ""


# -- the checks -----------------------------------------------------------------------------------


def check(cloud: Cloud) -> list[Finding]:
    """Everything, looked at: a check that cannot be made is itself a finding.

    Credentials that do not count end it: nothing more can be asked with them.
    """
    findings: list[Finding] = []
    for name, look in CHECKS.items():
        try:
            findings += look(cloud, name)
        except GoogleAuthError as error:
            return [*findings, _unanswered(cloud, name, error)]
        except Exception as error:
            findings.append(_unanswered(cloud, name, error))
    return findings


def _unanswered(cloud: Cloud, name: str, error: Exception) -> Finding:
    """A check that could not be made: what is needed for it, in the user's terms."""
    if api := _disabled(error):
        project = cloud.settings.project
        return Finding(name, "blocker", f"cannot be asked, since {api} is not enabled",
                       f"{api}, enabled in {project}; that takes some minutes to count",
                       f"gcloud services enable {api} --project {project}")
    told = stages.explain(error, STAGE, name, cloud.settings)
    if told:
        return Finding(name, "blocker", told.cause, told.need, told.command)
    # A mistake of ours must not keep a run from its work: it will meet what is really missing.
    return Finding(name, "warning", f"could not be looked at: {type(error).__name__}: {error}",
                   "a look by yourself, or a fix in lib/checks/preflight.py")


def _disabled(error: Exception) -> str:
    """The API that an error says is off; "" if it is about something else.

    By google/api/error_reason.proto (SERVICE_DISABLED), or by the words of older APIs.
    """
    if not isinstance(error, google_errors.Forbidden):
        return ""
    words = "has not been used|SERVICE_DISABLED|accessNotConfigured"
    if error.reason != "SERVICE_DISABLED" and not re.search(words, f"{error} {error.errors}"):
        return ""
    named = re.search(r"([a-z]+\.googleapis\.com)", error.message or "")
    return (error.metadata or {}).get("service") or (named[1] if named else "the API itself")


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
            f"{len(blockers)} in the way: "
            + "; ".join(f"{f.name}: {f.found}" for f in blockers),
            "; ".join(dict.fromkeys(f.need for f in blockers)),
            "\n           ".join(dict.fromkeys(f.command for f in blockers if f.command)))
    warnings = [f for f in findings if f.level == "warning"]
    _print(warnings)
    return Outcome("done", figures={"checks ok": len(findings) - len(warnings),
                                    "warnings": len(warnings)}, value=findings)


def _credentials(cloud: Cloud, name: str) -> list[Finding]:
    """Whether they still count, and whose they are, if they tell."""
    if not cloud.credentials.valid:
        cloud.credentials.refresh(Request())
    known, kind = member(cloud), type(cloud.credentials).__name__
    whose = "do not tell whose they are" if known == UNKNOWN else f"are of {known}"
    return [Finding(name, "ok", f"{kind}: they {whose}")]


def _project(cloud: Cloud, name: str) -> list[Finding]:
    project = cloud.settings.project
    try:
        found = cloud.projects.get_project(name=f"projects/{project}")
    except google_errors.Forbidden as error:
        if _disabled(error):
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
    stands = _standing(cloud)
    wanted = {p.name for p in PERMISSIONS
              if not (stands.get(p.unless) or p.with_ and not stands[p.with_])}
    granted, unknown = _granted(cloud, wanted)
    missing, owners = wanted - granted - unknown, set()
    if stands["bucket"]:
        missing -= _granted_on_bucket(cloud, missing)
    if stands["dataset"]:
        found, owners = _granted_on_dataset(cloud, missing)
        missing -= found | owners
    findings = [_missing(cloud, name, role, missing, stands["bucket"])
                for role in smallest_roles(missing)]
    findings += [
        Finding(name, "warning", f"{why}: {', '.join(sorted(names & ROLES[role]))}", need + role,
                _bind_project(cloud, role))
        for names, why, need in (
            (owners, "not granted by the project, and a dataset cannot be asked",
             "nothing, for whoever made the dataset; for others "),
            (unknown, "Google does not let these be asked for", "perhaps nothing; they are in "))
        for role in smallest_roles(names)]
    return findings or [Finding(name, "ok", f"all {len(wanted)} that the flow needs")]


def _standing(cloud: Cloud) -> dict[str, bool]:
    """What decides which permissions are needed. What may not be looked at stands too: _bucket
    and _dataset tell the rest."""
    stands = {}
    for thing, find in (("bucket", _find_bucket), ("dataset", _find_dataset)):
        try:
            stands[thing] = find(cloud) is not None
        except google_errors.Forbidden as error:
            stands[thing] = not _disabled(error)
    own = cloud.settings.feature_view.service_agent == "view"
    return {**stands, "own view": stands["dataset"] and own}


def _granted(cloud: Cloud, wanted: Iterable[str]) -> tuple[set[str], set[str]]:
    """Which of these the caller has on the project, and which the project cannot be asked for.

    One name that it does not know makes Google refuse the whole call: so they are asked one by
    one then.
    """
    granted, unknown = set(), set()

    def ask(names: list[str]) -> None:
        granted.update(cloud.projects.test_iam_permissions(
            resource=f"projects/{cloud.settings.project}", permissions=names).permissions)

    for part in _chunks(sorted(wanted), MOST_PERMISSIONS):
        try:
            ask(part)
        except google_errors.BadRequest:
            for name in part:
                try:
                    ask([name])
                except google_errors.BadRequest:
                    unknown.add(name)
    return granted, unknown


def _missing(cloud: Cloud, name: str, role: str, missing: set[str], bucket: bool) -> Finding:
    lacking = f"missing {', '.join(sorted(missing & ROLES[role]))}"
    if bucket and role.startswith("roles/storage."):
        there = f"gs://{cloud.settings.names.bucket}"
        return Finding(name, "blocker", lacking, f"{role} on {there}", _bind_bucket(cloud, role))
    return Finding(name, "blocker", lacking, f"{role} on project {cloud.settings.project}",
                   _bind_project(cloud, role))


def _bind_project(cloud: Cloud, role: str) -> str:
    return (f"gcloud projects add-iam-policy-binding {cloud.settings.project} "
            f"--member {member(cloud)} --role {role}")


def _bind_bucket(cloud: Cloud, role: str) -> str:
    return (f"gcloud storage buckets add-iam-policy-binding gs://{cloud.settings.names.bucket} "
            f"--member {member(cloud)} --role {role}")


def member(cloud: Cloud) -> str:
    """Who asks, as gcloud wants it; credentials of a person may not tell the address."""
    for kind, attribute in (("serviceAccount", "service_account_email"), ("user", "account")):
        email = getattr(cloud.credentials, attribute, "") or ""
        if "@" in email:
            return f"{kind}:{email}"
    return UNKNOWN


def _granted_on_bucket(cloud: Cloud, missing: set[str]) -> set[str]:
    asked = sorted(p for p in missing if p.startswith("storage."))
    if not asked:
        return set()
    try:
        return set(cloud.storage.bucket(cloud.settings.names.bucket).test_iam_permissions(asked))
    except google_errors.Forbidden:  # somebody else's, or nothing is granted there
        return set()


def _granted_on_dataset(cloud: Cloud, missing: set[str]) -> tuple[set[str], set[str]]:
    """Which of the missing ones the dataset grants, and which its maker has, but cannot be asked.

    A dataset has no testIamPermissions of its own (BigQuery's API v2); its tables have. Who may
    write to one is taken to be let make others: both are in the role of a data editor. Whoever
    made the dataset owns it, so without a table nothing is known to be missing.
    """
    on_dataset = {"bigquery.datasets.update"} & missing
    on_tables = {p for p in missing if p.startswith("bigquery.tables.")}
    if not (on_dataset or on_tables):
        return set(), set()
    try:
        tables = cloud.bigquery.list_tables(cloud.settings.dataset, max_results=1)
        table = next(iter(tables), None)
    except google_errors.Forbidden:  # somebody else's: its maker would be let look
        return set(), set()
    if table is None:
        return set(), on_dataset | on_tables
    # tables.create is none of a table's own.
    asked = sorted({*on_tables, "bigquery.tables.updateData"} - {"bigquery.tables.create"})
    answer = cloud.bigquery.test_iam_permissions(table.reference, asked)
    granted = set(answer.get("permissions", []))
    if "bigquery.tables.updateData" in granted:
        granted.add("bigquery.tables.create")
    return granted & on_tables, on_dataset


def _region(cloud: Cloud, name: str) -> list[Finding]:
    # config.load has refused every other region, with the nearest one that has it.
    settings = cloud.settings
    location = settings.place.location
    if not _holds(location, settings.region):
        return [Finding(
            name, "blocker", f"location {location} does not hold the region {settings.region}: a "
            "feature view syncs only from BigQuery data in its own region, or in a multi-region "
            "around it", f"targets.{settings.target}.region and .location that belong together",
            "edit config.yaml")]
    return [Finding(name, "ok", f"{settings.region} offers the Feature Store, and lies in "
                                f"{location}")]


def _holds(location: str, region: str) -> bool:
    """Is this region in BigQuery's location?"""
    if location == "EU":
        return region.startswith("europe-") and region not in NOT_IN_EU
    return region.startswith("us-") if location == "US" else location == region


def _dataset(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    location, found = settings.place.location, _find_dataset(cloud)
    if found is not None and found.location.upper() != location.upper():
        return [Finding(
            name, "blocker", f"{settings.dataset} stands in {found.location}, not in {location}",
            f"a dataset in {location}, or another names.dataset in config.yaml",
            f"bq rm -r -d {settings.project}:{settings.names.dataset}")]
    stands = "stands" if found else "will be made"
    return [Finding(name, "ok", f"{settings.dataset} {stands} in {location}")]


def _source(cloud: Cloud, name: str) -> list[Finding]:
    """Can a row be read, and does the source stand where our tables will?"""
    settings = cloud.settings
    if settings.source_is_folder:
        if settings.source_folder.is_dir():
            return [Finding(name, "ok", f"a folder: {settings.source}")]
        return [Finding(name, "blocker", f"there is no folder {settings.source_folder}",
                        "an export of theLook there, or another `source`", "edit config.yaml")]
    orders = cloud.bigquery.get_table(f"{settings.source_dataset}.orders")
    list(cloud.bigquery.list_rows(orders, max_results=1))
    location = orders.location or cloud.bigquery.get_dataset(settings.source_dataset).location
    if location.upper() != settings.place.location.upper():
        return [Finding(
            name, "blocker", f"{settings.source} stands in {location}, and the data are to be in "
            f"{settings.place.location}: BigQuery cannot query across locations",
            f"targets.{settings.target}.location: {location}, and a region inside it",
            "edit config.yaml")]
    return [Finding(name, "ok", f"{settings.source} can be read, in {location}")]


def _find_dataset(cloud: Cloud) -> Dataset | None:
    try:
        return cloud.bigquery.get_dataset(cloud.settings.dataset)
    except google_errors.NotFound:
        return None


def _find_bucket(cloud: Cloud):
    return cloud.storage.lookup_bucket(cloud.settings.names.bucket)


def _bucket(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    wanted, location = settings.names.bucket, settings.place.location
    try:
        found = _find_bucket(cloud)
    except google_errors.Forbidden as error:
        if _disabled(error):
            raise
        return [Finding(
            name, "blocker", f"gs://{wanted} stands and may not be looked at: perhaps it is "
            "somebody else's, for names are unique in the world",
            "another names.bucket in config.yaml; or, if it is yours, access to it",
            _bind_bucket(cloud, "roles/storage.legacyBucketReader"))]
    if found is not None and found.location.upper() != location.upper():
        return [Finding(
            name, "blocker", f"gs://{wanted} stands in {found.location}, not in {location}",
            f"a bucket in {location}, or another names.bucket in config.yaml",
            f"gcloud storage rm --recursive gs://{wanted}")]
    return [Finding(name, "ok", f"gs://{wanted} {'stands' if found else 'will be made'} "
                                f"in {location}")]


def _quotas(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    names = settings.names
    stores = list(cloud.online_admin.list_feature_online_stores(parent=cloud.parent))
    views = [v for store in stores
             for v in cloud.online_admin.list_feature_views(parent=store.name)]
    # Without the project, which Google gives by its number: store, "featureViews", view.
    standing = {tuple(v.name.split("/")[-3:]) for v in views}
    wanted = {names.feature_view}
    if settings.place.planted_faults or settings.place.freshness:
        wanted.add(names.feature_view + COPY)
    new_views = sum((names.online_store, "featureViews", view) not in standing for view in wanted)
    new_stores = int(names.online_store not in {s.name.rsplit("/", 1)[1] for s in stores})
    return [_room(cloud, name, "online stores", len(stores), new_stores, STORES),
            _room(cloud, name, "feature views", len(views), new_views, VIEWS)]


def _room(cloud: Cloud, name: str, kind: str, count: int, new: int, limit: int) -> Finding:
    """Is there room for `new` more beside `count`?"""
    settings = cloud.settings
    told = f"{count} of {limit} {kind} stand in {settings.region}, {new} more to be made"
    page = f"https://console.cloud.google.com/iam-admin/quotas?project={settings.project}"
    if new and count + new > limit:
        return Finding(name, "blocker", told,
                       f"room for {new} more: delete one, or ask for more quota", page)
    if count + new >= NEAR * limit:
        return Finding(name, "warning", told, "nothing yet: the limit is near", page)
    return Finding(name, "ok", told)


def _service_agent(cloud: Cloud, name: str) -> list[Finding]:
    """Who reads BigQuery for a sync: Google's guide to feature views."""
    if cloud.settings.feature_view.service_agent == "project":
        return [Finding(name, "ok", "the project's Vertex AI agent reads BigQuery; within one "
                                    "project it needs nothing")]
    return [Finding(
        name, "warning", "the view gets an account of its own, which the run lets read "
        f"{cloud.settings.dataset}; the grant counts after 2 to 10 minutes",
        f"patience: a refused sync is tried again for {cloud.settings.waits.iam_seconds} s")]


def _training_account(cloud: Cloud, name: str) -> list[Finding]:
    """The pipeline's containers read BigQuery and write to the bucket as another account than
    the caller's. A fresh project's default account may have no role at all (Google's
    organization policies since 2024, from memory); whether it has cannot be asked without the
    right to read the project's policy."""
    settings, roles = cloud.settings, TRAINING_ROLES
    if not settings.place.pinned_images:
        return [Finding(name, "ok", "steps run as processes of the local cloud")]
    number = cloud.projects.get_project(name=f"projects/{settings.project}").name.split("/")[1]
    account = (settings.train.service_account
               or f"{number}-compute@developer.gserviceaccount.com")
    bind = f"gcloud projects add-iam-policy-binding {settings.project} --member "
    return [Finding(
        name, "warning", f"the training's containers run as {account}; what it may do was not "
        "asked", f"{', '.join(roles)} for it",
        "; ".join(f"{bind}serviceAccount:{account} --role {role}" for role in roles))]


def _images(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    if not settings.place.pinned_images:
        return [Finding(name, "ok", "run from their folders: nothing to build")]
    repository, wanted = settings.serve.image_repository, images.names()
    lock = images.read_lock().get(repository, {})
    parts = re.fullmatch(r"([^/]+)-docker\.pkg\.dev/([^/]+)/([^/]+)", repository)
    if parts:
        location, project, folder = parts.groups()
        parent = f"projects/{project}/locations/{location}/repositories/{folder}"
        try:
            cloud.artifacts.get_repository(name=parent)
        except google_errors.NotFound:
            return [Finding(
                name, "blocker", f"there is no repository {repository}", "a repository for images",
                f"gcloud artifacts repositories create {folder} --repository-format docker "
                f"--location {location} --project {project}")]
    unpinned = [image for image in wanted if image not in lock]
    gone = [image for image in wanted if parts and image in lock
            and not _in_registry(cloud, parent, image, lock[image])]
    command = f"scripts/build_push_all.sh --target {settings.target} --env {settings.env}"
    builder = shutil.which("docker") or shutil.which("gcloud")
    findings = []
    if gone:  # the run builds what is not pinned, and takes what is pinned to be there
        findings.append(Finding(
            name, "blocker", f"in lib/images.lock.json, but not in {repository}: "
            f"{', '.join(gone)}", "these images, and their new digests in the lock", command))
    if unpinned:
        findings.append(Finding(
            name, "warning" if builder else "blocker", f"not built yet: {', '.join(unpinned)}",
            "nothing: they are built at the start of the run" if builder else
            "these images, built where there is docker or gcloud", command))
    if not parts and not unpinned:
        findings.append(Finding(
            name, "warning", f"{repository} is not in Artifact Registry: not looked at",
            "the images there, by the digests of lib/images.lock.json", command))
    return findings or [Finding(name, "ok", f"all {len(wanted)} in {repository}, by digest")]


def _in_registry(cloud: Cloud, parent: str, image: str, digest: str) -> bool:
    try:
        cloud.artifacts.get_docker_image(name=f"{parent}/dockerImages/{image}@{digest}")
        return True
    except google_errors.NotFound:
        return False


def _cost(cloud: Cloud, name: str) -> list[Finding]:
    """What sql/01 would scan, by a dry run of its queries without the table that they make."""
    settings = cloud.settings
    scans = "a folder is loaded without a charge"
    if not settings.source_is_folder:  # what a folder is loaded into is not there before the run
        queries = [statement.split("\nas\n", 1)[1]
                   for statement in warehouse.render("01_prepare_bq", settings)]
        scanned = sum(warehouse.estimate(cloud, query) for query in queries)
        scans = (f"sql/01 scans {scanned / 1e9:.2f} GB of the source, at most "
                 f"${warehouse.dollars(settings, scanned):.4f} "
                 f"(${settings.costs.usd_per_tib_scanned}/TiB, price of {PRICE_READ}; the first "
                 "TiB a month is free)")
    if not settings.place.billed:
        return [Finding(name, "ok", "nothing is billed here")]
    return [Finding(
        name, "ok", f"{scans}; by the hour while they stand: {settings.online_store.min_node_count}"
        f" Bigtable node, {settings.serve.min_replica_count} {settings.serve.machine_type}")]


CHECKS: dict[str, Callable[[Cloud, str], list[Finding]]] = {
    "credentials": _credentials, "project": _project, "APIs": _apis,
    "permissions": _permissions, "region": _region, "dataset": _dataset, "source": _source,
    "bucket": _bucket, "quotas": _quotas, "service agent": _service_agent,
    "training account": _training_account, "images": _images,
    "cost": _cost,
}


# -- the command ----------------------------------------------------------------------------------


def _print(findings: list[Finding]) -> None:
    """A line each; then what is needed, and the command, of all that is not ok."""
    words = {"ok": "ok   ", "warning": "WARN ", "blocker": "BLOCK"}
    for finding in findings:
        print(f"{words[finding.level]} {finding.name + ':':<14} {finding.found}")
    for finding in sorted(findings, key=lambda f: f.level != "blocker"):
        if finding.level != "ok":
            print(f"\n{words[finding.level]} {finding.name}")
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
    blockers, warnings = (sum(f.level == level for f in findings)
                          for level in ("blocker", "warning"))
    print(f"\n{len(findings)} findings, {blockers} in the way, {warnings} to know of")
    return 1 if blockers else 0


if __name__ == "__main__":
    sys.exit(main())
