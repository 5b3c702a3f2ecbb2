"""Errors in the user's terms: what failed, what is needed, and the command that provides it.

`Needed` is raised inside `lib`; `explain` adds the stage to it, and translates the errors of
Google's clients by the table TRANSLATIONS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import requests
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors

from lib.config import Settings

Found = TypeVar("Found")
# Errors that may be gone at the next try. The clients of BigQuery and Cloud Storage retry them;
# those of Vertex AI do not.
TRANSIENT = (google_errors.TooManyRequests, google_errors.ServiceUnavailable)


class StageError(RuntimeError):
    """A step failed: where, on what, why, what is needed, and the command that provides it."""

    def __init__(self, stage: str, attempted: str, cause: str, need: str, command: str = "",
                 resource: str = ""):
        self.stage, self.attempted, self.cause = stage, attempted, cause
        self.need, self.command, self.resource = need, command, resource
        lines = {"stage": stage, "attempted": attempted, "resource": resource, "cause": cause,
                 "needed": need, "command": command}
        super().__init__("\n".join(f"{k + ':':<11}{v}" for k, v in lines.items() if v))

    def __reduce__(self) -> tuple:
        """So that one process can hand it to another."""
        return type(self), (self.stage, self.attempted, self.cause, self.need, self.command,
                            self.resource)

    def _render_traceback_(self) -> list[str]:
        """Jupyter shows this instead of a traceback."""
        return [f"STOPPED\n{self}"]


class Needed(RuntimeError):
    """Raised inside `lib` when something is missing; `explain` adds the stage to it."""

    def __init__(self, cause: str, need: str, command: str = ""):
        super().__init__(f"{cause}. Needed: {need}" + (f" ({command})" if command else ""))
        self.cause, self.need, self.command = cause, need, command


def wrong_location(kind: str, name: str, found: str, wanted: str) -> Needed:
    """The error for a dataset or bucket that exists in another location than config.yaml's.

    kind: "dataset" or "bucket". name: project.dataset, or gs://bucket.
    """
    delete = {"dataset": f"bq rm -r -d {name.replace('.', ':', 1)}",
              "bucket": f"gcloud storage rm --recursive {name}"}
    return Needed(f"{kind} {name} exists in {found}, not in {wanted}",
                  f"a {kind} in {wanted}, or another name for it in config.yaml", delete[kind])


def grant_command(project: str, role: str, member: str = "user:YOU@EXAMPLE.COM") -> str:
    """The gcloud command that grants a role on a project."""
    return f"gcloud projects add-iam-policy-binding {project} --member {member} --role {role}"


@dataclass(frozen=True)
class Translation:
    """What is needed after an error of one kind. `pattern` is searched in Google's message; the
    texts are filled in from `_known`."""

    kinds: tuple[type[Exception], ...]
    pattern: str
    need: str
    command: str = ""


# About the project that a call is billed to: google/api/error_reason.proto has the first, whose
# text is "Caller does not have required permission to use project ..."; Google's page on
# troubleshooting application default credentials the second.
MAY_NOT_USE = r"USER_PROJECT_DENIED|permission to use project|serviceusage\.services\.use\b"
NO_QUOTA_PROJECT = "requires a quota project"
CONSUMER = "roles/serviceusage.serviceUsageConsumer"
LOGIN = "gcloud auth application-default login"
NETWORK = "a network that reaches Google's addresses (for target local: the local cloud)"

# The first that matches is used. Patterns are Google's words; where those could not be seen, any
# that say the same.
TRANSLATIONS = (
    # Of this machine, or in the answer of a service or the log of a container.
    Translation((OSError, google_errors.GoogleAPICallError),
        r"(?i)no space left on device|disk quota exceeded|(database or )?disk is full",
        "free space on the disk that is full (here: `df -h .`); what was made so far is kept",
        "{rerun}"),
    Translation((OSError,),
        r"^\[Errno \d+\] (Permission denied|Read-only file system|Not a directory|File exists|"
        "File too large|Operation not permitted)",
        "that file or folder, for this user to read and write",
        "ls -ld runs .localcloud"),
    Translation(
        (auth_errors.InvalidOperation, auth_errors.RefreshError, google_errors.Unauthorized), "",
        "valid credentials: these have expired or were revoked", LOGIN),
    Translation((auth_errors.DefaultCredentialsError,), "",
        "application default credentials of an account in the project", LOGIN),
    Translation((auth_errors.TransportError, requests.ConnectionError, requests.Timeout), "",
        NETWORK, "{rerun}"),
    # The same two by gRPC, which raises them as its own statuses.
    Translation((google_errors.ServiceUnavailable,), "metadata from plugin failed",
        "valid credentials: these have expired or were revoked", LOGIN),
    Translation((google_errors.DeadlineExceeded, google_errors.ServiceUnavailable),
        "(?i)deadline exceeded|failed to connect|errors resolving", NETWORK, "{rerun}"),
    Translation((auth_errors.GoogleAuthError,), "",
        "credentials that Google accepts", LOGIN),
    # These two come before the rules for an API and for quota, because Google's message has the
    # words of those rules too.
    Translation((google_errors.Forbidden,), NO_QUOTA_PROJECT,
        "a quota project in the credentials: a person's credentials have none by default",
        "gcloud auth application-default set-quota-project {project}"),
    Translation((google_errors.Forbidden,), MAY_NOT_USE,
        "serviceusage.services.use, as in {consumer} on project {quota_project}, which the calls "
        "are billed to; a new grant takes effect after some minutes",
        grant_command("{quota_project}", "{consumer}")),
    Translation((google_errors.Forbidden,),
        "has not been used|SERVICE_DISABLED|accessNotConfigured",
        "the API {api}, enabled in {project}; this takes effect after some minutes",
        "gcloud services enable {api} --project {project}"),
    Translation((google_errors.BadRequest,), "(?i)being provisioned",
        "some minutes: Google is creating the service agents of {project}, once for each project",
        "{rerun}"),
    Translation((google_errors.PreconditionFailed,), "constraints/",
        "a resource that the organisation's policies allow; the message names the policy",
        "gcloud resource-manager org-policies list --project {project}"),
    Translation((google_errors.Forbidden,), "(?i)quota|rateLimitExceeded",
        "more quota in {project}, {region}, or another try later",
        "https://console.cloud.google.com/iam-admin/quotas?project={project}"),
    Translation((google_errors.BadRequest, google_errors.Forbidden),
        "(?i)act as service_account|service account \\S+ does not have",
        "the account that training and serving run as, its roles, and iam.serviceAccounts.actAs "
        "on it for you; preflight checks all three",
        ".venv/bin/python -m lib.operate.service_account {options}"),
    Translation((google_errors.Forbidden,), "",
        "{permission}{roles} on project {project}; a new grant takes effect after some minutes",
        "{grants}"),
    Translation((google_errors.BadRequest,), "bytes billed",
        "fewer customers (snapshots.sample_percent) or a higher costs.max_bytes_billed",
        "edit config.yaml, then {rerun}"),
    Translation((google_errors.NotFound, google_errors.BadRequest, google_errors.Conflict),
        r"(?i)not found in location|different locations?\b|in location|wrong location",
        # BigQuery uses the same words for a table that does not exist.
        "existing resources in their places: BigQuery in {location}, Cloud Storage and Vertex AI "
        "in {region}; the list shows what is missing or in another location",
        "bq ls --project_id={project} --format=prettyjson"),
    Translation((google_errors.GoogleAPICallError,),
        r"(?i)manifest[ _]unknown|image\b.*(not found|not exist|cannot be pulled|no such)",
        "that image in {repository}, by the digest of lib/images.lock.json",
        "scripts/build_push_all.sh {build_options}"),
    Translation((google_errors.GoogleAPICallError,),
        "(?i)health|model server|container (exited|ended|terminated)",
        "a serving container that starts, loads its model and answers /health; its log says why "
        "it did not",
        "gcloud logging read 'resource.type=\"aiplatform.googleapis.com/Endpoint\"' "
        "--project {project} --freshness 1h --limit 20"),
    Translation((google_errors.NotFound,), "",
        "the resource of an earlier stage in {project}, {region}",
        "./run_all.sh {options}"),
    Translation((google_errors.Conflict,), "",
        "a free name: a resource with this name exists, in another place or not labelled as ours",
        ".venv/bin/python -m lib.operate.teardown {options}"),
    Translation((google_errors.TooManyRequests,), "",
        "free quota in {project}, {region}; {attempts} attempts failed",
        "https://console.cloud.google.com/iam-admin/quotas?project={project}"),
    Translation((google_errors.ServiceUnavailable,), "",
        "a service that answers; {attempts} attempts failed, and what was made so far is kept",
        "{rerun}"),
    Translation((google_errors.GoogleAPICallError,), "",
        "a request that the service accepts in {project}, {region}", "{rerun}"),
)

# Smallest predefined roles for a stage's work: Google's access-control page for Vertex AI.
# lib/operate/permissions.py lists the single permissions.
_ROLES = {
    "01_data": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "02_features": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "03_training_set": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "05_train": ("roles/aiplatform.user", "roles/storage.objectUser", "roles/bigquery.user"),
}


def explain(
    error: Exception, stage: str, attempted: str, settings: Settings
) -> StageError | None:
    """An error in the user's terms, or None if it is a bug of ours (keep its traceback)."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, Needed):
        return StageError(stage, attempted, error.cause, error.need, error.command)
    # Clients raise RetryError when the time for their own retries is over.
    last = error.cause if isinstance(error, google_errors.RetryError) else error
    for rule in TRANSLATIONS:
        if isinstance(last, rule.kinds) and re.search(rule.pattern, str(last)):
            known = _known(error, stage, settings)
            return StageError(
                stage, attempted, first_line(error), rule.need.format(**known),
                rule.command.format(**known), _resource(error))
    return None


def _known(error: Exception, stage: str, settings: Settings) -> dict[str, object]:
    """The values that the texts of TRANSLATIONS may use."""
    permission = re.search(r"[Pp]ermission '?([a-z]+\.[\w.]+)'?", str(error))
    api = re.search(r"([a-z]+\.googleapis\.com)(?! (?:POST|GET))", first_line(error))
    used = re.search(r"permission to use project ([\w.:-]*\w)", str(error))
    service = "bigquery" if "/bigquery/" in str(error) else "aiplatform"
    roles = _ROLES.get(stage, ("roles/aiplatform.user",))
    number = stage[:2] if stage[:2].isdigit() and stage[:2] != "00" else ""
    return {
        "project": settings.project, "region": settings.region, "target": settings.target,
        "env": settings.env, "options": settings.options,
        "build_options": settings.build_options,
        "location": settings.target_settings.location,
        "repository": settings.serve.image_repository, "attempts": settings.retries.attempts,
        "permission": f"{permission[1]}, as in " if permission else "",
        "roles": " and ".join(roles), "consumer": CONSUMER,
        "grants": " && ".join(grant_command(settings.project, role) for role in roles),
        "quota_project": used[1] if used else settings.project,
        "api": api[1] if api else f"{service}.googleapis.com",
        "rerun": settings.rerun_command(number)}


def first_line(error: Exception) -> str:
    """Google's own message: the clients put the HTTP method and URL before it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^(\d{3} )?(?:GET|POST|PUT|PATCH|DELETE) http[^ ]+: ", r"\1", text)[:500]


def _resource(error: Exception) -> str:
    """The resource that the request named; "" if the error does not say."""
    given = getattr(error, "resource_name", "")
    path = re.search(r"https?://[^/ ]+/[^ ?]*?((?:projects|b)/[^ ?]+)", str(error))
    return given or (path[1].rstrip(":") if path else "")


def existing(get: Callable[..., Found], *arguments: object, **named: object) -> Found | None:
    """What `get` returns for these; None if the resource, or what it is in, does not exist."""
    try:
        return get(*arguments, **named)
    except google_errors.NotFound:
        return None


def is_refused(error: Exception) -> bool:
    """True if nothing listens at the address, so that a retry cannot help."""
    return isinstance(error, requests.ConnectionError) and "Connection refused" in str(error)
