"""Long-running operations: kept as the JSON that Google's REST API would send."""

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime

from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import Message

from lib.localcloud.vertex.errors import ApiError, invalid, not_found
from lib.localcloud.vertex.state import State

# The version that the request in hand used: an operation answers in types of that version.
API_VERSION: ContextVar[str] = ContextVar("api_version", default="v1")
WAIT_SECONDS = 30


class _Closing(Exception):
    """The local cloud ends while an operation waits."""


def new_id() -> str:
    """A number of 19 digits, as Google gives to what has no id of the user's."""
    return str(random.randrange(10**18, 9 * 10**18))


def done(state: State, rpc: str, resource: str, response: Message | None = None) -> dict:
    """An operation that has ended well at once; `response` None stands for Empty (deletes)."""
    operation = _new(rpc, resource)
    _finish(operation, response)
    state.put_operation(operation)
    return operation


def start(state: State, rpc: str, resource: str, work: Callable[[], Message]) -> dict:
    """Run `work` in a thread; the operation ends with its result, or its ApiError."""
    return _start(state, rpc, resource, lambda operation: _finish(operation, work()))


def start_faulty(cloud, rpc: str, location: str, fault, handler: Callable, request) -> dict:
    """An operation as a test wants it: it ends in the fault's error, or well but late.

    The handler is called at the end, if at all: until then nothing is made, or even checked.
    """
    def end(operation: dict) -> None:
        if not cloud.faults.wait(fault):
            raise _Closing
        if fault.status:
            raise ApiError(fault.status, fault.message)
        with cloud.state.lock:
            inner = handler(cloud, request)
        while not inner["done"]:  # DeployModel starts a server
            time.sleep(0.05)
            inner = get_operation(cloud, inner)
        cloud.state.delete_operation(inner["name"])
        operation.update({k: inner[k] for k in ("done", "response", "error") if k in inner})

    context = copy_context()  # the version of the API
    return _start(cloud.state, rpc, location, lambda operation: context.run(end, operation))


def _start(state: State, rpc: str, resource: str, end: Callable[[dict], None]) -> dict:
    """Run `end` in a thread: it marks the operation as done, or raises."""
    operation = _new(rpc, resource)
    state.put_operation(operation)

    def run() -> None:
        try:
            end(operation)
        except _Closing:
            return  # the next start ends it: SQLite crashes if closed while a thread uses it
        except ApiError as error:
            operation.update(done=True, error=error.rpc_status())
        except Exception as error:  # a defect of ours: the caller must not wait for ever
            operation.update(done=True, error=ApiError("INTERNAL", repr(error)).rpc_status())
        operation["metadata"]["genericMetadata"]["updateTime"] = _now()
        # Closed by now? Then the next start of the process ends the operation.
        with contextlib.suppress(sqlite3.ProgrammingError):
            if state.operations(name=operation["name"]):  # else deleted meanwhile
                state.put_operation(operation)

    threading.Thread(target=run, name=rpc, daemon=True).start()
    return dict(operation)


def end_interrupted(state: State) -> None:
    """After a restart: what was running then has come to nothing."""
    error = ApiError("ABORTED", "The local cloud was stopped while this operation ran.")
    for operation in state.operations(prefix="projects/"):
        if not operation["done"]:
            state.put_operation(operation | {"done": True, "error": error.rpc_status()})


def _new(rpc: str, resource: str) -> dict:
    # Deletes of every kind share one metadata type: services/*/client.py, `metadata_type`.
    metadata = f"{rpc}OperationMetadata"
    if not hasattr(types, metadata):
        metadata = "DeleteOperationMetadata"
    return {
        "name": f"{resource}/operations/{new_id()}",
        "metadata": {
            "@type": f"type.googleapis.com/google.cloud.aiplatform.{API_VERSION.get()}.{metadata}",
            "genericMetadata": {"createTime": _now(), "updateTime": _now()},
        },
        "done": False,
    }


def _finish(operation: dict, response: Message | None) -> None:
    message = empty_pb2.Empty() if response is None else response
    version = operation["metadata"]["@type"].split(".")[-2]
    type_name = message.DESCRIPTOR.full_name.replace(".v1.", f".{version}.")
    operation["response"] = {
        "@type": f"type.googleapis.com/{type_name}", **json_format.MessageToDict(message)}
    operation["done"] = True


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


# Handlers of google.longrunning.Operations


def get_operation(cloud, request: dict) -> dict:
    """GetOperation; NOT_FOUND if there is none of that name."""
    found = cloud.state.operations(name=request["name"])
    if not found:
        raise not_found(request["name"])
    return found[0]


def wait_operation(cloud, request: dict) -> dict:
    """WaitOperation: answers when it is done, or as it is after `timeout` (30 s at most)."""
    try:
        asked = float(str(request.get("timeout") or WAIT_SECONDS).removesuffix("s"))
    except ValueError:
        raise invalid(f"timeout: {request['timeout']!r} is no duration such as \"10s\".") from None
    deadline = time.monotonic() + min(asked, WAIT_SECONDS)
    while not (operation := get_operation(cloud, request))["done"]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return operation


def cancel_operation(cloud, request: dict) -> dict:
    """CancelOperation: "best effort" says google/longrunning; here it never succeeds."""
    get_operation(cloud, request)
    return {}


def delete_operation(cloud, request: dict) -> dict:
    """DeleteOperation: forgets the operation, does not end it."""
    get_operation(cloud, request)
    cloud.state.delete_operation(request["name"])
    return {}


def list_operations(cloud, request: dict) -> dict:
    """ListOperations of one resource, all on one page."""
    return {"operations": cloud.state.operations(prefix=f"{request['name']}/operations/")}
