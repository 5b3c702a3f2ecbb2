"""Google's REST conventions: routes, requests as protobuf messages, answers as JSON.

Paths, verbs and bodies come from the http rules that Google's own client packages send by
(services/*/transports/rest_base.py), so a method without a handler is still known by name and
answered 501. All answers of Vertex AI and of the platform APIs are made by `answer`.
Conventions: cloud.google.com/apis/design and google/api/http.proto.
"""

import importlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

import anyio
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from lib.localcloud.errors import HTTP, MARK, ApiError, defect, invalid, refused
from lib.localcloud.guard import Guard
from lib.localcloud.lazily import import_parts_of

for _package in ("aiplatform_v1", "artifactregistry_v1", "iam_admin_v1", "resourcemanager_v3",
                 "service_usage_v1"):
    import_parts_of(f"google.cloud.{_package}")

# API version in the path of the current request: operations answer in types of that version.
VERSION: ContextVar[str] = ContextVar("version", default="v1")
SYSTEM_PARAMETERS = {"$alt", "alt", "$prettyPrint", "prettyPrint", "$userProject", "key"}
MAX_DEPTH = 100  # protobuf's own limit, in all its languages: json_format.Parse
# One part of a name. The colon starts a custom verb (models:upload), except in a digest.
SEGMENT = "[^/:]+(?::[0-9a-f]+)?"


@dataclass(frozen=True)
class Route:
    """One way to call a method.

    Attributes:
        variables: request fields that the path holds, in order, such as `feature_group.name`.
        body: "*", or the request field that the body is; "" if there is none.
    """

    verb: str
    path: re.Pattern
    rpc: str
    request: Callable[[], Message]
    variables: tuple[str, ...] = ()
    body: str = ""


def render(rpc: str, result: Message | dict, integers: bool) -> str:
    """The JSON of a method's result."""
    if isinstance(result, Message):
        result = json_format.MessageToDict(result, use_integers_for_enums=integers)
    return json.dumps(result)


@dataclass(frozen=True)
class Api:
    """Routes, and the function `call(rpc, request)` that runs their methods.

    `call` returns a message or a JSON object, or raises ApiError. `implemented`: the methods that
    it has; any other is answered 501. `render(rpc, result, integers)` gives the JSON of a result,
    enums as integers if asked for; `rename` changes the project in the names of an answer.
    `quick`: methods that wait for nothing, and take less time than handing them to a thread.
    `serialize(rpc, result)`: `render` for gRPC, see rpc.py.
    """

    routes: list[Route]
    implemented: Iterable[str]
    call: Callable[[str, Message], Message | dict]
    render: Callable[[str, Message | dict, bool], str] = render
    rename: Callable[[str], str] = str
    quick: Iterable[str] = ()
    serialize: Callable[[str, Message], bytes] = lambda rpc, result: result.SerializeToString()


def service_routes(package: str, service: str, versions: str = "") -> list[Route]:
    """The routes of one service, from the http rules of its client.

    Args:
        package: such as google.cloud.aiplatform_v1.
        service: such as model_service.
        versions: regular expression of the versions to serve in place of /v1.
    """
    types = importlib.import_module(f"{package}.types")
    for part in (service, f"{service}.transports"):  # its clients are not needed
        import_parts_of(f"{package}.services.{part}")
    module = importlib.import_module(f"{package}.services.{service}.transports.rest_base")
    transport = next(v for k, v in vars(module).items() if re.fullmatch(r"_Base\w+Transport", k))
    routes = []
    for name, method in vars(transport).items():
        rpc = name.removeprefix("_Base")
        if hasattr(method, "_get_http_options") and hasattr(types, f"{rpc}Request"):
            request = getattr(types, f"{rpc}Request").pb()
            routes += [route(rule["method"].upper(), rule["uri"], rpc, request,
                             rule.get("body", ""), versions)
                       for rule in method._get_http_options()]
    return routes


def route(
    verb: str, uri: str, rpc: str, request: Callable[[], Message], body: str = "",
    versions: str = "",
) -> Route:
    """A route from a URI template such as `/v1/{name=projects/*/models/*}:export`."""
    variables = tuple(re.findall(r"{([\w.]+)=", uri))
    pattern = re.sub(r"{[\w.]+=([^}]*)}", r"(\1)", uri.replace("*", SEGMENT))
    if versions:
        pattern = pattern.replace("/v1", f"/(?:{versions})", 1)
    return Route(verb, re.compile(pattern), rpc, request, variables, body)


def find(routes: Iterable[Route], verb: str, path: str) -> tuple[Route, re.Match] | None:
    """The route of a request, and the match of its path."""
    for each in routes:
        if each.verb == verb and (match := each.path.fullmatch(path)):
            return each, match
    return None


def application(apis: Iterable[Api], project: str, number: int) -> Starlette:
    """The ASGI application of some APIs. In a request the project's number means the project."""
    # Threads of its own: a call may wait for BigQuery, which needs the default ones.
    threads = anyio.CapacityLimiter(64)
    quick = [route for api in apis for route in api.routes if route.rpc in api.quick]

    async def serve(request: Request) -> Response:
        path = request.scope["path"].replace(f"/projects/{number}/", f"/projects/{project}/")
        body = (await request.body()).replace(
            f'"projects/{number}/locations/'.encode(), f'"projects/{project}/locations/'.encode())
        query = request.query_params.multi_items()
        if find(quick, request.method, path):
            status, content, rule = answer(apis, request.method, path, query, body)
        else:
            status, content, rule = await anyio.to_thread.run_sync(
                answer, apis, request.method, path, query, body, limiter=threads)
        return Response(content, status, {MARK: rule}, media_type="application/json")

    verbs = ["GET", "POST", "PATCH", "DELETE", "PUT"]
    return Starlette(routes=[StarletteRoute("/{path:path}", serve, methods=verbs)],
                     middleware=[Middleware(Guard)])


def answer(
    apis: Iterable[Api], verb: str, path: str, query: list[tuple[str, str]], body: bytes
) -> tuple[int, str, str]:
    """Parse a request, call its method, render: HTTP status, JSON body, and errors.MARK's value."""
    api, found = next(
        ((api, found) for api in apis if (found := find(api.routes, verb, path))), (None, None))
    try:
        if api is None:
            raise refused(
                "divergence.methods", "UNIMPLEMENTED", f"No method here answers {verb} {path}")
        result = _call(api, found, verb, path, query, body)
        integers = ("$alt", "json;enum-encoding=int") in query
        return 200, api.rename(api.render(found[0].rpc, result, integers)), "ok"
    except Exception as error:
        failed = failure(error, f"{verb} {path}")
    content = json.dumps(failed.body())
    content = api.rename(content) if api else content
    return HTTP[failed.status], content, failed.rule or "defect"


def failure(error: Exception, call: str) -> ApiError:
    """What to answer after an error; a defect of the stand-in is logged, and reported as Google
    reports its own."""
    if isinstance(error, ApiError):
        return error
    logging.getLogger(__name__).error(call, exc_info=error)
    return defect(f"Internal error of the stand-in: {error!r}")


def _call(
    api: Api, found: tuple[Route, re.Match], verb: str, path: str, query: list[tuple[str, str]],
    body: bytes,
) -> Message | dict:
    rpc = found[0].rpc
    if rpc not in api.implemented:  # before parsing: RawPredict's body is no message
        raise refused(
            "divergence.methods", "UNIMPLEMENTED", f"{rpc} is not implemented here: {verb} {path}")
    VERSION.set(path.split("/")[1])
    return api.call(rpc, _parse(*found, query, body))


def _parse(
    found: Route, match: re.Match, query: list[tuple[str, str]], body: bytes
) -> Message:
    """The request message that path, query and body make up together.

    Raises:
        ApiError: INVALID_ARGUMENT, naming the field, for one that is unknown or malformed.
    """
    message = found.request()
    content = _json(body)
    if not found.body and content:
        raise invalid(
            "every.malformed", "Invalid JSON payload received. This method takes no body.")
    _fill(message, {found.body: content} if found.body not in ("", "*") else content)
    parameters: dict = {}
    for key, value in query:
        if key not in SYSTEM_PARAMETERS:
            _put_parameter(parameters, message.DESCRIPTOR, key, value)
    _fill(message, parameters)
    for variable, value in zip(found.variables, match.groups(), strict=True):
        *parents, last = variable.split(".")
        target = message
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return message


def parse_json(text: bytes | str) -> object:
    """JSON without what Python adds to it: NaN, infinity, numbers beyond a float64, and half a
    surrogate pair, which protobuf's reader takes for a bug where it is the name of a field.

    Raises:
        ValueError: the text is no such JSON, nests too deeply, or has half a surrogate pair.
    """
    def finite(read: Callable[[str], float]) -> Callable[[str], float]:
        def number(literal: str) -> float:
            if not math.isfinite(float(literal)):
                raise ValueError(f"{literal[:40]} is not a finite number.")
            return read(literal)

        return number

    try:
        content = json.loads(
            text, parse_constant=finite(float), parse_float=finite(float), parse_int=finite(int))
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("It has half a surrogate pair, which is no text.") from None
    except RecursionError:
        raise ValueError("It nests too deeply.") from None
    return content


def _json(body: bytes) -> dict:
    try:
        content = parse_json(body) if body.strip() else {}
    except ValueError as error:
        raise invalid("every.malformed", f"Invalid JSON payload received. {error}") from None
    if not isinstance(content, dict):
        raise invalid(
            "every.malformed", "Invalid JSON payload received. The body must be an object.")
    level: list = [content]
    for _ in range(MAX_DEPTH):
        level = [value for inside in level if isinstance(inside, dict | list)
                 for value in (inside.values() if isinstance(inside, dict) else inside)]
    if level:
        raise invalid("every.malformed", "Invalid JSON payload received. It nests more than "
                      f"{MAX_DEPTH} deep.")
    return content


def _fill(message: Message, content: dict) -> None:
    try:
        json_format.ParseDict(content, message)
    except json_format.ParseError as error:
        unknown = re.search(r'no field named "([^"]+)" at "([^"]+)"', str(error))
        if not unknown:
            raise invalid(
                "every.malformed", f"Invalid JSON payload received. {error}") from None
        raise invalid(
            "every.unknown-field", f'Invalid JSON payload received. Unknown name "{unknown[1]}" '
            f'at "{unknown[2]}": Cannot find field.') from None


def _put_parameter(target: dict, descriptor: Descriptor, key: str, value: str) -> None:
    """Put a query parameter (`a.b=1`) where ParseDict expects it, in the type it expects."""
    name, _, rest = key.partition(".")
    found = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    if found is None or (rest and found.message_type is None):
        raise invalid(
            "every.unknown-field",
            f'Invalid JSON payload received. Unknown name "{key}": Cannot bind query parameter.')
    if rest:
        _put_parameter(target.setdefault(found.name, {}), found.message_type, rest, value)
    elif found.is_repeated:
        target.setdefault(found.name, []).append(value)
    elif found.type == FieldDescriptor.TYPE_BOOL:
        if value not in ("true", "false"):
            raise invalid("every.malformed", f"{key}: {value!r} is neither true nor false.")
        target[found.name] = value == "true"
    elif found.enum_type is not None and value.isdecimal():
        target[found.name] = int(value)
    else:
        target[found.name] = value
