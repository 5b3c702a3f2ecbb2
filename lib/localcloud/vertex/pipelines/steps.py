"""The work of one task of a pipeline: its container, or its outputs from the cache."""

import random
import threading
from pathlib import Path

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import precondition
from lib.localcloud.vertex.base import tasks
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.jobs import log_folder
from lib.localcloud.vertex.base.state import new_message, split
from lib.localcloud.vertex.pipelines import cache, language
from lib.localcloud.vertex.pipelines.nodes import Node, Values
from lib.localcloud.vertex.programs.mount import Mount
from lib.localcloud.vertex.programs.runner import Task


class Steps:
    """Runs the tasks of one job."""

    def __init__(self, vertex: Vertex, job: Message, spec: dict, stop: threading.Event):
        self._vertex, self._job, self._spec, self._stop = vertex, job, spec, stop
        # Only runs of a pipeline of the same name share cached outputs.
        self._scope = f"{split(job.name)[0]}/{spec['pipelineInfo']['name']}"

    def run(self, node: Node) -> tuple[bool, Values]:
        """Whether the outputs of a task came from the cache, and the outputs.

        Raises:
            ApiError: as tasks.run; FAILED_PRECONDITION for an output that was not written.
        """
        container = language.container(self._spec, node.component)
        if not node.task.get("cachingOptions", {}).get("enableCache"):
            return False, self._execute(node, container)
        key = cache.key(self._vertex, node, container)
        if found := cache.find(self._vertex, self._scope, key):
            return True, found
        outputs = self._execute(node, container)
        cache.put(self._vertex, self._scope, key, outputs)
        return False, outputs

    def _execute(self, node: Node, container: dict) -> Values:
        """Run the task's container; its outputs."""
        with tasks.workplace(self._vertex, str(node.detail.task_id)) as (folder, mount):
            for artifact in node.inputs.artifacts.values():
                mount.fetch(artifact.uri)
            outputs = Values(artifacts=self._new_artifacts(node))
            for artifact in outputs.artifacts.values():
                mount.path(artifact.uri).parent.mkdir(parents=True, exist_ok=True)
            results = folder / "outputs"
            results.mkdir()
            words = {part: self._words(node, container.get(part, []), outputs, mount, results)
                     for part in ("command", "args")}
            tasks.run(self._vertex, Task(
                name=f"Task {node.detail.task_name}", image=container["image"],
                environment={v["name"]: v.get("value", "") for v in container.get("env", [])},
                folder=folder,
                log=log_folder(self._vertex, self._job.name) / (".".join(node.path) + ".log"),
                **words), mount, self._stop)
            declared = language.definitions(node.component, "output", "parameters")
            for name, definition in declared.items():
                file = results / name
                if not file.is_file():
                    raise precondition(
                        "pipelines.missing-output", f"The task wrote no output {name!r}.")
                outputs.parameters[name] = language.value_of(
                    file.read_text(errors="replace"), definition["parameterType"], name)
        return outputs

    def _new_artifacts(self, node: Node) -> dict[str, Message]:
        """The task's output artifacts, at <root>/<project number>/<job>/<task>_<task id>/<name>."""
        root = self._job.runtime_config.gcs_output_directory.rstrip("/")
        folder = (f"{root}/{self._vertex.project_number}/{split(self._job.name)[2]}/"
                  f"{node.path[-1]}_{node.detail.task_id}")
        made = {}
        declared = language.definitions(node.component, "output", "artifacts")
        for name, definition in declared.items():
            kind = definition.get("artifactType", {})
            artifact = made[name] = new_message(types.Artifact)
            artifact.name = metadata_name(
                self._job, "artifacts", random.randrange(10**18, 9 * 10**18))
            artifact.display_name, artifact.uri = name, f"{folder}/{name}"
            artifact.schema_title = kind.get("schemaTitle", "")
            artifact.schema_version = kind.get("schemaVersion", "")
            artifact.state = types.Artifact.State.LIVE
            artifact.create_time.GetCurrentTime()
            artifact.update_time.CopyFrom(artifact.create_time)
        return made

    def _words(
        self, node: Node, elements: list[str], outputs: Values, mount: Mount, results: Path
    ) -> tuple[str, ...]:
        """The command or arguments, with all placeholders filled in."""
        def resolve(reference: language.Reference) -> str:
            is_input = reference.side == "inputs"
            if reference.kind == "parameters":
                return (language.text_of(node.inputs.parameters.get(reference.name))
                        if is_input else str(results / reference.name))
            artifacts = (node.inputs if is_input else outputs).artifacts
            if reference.name not in artifacts:
                raise precondition(
                    "pipelines.missing-input", f"{reference.name!r} has no artifact.")
            uri = artifacts[reference.name].uri
            return uri if reference.field == "uri" else str(mount.path(uri))

        present = {*node.inputs.parameters, *node.inputs.artifacts}
        return tuple(language.substitute(word, resolve) for element in elements
                     for word in language.expand(element, present))


def metadata_name(job: Message, collection: str, number: int) -> str:
    """The name of an artifact or execution in the default metadata store."""
    return f"{split(job.name)[0]}/metadataStores/default/{collection}/{number}"
