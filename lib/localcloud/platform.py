"""Resource Manager, Service Usage and Artifact Registry: the few methods that preflight asks.

Requests are parsed into Google's own protobuf messages, and answers rendered from them; an unknown
field is refused. The rules, with their sources, are in README.md.
"""

import json
import re
from collections.abc import Callable

from google.cloud.resourcemanager_v3 import types as projects
from google.cloud.service_usage_v1 import types as usage
from google.iam.v1 import iam_policy_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lib.localcloud.vertex.errors import ApiError, invalid, not_found

HTTP = {"PERMISSION_DENIED": 403, "NOT_FOUND": 404, "INVALID_ARGUMENT": 400}


class Platform:
    """One project, with all permissions and APIs but those that `faults` takes away."""

    def __init__(self, project: str, number: int, faults: object):
        self.project, self.number, self.faults = project, number, faults

    def get_project(self, request: Request, _content: dict) -> Message:
        """projects.get: 403 for a project that is not there, as for one that one may not see."""
        self._check(request.path_params["project"])
        return projects.Project.pb(projects.Project(
            name=f"projects/{self.number}", project_id=self.project, display_name=self.project,
            state=projects.Project.State.ACTIVE))

    def test_permissions(self, request: Request, content: dict) -> Message:
        """projects.testIamPermissions: those of the asked ones that the caller has."""
        self._check(request.path_params["project"])
        asked = _parse(content, iam_policy_pb2.TestIamPermissionsRequest())
        if any("*" in permission for permission in asked.permissions):
            raise invalid("Permissions with wildcards are not allowed.")
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=[
            p for p in asked.permissions if p not in self.faults.missing_permissions])

    def batch_get_services(self, request: Request, _content: dict) -> Message:
        """services.batchGet: at most 30 names in one call."""
        self._check(request.path_params["project"])
        names = request.query_params.getlist("names")
        if not 1 <= len(names) <= 30:
            raise invalid("names: from 1 to 30 services in one call.")
        states = usage.State
        return usage.BatchGetServicesResponse.pb(usage.BatchGetServicesResponse(services=[
            usage.Service(
                name=f"projects/{self.number}/services/{api}", parent=f"projects/{self.number}",
                config=usage.ServiceConfig(name=api),
                state=states.DISABLED if api in self.faults.disabled_apis else states.ENABLED)
            for api in (name.rsplit("/", 1)[-1] for name in names)]))

    def get_repository(self, request: Request, _content: dict) -> Message:
        """Artifact Registry here holds nothing: the local cloud runs the images' folders."""
        raise not_found(request.url.path.removeprefix("/v1/"))

    def _check(self, project: str) -> None:
        if project not in (self.project, str(self.number)):
            raise ApiError("PERMISSION_DENIED", f"The caller does not have permission on project "
                           f"{project} (or it may not exist).")


def routes(project: str, number: int, faults: object) -> list[Route]:
    """The routes, to be put in front of Vertex AI's.

    Args:
        faults: has `missing_permissions` and `disabled_apis`, two sets of names.
    """
    platform = Platform(project, number, faults)
    repository = "/v1/projects/{p}/locations/{l}/repositories/{r}"
    return [
        Route("/v3/projects/{project}:testIamPermissions", _answer(platform.test_permissions),
              methods=["POST"]),
        Route("/v3/projects/{project}", _answer(platform.get_project)),
        Route("/v1/projects/{project}/services:batchGet", _answer(platform.batch_get_services)),
        Route(repository, _answer(platform.get_repository)),
        Route(repository + "/dockerImages/{image}", _answer(platform.get_repository)),
    ]


def _answer(handler: Callable[[Request, dict], Message]) -> Callable:
    async def serve(request: Request) -> JSONResponse:
        try:
            content = json.loads(await request.body() or b"{}")
            message = handler(request, content)
        except ApiError as error:
            return JSONResponse(
                {"error": {"code": HTTP[error.status], "message": error.message,
                           "status": error.status}}, HTTP[error.status])
        integers = "enum-encoding" in re.sub(r"%3D", "=", str(request.url.query))
        return JSONResponse(json_format.MessageToDict(
            message, use_integers_for_enums=integers))

    return serve


def _parse(content: dict, message: Message) -> Message:
    try:
        return json_format.ParseDict(content, message)
    except json_format.ParseError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from None
