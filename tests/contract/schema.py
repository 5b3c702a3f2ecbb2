"""Holds a recorded HTTP request against Google's own description of its REST APIs.

    problems("POST", "/v1/projects/p/locations/l/featureGroups", query, body, "vertex") -> []

The descriptions are the discovery documents that google-api-python-client brings along, read
offline. Requests to Vertex AI are checked a second time, by another source: they are put into
the protobuf messages of google-cloud-aiplatform, along its clients' http rules. So a mistake in
a Vertex AI request is often told twice.

What Google would take and this does not, on purpose: field names in snake_case. Protobuf's JSON
parser knows both spellings, the documents and all of Google's clients only camelCase: snake_case
in a body comes from a dict written by hand, and BigQuery and Storage would ignore or refuse it.
The contents of maps and of free values (labels, Struct, instances) are nobody's field names.
"""

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import googleapiclient
from google.cloud.aiplatform_v1 import services, types
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
API = {"vertex": "aiplatform.v1", "bigquery": "bigquery.v2", "storage": "storage.v1"}
# Fields that google-cloud-aiplatform has and the discovery document lacks: (schema, field).
MISSING_IN_DISCOVERY = {
    # The only field of a request, path variables aside, that package 2.7.0 has and the document
    # of revision 20261106 has not.
    ("GoogleCloudAiplatformV1Endpoint", "privateModelServerEnabled"),
}
# Fields for strings in which Google's own clients send numbers: (schema, field).
NUMBERS_TOO = {
    # google-cloud-bigquery writes a FLOAT64 query parameter so (_helpers._float_to_json), and an
    # INT64 one as a string.
    ("QueryParameterValue", "value"),
}
# Every API takes these, documented at https://cloud.google.com/apis/docs/system-parameters;
# `$alt` is how the GAPIC clients write `alt`. Each document lists the others.
ALT = re.compile(r"(json|media|proto)(;enum-encoding=int)?")
INTEGER_ENUMS = ("$alt", "json;enum-encoding=int")
UPLOAD_TYPES = ("media", "multipart", "resumable")
INTEGERS = {"int32", "uint32", "int64", "uint64"}
KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean",
         int: "a number", float: "a number", type(None): "null"}


@dataclass(frozen=True)
class Method:
    """A method of a discovery document, at one of its paths.

    Attributes:
        upload: the path is that of a media upload, as `/upload/storage/v1/b/{bucket}/o`.
        download: the path is that of a media download, as `/download/storage/v1/b/...`.
    """

    api: str
    verb: str
    path: re.Pattern
    content: dict
    upload: bool = False
    download: bool = False

    @property
    def id(self) -> str:
        return self.content["id"]


@dataclass(frozen=True)
class Rule:
    """An http rule of a GAPIC client: which fields of `request` path, body and query are."""

    verb: str
    path: re.Pattern
    variables: tuple[str, ...]
    body: str
    request: type


def problems(
    verb: str, path: str, query: list[tuple[str, str]], body: object | None, service: str
) -> list[str]:
    """What Google would not take of this request, a sentence each; [] if all fits.

    Args:
        path: without host and query. Storage's object names may have their slashes as such.
        query: decoded pairs, in their order; a key may come again.
        body: decoded JSON, for an upload of its metadata; None if there is none.
        service: "vertex", "bigquery", "storage", "platform" (Resource Manager, Service Usage and
            Artifact Registry) or "bigquery_storage". Of a call by gRPC (verb "GRPC") protobuf has
            parsed the body already; its query is the metadata by which Google routes it.
    """
    if verb == "GRPC":
        return [] if dict(query).get("x-goog-request-params") else ["no x-goog-request-params"]
    query = [(key, value) for key, value in query]
    found = _find(verb, path, service)
    if isinstance(found, str):
        return [found]
    wrong = [*_query_problems(found, verb, query), *_body_problems(found, verb, query, body)]
    if service == "vertex":
        wrong += _protobuf_problems(verb, path, query, body)
    return wrong


def name(verb: str, path: str, service: str) -> str:
    """The discovery id of the method, as `storage.buckets.insert`; of gRPC, its own path.

    Raises:
        LookupError: no such method.
    """
    if verb == "GRPC":
        return path.strip("/").replace("/", ".")
    found = _find(verb, path, service)
    if isinstance(found, str):
        raise LookupError(found)
    return found.id


# Methods and their paths


@cache
def document(api: str) -> dict:
    """A discovery document, as `storage.v1`."""
    return json.loads((DOCUMENTS / f"{api}.json").read_text())


def _api(path: str, service: str) -> str:
    if service != "platform":
        return API[service]
    if path.startswith("/v3/"):
        return "cloudresourcemanager.v3"
    if "/serviceAccounts" in path:
        return "iam.v1"
    return "artifactregistry.v1" if "/repositories" in path else "serviceusage.v1"


def _find(verb: str, path: str, service: str) -> Method | str:
    """The method for a request, or the sentence that there is none."""
    api = _api(path, service)
    plain = _plain(path, service)
    fitting = [method for method in _methods(api) if method.path.fullmatch(plain)]
    # The content of a resumable upload follows by PUT, which no document lists.
    wanted = {"PUT", "POST"} if verb == "PUT" else {verb}
    found = [m for m in fitting if m.verb == verb or (m.upload and m.verb in wanted)]
    if found:
        # An object's name may hold slashes: of `o/{object}` and `o/{object}/acl`, the longer.
        return max(found, key=lambda method: len(method.path.pattern))
    verbs = ", ".join(sorted({method.verb for method in fitting}))
    return f"no such method in {api}: {verb} {path}" + (f" (it takes {verbs})" if verbs else "")


def _plain(path: str, service: str) -> str:
    """The path as the document has it."""
    if service == "vertex":
        # GAPIC polls operations under /ui/: the first http rule of the package's own operations
        # client (`api_client` in services/*/transports/rest.py). The document has /v1/ only.
        path = re.sub(r"^/ui/(.+/operations(/.+)?)$", r"/v1/\1", path)
    # The colon of a digest is the only one in a name; any other begins a custom verb.
    return re.sub(r"@sha256:(?=[0-9a-f]+$)", "@sha256-", path)


@cache
def _methods(api: str) -> list[Method]:
    return [method for content in _contents(document(api)) for method in _at_paths(api, content)]


def _contents(resource: dict) -> Iterator[dict]:
    yield from resource.get("methods", {}).values()
    for part in resource.get("resources", {}).values():
        yield from _contents(part)


def _at_paths(api: str, content: dict) -> Iterator[Method]:
    """The method at its own path, and at those of uploads and downloads."""
    base = "/" + document(api)["servicePath"]
    # flatPath spells out each part of a name, where path has one `{+name}` for all of it.
    template, verb = content.get("flatPath", content["path"]), content["httpMethod"]
    yield Method(api, verb, _pattern(base + template), content)
    for protocol in content.get("mediaUpload", {}).get("protocols", {}).values():
        prefix = protocol["path"].removesuffix(base + content["path"])
        yield Method(api, verb, _pattern(prefix + base + template), content, upload=True)
    if content.get("useMediaDownloadService"):
        yield Method(api, verb, _pattern("/download" + base + template), content, download=True)


def _pattern(template: str) -> re.Pattern:
    """`/b/{bucket}/o/{object}` -> pattern; names of objects and folders may hold slashes."""
    def part(match: re.Match) -> str:
        if not match["variable"]:
            return re.escape(match[0])
        return ".+" if re.search("object$|folder$", match["variable"], re.I) else "[^/:]+"

    return re.compile(re.sub(r"{\+?(?P<variable>\w+)}|[^{]+", part, template))


# Query


def _query_problems(method: Method, verb: str, query: list[tuple[str, str]]) -> Iterator[str]:
    own = {key: content for key, content in method.content["parameters"].items()
           if content["location"] == "query"}
    known = document(method.api)["parameters"] | own
    keys = [key for key, _ in query]
    for key, value in query:
        if key == "$alt" or (key == "upload_id" and method.upload):
            if key == "$alt" and not ALT.fullmatch(value):
                yield f"query parameter $alt: {value!r} is no way to answer"
        elif key not in known:
            yield f"query parameter {key} is unknown to {method.id}"
        else:
            yield from _parameter_problems(
                key, value, known[key], method.api, INTEGER_ENUMS in query)
    for key in sorted(set(keys)):
        if keys.count(key) > 1 and key in known and not known[key].get("repeated"):
            yield f"query parameter {key} comes {keys.count(key)} times, and may come once"
    for key, content in own.items():
        if content.get("required") and key not in keys:
            yield f"query parameter {key} is missing, and {method.id} requires it"
    yield from _media_problems(method, verb, query)


def _media_problems(method: Method, verb: str, query: list[tuple[str, str]]) -> Iterator[str]:
    """What the paths of uploads and downloads ask for."""
    kind = dict(query).get("uploadType")
    if method.upload and verb == "PUT" and "upload_id" not in dict(query):
        yield "query parameter upload_id is missing: a PUT goes on with a resumable upload"
    elif method.upload and verb == "POST" and kind not in UPLOAD_TYPES:
        yield f"query parameter uploadType: {kind!r} is none of {', '.join(UPLOAD_TYPES)}"
    elif kind is not None and not method.upload:
        yield f"query parameter uploadType: {method.id} takes uploads under /upload/ only"
    if method.download and ("alt", "media") not in query:
        yield "query parameter alt: a download says alt=media"


def _parameter_problems(
    key: str, value: str, content: dict, api: str, integers: bool
) -> Iterator[str]:
    kind, kinds = content["type"], content.get("enum")
    if kinds:
        index = int(value) if integers and value.isdecimal() else value
        yield from _enum_problems(_Place(api, key, integers, "query parameter"), index, kinds)
    elif (kind == "integer" or content.get("format") in INTEGERS) and not re.fullmatch(
            r"-?\d+", value):
        yield f"query parameter {key}: {value!r} is no integer"
    elif kind == "number" and not _is_number(value):
        yield f"query parameter {key}: {value!r} is no number"
    # BigQuery's client writes Python's own True, and BigQuery takes it.
    elif kind == "boolean" and value.lower() not in ("true", "false"):
        yield f"query parameter {key}: {value!r} is neither true nor false"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Body


@dataclass(frozen=True)
class _Place:
    """Where in a request one is; `integers`: enums may be numbers."""

    api: str
    path: str
    integers: bool
    kind: str = "body field"

    def at(self, more: str) -> "_Place":
        return _Place(self.api, f"{self.path}.{more}" if self.path else more, self.integers)

    def part(self, index: int) -> "_Place":
        return _Place(self.api, f"{self.path}[{index}]", self.integers)

    def __str__(self) -> str:
        return f"{self.kind} {self.path}" if self.path else "body"


def _body_problems(
    method: Method, verb: str, query: list[tuple[str, str]], body: object | None
) -> list[str]:
    if method.upload and (verb == "PUT" or ("uploadType", "media") in query):
        return []  # the bytes themselves, which may look like JSON
    if "request" not in method.content:
        return [f"body: {method.id} takes none"] if body else []
    if body is None:
        return []
    return list(_value_problems(
        body, method.content["request"], _Place(method.api, "", INTEGER_ENUMS in query)))


def _value_problems(value: object, content: dict, place: _Place) -> Iterator[str]:
    """What is wrong with a value, given its description in the document."""
    name = content.get("$ref", "")
    if name:
        content = document(place.api)["schemas"][name]
    kind = content.get("type")
    # null is "not set" in protobuf's JSON, and in BigQuery's and Storage's "take it away".
    if kind == "any" or (value is None and place.path):
        return
    if kind == "object" and isinstance(value, dict):
        yield from _object_problems(value, content, place, name)
    elif kind == "array" and isinstance(value, list):
        for index, part in enumerate(value):
            below = place.part(index)
            if part is None and content["items"].get("type") != "any":
                yield f"{below}: null in a list"
            yield from _value_problems(part, content["items"], below)
    elif "enum" in content:
        yield from _enum_problems(place, value, content["enum"])
    elif wanted := _wanted(value, content):
        yield f"{place}: {wanted} is wanted, not {_shown(value)}"


def _object_problems(value: dict, content: dict, place: _Place, name: str) -> Iterator[str]:
    fields = content.get("properties", {})
    for key, part in value.items():
        if (name, key) in NUMBERS_TOO and type(part) is float:
            continue
        if key in fields:
            yield from _value_problems(part, fields[key], place.at(key))
        elif "additionalProperties" in content:
            yield from _value_problems(part, content["additionalProperties"], place.at(key))
        elif (name, key) not in MISSING_IN_DISCOVERY:
            camel = re.sub(r"_(\w)", lambda match: match[1].upper(), key)
            yield f"{place.at(key)} is unknown" + (f" to {name}" if name else "") + (
                f": it is written {camel}" if camel != key and camel in fields else "")


def _enum_problems(place: _Place, value: object, kinds: list[str]) -> Iterator[str]:
    """Integers are for clients that say so by `$alt`: the GAPIC ones."""
    if isinstance(value, str):
        if value not in kinds:
            yield f"{place}: {value!r} is none of {', '.join(kinds)}"
    elif not _is_integer(value):
        yield f"{place}: a string is wanted, not {_shown(value)}"
    elif not place.integers:
        yield f"{place}: {value} is a number, and the request does not say enum-encoding=int"
    # A document has the names without their numbers, which may leave gaps (FLEX_START is 6, at
    # index 5). For Vertex AI the protobuf check knows the numbers; elsewhere the index must do.
    elif place.api != API["vertex"] and not 0 <= value < len(kinds):
        yield f"{place}: {value} is not the number of any of {', '.join(kinds)}"


def _wanted(value: object, content: dict) -> str:
    """What the document wants, if this value is something else; "" if it fits."""
    kind, form = content["type"], content.get("format")
    if kind == "object":
        return "an object"
    if kind == "array":
        return "a list"
    if kind == "boolean":
        return "" if isinstance(value, bool) else "a boolean"
    if kind == "integer":
        return "" if _is_integer(value) else "an integer"
    if kind == "number":
        fits = type(value) in (int, float) or value in ("NaN", "Infinity", "-Infinity")
        return "" if fits else "a number"
    if form in INTEGERS:
        fits = re.fullmatch(r"-?\d+", value) if isinstance(value, str) else _is_integer(value)
        return "" if fits else "an integer"
    return "" if isinstance(value, str) else "a string"


def _is_integer(value: object) -> bool:
    """True for 3 and 3.0, which are the same in JSON; a boolean is no number there."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _shown(value: object) -> str:
    text = json.dumps(value)
    return f"{KINDS[type(value)]} ({text if len(text) < 60 else text[:60] + '...'})"


# Protobuf: https://cloud.google.com/apis/design and google/api/http.proto


def _protobuf_problems(
    verb: str, path: str, query: list[tuple[str, str]], body: object | None
) -> list[str]:
    """What google-cloud-aiplatform's own message for this request says to it.

    Nothing for methods that are not the package's but every API's: operations, IAM, locations.
    """
    for rule in _rules():
        match = rule.path.fullmatch(path)
        if rule.verb == verb and match:
            break
    else:
        return []
    if body and not rule.body:
        return [f"protobuf: {rule.request.__name__} has no body"]
    if rule.body == "*" and not isinstance(body or {}, dict):
        return [f"protobuf: body: an object is wanted, not {KINDS[type(body)]}"]
    message = rule.request.pb()()
    try:
        content = _message_content(rule, match, query, body, message.DESCRIPTOR)
        json_format.ParseDict(content, message, ignore_unknown_fields=False)
    except (json_format.ParseError, ValueError) as error:
        return [f"protobuf: {str(error).splitlines()[0]}"]  # then, the fields that there are
    return [f"protobuf: {text}" for text in _unknown_numbers(message)]


@cache
def _rules() -> list[Rule]:
    """The http rules of all the package's services."""
    modules = sorted(Path(services.__path__[0]).glob("*/transports/rest_base.py"))
    return [rule for module in modules for rule in _service_rules(module.parent.parent.name)]


def _service_rules(service: str) -> Iterator[Rule]:
    module = importlib.import_module(f"{services.__name__}.{service}.transports.rest_base")
    transport = next(v for k, v in vars(module).items() if re.fullmatch(r"_Base\w+Transport", k))
    for key, method in vars(transport).items():
        request = getattr(types, f"{key.removeprefix('_Base')}Request", None)
        if request is None or not hasattr(method, "_get_http_options"):
            continue
        for rule in method._get_http_options():
            variables = tuple(re.findall(r"{([\w.]+)=", rule["uri"]))
            pattern = re.sub(r"{[\w.]+=([^}]*)}", r"(\1)", rule["uri"]).replace("*", "[^/:]+")
            yield Rule(rule["method"].upper(), re.compile(pattern), variables,
                       rule.get("body", ""), request)


def _message_content(
    rule: Rule, match: re.Match, query: list[tuple[str, str]], body: object | None,
    descriptor: Descriptor,
) -> dict:
    """The request message as JSON: body, query and path variables put together."""
    if rule.body == "*":
        content = dict(body or {})
    else:
        # A copy: path variables inside it (feature_group.name) are not to change the caller's.
        content = {rule.body: dict(body) if isinstance(body, dict) else body} if rule.body else {}
    standard = document(API["vertex"])["parameters"]
    for key, value in query:
        if key not in standard and key != "$alt":
            _put_parameter(content, descriptor, key, value)
    for variable, value in zip(rule.variables, match.groups(), strict=True):
        *parents, last = variable.split(".")
        target = content
        for parent in parents:
            if not isinstance(target.get(parent), dict):
                raise ValueError(f"{parent}: an object is wanted")
            target = target[parent]
        target[last] = value
    return content


def _put_parameter(target: dict, descriptor: Descriptor, key: str, value: str) -> None:
    """Put a query parameter (`a.b=1`) where ParseDict expects it, in the type it expects."""
    first, _, rest = key.partition(".")
    field = descriptor.fields_by_camelcase_name.get(first)
    if field is None or (rest and field.message_type is None):
        raise ValueError(f"{descriptor.name} has no query parameter {key}")
    if rest:
        _put_parameter(target.setdefault(field.name, {}), field.message_type, rest, value)
    elif field.is_repeated:
        target.setdefault(field.name, []).append(value)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        target[field.name] = {"true": True, "false": False}.get(value.lower(), value)
    else:
        target[field.name] = value


def _unknown_numbers(message: Message, at: str = "") -> Iterator[str]:
    """Enum numbers that no name belongs to: protobuf's parser lets them pass."""
    for field, value in message.ListFields():
        place = f"{at}.{field.json_name}" if at else field.json_name
        entry = field.message_type
        is_map = entry is not None and entry.GetOptions().map_entry
        values = value.values() if is_map else value if field.is_repeated else [value]
        kind = entry.fields_by_name["value"] if is_map else field
        for part in values:
            if kind.message_type:
                yield from _unknown_numbers(part, place)
            elif kind.enum_type and part not in kind.enum_type.values_by_number:
                yield f"{place}: {part} is not the number of any {kind.enum_type.name}"
