"""What a check of preflight finds, and helpers for several checks."""

import re
from dataclasses import dataclass
from typing import Literal

from google.api_core import exceptions as google_errors

from lib import errors
from lib.cloud import Cloud

UNKNOWN = "user:YOU@EXAMPLE.COM"  # where the credentials do not name their account


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    level: a run can start with warnings, and would fail at a blocker.
    need and command: only where the level is not "ok". name: of the check; preflight sets it.
    """

    level: Literal["ok", "warning", "blocker"]
    found: str
    need: str = ""
    command: str = ""
    name: str = ""


def member(cloud: Cloud) -> str:
    """Whose credentials these are, as gcloud writes it; a person's may not say the address."""
    for kind, attribute in (("serviceAccount", "service_account_email"), ("user", "account")):
        email = getattr(cloud.credentials, attribute, "") or ""
        if "@" in email:
            return f"{kind}:{email}"
    return UNKNOWN


def grant_on_bucket(cloud: Cloud, role: str) -> str:
    """The command that grants us a role on the app's bucket."""
    return (f"gcloud storage buckets add-iam-policy-binding gs://{cloud.settings.names.bucket} "
            f"--member {member(cloud)} --role {role}")


def disabled_api(error: Exception) -> str:
    """The API that an error says is disabled; "" if it is about something else.

    By google/api/error_reason.proto (SERVICE_DISABLED), or by the words of older APIs.
    """
    if not isinstance(error, google_errors.Forbidden) or about_quota_project(error):
        return ""
    words = "has not been used|SERVICE_DISABLED|accessNotConfigured"
    if error.reason != "SERVICE_DISABLED" and not re.search(words, f"{error} {error.errors}"):
        return ""
    named = re.search(r"([a-z]+\.googleapis\.com)", error.message or "")
    return (error.metadata or {}).get("service") or (named[1] if named else "the API itself")


def about_quota_project(error: Exception | None) -> bool:
    """Is the error about the project that calls are billed to? Then every call ends in it."""
    return isinstance(error, google_errors.Forbidden) and bool(
        re.search(f"{errors.MAY_NOT_USE}|{errors.NO_QUOTA_PROJECT}", str(error)))
