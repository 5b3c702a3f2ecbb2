"""Strategies of hypothesis for requests: from nearly right ones to nonsense.

Messages are made from their protobuf descriptors, and from valid bodies with a few changes: a body
of random fields alone seldom passes the first check.
"""

import copy
import re

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

F = FieldDescriptor
INTEGERS = {F.TYPE_INT32: 32, F.TYPE_SINT32: 32, F.TYPE_UINT32: 32, F.TYPE_INT64: 64,
            F.TYPE_UINT64: 64, F.TYPE_SINT64: 64}
# Half surrogates, zero bytes and other scripts; what ends a name, a path, a query or a statement.
SPECIAL = ["", " ", ".", "..", "%", "%2F", "%00", "\x00", "\ud800", "가", "é" * 70, "a" * 300, "-",
           "@", "m@1", "`", "'", '"', ";", "\\", "\n", "*", "${x}", "{{x}}", "$(x)", "0", "-1",
           "1e999", "NaN", "null", "true", "gs://", "gs://b", "bq://", "bq://p1.ds.t"]
LEAVES = (st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(SPECIAL)
          | st.text(max_size=8))
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(SPECIAL) | st.text(max_size=5), inner, max_size=3),
    max_leaves=6)
# JSON forms of google.protobuf types: https://protobuf.dev/programming-guides/json/
KNOWN_TYPES = {
    "Timestamp": st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000", "now"]),
    "Duration": st.sampled_from(["1s", "-1s", "315576000000s", "1e3s", "0.0000000001s"]),
    "FieldMask": st.sampled_from(["", "*", "labels", "displayName,labels", "sync_config", "a..b"]),
    "Value": JSON, "ListValue": st.lists(JSON, max_size=3),
    "Struct": st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    "Any": st.fixed_dictionaries({"@type": st.sampled_from([
        "", "type.googleapis.com/google.protobuf.Empty", "x/y.Z"])}),
}


def texts(names: list[str]) -> st.SearchStrategy[str]:
    """Text in a message or a path; often one of the names that exist."""
    return st.sampled_from(names) | st.sampled_from(SPECIAL) | st.text(max_size=12)


def messages(
    descriptor: Descriptor, names: list[str], depth: int = 3
) -> st.SearchStrategy[dict]:
    """JSON of a message: some of its fields, each with a value of its type (or nearly so)."""
    fields = [f for f in descriptor.fields if depth or f.message_type is None]
    if not fields:
        return st.just({})
    return st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda f: f.name).flatmap(
        lambda chosen: st.fixed_dictionaries(
            {f.json_name: _field(f, names, depth) for f in chosen}))


def _field(field: FieldDescriptor, names: list[str], depth: int) -> st.SearchStrategy:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = _single(message.fields_by_name["value"], names, depth)
        return st.dictionaries(texts(names), value, max_size=3)
    value = _single(field, names, depth)
    return st.lists(value, max_size=3) if field.is_repeated else value


def _single(field: FieldDescriptor, names: list[str], depth: int) -> st.SearchStrategy:
    if field.message_type is not None:
        known = field.message_type.full_name.removeprefix("google.protobuf.")
        if known in KNOWN_TYPES:
            return KNOWN_TYPES[known]
        return messages(field.message_type, names, max(depth - 1, 0))
    if field.enum_type is not None:
        return st.sampled_from([v.name for v in field.enum_type.values]) | st.integers(-1, 99)
    if field.type == F.TYPE_BOOL:
        return st.booleans()
    if bits := INTEGERS.get(field.type):
        return st.sampled_from([0, 1, 2, 10, -1, "7", 2**(bits - 1) - 1, -2**(bits - 1), 2**bits])
    if field.type in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
        return st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, 1, "NaN"])
    return texts(names)  # bytes, too: base64 or not


@st.composite
def changed(draw: st.DrawFn, valid: dict, names: list[str]) -> dict:
    """A valid body with up to three values replaced, removed or added."""
    body = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        inside = body
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and draw(st.integers(0, 3)):
                inside = inside[key]
                continue
            what = draw(st.sampled_from(("replace", "text", "delete", "add")))
            if what == "delete":
                del inside[key]
            elif what == "text":
                inside[key] = draw(texts(names))
            elif what == "replace" or isinstance(inside, list):
                inside[key] = draw(JSON)
            else:
                inside[draw(st.sampled_from(SPECIAL) | st.text(max_size=5))] = draw(JSON)
            break
    return body


@st.composite
def paths(draw: st.DrawFn, pattern: str, ids: dict[str, list[str]]) -> str:
    """A path that mostly matches a route's regular expression.

    Args:
        pattern: such as /(?:v1|ui)/(projects/[^/:]+)/models.
        ids: collection -> ids that exist.
    """
    # Without the part for digests, which holds a group and a colon of its own.
    plain = pattern.replace("(?::[0-9a-f]+)?", "").replace(".+", "l1/endpoints/e")
    plain = re.sub(r"\(\?:([^)|]+)[^)]*\)", lambda match: match[1], plain)
    parts = re.sub(r"[()\\]", "", plain).split("[^/:]+")
    path = parts[0]
    for part in parts[1:]:
        collection = path.rstrip("/").rsplit("/", 1)[-1]
        known = st.sampled_from(ids.get(collection, ["x"]))
        path += draw(known if draw(st.integers(0, 3)) else texts(["x"])) + part
    return path


def from_discovery(document: dict, schema: dict, names: list[str], depth: int = 3):
    """JSON of a schema of a discovery document (of BigQuery and Cloud Storage)."""
    schema = document["schemas"][schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type")
    if "enum" in schema:
        return st.sampled_from(schema["enum"]) | texts(names)
    if kind == "array":
        return st.lists(from_discovery(document, schema["items"], names, depth), max_size=3)
    if kind == "object" and depth and (properties := schema.get("properties")):
        return st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True).flatmap(
            lambda chosen: st.fixed_dictionaries({
                key: from_discovery(document, properties[key], names, depth - 1)
                for key in chosen}))
    simple = {"boolean": st.booleans(), "integer": st.integers(), "number": st.floats(),
              "string": texts(names), "any": JSON, "object": st.just({})}
    return simple.get(kind, JSON)


def discovery_methods(document: dict) -> list[dict]:
    """All methods of a discovery document."""
    found, waiting = [], [document]
    while waiting:
        part = waiting.pop()
        found += part.get("methods", {}).values()
        waiting += part.get("resources", {}).values()
    return sorted(found, key=lambda method: method["id"])
