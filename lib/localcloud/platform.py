"""Resource Manager, Service Usage and Artifact Registry: the few methods that preflight asks.

Requests are parsed into Google's own protobuf messages, and answers rendered from them; an unknown
field or query parameter is refused. The rules, with their sources, are in README.md.
"""

import json
from collections.abc import Callable
from pathlib import Path

from google.cloud.artifactregistry_v1 import types as artifacts
from google.cloud.resourcemanager_v3 import types as projects
from google.cloud.service_usage_v1 import types as usage
from google.iam.v1 import iam_policy_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lib.localcloud.faults import HTTP
from lib.localcloud.vertex.app import SYSTEM_PARAMETERS, _fill, _json, _put_parameter
from lib.localcloud.vertex.errors import ApiError, invalid, not_found

RESOURCE_MANAGER = "cloudresourcemanager.googleapis.com"
SERVICE_USAGE = "serviceusage.googleapis.com"
ARTIFACT_REGISTRY = "artifactregistry.googleapis.com"
MOST_SERVICES = 30  # of one services.batchGet


class Disabled(ApiError):
    """The API that was asked is off; `details` says which, for programs."""

    def __init__(self, number: int, api: str):
        super().__init__(
            "PERMISSION_DENIED", f"{api} has not been used in project {number} before or it is "
            f"disabled. Enable it by visiting https://console.developers.google.com/apis/api/{api}"
            f"/overview?project={number} then retry.")
        self.details = [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED",
            "domain": "googleapis.com",
            "metadata": {"consumer": f"projects/{number}", "service": api}}]


class Platform:
    """One project, with all permissions and APIs but those that `faults` takes away.

    `registry` is a JSON file, which need not be there: a list of the names of repositories and
    images (`projects/P/locations/L/repositories/R[/dockerImages/NAME@sha256:...]`) that stand.
    """

    def __init__(self, project: str, number: int, faults: object, registry: Path | None):
        self.project, self.number, self.faults = project, number, faults
        self.registry = registry

    def get_project(self, asked: Message) -> Message:
        """projects.get: 403 for a project that is not there, as for one that one may not see."""
        self._check(asked.name, RESOURCE_MANAGER, "resourcemanager.projects.get")
        return projects.Project.pb(projects.Project(
            name=f"projects/{self.number}", project_id=self.project, display_name=self.project,
            state=projects.Project.State.ACTIVE))

    def test_permissions(self, asked: Message) -> Message:
        """projects.testIamPermissions: those of the asked ones that the caller has."""
        self._check(asked.resource, RESOURCE_MANAGER)
        if any("*" in permission for permission in asked.permissions):
            raise invalid("Permissions with wildcards are not allowed.")
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=[
            p for p in asked.permissions if p not in self.faults.missing_permissions])

    def batch_get_services(self, asked: Message) -> Message:
        """services.batchGet: at most 30 services of one project in one call."""
        self._check(asked.parent, SERVICE_USAGE, "serviceusage.services.get")
        if not 1 <= len(asked.names) <= MOST_SERVICES:
            raise invalid(f"names: from 1 to {MOST_SERVICES} services in one call.")
        return usage.BatchGetServicesResponse.pb(usage.BatchGetServicesResponse(
            services=[self._service(name) for name in asked.names]))

    def _service(self, name: str) -> usage.Service:
        parent, _, api = name.rpartition("/services/")
        if parent not in self._names():
            raise invalid(f"names: {name!r} is no service of the parent.")
        states = usage.State
        return usage.Service(
            name=f"projects/{self.number}/services/{api}", parent=f"projects/{self.number}",
            config=usage.ServiceConfig(name=api),
            state=states.DISABLED if api in self.faults.disabled_apis else states.ENABLED)

    def get_repository(self, asked: Message) -> Message:
        """repositories.get: only what the registry's file has."""
        self._check(asked.name, ARTIFACT_REGISTRY, "artifactregistry.repositories.get")
        return artifacts.Repository.pb(artifacts.Repository(
            name=self._standing(asked.name), format_=artifacts.Repository.Format.DOCKER))

    def get_image(self, asked: Message) -> Message:
        """dockerImages.get: only what the registry's file has."""
        self._check(asked.name, ARTIFACT_REGISTRY, "artifactregistry.dockerimages.get")
        name = self._standing(asked.name)
        _, project, _, location, _, repository, _, image = name.split("/", 7)
        return artifacts.DockerImage.pb(artifacts.DockerImage(
            name=name, uri=f"{location}-docker.pkg.dev/{project}/{repository}/{image}"))

    def _standing(self, name: str) -> str:
        there = self.registry is not None and self.registry.exists()
        if not there or name not in json.loads(self.registry.read_text()):
            raise not_found(name)
        return name

    def _names(self) -> tuple[str, str]:
        return f"projects/{self.project}", f"projects/{self.number}"

    def _check(self, resource: str, api: str, permission: str = "") -> None:
        """Is it our project, the API on, and the caller allowed to ask?"""
        if "/".join(resource.split("/")[:2]) not in self._names():
            raise ApiError("PERMISSION_DENIED", f"The caller does not have permission on "
                           f"{resource} (or it may not exist).")
        if api in self.faults.disabled_apis:
            raise Disabled(self.number, api)
        if permission in self.faults.missing_permissions:
            raise ApiError("PERMISSION_DENIED", f"Permission '{permission}' denied on resource "
                           f"'//{api}/{resource}' (or it may not exist).")


def routes(
    project: str, number: int, faults: object, registry: Path | None = None
) -> list[Route]:
    """The routes, to be put in front of Vertex AI's.

    Args:
        faults: has `missing_permissions` and `disabled_apis`, two sets of names.
        registry: the file of what Artifact Registry holds (see Platform); by default nothing.
    """
    platform = Platform(project, number, faults, registry)
    project_path, repository = "projects/{p}", "projects/{p}/locations/{l}/repositories/{r}"
    # In this order: {p} alone would also take "p:testIamPermissions".
    return [
        _route("POST", f"/v3/{project_path}:testIamPermissions", "resource",
               iam_policy_pb2.TestIamPermissionsRequest, platform.test_permissions),
        _route("GET", f"/v3/{project_path}", "name",
               projects.GetProjectRequest.pb(), platform.get_project),
        _route("GET", f"/v1/{project_path}/services:batchGet", "parent",
               usage.BatchGetServicesRequest.pb(), platform.batch_get_services),
        _route("GET", f"/v1/{repository}", "name",
               artifacts.GetRepositoryRequest.pb(), platform.get_repository),
        _route("GET", f"/v1/{repository}/dockerImages/{{image}}", "name",
               artifacts.GetDockerImageRequest.pb(), platform.get_image),
    ]


def _route(
    verb: str, path: str, variable: str, kind: type[Message],
    handler: Callable[[Message], Message],
) -> Route:
    """One method. `variable`: the request's field that the path holds."""

    async def serve(request: Request) -> JSONResponse:
        query = request.query_params.multi_items()
        try:
            answer = handler(_parse(kind(), variable, request, await request.body()))
        except ApiError as error:
            content = {"code": HTTP[error.status], "message": error.message,
                       "status": error.status, "details": getattr(error, "details", [])}
            return JSONResponse({"error": {k: v for k, v in content.items() if v}},
                                HTTP[error.status])
        integers = ("$alt", "json;enum-encoding=int") in query
        return JSONResponse(json_format.MessageToDict(answer, use_integers_for_enums=integers))

    return Route(path, serve, methods=[verb])


def _parse(message: Message, variable: str, request: Request, body: bytes) -> Message:
    """The request message that path, query and body make up together."""
    content = _json(body)
    if request.method == "GET" and content:
        raise invalid("Invalid JSON payload received. This method takes no body.")
    for key, value in request.query_params.multi_items():
        if key not in SYSTEM_PARAMETERS:
            _put_parameter(content, message.DESCRIPTOR, key, value)
    _fill(message, content)
    # The path is /v1/<name>, /v1/<parent>/services:<method> or /v3/<resource>:<method>.
    name = request.scope["path"].split("/", 2)[2]
    if variable != "name":
        name = name.removesuffix("/services:batchGet").removesuffix(":testIamPermissions")
    setattr(message, variable, name)
    return message
