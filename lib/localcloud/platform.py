"""Resource Manager, Service Usage, Artifact Registry and IAM: the methods that lib.operate calls.

Every rule is listed with its source in README.md.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.cloud.artifactregistry_v1 import types as artifacts
from google.cloud.resourcemanager_v3 import types as projects
from google.cloud.service_usage_v1 import types as usage
from google.iam.v1 import iam_policy_pb2
from google.protobuf.message import Message

from lib.localcloud import iam, rest, storage
from lib.localcloud.errors import ApiError, invalid, precondition, refused

RESOURCE_MANAGER = "cloudresourcemanager.googleapis.com"
SERVICE_USAGE = "serviceusage.googleapis.com"
ARTIFACT_REGISTRY = "artifactregistry.googleapis.com"
AIPLATFORM = "aiplatform.googleapis.com"
# Not enabled in a new project. Those of BigQuery, Cloud Storage and Service Usage are: Google's
# page "Services enabled by default".
NOT_ENABLED = {AIPLATFORM, ARTIFACT_REGISTRY, RESOURCE_MANAGER, iam.IAM,
               "cloudbuild.googleapis.com", "compute.googleapis.com"}
# What in a call of Vertex AI names the account that its containers run as.
RUNS_AS: dict[str, Callable[[Any], str]] = {
    "CreatePipelineJob": lambda request: request.pipeline_job.service_account,
    "CreateCustomJob": lambda request: request.custom_job.job_spec.service_account,
    "DeployModel": lambda request: request.deployed_model.service_account}
MAX_SERVICES = 30  # in one services.batchGet
SERVICES = (
    ("google.cloud.resourcemanager_v3", "projects"),
    ("google.cloud.service_usage_v1", "service_usage"),
    ("google.cloud.artifactregistry_v1", "artifact_registry"))
OWN_METHODS = {
    "GetProject": "get_project", "TestIamPermissions": "test_permissions",
    "BatchGetServices": "batch_get_services", "GetRepository": "get_repository",
    "GetDockerImage": "get_image"}
METHODS = {**OWN_METHODS, **iam.METHODS}


@dataclass
class Platform:
    """One project; the caller has every permission and every API is enabled, but for two sets.

    Attributes:
        registry: JSON file that may be absent: a list of names of repositories and images
            (`projects/P/locations/L/repositories/R[/dockerImages/NAME@sha256:...]`) that exist.
        missing_permissions: what the caller does not have.
        disabled_apis: such as aiplatform.googleapis.com.
        fresh: a new project of a new organisation, made by `renew`. Only then are Vertex AI's
            API, its service agent and the accounts of jobs checked.
    """

    project: str
    number: int
    registry: Path
    missing_permissions: set[str] = field(default_factory=set)
    disabled_apis: set[str] = field(default_factory=set)
    fresh: bool = False

    def __post_init__(self) -> None:
        self.iam = iam.Iam(self.project, self.number, self.registry.with_name("iam.json"),
                           self.missing_permissions)

    def renew(self) -> None:
        """Make the project new: few APIs, no accounts, uniform bucket access enforced; the caller
        owns it, whose role has no storage.objects.*."""
        self.fresh = True
        self.disabled_apis |= NOT_ENABLED
        self.missing_permissions |= {
            f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update")}
        self.iam.empty()
        storage.ENFORCED.add("fresh.uniform-access")

    def guard(self, name: str, request: Any, proceed: Callable[[], Any]) -> Any:
        """Vertex.middleware: what a call of Vertex AI needs of a fresh project."""
        if self.fresh and name != "sync":
            if AIPLATFORM in self.disabled_apis:
                raise _disabled(AIPLATFORM, self.number)
            agent = self.iam.agent("gcp-sa-aiplatform")
            if name.startswith(("Create", "Upload", "Deploy")) and not self.iam.roles(agent):
                raise precondition(
                    "fresh.no-agent", "Service agents are being provisioned for your project. "
                    "Please try again in a few minutes.")
            account = RUNS_AS[name](request) if name in RUNS_AS else ""
            if name == "CreatePipelineJob":
                account = account or self.iam.compute_account
            if account:
                self.iam.check_act_as(account)
        return proceed()

    def api(self) -> rest.Api:
        routes = [
            rest.route("POST", "/v3/{resource=projects/*}:testIamPermissions",
                       "TestIamPermissions", iam_policy_pb2.TestIamPermissionsRequest, "*"),
            *(route for service in SERVICES for route in rest.service_routes(*service)
              if route.rpc in OWN_METHODS)]
        return rest.Api([*routes, *iam.ROUTES], METHODS, self._call)

    def _call(self, rpc: str, request: Message) -> Message:
        if rpc in OWN_METHODS:
            return getattr(self, METHODS[rpc])(request)
        of_project = rpc in ("GetIamPolicy", "SetIamPolicy")
        self._check(request.resource if hasattr(request, "resource") else request.name,
                    RESOURCE_MANAGER if of_project else iam.IAM)
        return getattr(self.iam, iam.METHODS[rpc])(request)

    def get_project(self, request: Message) -> Message:
        """projects.get: 403 for a project that does not exist, or that the caller may not see."""
        self._check(request.name, RESOURCE_MANAGER, "resourcemanager.projects.get")
        return projects.Project.pb(projects.Project(
            name=f"projects/{self.number}", project_id=self.project, display_name=self.project,
            state=projects.Project.State.ACTIVE))

    def test_permissions(self, request: Message) -> Message:
        """projects.testIamPermissions: those of the given permissions that the caller has."""
        self._check(request.resource, RESOURCE_MANAGER)
        if any("*" in permission for permission in request.permissions):
            raise invalid("platform.wildcard", "Permissions with wildcards are not allowed.")
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=[
            p for p in request.permissions if p not in self.missing_permissions])

    def batch_get_services(self, request: Message) -> Message:
        """services.batchGet: 1 to 30 services of one project."""
        self._check(request.parent, SERVICE_USAGE, "serviceusage.services.get")
        if not 1 <= len(request.names) <= MAX_SERVICES:
            raise invalid(
                "platform.services", f"names: from 1 to {MAX_SERVICES} services in one call.")
        return usage.BatchGetServicesResponse.pb(usage.BatchGetServicesResponse(
            services=[self._service(name) for name in request.names]))

    def get_repository(self, request: Message) -> Message:
        """repositories.get, from the registry's file."""
        self._check(request.name, ARTIFACT_REGISTRY, "artifactregistry.repositories.get")
        return artifacts.Repository.pb(artifacts.Repository(
            name=self._registered(request.name), format_=artifacts.Repository.Format.DOCKER))

    def get_image(self, request: Message) -> Message:
        """dockerImages.get, from the registry's file."""
        self._check(request.name, ARTIFACT_REGISTRY, "artifactregistry.dockerimages.get")
        name = self._registered(request.name)
        _, project, _, location, _, repository, _, image = name.split("/", 7)
        return artifacts.DockerImage.pb(artifacts.DockerImage(
            name=name, uri=f"{location}-docker.pkg.dev/{project}/{repository}/{image}"))

    def _service(self, name: str) -> usage.Service:
        parent, _, api = name.rpartition("/services/")
        if parent not in self._names():
            raise invalid("platform.services", f"names: {name!r} is no service of the parent.")
        return usage.Service(
            name=f"projects/{self.number}/services/{api}", parent=f"projects/{self.number}",
            config=usage.ServiceConfig(name=api),
            state=usage.State.DISABLED if api in self.disabled_apis else usage.State.ENABLED)

    def _registered(self, name: str) -> str:
        if not self.registry.exists() or name not in json.loads(self.registry.read_text()):
            raise refused(
                "platform.image-names", "NOT_FOUND", f"The resource {name!r} was not found.")
        return name

    def _names(self) -> tuple[str, str]:
        return f"projects/{self.project}", f"projects/{self.number}"

    def _check(self, resource: str, api: str, permission: str = "") -> None:
        """Raise PERMISSION_DENIED for another project, a disabled API or a missing permission."""
        if "/".join(resource.split("/")[:2]) not in self._names():
            raise refused(
                "platform.other-project",
                "PERMISSION_DENIED", f"The caller does not have permission on "
                f"{resource} (or it may not exist).")
        if api in self.disabled_apis:
            raise _disabled(api, self.number)
        if permission in self.missing_permissions:
            raise refused(
                "platform.permission",
                "PERMISSION_DENIED", f"Permission '{permission}' denied on resource "
                f"'//{api}/{resource}' (or it may not exist).")


def _disabled(api: str, number: int) -> ApiError:
    return refused(
        "platform.disabled-api",
        "PERMISSION_DENIED", f"{api} has not been used in project {number} before or it is "
        f"disabled. Enable it by visiting https://console.developers.google.com/apis/api/{api}"
        f"/overview?project={number} then retry.",
        [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED",
          "domain": "googleapis.com",
          "metadata": {"consumer": f"projects/{number}", "service": api}}])
