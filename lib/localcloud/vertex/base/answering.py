"""Applies the choices of answers.py to calls and answers, whichever service they belong to.

`middleware` decides what a call finds and how it ends; `render` what its answer looks like.
Choices inside one service are made there, by `vertex.answers`.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.protobuf.message import Message

from lib.localcloud import ledger
from lib.localcloud.errors import ApiError, not_found, refused
from lib.localcloud.vertex.base import listing
from lib.localcloud.vertex.base.context import Vertex

UNKNOWN_STATE = 99  # of an enum of the installed package, which has no such number
LATE = 2  # times that something late is asked for in vain
PATIENCE = 20  # calls of any kind after which everything is visible
BUSY = {"429": "RESOURCE_EXHAUSTED", "503": "UNAVAILABLE", "503 after": "UNAVAILABLE"}
OTHER_STATUS = {  # that would be as plausible
    "INVALID_ARGUMENT": "FAILED_PRECONDITION", "FAILED_PRECONDITION": "INVALID_ARGUMENT",
    "NOT_FOUND": "INVALID_ARGUMENT", "ALREADY_EXISTS": "FAILED_PRECONDITION",
    "ABORTED": "FAILED_PRECONDITION", "PERMISSION_DENIED": "FAILED_PRECONDITION",
    "INTERNAL": "FAILED_PRECONDITION", "UNAVAILABLE": "DEADLINE_EXCEEDED"}
NEW_FIELD = {"newerThanThePackage": {"kind": "unknown", "values": [1, None]}}
NEW_FIELD_BYTES = b"\xc0\x3e\x01"  # field 1000, a varint: 1
NEW_LABEL = {"goog-added": "by-the-service"}
NAMES = ("name", "parent", "endpoint", "feature_view")  # request fields that name a resource


class Answering:
    """The state of what is not there yet: resources, states, ends of operations."""

    def __init__(self, vertex: Vertex):
        self._vertex = vertex
        self._lock = threading.Lock()
        self._calls = 0
        self._hidden: dict[str, int] = {}  # resource -> calls that do not find it yet
        self._until: dict[str, int] = {}  # resource -> number of the call that finds it anyhow
        self._states: dict[str, list[int]] = {}  # resource -> states that it shows first
        self._polls: dict[str, int] = {}  # operation -> polls until it is done
        self._at_location: dict[str, str] = {}  # operation -> where its name is
        self._aliases: dict[str, str] = {}  # operation's name in answers -> as it is stored
        vertex.middleware.append(self.middleware)

    # Calls

    def middleware(self, rpc: str, request: Any, proceed: Callable[[], Any]) -> Any:
        """Vertex.middleware."""
        if rpc == "sync":
            return proceed()
        if rpc == "GetOperation":
            request.name = self._aliases.get(request.name, request.name)
            return proceed()
        self._calls += 1
        busy = self._vertex.answers.take("busy", rpc)
        if busy in ("429", "503"):
            raise refused("every.busy", BUSY[busy], "The service is busy: try again.")
        self._check_visible(request)
        try:
            result = self._list(request, proceed) if rpc.startswith("List") else proceed()
        except ApiError as error:
            if error.rule in open_statuses() and (
                    self._vertex.answers.take("refusal", error.rule) == "another status"):
                error.status = OTHER_STATUS[error.status]
            raise
        if rpc.startswith(("Create", "BatchCreate", "Upload", "Import", "Sync")):
            for name in _made(result):
                self._hide(name, rpc)
        for message in _resources(result):
            self._show_state(message)
            self._name_deployed(message)
        if busy == "503 after":
            raise refused("every.busy", BUSY[busy], "The service is busy: try again.")
        return result

    def _hide(self, name: str, rpc: str) -> None:
        if self._vertex.answers.take("visible", rpc) == "late":
            self._hidden[name], self._until[name] = LATE, self._calls + PATIENCE
        collection = name.split("/")[-2]
        if collection == "featureOnlineStores":
            state = self._vertex.answers.take("store_state", rpc)
            updating = types.FeatureOnlineStore.State.UPDATING
            self._states[name] = {
                "STABLE": [], "UPDATING": [updating] * LATE,
                "unknown": [updating, UNKNOWN_STATE]}[state]
        elif collection in ("pipelineJobs", "customJobs"):
            unknown = self._vertex.answers.take("job_state", rpc) == "unknown"
            self._states[name] = [UNKNOWN_STATE] * LATE if unknown else []

    def _check_visible(self, request: Message) -> None:
        """Raise NOT_FOUND if the call names a resource that is not visible yet."""
        named = [getattr(request, field, "") for field in NAMES]
        if hasattr(request, "deployed_model"):
            named.append(request.deployed_model.model)
        for name in filter(lambda value: isinstance(value, str), named):
            if self._count_down(name) or ("@" in name and self._count_down(name.split("@")[0])):
                raise not_found(name)

    def _count_down(self, name: str) -> bool:
        """Is it hidden from this call?"""
        with self._lock:
            if not self._hidden.get(name) or self._calls >= self._until[name]:
                return False
            self._hidden[name] -= 1
            return True

    def _list(self, request: Message, proceed: Callable[[], Message]) -> Message:
        """The list without what is not visible yet, in another order, in other pages."""
        asked = type(request)()
        asked.CopyFrom(request)
        request.page_token, request.page_size = "", listing.MAX_PAGE
        answer, found = proceed(), []
        while True:
            found += [m for m in getattr(answer, listing.repeated_field(answer))
                      if not self._count_down(m.name)]
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
            answer = proceed()
        order = self._vertex.answers.take("order")
        if order == "mixed":
            found.sort(key=lambda m: self._vertex.answers.draw(m.name).random())
        elif order == "reversed":
            found.reverse()
        if self._vertex.answers.take("pages", type(request).__name__) == "one":
            asked.page_size = 1
        return listing.cut(found, asked, type(answer)())

    def _show_state(self, message: Message) -> None:
        with self._lock:
            states = self._states.get(message.name)
            if states and hasattr(message, "state"):
                message.state = states.pop(0)

    def _name_deployed(self, message: Message) -> None:
        if isinstance(message, types.Endpoint.pb()):
            for deployed in message.deployed_models:
                if self._vertex.answers.take("deployed_model") == "model@version":
                    deployed.model += f"@{deployed.model_version_id}"

    # Answers

    def render(self, rpc: str, result: Message | dict, integers: bool) -> str:
        """rest.Api.render."""
        answers = self._vertex.answers
        if isinstance(result, dict):
            content = self._operation(rpc, result)
        else:
            defaults = answers.take("defaults", rpc)
            content = json_format.MessageToDict(
                result, use_integers_for_enums=integers,
                always_print_fields_with_no_presence=defaults == "sent")
            if defaults == "null":
                _add_nulls(result, content)
            for each in _parts(content):
                if "labels" in each and answers.take("labels", rpc) == "more":
                    each["labels"] = {**(each["labels"] or {}), **NEW_LABEL}
                if answers.take("unknown_fields", rpc) == "some":
                    each.update(NEW_FIELD)
        return json.dumps(content)

    def serialize(self, rpc: str, result: Message) -> bytes:
        """rest.Api.serialize. In protobuf a default value is always left out, and nothing is null.
        """
        unknown = self._vertex.answers.take("unknown_fields", rpc) == "some"
        return result.SerializeToString() + NEW_FIELD_BYTES * unknown

    def _operation(self, rpc: str, stored: dict) -> dict:
        """An operation, perhaps still running; with other types, fields or results."""
        answers, operation = self._vertex.answers, json.loads(json.dumps(stored))
        name = operation["name"]
        with self._lock:
            if name not in self._polls:
                self._polls[name] = int(answers.take("operation_polls", rpc))
                self._at_location[name] = answers.take("operation_name", rpc)
            elif self._polls[name]:
                self._polls[name] -= 1
            if self._polls[name]:
                operation.pop("response", None)
                operation.pop("error", None)
                operation.pop("done", None)
        if self._at_location[name] == "location":
            location, _, number = "/".join(name.split("/")[:4]), *name.rsplit("/", 1)
            operation["name"] = f"{location}/operations/{number}"
            self._aliases[operation["name"]] = name
        response = operation.get("response", {})
        made = "name" in response and self._vertex.state.find(response["name"])
        if made and answers.take("operation_result", rpc) == "whole":
            response.update(json_format.MessageToDict(made))
        kind = answers.take("operation_types", rpc)
        for key in ("metadata", "response"):
            if kind != "v1" and not operation.get(key, {}).get("@type", "").endswith("Empty"):
                _retype(operation.get(key), kind)
        if answers.take("unknown_fields", rpc) == "some":
            for part in (operation, operation["metadata"], operation.get("response")):
                if part and not part.get("@type", "").endswith("Empty"):
                    part.update(NEW_FIELD)
        return operation

    def rename(self, text: str) -> str:
        """rest.Api.rename: the project in names, by its number (k8s-config-connector's recordings)
        or its id."""
        project, number = self._vertex.project, self._vertex.project_number
        if self._vertex.answers.take("project") == "id":
            return text
        return text.replace(f"projects/{project}/locations/", f"projects/{number}/locations/")


@functools.cache
def open_statuses() -> set[str]:
    """The ids of the rules by which a call is refused with a status that nobody has verified."""
    return {rule.id for rule in ledger.load().rules.values() if rule.status and not rule.raises
            and (rule.level == "unverified" or rule.open.startswith(("status", "code")))}


def _retype(content: dict | None, kind: str) -> None:
    if content and kind == "v1beta1":
        content["@type"] = content["@type"].replace(".v1.", ".v1beta1.")
    elif content:
        content["@type"] += "OfTheFuture"


def _made(result: Message | dict) -> Iterator[str]:
    """The names of what a call has just made."""
    if isinstance(result, dict):
        response = result.get("response", {})
        yield from (one["name"] for one in response.get("features", ()))
        if name := response.get("name") or response.get("model"):
            version = response.get("modelVersionId", "1")
            yield name if version == "1" else f"{name}@{version}"
    else:
        yield getattr(result, "feature_view_sync", "") or result.name


def _resources(result: Message | dict) -> list[Message]:
    """The resources of an answer: itself, or those that it lists."""
    if isinstance(result, dict):
        return []
    found = [result]
    for field, value in result.ListFields():
        if field.is_repeated and field.message_type:
            found += value  # of a map: its keys, which are no resources
    return [message for message in found if hasattr(message, "name")]


def _parts(content: dict) -> list[dict]:
    """The JSON of an answer, and of what it lists."""
    lists = [value for value in content.values() if isinstance(value, list)]
    return [content, *(one for value in lists for one in value if isinstance(one, dict))]


def _add_nulls(message: Message, content: dict) -> None:
    """A null for each field that is left out (a Value would take it for a null of its own)."""
    for field in message.DESCRIPTOR.fields:
        is_value = field.message_type and field.message_type.full_name == "google.protobuf.Value"
        if field.json_name not in content and not is_value and not field.containing_oneof:
            content[field.json_name] = None
