"""Outputs of earlier tasks, to be used again: the table task_cache of the state."""

import contextlib
import hashlib
import json

from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format

from lib.localcloud.errors import ApiError
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.pipelines.nodes import Node, Values


def key(vertex: Vertex, node: Node, container: dict) -> str:
    """A hash of all that a task's outputs depend on: its component, its code and its inputs."""
    content = [
        {k: v for k, v in node.component.items() if k != "executorLabel"},
        {k: v for k, v in container.items() if k != "resources"},
        vertex.runner.code(container["image"]),
        node.inputs.parameters, _fingerprints(vertex, node.inputs)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def put(vertex: Vertex, scope: str, key: str, outputs: Values) -> None:
    """Store the outputs of a task that has succeeded."""
    content = json.dumps({
        "parameters": outputs.parameters,
        "artifacts": {n: json_format.MessageToDict(a) for n, a in outputs.artifacts.items()},
        "fingerprints": _fingerprints(vertex, outputs)})
    with vertex.state.transaction() as connection:
        connection.execute("insert or replace into task_cache values (?, ?, ?)",
                           (scope, key, content))


def find(vertex: Vertex, scope: str, key: str) -> Values | None:
    """The outputs under that key, if they are unchanged in Cloud Storage."""
    row = vertex.state.connection().execute(
        "select data from task_cache where scope = ? and key = ?", (scope, key)).fetchone()
    if row is None:
        return None
    stored = json.loads(row[0])
    found = Values(stored["parameters"])
    for name, content in stored["artifacts"].items():
        found.artifacts[name] = json_format.ParseDict(content, new_message(types.Artifact))
    with contextlib.suppress(ApiError):  # their bucket was deleted
        if _fingerprints(vertex, found) == stored["fingerprints"]:
            return found
    return None


def _fingerprints(vertex: Vertex, values: Values) -> dict[str, str]:
    return {name: vertex.objects.fingerprint(a.uri) for name, a in values.artifacts.items()}
