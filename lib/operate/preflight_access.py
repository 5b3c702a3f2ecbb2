"""Checks of preflight: credentials, project, APIs, permissions, and other accounts' roles."""

from collections.abc import Iterable, Iterator, Set

from google.api_core import exceptions as google_errors
from google.auth.transport.requests import Request
from google.cloud.service_usage_v1 import State

from lib import images
from lib.cloud import Cloud
from lib.errors import Needed, grant_command
from lib.operate import accounts, finding, service_account
from lib.operate.finding import Finding
from lib.operate.permissions import ACT_AS_ROLE, INCLUDES, PERMISSIONS, by_role
from lib.operate.preflight_resources import find_bucket
from lib.warehouse import find_dataset

BUILD_API = "cloudbuild.googleapis.com"
VERTEX_API = "aiplatform.googleapis.com"
UNREADABLE = "we may not read the project's policy (resourcemanager.projects.getIamPolicy)"
# The role that writes tables, and what an entry of a dataset's access list calls it, or more.
WRITES = "roles/bigquery.dataEditor"
WRITERS = ("WRITER", "OWNER", WRITES, "roles/bigquery.dataOwner")
# A run must be able to delete what is billed by the hour before it creates it; permission to
# delete the rest can follow.
CAN_WAIT = {p.name for p in PERMISSIONS
            if p.step == "teardown" and not p.name.startswith("aiplatform.")}


def credentials(cloud: Cloud) -> Iterator[Finding]:
    """They are valid."""
    if not cloud.credentials.valid:
        cloud.credentials.refresh(Request())
    known = finding.member(cloud)
    whose = "they do not name their account" if known == finding.UNKNOWN else f"those of {known}"
    yield Finding("ok", f"{type(cloud.credentials).__name__}: {whose}")


def project(cloud: Cloud) -> Iterator[Finding]:
    """It exists, and we may see it."""
    wanted = cloud.settings.project
    try:
        found = cloud.projects.get_project(name=f"projects/{wanted}")
        yield Finding("ok", f"{found.project_id}, number {found.name.split('/')[1]}")
    except google_errors.Forbidden as error:
        if finding.disabled_api(error) or finding.about_quota_project(error):
            raise
        yield Finding(
            "blocker", f"{wanted} does not exist, or these credentials may not see it",
            "the right project id in config.yaml, and an account that is a member of it",
            "gcloud projects list")


def apis(cloud: Cloud) -> Iterator[Finding]:
    """The APIs that the flow calls are enabled."""
    wanted = [*cloud.settings.apis, *([BUILD_API] if _uses_cloud_build(cloud) else [])]
    parent = f"projects/{cloud.settings.project}"
    response = cloud.services.batch_get_services(request={
        "parent": parent, "names": [f"{parent}/services/{api}" for api in wanted]})
    enabled = {s.config.name or s.name.rsplit("/", 1)[1] for s in response.services
               if s.state == State.ENABLED}
    if missing := [api for api in wanted if api not in enabled]:
        yield Finding(
            "blocker", f"not enabled: {', '.join(missing)}",
            "these APIs; enabling takes effect after some minutes",
            f"gcloud services enable {' '.join(missing)} --project {cloud.settings.project}")
    else:
        yield Finding("ok", f"all {len(wanted)} are enabled")


def _uses_cloud_build(cloud: Cloud) -> bool:
    """Will Cloud Build build images in this run?"""
    try:
        return bool(images.missing(cloud.settings)) and images.engine(cloud.settings) == "gcloud"
    except Needed:  # a damaged lock file: the check of the images reports it
        return False


# -- permissions ----------------------------------------------------------------------------------


def permissions(cloud: Cloud) -> Iterator[Finding]:
    """We have those that the flow needs: by the project, the bucket, or the dataset."""
    conditions = _conditions(cloud)
    wanted = {p.name for p in PERMISSIONS if not p.when or conditions[p.when]}
    granted, unknown = _granted(cloud, sorted(wanted))
    missing = wanted - granted - unknown
    if conditions["own account"]:  # the account itself may grant it: see containers_account
        missing -= {"iam.serviceAccounts.actAs"}
    on_new_bucket, on_own_dataset = set(), set()
    if conditions["bucket"]:
        missing -= _granted_on_bucket(cloud, missing)
    elif "storage.buckets.create" in granted:
        on_new_bucket = {p for p in missing if p.startswith("storage.objects.")}
    if conditions["dataset"]:
        granted_there, on_own_dataset = _granted_on_dataset(cloud, missing)
        missing -= granted_there
    missing -= on_new_bucket | on_own_dataset

    needed = by_role(missing - CAN_WAIT)
    for role, names in needed.items():
        where, command = _grant(cloud, role, conditions["bucket"])
        yield Finding("blocker", f"missing {', '.join(names)}", f"{role} on {where}", command)
    included = {*needed, *(smaller for role in needed for smaller in INCLUDES.get(role, ()))}
    for uncertain, why, need in (
            (missing & CAN_WAIT, "missing ", "nothing for the run; for lib.operate.teardown "),
            (on_new_bucket, "not granted by the project, not even to its owners and editors: ",
             "nothing for owners and editors: they get them on a bucket that they create; for "
             "others "),
            (on_own_dataset, "not granted by the project, and a dataset cannot be tested: ",
             "nothing for the account that created the dataset; for others "),
            (unknown, "Google does not allow a test of these: ",
             "perhaps nothing; they are in ")):
        for role, names in by_role(uncertain).items():
            if role not in included:
                yield Finding("warning", why + ", ".join(names), need + role,
                              _grant(cloud, role, conditions["bucket"])[1])
    if not (missing or unknown or on_new_bucket or on_own_dataset):
        yield Finding("ok", f"all {len(wanted)} that the flow needs")


def _conditions(cloud: Cloud) -> dict[str, bool]:
    """Which of permissions.WHEN are true. A bucket or dataset that we may not see exists too:
    the checks of those two report it."""
    exists = {}
    for thing, find in (("bucket", find_bucket), ("dataset", find_dataset)):
        try:
            exists[thing] = find(cloud) is not None
        except google_errors.Forbidden as error:
            exists[thing] = not finding.disabled_api(error)
    own_view = cloud.settings.feature_view.service_agent == "view"
    return {**exists, "new bucket": not exists["bucket"],
            "new dataset": not exists["dataset"] or _creates_another_dataset(cloud),
            "own view": exists["dataset"] and own_view, "Cloud Build": _uses_cloud_build(cloud),
            "own account": cloud.settings.service_account is not None, "administrator": False,
            "accounts": False,
            "quota project": bool(getattr(cloud.credentials, "quota_project_id", None))}


def _creates_another_dataset(cloud: Cloud) -> bool:
    """The copies of lib/proof, new in each run, or the one that a source folder is loaded into."""
    settings = cloud.settings
    if settings.target_settings.planted_faults or settings.target_settings.freshness:
        return True
    source = f"{settings.project}.{settings.names.source_dataset}"
    return settings.source_is_folder and find_dataset(cloud, source) is None


def _granted(cloud: Cloud, names: list[str]) -> tuple[set[str], set[str]]:
    """Which of these we have on the project, and which cannot be tested there. Google refuses the
    whole call for one name that it does not know: then each is tested alone."""
    try:
        response = cloud.projects.test_iam_permissions(
            resource=f"projects/{cloud.settings.project}", permissions=names)
        return set(response.permissions), set()
    except google_errors.BadRequest:
        if len(names) == 1:
            return set(), set(names)
    granted, unknown = zip(*(_granted(cloud, [name]) for name in names), strict=True)
    return set().union(*granted), set().union(*unknown)


def _granted_on_bucket(cloud: Cloud, missing: set[str]) -> set[str]:
    """Which of the missing ones the bucket grants."""
    names = sorted(p for p in missing if p.startswith("storage."))
    if not names:
        return set()
    try:
        return set(cloud.storage.bucket(cloud.settings.names.bucket).test_iam_permissions(names))
    except google_errors.Forbidden:  # another project's bucket, or nothing is granted on it
        return set()


def _granted_on_dataset(cloud: Cloud, missing: set[str]) -> tuple[set[str], set[str]]:
    """Which of the missing ones the dataset grants, and which only its creator is sure to have.

    A dataset has no testIamPermissions (BigQuery's API v2): get and list are tried, and a table
    is tested. Who may write to a table is taken to be allowed to create others, since a data
    editor may do both. Who created the dataset owns it, so without a table nothing more is known
    to be missing.
    """
    names = {p for p in missing if p.startswith(("bigquery.datasets.", "bigquery.tables."))}
    names -= {"bigquery.datasets.create"}
    if not names:
        return set(), set()
    try:
        cloud.bigquery.get_dataset(cloud.settings.dataset)
        tables = cloud.bigquery.list_tables(cloud.settings.dataset, max_results=1)
        table = next(iter(tables), None)
    except google_errors.Forbidden:  # not ours: its creator may do both
        return set(), set()
    granted = names & {"bigquery.datasets.get", "bigquery.tables.list"}
    if table is None:
        return granted, names - granted
    on_table = {p for p in names if p.startswith("bigquery.tables.")} - {
        "bigquery.tables.create", "bigquery.tables.list"} | {"bigquery.tables.updateData"}
    response = cloud.bigquery.test_iam_permissions(table.reference, sorted(on_table))
    granted |= names & set(response.get("permissions", []))
    if "bigquery.tables.updateData" in response.get("permissions", []):
        granted |= names & {"bigquery.tables.create"}
    return granted, {p for p in names - granted if p.startswith("bigquery.datasets.")}


def _grant(cloud: Cloud, role: str, bucket_exists: bool) -> tuple[str, str]:
    """Where we need this role, and the command that grants it."""
    settings = cloud.settings
    if bucket_exists and role.startswith("roles/storage."):
        return f"gs://{settings.names.bucket}", finding.grant_on_bucket(cloud, role)
    return (f"project {settings.project}",
            grant_command(settings.project, role, finding.member(cloud)))


# -- other accounts -------------------------------------------------------------------------------


def service_agent(cloud: Cloud) -> Iterator[Finding]:
    """Which account reads BigQuery for a sync (Google's guide to feature views); and that Vertex
    AI's agent, which does so by default, exists with its role."""
    settings = cloud.settings
    if settings.feature_view.service_agent == "view":
        yield Finding(
            "warning", "the view gets an account of its own, which the run allows to read "
            f"{settings.dataset}; the grant takes effect after 2 to 10 minutes",
            f"patience: a refused sync is retried for {settings.waits.iam_seconds} s")
    yield agent(cloud, VERTEX_API, "Vertex AI reads BigQuery, the bucket and the images")


def agent(cloud: Cloud, api: str, does: str) -> Finding:
    """The service agent of an API has a role in the project. Google creates it at the first use of
    the API, which fails then ("Service agents are being provisioned")."""
    settings, (domain, role) = cloud.settings, accounts.AGENTS[api]
    email, roles = accounts.agent(cloud, domain), accounts.roles(cloud)
    if roles is None:
        return Finding("warning", f"whether {email} exists cannot be checked: {UNREADABLE}",
                       f"{role} for it: as it, {does}; Google creates it at the first use of {api}",
                       f"{accounts.create_agent(settings, api)} && "
                       + accounts.grant(settings, email, role))
    if email in roles:
        return Finding("ok", f"as {email}, {does}")
    return Finding("blocker", f"{email} does not exist, or has no role here: as it, {does}",
                   f"that account, with {role}",
                   f"{accounts.create_agent(settings, api)} && "
                   + accounts.grant(settings, email, role))


def containers_account(cloud: Cloud) -> Iterator[Finding]:
    """The account that training and serving run as exists and has its roles, and we may start jobs
    that run as it. Without one of their own: which of Google's it is, and whether it has them."""
    settings, email = cloud.settings, cloud.settings.service_account
    if email is None:
        yield _default_account(cloud)
        return
    command = settings.command(service_account.MODULE)
    if service_account.find(cloud) is None:
        yield Finding(
            "blocker", f"{email}, as which training and serving run, does not exist",
            "that account with its roles: an owner may create it, or who has "
            + " and ".join(service_account.ADMINISTRATOR), command)
        return
    if not service_account.may_act_as(cloud):
        yield Finding(
            "blocker", f"missing iam.serviceAccounts.actAs on {email}", f"{ACT_AS_ROLE} on it",
            f"gcloud iam service-accounts add-iam-policy-binding {email} "
            f"--member {finding.member(cloud)} --role {ACT_AS_ROLE} --project {settings.project}")
    yield _with_roles(cloud, email, command)


def _default_account(cloud: Cloud) -> Finding:
    settings = cloud.settings
    if not settings.target_settings.pinned_images:
        return Finding("ok", "steps run as processes of the local cloud")
    custom = settings.train.runner == "custom_job"
    email = (accounts.agent(cloud, accounts.CUSTOM_CODE) if custom
             else accounts.compute_account(cloud))
    first = (accounts.create_agent(settings, VERTEX_API) if custom else
             f"gcloud services enable {accounts.COMPUTE_API} --project {settings.project}")
    return _with_roles(cloud, email, f"{first} && "
                       + accounts.grant(settings, email, *service_account.ROLES))


def refresh_account(cloud: Cloud) -> Iterator[Finding]:
    """The same account for the weekly refresh, a pipeline in any case, which also writes tables."""
    yield from containers_account(cloud)
    email = cloud.settings.service_account
    if email is None and cloud.settings.target_settings.pinned_images:
        email = accounts.compute_account(cloud)
    if email:
        yield _with_roles(cloud, email, "", service_account.REFRESH_ROLES,
                          "the weekly refresh runs", _on_dataset(cloud, email))


def _on_dataset(cloud: Cloud, email: str) -> set[str]:
    """The role that writes tables, if the dataset itself grants it to the account."""
    dataset = find_dataset(cloud)
    entries = dataset.access_entries if dataset else ()
    return {WRITES for e in entries if e.entity_id == email and e.role in WRITERS}


def _with_roles(
    cloud: Cloud, email: str, command: str, wanted: Iterable[str] = service_account.ROLES,
    does: str = "training and serving run", elsewhere: Set[str] = frozenset(),
) -> Finding:
    """Does the account have the roles of what runs as it? An editor or owner has them all.

    command: grants them; "": gcloud's for each that is missing. elsewhere: roles that it has, but
    not in the project.
    """
    settings, known = cloud.settings, accounts.roles(cloud)
    if known is None:
        return Finding("warning", f"the roles of {email} cannot be checked: {UNREADABLE}",
                       f"{', '.join(wanted)} for it",
                       command or accounts.grant(settings, email, *wanted))
    has = known.get(email, set()) | elsewhere
    missing = [] if has & accounts.BASIC else [r for r in wanted if r not in has]
    if missing:
        command = command or accounts.grant(settings, email, *missing)
        # Ours gets these roles by one command; another account may have the same permissions by
        # other roles, or by some of its folder or organisation, which are not read here.
        ours = email == settings.service_account and not settings.train.service_account
        need = f"{', '.join(missing)} for it"
        blocks = ours or not has
        return Finding("blocker" if blocks else "warning",
                       f"{email}, as which {does}, lacks roles",
                       need if blocks else f"{need}, or others with the same permissions", command)
    return Finding("ok", f"{does} as {email}, which has its roles")
