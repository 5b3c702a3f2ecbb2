"""The HTTP side: finds the method for a request, parses, calls its handler, renders.

Which path belongs to which method, and what its body is, is read from the http rules that
`google-cloud-aiplatform` itself sends by (services/*/transports/rest_base.py): so a method that
has no handler here is still known by name, and answered 501. To add a service: name it in
SERVICES and its handlers in HANDLERS.
"""

import importlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from lib.localcloud.faults import Faults
from lib.localcloud.vertex import (
    endpoints,
    jobs,
    models,
    online,
    operations,
    pipelines,
    registry,
)
from lib.localcloud.vertex.containers import Containers
from lib.localcloud.vertex.errors import HTTP, ApiError, invalid
from lib.localcloud.vertex.mount import Storage
from lib.localcloud.vertex.runner import Background, Runner
from lib.localcloud.vertex.source import BigQuery
from lib.localcloud.vertex.state import State, new_message
from lib.localcloud.vertex.sync import Syncs

SERVICES = (
    "feature_registry_service", "feature_online_store_admin_service",
    "feature_online_store_service", "model_service", "endpoint_service", "prediction_service",
    "pipeline_service", "job_service")

HANDLERS: dict[str, Callable] = {
    "".join(part.title() for part in name.split("_")): getattr(module, name)
    for module, names in {
        registry: (
            "create_feature_group", "get_feature_group", "list_feature_groups",
            "update_feature_group", "delete_feature_group", "create_feature",
            "batch_create_features", "get_feature", "list_features", "update_feature",
            "delete_feature"),
        online: (
            "create_feature_online_store", "get_feature_online_store",
            "list_feature_online_stores", "update_feature_online_store",
            "delete_feature_online_store", "create_feature_view", "get_feature_view",
            "list_feature_views", "update_feature_view", "delete_feature_view",
            "sync_feature_view", "get_feature_view_sync", "list_feature_view_syncs",
            "fetch_feature_values"),
        models: (
            "upload_model", "get_model", "list_models", "list_model_versions", "update_model",
            "delete_model", "delete_model_version", "merge_version_aliases",
            "import_model_evaluation", "get_model_evaluation", "list_model_evaluations"),
        endpoints: (
            "create_endpoint", "get_endpoint", "list_endpoints", "update_endpoint",
            "delete_endpoint", "deploy_model", "undeploy_model", "predict"),
        pipelines: (
            "create_pipeline_job", "get_pipeline_job", "list_pipeline_jobs",
            "cancel_pipeline_job", "delete_pipeline_job", "batch_cancel_pipeline_jobs",
            "batch_delete_pipeline_jobs"),
        jobs: (
            "create_custom_job", "get_custom_job", "list_custom_jobs", "cancel_custom_job",
            "delete_custom_job"),
        operations: (
            "get_operation", "wait_operation", "cancel_operation", "delete_operation",
            "list_operations"),
    }.items()
    for name in names
}
# These wait for others or do not write: they must not hold the writer's lock.
UNLOCKED = {"Predict", "FetchFeatureValues", "WaitOperation", "TestIamPermissions"}

# google.longrunning and google.iam methods exist on every resource. The clients poll under /ui/,
# the first http rule of their operations client; the documented path is /v1/.
RESOURCE = r"(?P<name>projects/[^/:]+/locations/[^/:]+(?:/[^/:]+)*)"
SHARED_METHODS = (
    ("GET", rf"/{RESOURCE}/operations", "ListOperations"),
    ("GET", rf"/{RESOURCE[:-1]}/operations/[^/:]+)", "GetOperation"),
    ("DELETE", rf"/{RESOURCE[:-1]}/operations/[^/:]+)", "DeleteOperation"),
    ("POST", rf"/{RESOURCE[:-1]}/operations/[^/:]+):wait", "WaitOperation"),
    ("POST", rf"/{RESOURCE[:-1]}/operations/[^/:]+):cancel", "CancelOperation"),
    ("POST", rf"/{RESOURCE}:testIamPermissions", "TestIamPermissions"),
)
PROJECT_NUMBER = 100000000001  # of the local project
VERSIONS = r"/(?P<version>v1|v1beta1|ui)"
SYSTEM_PARAMETERS = {"$alt", "alt", "$prettyPrint", "prettyPrint", "$userProject", "key"}


@dataclass(frozen=True)
class Route:
    """One way to call a method: HTTP method, path pattern, and where the body goes.

    Attributes:
        variables: request fields that the path holds, in order, such as `feature_group.name`.
        body: "*", or the request field that the body is; "" if there is none.
    """

    method: str
    path: re.Pattern
    rpc: str
    variables: tuple[str, ...] = ()
    body: str = ""
    request: type | None = None


@dataclass
class Cloud:
    """What the handlers work with.

    `interceptors` are called with (rpc name, parsed request) before each handler, and may raise
    an ApiError. `faults` are those that tests ask for over the admin route.
    """

    project: str
    project_number: int
    state: State
    bigquery: BigQuery
    containers: Containers
    storage: str
    bigquery_rest: str
    bigquery_grpc: str
    data_dir: Path
    objects: Storage
    runner: Runner
    background: Background
    faults: Faults
    syncs: Syncs | None = None
    interceptors: list[Callable[[str, object], None]] = field(default_factory=list)


def create_app(
    data_dir: Path, project: str, bigquery_rest: str, bigquery_grpc: str, storage: str,
    images: dict[str, Path], runner: str = "process", faults: Faults | None = None,
) -> Starlette:
    """The ASGI application; `app.state.close()` ends what it has started, and may be repeated.

    Args:
        data_dir: folder for the database and the model servers' logs.
        project: the local project; its scratch dataset holds what a sync reads.
        bigquery_rest: URL of BigQuery's REST API.
        bigquery_grpc: host:port of BigQuery's Storage Read API.
        storage: URL of Cloud Storage, for the model servers and the tasks of jobs.
        images: container image name -> folder with its Dockerfile.
        runner: how the tasks of pipelines and custom jobs run: "process", or "container" on the
            Docker engine at DOCKER_HOST.
        faults: what shall fail, for tests; by default nothing.
    """
    data_dir = Path(data_dir).resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    containers = Containers(images, data_dir / "serving")
    cloud = Cloud(
        project=project, project_number=PROJECT_NUMBER, state=State(data_dir / "vertex.sqlite"),
        bigquery=BigQuery(project, bigquery_rest, bigquery_grpc),
        containers=containers, storage=storage, bigquery_rest=bigquery_rest,
        bigquery_grpc=bigquery_grpc, data_dir=data_dir, objects=Storage(project, storage),
        runner=Runner(containers, runner, data_dir), background=Background(),
        faults=faults or Faults())
    operations.end_interrupted(cloud.state)
    pipelines.end_interrupted(cloud)
    jobs.end_interrupted(cloud)
    cloud.syncs = Syncs(cloud)

    def close() -> None:
        cloud.faults.close()  # first: what hangs because of one must go on
        cloud.background.close()
        cloud.runner.close()
        cloud.objects.close()
        cloud.syncs.close()
        cloud.containers.close()
        cloud.bigquery.close()
        cloud.state.close()

    # Threads of its own: a call may wait for BigQuery, which needs the default ones.
    threads = anyio.CapacityLimiter(64)

    async def serve(request: Request) -> Response:
        body = await request.body()
        status, content = await anyio.to_thread.run_sync(
            answer, cloud, request.method, request.scope["path"],
            request.query_params.multi_items(), body, limiter=threads)
        return Response(content, status, media_type="application/json")

    methods = ["GET", "POST", "PATCH", "DELETE", "PUT"]
    app = Starlette(routes=[StarletteRoute("/{path:path}", serve, methods=methods)])
    app.state.cloud = cloud
    app.state.close = close
    return app


def answer(
    cloud: Cloud, method: str, path: str, query: list[tuple[str, str]], body: bytes
) -> tuple[int, str]:
    """HTTP status and JSON body for a request."""
    # Google takes a project's number for its id.
    path = path.replace(f"/projects/{cloud.project_number}/", f"/projects/{cloud.project}/")
    try:
        route, match = _find_route(method, path)
        version = match["version"] if match["version"] == "v1beta1" else "v1"
        operations.API_VERSION.set(version)
        handler = HANDLERS.get(route.rpc)
        if handler is None:  # before parsing: RawPredict's body, for one, is not its message
            raise ApiError("UNIMPLEMENTED", f"{route.rpc} is not implemented here: {method} {path}")
        request = _parse(route, match, query, body)
        for intercept in cloud.interceptors:
            intercept(route.rpc, request)
        if fault := cloud.faults.take("operation", f"vertex.{route.rpc}"):
            location = "/".join(path.split("/")[2:6])
            result = operations.start_faulty(cloud, route.rpc, location, fault, handler, request)
        elif method == "GET" or route.rpc in UNLOCKED:
            result = handler(cloud, request)
        else:
            with cloud.state.lock:
                result = handler(cloud, request)
        if isinstance(result, Message):
            integers = ("$alt", "json;enum-encoding=int") in query
            result = json_format.MessageToDict(result, use_integers_for_enums=integers)
        return 200, json.dumps(result)
    except ApiError as error:
        failed = error
    except Exception as error:  # a defect of ours, as Google would show one of theirs
        logging.getLogger(__name__).exception("%s %s", method, path)
        failed = ApiError("INTERNAL", f"Internal error of the stand-in: {error!r}")
    return HTTP[failed.status], json.dumps(failed.body())


def test_iam_permissions(cloud: Cloud, request: dict) -> dict:
    """TestIamPermissions: whoever asks has all that they ask for, but what a test takes away."""
    missing = cloud.faults.missing_permissions
    return {"permissions": [p for p in request.get("permissions", []) if p not in missing]}


HANDLERS["TestIamPermissions"] = test_iam_permissions


# Routing


def _service_routes(service: str) -> list[Route]:
    """The routes of one service, from the http rules of its client."""
    module = importlib.import_module(
        f"google.cloud.aiplatform_v1.services.{service}.transports.rest_base")
    transport = next(v for k, v in vars(module).items() if re.fullmatch(r"_Base\w+Transport", k))
    routes = []
    for name, method in vars(transport).items():
        request = getattr(types, f"{name.removeprefix('_Base')}Request", None)
        if request is None or not hasattr(method, "_get_http_options"):
            continue
        for rule in method._get_http_options():
            pattern, variables = _pattern(rule["uri"].removeprefix("/v1"))
            routes.append(Route(
                rule["method"].upper(), re.compile(VERSIONS + pattern),
                name.removeprefix("_Base"), variables, rule.get("body", ""), request))
    return routes


def _pattern(uri: str) -> tuple[str, tuple[str, ...]]:
    """`/{name=projects/*/models/*}:export` -> (pattern with a group per variable, variables)."""
    variables = tuple(re.findall(r"{([\w.]+)=", uri))
    segments = uri.replace("*", "[^/:]+")
    return re.sub(r"{[\w.]+=([^}]*)}", r"(\1)", segments), variables


ROUTES = [
    *(Route(method, re.compile(VERSIONS + path), rpc) for method, path, rpc in SHARED_METHODS),
    *(route for service in SERVICES for route in _service_routes(service)),
]


def _find_route(method: str, path: str) -> tuple[Route, re.Match]:
    for route in ROUTES:
        if route.method == method and (match := route.path.fullmatch(path)):
            return route, match
    raise ApiError("UNIMPLEMENTED", f"No method here answers {method} {path}")


# Parsing: https://cloud.google.com/apis/design and google/api/http.proto


def _parse(
    route: Route, match: re.Match, query: list[tuple[str, str]], body: bytes
) -> Message | dict:
    """The request message that path, query and body make up together.

    Raises:
        ApiError: INVALID_ARGUMENT, naming the field, for one that is unknown or malformed.
    """
    query = [(key, value) for key, value in query if key not in SYSTEM_PARAMETERS]
    content = _json(body)
    if route.request is None:  # google.longrunning and google.iam: a name and little else
        if permissions := [value for key, value in query if key == "permissions"]:
            content["permissions"] = permissions
        return {**dict(query), **content, "name": match["name"]}
    message = new_message(route.request)
    if not route.body and content:
        raise invalid("Invalid JSON payload received. This method takes no body.")
    _fill(message, {route.body: content} if route.body not in ("", "*") else content)
    parameters: dict = {}
    for key, value in query:
        _put_parameter(parameters, message.DESCRIPTOR, key, value)
    _fill(message, parameters)
    for variable, value in zip(route.variables, match.groups()[1:], strict=True):
        *parents, last = variable.split(".")
        target = message
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return message


def _json(body: bytes) -> dict:
    try:
        content = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from None
    if not isinstance(content, dict):
        raise invalid("Invalid JSON payload received. The body must be an object.")
    return content


def _fill(message: Message, content: dict) -> None:
    try:
        json_format.ParseDict(content, message)
    except json_format.ParseError as error:
        unknown = re.search(r'no field named "([^"]+)" at "([^"]+)"', str(error))
        raise invalid(
            f'Invalid JSON payload received. Unknown name "{unknown[1]}" at "{unknown[2]}": '
            "Cannot find field." if unknown else f"Invalid JSON payload received. {error}"
        ) from None


def _put_parameter(target: dict, descriptor: Descriptor, key: str, value: str) -> None:
    """Put a query parameter (`a.b=1`) where ParseDict expects it, in the type it expects."""
    name, _, rest = key.partition(".")
    found = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    if found is None or (rest and found.message_type is None):
        raise invalid(f'Invalid JSON payload received. Unknown name "{key}": Cannot bind query '
                      "parameter.")
    if rest:
        _put_parameter(target.setdefault(found.name, {}), found.message_type, rest, value)
    elif found.is_repeated:
        target.setdefault(found.name, []).append(value)
    elif found.type == FieldDescriptor.TYPE_BOOL:
        if value not in ("true", "false"):
            raise invalid(f"{key}: {value!r} is neither true nor false.")
        target[found.name] = value == "true"
    elif found.enum_type is not None and value.isdecimal():
        target[found.name] = int(value)
    else:
        target[found.name] = value
