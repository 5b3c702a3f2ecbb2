"""Long-running operations: stored as the JSON that Google's REST API would send."""

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import Message

from lib.localcloud import rest
from lib.localcloud.errors import ApiError, defect, refused
from lib.localcloud.vertex.base.state import State


def new_id() -> str:
    """A number of 19 digits, as Google gives to resources without an id from the user."""
    return str(random.randrange(10**18, 9 * 10**18))


def done(state: State, rpc: str, resource: str, response: Message | None = None) -> dict:
    """An operation that has already succeeded; `response` None stands for Empty (deletes)."""
    operation = new(rpc, resource)
    succeed(operation, response)
    state.put_operation(operation)
    return operation


def start(state: State, rpc: str, resource: str, work: Callable[[], Message]) -> dict:
    """Run `work` in a thread; the operation ends with its result, or its ApiError."""
    operation = new(rpc, resource)
    state.put_operation(operation)

    def run() -> None:
        try:
            succeed(operation, work())
        except ApiError as error:
            operation.update(done=True, error=error.rpc_status())
        except Exception as error:  # a defect of the stand-in: the caller must not wait for ever
            operation.update(done=True, error=defect(repr(error)).rpc_status())
        # If the file is closed by now, the next start of the process ends the operation.
        with contextlib.suppress(sqlite3.ProgrammingError):
            state.put_operation(operation)

    threading.Thread(target=run, name=rpc, daemon=True).start()
    return dict(operation)


def end_interrupted(state: State) -> None:
    """After a restart: an operation that was running has failed."""
    error = refused(
        "divergence.interrupted",
        "ABORTED", "The local cloud was stopped while this operation ran.")
    for operation in state.operations():
        if not operation["done"]:
            state.put_operation(operation | {"done": True, "error": error.rpc_status()})


def stub(message: Message) -> Message:
    """What the result of a create or update holds of a resource: its name, and neither times nor
    etag (k8s-config-connector's recordings); the caller reads it again."""
    return type(message)(name=message.name)


def new(rpc: str, resource: str) -> dict:
    """An operation that has not ended; not stored yet.

    It is named below the resource; that of a delete, below the location (k8s-config-connector's
    recordings).
    """
    if rpc.startswith("Delete"):
        resource = "/".join(resource.split("/")[:4])
    # Deletes of every kind share one metadata type: services/*/client.py, `metadata_type`.
    metadata = f"{rpc}OperationMetadata"
    if not hasattr(types, metadata):
        metadata = "DeleteOperationMetadata"
    version = "v1beta1" if rest.VERSION.get() == "v1beta1" else "v1"
    now = _now()
    return {
        "name": f"{resource}/operations/{new_id()}",
        "metadata": {
            "@type": f"type.googleapis.com/google.cloud.aiplatform.{version}.{metadata}",
            "genericMetadata": {"createTime": now, "updateTime": now},
        },
        "done": False,
    }


def succeed(operation: dict, response: Message | None) -> None:
    """Put the response into an operation, in the API version of its metadata."""
    message = empty_pb2.Empty() if response is None else response
    version = operation["metadata"]["@type"].split(".")[-2]
    type_name = message.DESCRIPTOR.full_name.replace(".v1.", f".{version}.")
    operation["response"] = {
        "@type": f"type.googleapis.com/{type_name}", **json_format.MessageToDict(message)}
    operation["metadata"]["genericMetadata"]["updateTime"] = _now()
    operation["done"] = True


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
