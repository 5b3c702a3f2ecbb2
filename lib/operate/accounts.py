"""The accounts that a run depends on besides the caller's: which roles each has in the project.

Google creates two kinds of them only at an API's first use, and gives them no role in a new
organisation: the service agents, by which its services act, and Compute Engine's default account.
"""

from google.api_core import exceptions as google_errors
from google.iam.v1 import iam_policy_pb2, options_pb2

from lib.cloud import Cloud
from lib.config import Settings
from lib.errors import grant_command

Roles = dict[str, set[str]]  # account's e-mail -> its roles in the project
# API -> its agent's domain and role. Google's page "Service agents", read from memory.
AGENTS = {
    "aiplatform.googleapis.com": ("gcp-sa-aiplatform", "roles/aiplatform.serviceAgent"),
    "cloudbuild.googleapis.com": ("gcp-sa-cloudbuild", "roles/cloudbuild.serviceAgent"),
}
# A CustomJob without a service account of its own runs as this agent: Google's page on custom
# service accounts ("Custom Code Service Agent").
CUSTOM_CODE = "gcp-sa-aiplatform-cc"
COMPUTE_API = "compute.googleapis.com"
# Basic roles, which have the permissions of all the roles that containers and builds need.
BASIC = {"roles/owner", "roles/editor"}


def policy(cloud: Cloud):
    """The project's policy (google.iam.v1.Policy), with its conditions (version 3)."""
    return cloud.projects.get_iam_policy(request=iam_policy_pb2.GetIamPolicyRequest(
        resource=f"projects/{cloud.settings.project}",
        options=options_pb2.GetPolicyOptions(requested_policy_version=3)))


def roles(cloud: Cloud) -> Roles | None:
    """The roles of every service account in the project; None if we may not read the policy.

    A role with a condition does not count. Roles that a folder or the organisation grants are not
    in the project's policy.
    """
    try:
        bindings = policy(cloud).bindings
    except google_errors.Forbidden:
        return None
    found: Roles = {}
    for binding in bindings:
        for member in binding.members:
            kind, _, email = member.partition(":")
            if kind == "serviceAccount" and not binding.condition.expression:
                found.setdefault(email, set()).add(binding.role)
    return found


def number(cloud: Cloud) -> str:
    """The project's number, by which Google names these accounts."""
    found = cloud.projects.get_project(name=f"projects/{cloud.settings.project}")
    return found.name.split("/")[1]


def compute_account(cloud: Cloud) -> str:
    """Compute Engine's default account, as which Cloud Build runs, and pipelines by default."""
    return f"{number(cloud)}-compute@developer.gserviceaccount.com"


def agent(cloud: Cloud, domain: str) -> str:
    """The project's service agent in this domain, such as gcp-sa-aiplatform."""
    return f"service-{number(cloud)}@{domain}.iam.gserviceaccount.com"


def grant(settings: Settings, email: str, *wanted: str) -> str:
    """The commands that grant roles to a service account."""
    return " && ".join(grant_command(settings.project, role, f"serviceAccount:{email}")
                       for role in wanted)


def create_agent(settings: Settings, api: str) -> str:
    """The command that has Google create the service agent of an API, instead of its first use."""
    return f"gcloud beta services identity create --service {api} --project {settings.project}"
