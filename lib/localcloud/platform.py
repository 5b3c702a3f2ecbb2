"""Resource Manager, Service Usage and Artifact Registry: the five methods that preflight calls.

Every rule is listed with its source in README.md.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from google.cloud.artifactregistry_v1 import types as artifacts
from google.cloud.resourcemanager_v3 import types as projects
from google.cloud.service_usage_v1 import types as usage
from google.iam.v1 import iam_policy_pb2
from google.protobuf.message import Message

from lib.localcloud import rest
from lib.localcloud.errors import ApiError, invalid, refused

RESOURCE_MANAGER = "cloudresourcemanager.googleapis.com"
SERVICE_USAGE = "serviceusage.googleapis.com"
ARTIFACT_REGISTRY = "artifactregistry.googleapis.com"
MAX_SERVICES = 30  # in one services.batchGet
SERVICES = (
    ("google.cloud.resourcemanager_v3", "projects"),
    ("google.cloud.service_usage_v1", "service_usage"),
    ("google.cloud.artifactregistry_v1", "artifact_registry"))
METHODS = {
    "GetProject": "get_project", "TestIamPermissions": "test_permissions",
    "BatchGetServices": "batch_get_services", "GetRepository": "get_repository",
    "GetDockerImage": "get_image"}


@dataclass
class Platform:
    """One project; the caller has every permission and every API is enabled, but for two sets.

    Attributes:
        registry: JSON file that may be absent: a list of names of repositories and images
            (`projects/P/locations/L/repositories/R[/dockerImages/NAME@sha256:...]`) that exist.
        missing_permissions: what the caller does not have.
        disabled_apis: such as aiplatform.googleapis.com.
    """

    project: str
    number: int
    registry: Path
    missing_permissions: set[str] = field(default_factory=set)
    disabled_apis: set[str] = field(default_factory=set)

    def api(self) -> rest.Api:
        routes = [
            rest.route("POST", "/v3/{resource=projects/*}:testIamPermissions",
                       "TestIamPermissions", iam_policy_pb2.TestIamPermissionsRequest, "*"),
            *(route for service in SERVICES for route in rest.service_routes(*service)
              if route.rpc in METHODS)]
        return rest.Api(routes, METHODS,
                        lambda rpc, request: getattr(self, METHODS[rpc])(request))

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
