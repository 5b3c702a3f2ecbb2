"""Is everything there that a run needs? Asked before anything is made, and all told at once.

    python -m lib.operate.preflight [--target local|gcp] [--env dev|prod] [--permissions]

`--permissions` prints the least-privilege table instead. Exit status: 0 nothing stands in the way
(warnings are told), 1 something does, 2 a bad command line or config.yaml.
"""

import argparse
import dataclasses
import re
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
from lib import config, errors, features, images, warehouse
from lib.cloud import Cloud
from lib.errors import Needed
from lib.operate.permissions import PERMISSIONS, ROLES, permission_table, smallest_roles
from lib.stages import Outcome

STORES, VIEWS = 10, 30  # quotas a project and region: Google's "Agent Platform quotas" page
NEAR = 0.9  # of a quota: from here on there is a warning
COPY = "_freshness"  # lib/proof make their copies one at a time: one view beside the run's own
MOST_PERMISSIONS = 100  # of one testIamPermissions call
MOST_SERVICES = 30  # of one services.batchGet call: its reference page
PRICE_READ = "2026-09-28"  # when costs.usd_per_tib_scanned of config.yaml was read
# Cities that are in Europe, but not in BigQuery's multi-region EU: London and Zurich, by
# cloud.google.com/bigquery/docs/locations (from memory, not read again here).
NOT_IN_EU = ("europe-west2", "europe-west6")
# What the training's containers do: read train_dataset, write artifacts, report to the pipeline.
TRAINING_ROLES = ("roles/bigquery.dataViewer", "roles/bigquery.user", "roles/storage.objectUser",
                  "roles/aiplatform.user")
# What is billed by the hour must be removable before it is made; the rest can be asked for later.
CAN_WAIT = {p.name for p in PERMISSIONS
            if p.step == "teardown" and not p.name.startswith("aiplatform.")}
BUILD_API = "cloudbuild.googleapis.com"
# What Cloud Build's account does: read the source, write its log, push. Google's guide to that
# account, from memory, not read again here.
BUILD_ROLE = "roles/cloudbuild.builds.builder"
BUILDERS = {"docker": "docker", "gcloud": "Cloud Build"}  # as images.engine names them
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


# -- the checks -----------------------------------------------------------------------------------


def check(cloud: Cloud) -> list[Finding]:
    """Everything, looked at: a check that cannot be made is itself a finding.

    Credentials that do not count, or may not use their quota project, end it: nothing more can
    be asked with them.
    """
    findings: list[Finding] = []
    for name, look in CHECKS.items():
        try:
            findings += look(cloud, name)
        except GoogleAuthError as error:
            return [*findings, _unanswered(cloud, name, error)]
        except Exception as error:
            findings.append(_unanswered(cloud, name, error))
            if _of_quota_project(error):
                break
    return findings


def _unanswered(cloud: Cloud, name: str, error: Exception) -> Finding:
    """A check that could not be made: what is needed for it, in the user's terms."""
    if api := _disabled(error):
        project = cloud.settings.project
        return Finding(name, "blocker", f"cannot be asked, since {api} is not enabled",
                       f"{api}, enabled in {project}; that takes some minutes to count",
                       f"gcloud services enable {api} --project {project}")
    told = errors.explain(error, STAGE, name, cloud.settings)
    if told:
        return Finding(name, "blocker", told.cause, told.need,
                       told.command.replace(UNKNOWN, member(cloud)))
    # A mistake of ours must not keep a run from its work: it will meet what is really missing.
    return Finding(name, "warning", f"could not be looked at: {type(error).__name__}: {error}",
                   "a look by yourself, or a fix in lib/operate/preflight.py")


def _disabled(error: Exception) -> str:
    """The API that an error says is off; "" if it is about something else.

    By google/api/error_reason.proto (SERVICE_DISABLED), or by the words of older APIs.
    """
    if not isinstance(error, google_errors.Forbidden) or _of_quota_project(error):
        return ""
    words = "has not been used|SERVICE_DISABLED|accessNotConfigured"
    if error.reason != "SERVICE_DISABLED" and not re.search(words, f"{error} {error.errors}"):
        return ""
    named = re.search(r"([a-z]+\.googleapis\.com)", error.message or "")
    return (error.metadata or {}).get("service") or (named[1] if named else "the API itself")


def _of_quota_project(error: Exception) -> bool:
    return isinstance(error, google_errors.Forbidden) and bool(
        re.search(f"{errors.MAY_NOT_USE}|{errors.NO_QUOTA_PROJECT}", str(error)))


def _of_no_resource(error: Exception) -> bool:
    """Is this refusal about the API or the caller, whatever was asked?"""
    return bool(_disabled(error)) or _of_quota_project(error)


def require(cloud: Cloud) -> Outcome:
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
        if _of_no_resource(error):
            raise
        return [Finding(
            name, "blocker", f"{project} does not exist, or these credentials may not see it",
            "the right project id in config.yaml, and an account that is a member of it",
            "gcloud projects list")]
    return [Finding(name, "ok", f"{found.project_id}, number {found.name.split('/')[1]}")]


def _apis(cloud: Cloud, name: str) -> list[Finding]:
    settings, off = cloud.settings, []
    parent = f"projects/{settings.project}"
    wanted = [*settings.apis, *([BUILD_API] if _cloud_build(cloud) else [])]
    for part in _chunks(wanted, MOST_SERVICES):
        answer = cloud.services.batch_get_services(request={
            "parent": parent, "names": [f"{parent}/services/{api}" for api in part]})
        on = {s.config.name or s.name.rsplit("/", 1)[1] for s in answer.services
              if s.state == State.ENABLED}
        off += [api for api in part if api not in on]
    if off:
        return [Finding(name, "blocker", f"not enabled: {', '.join(off)}",
                        "these APIs; enabling takes some minutes to count",
                        f"gcloud services enable {' '.join(off)} --project {settings.project}")]
    return [Finding(name, "ok", f"all {len(wanted)} are enabled")]


def _chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[at:at + size] for at in range(0, len(names), size)]


def _permissions(cloud: Cloud, name: str) -> list[Finding]:
    stands = _standing(cloud)
    wanted = {p.name for p in PERMISSIONS if not p.with_ or stands[p.with_]}
    granted, unknown = _granted(cloud, wanted)
    missing, makers, owners = wanted - granted - unknown, set(), set()
    if stands["bucket"]:
        missing -= _granted_on_bucket(cloud, missing)
    elif "storage.buckets.create" in granted:
        # The basic roles have none of these on the project, and all on a bucket of the project.
        makers = {p for p in missing if p.startswith("storage.objects.")}
        missing -= makers
    if stands["dataset"]:
        found, owners = _granted_on_dataset(cloud, missing)
        missing -= found | owners
    findings = [_missing(cloud, name, role, missing, stands["bucket"])
                for role in smallest_roles(missing - CAN_WAIT)]
    missing -= {p for f in findings for p in ROLES[f.need.split()[0]]}
    findings += [dataclasses.replace(
        _missing(cloud, name, role, missing, stands["bucket"]), level="warning",
        need=f"nothing for the run; {role} before lib.operate.teardown")
        for role in smallest_roles(missing)]
    findings += [
        Finding(name, "warning", f"{why}: {', '.join(sorted(names & ROLES[role]))}", need + role,
                _bind_project(cloud, role))
        for names, why, need in (
            (makers, "asked of the project, where owners and editors of it do not have them",
             "nothing, for owners and editors: they get them on the bucket they make; for others "),
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
    return {**stands, "new bucket": not stands["bucket"],
            "new dataset": not stands["dataset"] or _makes_another(cloud),
            "own view": stands["dataset"] and own, "Cloud Build": _cloud_build(cloud),
            "quota project": bool(getattr(cloud.credentials, "quota_project_id", None))}


def _makes_another(cloud: Cloud) -> bool:
    """Does a run make a dataset beside its own: the copies of lib/proof, anew each time, or
    the one that a source folder is loaded into?"""
    settings = cloud.settings
    if settings.target_settings.planted_faults or settings.target_settings.freshness:
        return True
    source = f"{settings.project}.{settings.names.source_dataset}"
    return settings.source_is_folder and _find_dataset(cloud, source) is None


def _cloud_build(cloud: Cloud) -> bool:
    """Will a run have images built by Cloud Build?"""
    try:
        return bool(images.missing(cloud.settings)) and images.engine(cloud.settings) == "gcloud"
    except Needed:  # a damaged lock, which _images tells
        return False


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


def _bind_project(cloud: Cloud, role: str, who: str = "") -> str:
    """who: the caller, if not given."""
    return (f"gcloud projects add-iam-policy-binding {cloud.settings.project} "
            f"--member {who or member(cloud)} --role {role}")


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

    A dataset has no testIamPermissions of its own (BigQuery's API v2): get and list are tried;
    its tables have one. Who may write to one is taken to be let make others: both are in the role
    of a data editor. Whoever made the dataset owns it, so without a table nothing more is known
    to be missing.
    """
    on_dataset = {p for p in missing if p.startswith("bigquery.datasets.")} - {
        "bigquery.datasets.create"}
    on_tables = {p for p in missing if p.startswith("bigquery.tables.")}
    if not (on_dataset or on_tables):
        return set(), set()
    try:
        cloud.bigquery.get_dataset(cloud.settings.dataset)
        tables = cloud.bigquery.list_tables(cloud.settings.dataset, max_results=1)
        table = next(iter(tables), None)
    except google_errors.Forbidden:  # somebody else's: its maker would be let look
        return set(), set()
    done = missing & {"bigquery.datasets.get", "bigquery.tables.list"}
    if table is None:
        return done, (on_dataset | on_tables) - done
    # These two are none of a table's own.
    asked = {*on_tables, "bigquery.tables.updateData"} - {
        "bigquery.tables.create", "bigquery.tables.list"}
    answer = cloud.bigquery.test_iam_permissions(table.reference, sorted(asked))
    granted = set(answer.get("permissions", []))
    if "bigquery.tables.updateData" in granted:
        granted.add("bigquery.tables.create")
    return done | granted & on_tables, on_dataset - done


def _region(cloud: Cloud, name: str) -> list[Finding]:
    # config.load has refused every other region, with the nearest one that has it.
    settings = cloud.settings
    location = settings.target_settings.location
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
    location, found = settings.target_settings.location, _find_dataset(cloud)
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
    if location.upper() != settings.target_settings.location.upper():
        return [Finding(
            name, "blocker", f"{settings.source} stands in {location}, and the data are to be in "
            f"{settings.target_settings.location}: BigQuery cannot query across locations",
            f"targets.{settings.target}.location: {location}, and a region inside it",
            "edit config.yaml")]
    return [Finding(name, "ok", f"{settings.source} can be read, in {location}")]


def _find_dataset(cloud: Cloud, name: str = "") -> Dataset | None:
    """The app's dataset (or another)."""
    try:
        return cloud.bigquery.get_dataset(name or cloud.settings.dataset)
    except google_errors.NotFound:
        return None


def _find_bucket(cloud: Cloud):
    return cloud.storage.lookup_bucket(cloud.settings.names.bucket)


def _bucket(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    wanted, location = settings.names.bucket, settings.target_settings.location
    try:
        found = _find_bucket(cloud)
    except google_errors.Forbidden as error:
        if _of_no_resource(error):
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
    if settings.target_settings.planted_faults or settings.target_settings.freshness:
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
    if not settings.target_settings.pinned_images:
        return [Finding(name, "ok", "steps run as processes of the local cloud")]
    account = settings.train.service_account or _compute_account(cloud)
    return [Finding(
        name, "warning", f"the training's containers run as {account}; what it may do was not "
        "asked", f"{', '.join(roles)} for it",
        "; ".join(_bind_project(cloud, role, f"serviceAccount:{account}") for role in roles))]


def _compute_account(cloud: Cloud) -> str:
    """Compute Engine's default account of the project."""
    found = cloud.projects.get_project(name=f"projects/{cloud.settings.project}")
    return f"{found.name.split('/')[1]}-compute@developer.gserviceaccount.com"


def _images(cloud: Cloud, name: str) -> list[Finding]:
    settings = cloud.settings
    if not settings.target_settings.pinned_images:
        return [Finding(name, "ok", "run from their folders: nothing to build")]
    repository, wanted = settings.serve.image_repository, images.names()
    lock = images.read_lock().get(repository, {})
    unpinned = [image for image in wanted if image not in lock]
    engine = images.engine(settings)
    command = " ".join(images.build_command(settings, engine))
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
                f"--location {location} --project {project}"),
                *_build(cloud, name, engine, command, unpinned)]
    gone = [image for image in wanted if parts and image in lock
            and not _in_registry(cloud, parent, image, lock[image])]
    findings = []
    if gone:  # the run builds what is not pinned, and takes what is pinned to be there
        findings.append(Finding(
            name, "blocker", f"in lib/images.lock.json, but not in {repository}: "
            f"{', '.join(gone)}", "these images, and their new digests in the lock", command))
    if gone or unpinned:
        findings += _build(cloud, name, engine, command, unpinned)
    if not parts and not unpinned:
        findings.append(Finding(
            name, "warning", f"{repository} is not in Artifact Registry: not looked at",
            "the images there, by the digests of lib/images.lock.json", command))
    return findings or [Finding(name, "ok", f"all {len(wanted)} in {repository}, by digest")]


def _build(
    cloud: Cloud, name: str, engine: str, command: str, unpinned: list[str]
) -> list[Finding]:
    """What a build of the images would meet: it goes on behind the run, and fails late."""
    findings, host = [], cloud.settings.serve.image_repository.split("/")[0]
    if unpinned:
        findings.append(Finding(
            name, "warning" if engine else "blocker", f"not built yet: {', '.join(unpinned)}",
            f"nothing: they are built at the start of the run, by {BUILDERS[engine]}" if engine else
            "these images, built where docker answers or there is gcloud", command))
    if refused := images.source_refused():
        dirty = f"; or {command} --allow-dirty" if "--allow-dirty" in refused.need else ""
        findings.append(Finding(name, "blocker", f"they cannot be built: {refused.cause}",
                                refused.need, refused.command + dirty))
    if engine == "docker" and host.endswith("-docker.pkg.dev") and not images.logged_in(host):
        findings.append(Finding(
            name, "warning", f"docker's configuration names no credentials for {host}",
            "docker to log in there with your Google account, to push",
            f"gcloud auth configure-docker {host}"))
    if engine == "gcloud":
        account = _compute_account(cloud)
        findings.append(Finding(
            name, "warning", f"Cloud Build works as {account}, unless the project says otherwise; "
            "what it may do was not asked", f"{BUILD_ROLE} for it",
            _bind_project(cloud, BUILD_ROLE, f"serviceAccount:{account}")))
    return findings


def _in_registry(cloud: Cloud, parent: str, image: str, digest: str) -> bool:
    try:
        cloud.artifacts.get_docker_image(name=f"{parent}/dockerImages/{image}@{digest}")
        return True
    except google_errors.NotFound:
        return False


def _features(cloud: Cloud, name: str) -> list[Finding]:
    """Do config.yaml and sql/ name the same features?"""
    problems = features.missing_features(cloud.settings)
    return [Finding(name, "blocker", p.cause, p.need, p.command) for p in problems] or [
        Finding(name, "ok", f"{len(cloud.settings.features)}, the same in config.yaml and sql/")]


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
    if not settings.target_settings.billed:
        return [Finding(name, "ok", "nothing is billed here")]
    return [Finding(
        name, "ok", f"{scans}; by the hour while they stand: {settings.online_store.min_node_count}"
        f" Bigtable node, {settings.serve.min_replica_count} {settings.serve.machine_type}")]


CHECKS: dict[str, Callable[[Cloud, str], list[Finding]]] = {
    "credentials": _credentials, "project": _project, "APIs": _apis,
    "permissions": _permissions, "region": _region, "dataset": _dataset, "source": _source,
    "bucket": _bucket, "quotas": _quotas, "service agent": _service_agent,
    "training account": _training_account, "images": _images,
    "features": _features, "cost": _cost,
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
    parser = argparse.ArgumentParser(prog="python -m lib.operate.preflight", description=__doc__,
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
        told = errors.explain(error, STAGE, "connecting", settings)
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
