"""One run of a pipeline: which task is due, what goes into it, what came out.

The thread of the run alone writes the job; at most PARALLEL tasks work at a time, each in a
thread that only computes. Rules and sources: ../README.md.
"""

import contextlib
import graphlib
import hashlib
import json
import logging
import random
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2

from lib.localcloud.vertex import pipeline_spec
from lib.localcloud.vertex.errors import ApiError
from lib.localcloud.vertex.mount import Mount
from lib.localcloud.vertex.runner import Task, run_mounted, workplace
from lib.localcloud.vertex.state import new_message, split

PARALLEL = 2
TICK_SECONDS = 0.1  # until a cancellation is noticed
State = types.PipelineTaskDetail.State
JobState = types.PipelineState
OK = {State.SUCCEEDED, State.SKIPPED}
OVER = OK | {State.FAILED, State.NOT_TRIGGERED, State.CANCELLED}
EXECUTION = {
    State.RUNNING: "RUNNING", State.SUCCEEDED: "COMPLETE", State.FAILED: "FAILED",
    State.SKIPPED: "CACHED", State.CANCELLED: "CANCELLED"}


@dataclass
class Values:
    """Parameters and artifacts by name: what a task takes or gives."""

    parameters: dict[str, object] = field(default_factory=dict)
    artifacts: dict[str, Message] = field(default_factory=dict)


@dataclass
class Node:
    """A task of the pipeline or of a dag in it; `path` are the task keys from the root."""

    path: tuple[str, ...]
    task: dict
    component: dict
    detail: Message
    inputs: Values = field(default_factory=Values)
    outputs: Values = field(default_factory=Values)

    @property
    def is_dag(self) -> bool:
        return "dag" in self.component

    @property
    def state(self) -> int:
        return self.detail.state


@dataclass
class Outcome:
    """How a task ended; `cache` is the key under which its outputs may be used again."""

    state: int
    outputs: Values = field(default_factory=Values)
    error: ApiError | None = None
    cache: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)


def spec_of(job: Message) -> dict:
    return json_format.MessageToDict(job.pipeline_spec)


def parameters_of(job: Message) -> dict:
    values = job.runtime_config.parameter_values
    return {name: json_format.MessageToDict(value) for name, value in values.items()}


class PipelineRun:
    """Carries out one PipelineJob that has passed `pipeline_spec.check`."""

    def __init__(self, cloud, job: Message, stop: threading.Event):
        self._cloud, self._job, self._stop = cloud, job, stop
        self._spec = spec_of(job)
        self._folder = folder_of(cloud, job.name)
        self._inputs = Values(
            pipeline_spec.parameter_values(self._spec["root"], parameters_of(job)))
        self._nodes: dict[tuple[str, ...], Node] = {}
        self._changed = True  # since the job was stored last
        self._plan((), self._spec["root"], 0)

    def run(self) -> None:
        """To the end; if the local cloud stops, its next start ends the job."""
        self._job.state = JobState.PIPELINE_STATE_RUNNING
        self._job.start_time.GetCurrentTime()
        running: dict[Future, Node] = {}
        with ThreadPoolExecutor(PARALLEL) as pool:
            while True:
                for node in self._due()[: PARALLEL - len(running)]:
                    self._set(node, State.RUNNING)
                    running[pool.submit(self._work, node)] = node
                if self._stop.is_set() and self._job.state != JobState.PIPELINE_STATE_CANCELLING:
                    self._job.state = JobState.PIPELINE_STATE_CANCELLING
                    self._changed = True
                if self._cloud.background.closing or not running:
                    break
                if self._changed:
                    self._cloud.state.put(self._job)
                    self._changed = False
                for future in wait(running, TICK_SECONDS, FIRST_COMPLETED).done:
                    self._finish(running.pop(future), future.result())
        if not self._cloud.background.closing:
            self._end()
            self._cloud.state.put(self._job)

    # Which task is due

    def _plan(self, path: tuple[str, ...], dag: dict, parent_id: int) -> None:
        """A node for every task below a dag, in the order in which they can run."""
        tasks = dag["dag"].get("tasks", {})
        # A Struct keeps no order: sorted, so that the same spec gives the same list each time.
        waits = {key: sorted(pipeline_spec.upstream(tasks[key])) for key in sorted(tasks)}
        for key in graphlib.TopologicalSorter(waits).static_order():
            task = tasks[key]
            component = self._spec["components"][task["componentRef"]["name"]]
            detail = self._job.job_detail.task_details.add(
                task_id=random.randrange(10**18, 9 * 10**18), parent_task_id=parent_id,
                task_name=task.get("taskInfo", {}).get("name") or key)
            outer = self._nodes[path].detail.task_unique_name + "." if path else ""
            detail.task_unique_name = outer + detail.task_name
            detail.create_time.GetCurrentTime()
            node = self._nodes[*path, key] = Node((*path, key), task, component, detail)
            self._set(node, State.PENDING)
            if node.is_dag:
                self._plan(node.path, component, detail.task_id)

    def _due(self) -> list[Node]:
        """Move all that can move without work; the tasks that wait for nothing but a thread."""
        while True:
            waiting = [n for n in self._nodes.values() if n.state not in OVER]
            if not any(self._advance(node) for node in waiting):
                return [n for n in waiting if n.state == State.PENDING and not n.is_dag
                        and self._upstream_over(n) and not self._holds_back()]

    def _advance(self, node: Node) -> bool:
        """One step of a node, if it can take one here: a dag, a condition, a failure above."""
        if node.is_dag and node.state == State.RUNNING:
            return self._close_dag(node)
        if node.state != State.PENDING or not self._upstream_over(node) or self._holds_back():
            return False
        if any(self._nodes[*node.path[:-1], key].state not in OK
               for key in pipeline_spec.upstream(node.task)):
            return self._drop(node, State.NOT_TRIGGERED)
        if node.inputs.parameters or node.inputs.artifacts:
            return False  # resolved in an earlier round
        try:
            node.inputs = self._resolve(node)
            condition = node.task.get("triggerPolicy", {}).get("condition")
            if condition and not pipeline_spec.holds(condition, node.inputs.parameters):
                return self._drop(node, State.NOT_TRIGGERED)
        except ApiError as error:
            self._set(node, State.FAILED, error)
            return self._drop(node, State.NOT_TRIGGERED)
        if node.is_dag:
            self._set(node, State.RUNNING)
        return node.is_dag

    def _holds_back(self) -> bool:
        """Whether no new task may start: a cancellation, or a failure if the policy is fast."""
        fast = types.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST
        return self._stop.is_set() or (
            self._job.runtime_config.failure_policy == fast
            and any(n.state == State.FAILED for n in self._nodes.values()))

    def _upstream_over(self, node: Node) -> bool:
        parent = node.path[:-1]
        return (not parent or self._nodes[parent].state == State.RUNNING) and all(
            self._nodes[*parent, key].state in OVER for key in pipeline_spec.upstream(node.task))

    def _below(self, node: Node) -> list[Node]:
        depth = len(node.path)
        return [n for n in self._nodes.values() if n.path[:depth] == node.path and n is not node]

    def _drop(self, node: Node, state: int) -> bool:
        """End a node and all below it that never started."""
        for each in (node, *self._below(node)):
            if each.state == State.PENDING:
                self._set(each, state)
        return True

    def _close_dag(self, node: Node) -> bool:
        below = [n for n in self._below(node) if len(n.path) == len(node.path) + 1]
        if any(n.state not in OVER for n in below):
            return False
        if failed := [n.detail.task_name for n in below if n.state == State.FAILED]:
            self._set(node, State.FAILED, ApiError(
                "FAILED_PRECONDITION", f"Tasks in it failed: {', '.join(failed)}."))
        else:
            node.outputs = self._dag_outputs(node)
            self._set(node, State.SUCCEEDED)
        return True

    def _dag_outputs(self, node: Node) -> Values:
        """A dag's outputs: of several candidates (dsl.OneOf) that of the branch that was taken."""
        declared, found = node.component["dag"].get("outputs", {}), Values()
        for name, output in declared.get("parameters", {}).items():
            one_of = output.get("valueFromOneof", {}).get("parameterSelectors", [])
            for one in one_of or [output["valueFromParameter"]]:
                given = self._nodes[*node.path, one["producerSubtask"]].outputs.parameters
                if one["outputParameterKey"] in given:
                    found.parameters[name] = given[one["outputParameterKey"]]
        for name, output in declared.get("artifacts", {}).items():
            for one in output["artifactSelectors"]:
                given = self._nodes[*node.path, one["producerSubtask"]].outputs.artifacts
                if one["outputArtifactKey"] in given:
                    found.artifacts[name] = given[one["outputArtifactKey"]]
        return found

    # States

    def _set(self, node: Node, state: int, error: ApiError | None = None) -> None:
        self._changed = True
        detail = node.detail
        detail.state = state
        status = detail.pipeline_task_status.add(state=state)
        status.update_time.GetCurrentTime()
        if error:
            detail.error.code = code_pb2.Code.Value(error.status)
            detail.error.message = error.message
            status.error.CopyFrom(detail.error)
        if state == State.RUNNING:
            detail.start_time.GetCurrentTime()
            for name, artifact in node.inputs.artifacts.items():
                detail.inputs[name].artifacts.append(artifact)
        if state in OVER:
            detail.end_time.GetCurrentTime()
            for name, artifact in node.outputs.artifacts.items():
                detail.outputs[name].artifacts.append(artifact)
        if state in EXECUTION:
            self._describe_execution(node)

    def _describe_execution(self, node: Node) -> None:
        """The metadata of the execution: parameters as `input:name` and `output:name`."""
        detail = node.detail
        execution = detail.execution
        execution.name = self._metadata_name("executions", detail.task_id)
        execution.display_name = detail.task_name
        execution.state = types.Execution.State[EXECUTION[detail.state]]
        execution.schema_title = "system.DagExecution" if node.is_dag else (
            "system.ContainerExecution")
        execution.schema_version = "0.0.1"
        execution.create_time.CopyFrom(detail.start_time)
        execution.update_time.GetCurrentTime()
        for side, values in (("input", node.inputs), ("output", node.outputs)):
            execution.metadata.update({f"{side}:{k}": v for k, v in values.parameters.items()})

    def _finish(self, node: Node, outcome: Outcome) -> None:
        node.outputs = outcome.outputs
        self._set(node, outcome.state, outcome.error)
        if outcome.cache and outcome.state == State.SUCCEEDED:
            self._cloud.state.put_cached(self._cache_scope(), outcome.cache, {
                "parameters": outcome.outputs.parameters,
                "artifacts": {n: json_format.MessageToDict(a)
                              for n, a in outcome.outputs.artifacts.items()},
                "fingerprints": outcome.fingerprints})

    def _end(self) -> None:
        """The job's own state, and that of the tasks that never started."""
        nodes = list(self._nodes.values())
        failed = [n for n in nodes if n.state == State.FAILED and not n.is_dag]
        failed = failed or [n for n in nodes if n.state == State.FAILED]
        cancelled = self._stop.is_set() and any(
            n.state not in OVER or n.state == State.CANCELLED for n in nodes)
        for node in reversed(nodes):
            if node.state == State.RUNNING:
                in_it = {n.state for n in self._below(node)}
                self._set(node, State.FAILED if State.FAILED in in_it else State.CANCELLED)
            elif node.state not in OVER:
                self._set(node, State.CANCELLED if cancelled else State.NOT_TRIGGERED)
        job = self._job
        job.end_time.GetCurrentTime()
        if cancelled:
            job.state = JobState.PIPELINE_STATE_CANCELLED
            job.error.code, job.error.message = code_pb2.CANCELLED, "The job was cancelled."
        elif failed:
            job.state = JobState.PIPELINE_STATE_FAILED
            names = ", ".join(n.detail.task_name for n in failed)
            last = [f"{n.detail.task_name}: {n.detail.error.message.splitlines()[-1]}"
                    for n in failed]
            job.error.code = code_pb2.FAILED_PRECONDITION
            job.error.message = "\n".join([
                "The DAG failed because some tasks failed. The failed tasks are: "
                f"[{names}].", *last])
        else:
            job.state = JobState.PIPELINE_STATE_SUCCEEDED

    # What goes into a task

    def _resolve(self, node: Node) -> Values:
        parent = node.path[:-1]
        outer = self._nodes[parent].inputs if parent else self._inputs
        sources = node.task.get("inputs", {})
        given: dict[str, object] = {}
        for name, source in sources.get("parameters", {}).items():
            if "taskOutputParameter" in source:
                one = source["taskOutputParameter"]
                producer = self._nodes[*parent, one["producerTask"]].outputs.parameters
                value = producer.get(one["outputParameterKey"])
            elif "componentInputParameter" in source:
                value = outer.parameters.get(source["componentInputParameter"])
            else:
                value = source.get("runtimeValue", {}).get("constant")
            if value is not None:
                given[name] = value
        artifacts = {}
        for name, source in sources.get("artifacts", {}).items():
            if "taskOutputArtifact" in source:
                one = source["taskOutputArtifact"]
                producer = self._nodes[*parent, one["producerTask"]].outputs.artifacts
                found = producer.get(one["outputArtifactKey"])
            else:
                found = outer.artifacts.get(source["componentInputArtifact"])
            if found is not None:
                artifacts[name] = found
        return Values(self._typed(node, given), self._checked(node, artifacts))

    def _typed(self, node: Node, given: dict) -> dict:
        """Parameters in their declared types, with defaults, and f-strings filled in."""
        declared = pipeline_spec.definitions(node.component, "input", "parameters")
        values = {name: d["defaultValue"] for name, d in declared.items() if "defaultValue" in d}

        def other(reference: pipeline_spec.Reference) -> str:
            return self._fact(node, reference.name) if not reference.side else _text(
                given.get(reference.name))

        # Only a constant of the spec may hold placeholders; a value that came in may not.
        sources = node.task.get("inputs", {}).get("parameters", {})
        for name, value in given.items():
            constant = "runtimeValue" in sources[name]
            values[name] = (pipeline_spec.substitute(value, other)
                            if constant and isinstance(value, str) else value)
        for name, definition in declared.items():
            if name in values:
                values[name] = pipeline_spec.typed(values[name], definition["parameterType"], name)
            elif not definition.get("isOptional"):
                raise ApiError("FAILED_PRECONDITION", f"Input {name!r} has no value.")
        return values

    def _checked(self, node: Node, artifacts: dict) -> dict:
        declared = pipeline_spec.definitions(node.component, "input", "artifacts")
        for name, definition in declared.items():
            if name not in artifacts and not definition.get("isOptional"):
                raise ApiError("FAILED_PRECONDITION", f"Input {name!r} has no artifact.")
        return artifacts

    def _fact(self, node: Node, name: str) -> str:
        created = self._job.create_time.ToJsonString()
        return {
            "pipeline_job_name": split(self._job.name)[2],
            "pipeline_job_resource_name": self._job.name,
            "pipeline_job_uuid": split(self._job.name)[2],
            "pipeline_job_create_time_utc": created, "pipeline_job_schedule_time_utc": created,
            "pipeline_root": self._job.runtime_config.gcs_output_directory,
            "pipeline_task_name": node.detail.task_name,
            "pipeline_task_uuid": str(node.detail.task_id),
        }[name]

    def _metadata_name(self, collection: str, number: int) -> str:
        return f"{split(self._job.name)[0]}/metadataStores/default/{collection}/{number}"

    # The work itself, in a thread of the pool: reads the node, writes nothing

    def _work(self, node: Node) -> Outcome:
        try:
            cache = self._cache_key(node) if node.task.get("cachingOptions", {}).get(
                "enableCache") else ""
            if cache and (found := self._cached(cache)):
                return Outcome(State.SKIPPED, found)
            retries = int(node.task.get("retryPolicy", {}).get("maxRetryCount", 0))
            for attempt in range(retries + 1):
                try:
                    outputs = self._execute(node, attempt)
                    break
                except ApiError as error:
                    if attempt == retries or error.status == "CANCELLED":
                        raise
            fingerprints = {n: self._cloud.objects.fingerprint(a.uri)
                            for n, a in outputs.artifacts.items()} if cache else {}
            return Outcome(State.SUCCEEDED, outputs, None, cache, fingerprints)
        except ApiError as error:
            cancelled = error.status == "CANCELLED"
            return Outcome(State.CANCELLED if cancelled else State.FAILED, error=error)
        except (GoogleAPIError, OSError) as error:  # Cloud Storage, or the disk
            return Outcome(State.FAILED, error=ApiError("INTERNAL", str(error)))
        except Exception as error:  # a defect of ours: the job must end all the same
            logging.getLogger(__name__).exception("%s", node.detail.task_name)
            return Outcome(State.FAILED, error=ApiError("INTERNAL", repr(error)))

    def _execute(self, node: Node, attempt: int) -> Values:
        """Run the task's container once; its outputs."""
        container = pipeline_spec.container(self._spec, node.component)
        log = ".".join(node.path) + (f".retry{attempt}" if attempt else "") + ".log"
        place = self._cloud.data_dir / "scratch" / f"{node.detail.task_id}-{attempt}"
        with workplace(self._cloud, place) as mount:
            for artifact in node.inputs.artifacts.values():
                mount.fetch(artifact.uri)
            outputs = Values(artifacts=self._new_artifacts(node))
            for artifact in outputs.artifacts.values():
                mount.path(artifact.uri).parent.mkdir(parents=True, exist_ok=True)
            results = place / "outputs"
            results.mkdir()
            words = {part: self._words(node, container.get(part, []), outputs, mount, results)
                     for part in ("command", "args")}
            run_mounted(self._cloud, Task(
                name=f"Task {node.detail.task_name}", image=container["image"],
                environment={v["name"]: v.get("value", "") for v in container.get("env", [])},
                folder=place, log=self._folder / log, **words), mount, self._stop)
            declared = pipeline_spec.definitions(node.component, "output", "parameters")
            for key, definition in declared.items():
                outputs.parameters[key] = _read(results / key, key, definition["parameterType"])
        return outputs

    def _new_artifacts(self, node: Node) -> dict[str, Message]:
        """The task's output artifacts, at <root>/<project number>/<job>/<task>_<task id>/<name>."""
        root = self._job.runtime_config.gcs_output_directory.rstrip("/")
        folder = (f"{root}/{self._cloud.project_number}/{split(self._job.name)[2]}/"
                  f"{node.path[-1]}_{node.detail.task_id}")
        made = {}
        declared = pipeline_spec.definitions(node.component, "output", "artifacts")
        for name, definition in declared.items():
            artifact = made[name] = new_message(types.Artifact)
            artifact.name = self._metadata_name("artifacts", random.randrange(10**18, 9 * 10**18))
            artifact.display_name, artifact.uri = name, f"{folder}/{name}"
            artifact.schema_title = definition.get("artifactType", {}).get("schemaTitle", "")
            artifact.schema_version = definition.get("artifactType", {}).get("schemaVersion", "")
            artifact.state = types.Artifact.State.LIVE
            artifact.create_time.GetCurrentTime()
            artifact.update_time.CopyFrom(artifact.create_time)
        return made

    def _words(
        self, node: Node, elements: list[str], outputs: Values, mount: Mount, results: Path
    ) -> tuple[str, ...]:
        """The command or arguments, with all placeholders filled in."""
        def value_of(reference: pipeline_spec.Reference) -> str:
            if not reference.side:
                return self._fact(node, reference.name)
            if reference.kind == "parameters":
                return (_text(node.inputs.parameters.get(reference.name))
                        if reference.side == "inputs" else str(results / reference.name))
            artifacts = (node.inputs if reference.side == "inputs" else outputs).artifacts
            if reference.name not in artifacts:
                raise ApiError("FAILED_PRECONDITION", f"{reference.name!r} has no artifact.")
            uri = artifacts[reference.name].uri
            return uri if reference.field == "uri" else str(mount.path(uri))

        present = {*node.inputs.parameters, *node.inputs.artifacts}
        return tuple(pipeline_spec.substitute(word, value_of) for element in elements
                     for word in pipeline_spec.expand(element, present))

    # The cache

    def _cache_scope(self) -> str:
        return f"{split(self._job.name)[0]}/{self._spec['pipelineInfo']['name']}"

    def _cache_key(self, node: Node) -> str:
        """Of all that the outputs depend on: the component, its code, and what goes in."""
        container = dict(pipeline_spec.container(self._spec, node.component))
        container.pop("resources", None)
        component = {k: v for k, v in node.component.items() if k != "executorLabel"}
        artifacts = {n: self._cloud.objects.fingerprint(a.uri)
                     for n, a in node.inputs.artifacts.items()}
        content = [component, container, self._cloud.runner.code(container["image"]),
                   node.inputs.parameters, artifacts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _cached(self, key: str) -> Values | None:
        """The outputs under that key, if they are still in Cloud Storage as they were."""
        entry = self._cloud.state.cached(self._cache_scope(), key)
        if entry is None:
            return None
        found = Values(entry["parameters"])
        for name, content in entry["artifacts"].items():
            artifact = found.artifacts[name] = new_message(types.Artifact)
            json_format.ParseDict(content, artifact)
        with contextlib.suppress(ApiError):  # their bucket is gone
            now = {n: self._cloud.objects.fingerprint(a.uri) for n, a in found.artifacts.items()}
            if now == entry["fingerprints"]:
                return found
        return None


def folder_of(cloud, job_name: str) -> Path:
    """Where the logs of a job's tasks are."""
    return cloud.data_dir / "logs" / job_name.replace("/", ".")


def _text(value: object) -> str:
    """A parameter as kfp writes it into a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _read(file: Path, name: str, kind: str) -> object:
    """An output parameter as kfp reads it: a string as it is, all else as JSON."""
    if not file.is_file():
        raise ApiError("FAILED_PRECONDITION", f"The task wrote no output {name!r}.")
    text = file.read_text(errors="replace")
    if kind == "STRING":
        return text
    try:
        value = json.loads(text.lower() if kind == "BOOLEAN" else text)
        return pipeline_spec.typed(value, kind, name)
    except (ValueError, ApiError):
        raise ApiError(
            "FAILED_PRECONDITION", f"Output {name!r}: {text[:80]!r} is no {kind}.") from None
