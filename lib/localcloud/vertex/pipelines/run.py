"""One run of a pipeline: its tasks one after the other, and the state of each.

Rules and sources: ../../README.md.
"""

import graphlib
import random
import threading

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import ApiError, precondition, refused
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.jobs import attempt
from lib.localcloud.vertex.pipelines import language
from lib.localcloud.vertex.pipelines.nodes import Node, Values, parameters_of, spec_of
from lib.localcloud.vertex.pipelines.steps import Steps, metadata_name

State = types.PipelineTaskDetail.State
OK = {State.SUCCEEDED, State.SKIPPED}
ENDED = OK | {State.FAILED, State.NOT_TRIGGERED, State.CANCELLED}
EXECUTION = {
    State.RUNNING: "RUNNING", State.SUCCEEDED: "COMPLETE", State.FAILED: "FAILED",
    State.SKIPPED: "CACHED", State.CANCELLED: "CANCELLED"}


def run(vertex: Vertex, job: Message, stop: threading.Event) -> None:
    """Run a checked job to its end.

    Raises:
        ApiError: CANCELLED; FAILED_PRECONDITION, naming the failed tasks.
    """
    PipelineRun(vertex, job, stop).run()


def interrupt(job: Message) -> None:
    """After a restart: tasks that had not ended are cancelled."""
    for detail in job.job_detail.task_details:
        if detail.state not in ENDED:
            detail.state = State.CANCELLED
            detail.end_time.GetCurrentTime()


class PipelineRun:
    """The tasks of one running job."""

    def __init__(self, vertex: Vertex, job: Message, stop: threading.Event):
        self._vertex, self._job, self._stop = vertex, job, stop
        self._spec = spec_of(job)
        self._steps = Steps(vertex, job, self._spec, stop)
        self._nodes: dict[tuple[str, ...], Node] = {}
        self._plan((), self._spec["root"], 0)

    def run(self) -> None:
        """See `run` above."""
        self._run_dag((), Values(
            language.parameter_values(self._spec["root"], parameters_of(self._job))))
        nodes = list(self._nodes.values())
        if any(node.state == State.CANCELLED for node in nodes):
            raise refused("jobs.cancel-running", "CANCELLED", "The job was cancelled.")
        failed = [n.detail for n in nodes if n.state == State.FAILED and not n.is_dag]
        failed = failed or [n.detail for n in nodes if n.state == State.FAILED]
        if failed:
            raise precondition(
                "pipelines.errors", "\n".join([
                "The DAG failed because some tasks failed. The failed tasks are: "
                f"[{', '.join(detail.task_name for detail in failed)}].",
                *(f"{d.task_name}: {d.error.message.splitlines()[-1]}" for d in failed)]))

    def _plan(self, path: tuple[str, ...], dag: dict, parent_id: int) -> None:
        """A node for every task below a dag, in the order in which they can run."""
        tasks = dag["dag"].get("tasks", {})
        # A Struct keeps no order: sorted, so that the same spec gives the same list each time.
        waits = {key: sorted(language.upstream(tasks[key])) for key in sorted(tasks)}
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

    def _run_dag(self, path: tuple[str, ...], inputs: Values) -> list[Node]:
        """Run the tasks of a dag; they are returned."""
        nodes = [node for node in self._nodes.values() if node.path[:-1] == path]
        for node in nodes:
            self._run_node(node, inputs)
        return nodes

    def _run_node(self, node: Node, outer: Values) -> None:
        """Run a task, or decide that it does not run. `outer`: the inputs of its dag."""
        if self._stop.is_set():
            return self._skip(node, State.CANCELLED)
        parent = node.path[:-1]
        if any(self._nodes[*parent, key].state not in OK for key in language.upstream(node.task)):
            return self._skip(node, State.NOT_TRIGGERED)
        try:
            node.inputs = self._resolve(node, outer)
            condition = node.task.get("triggerPolicy", {}).get("condition")
            if condition and not language.holds(condition, node.inputs.parameters):
                return self._skip(node, State.NOT_TRIGGERED)
        except ApiError as error:
            self._set(node, State.FAILED, error)
            return self._skip(node, State.NOT_TRIGGERED)
        self._set(node, State.RUNNING)
        if not node.is_dag:
            return self._run_step(node)
        below = self._run_dag(node.path, node.inputs)
        failed = [n.detail.task_name for n in below if n.state == State.FAILED]
        if failed:
            return self._set(node, State.FAILED, precondition(
                "pipelines.errors", f"Tasks in it failed: {', '.join(failed)}."))
        cancelled = any(n.state == State.CANCELLED for n in below)
        return self._set(node, State.CANCELLED if cancelled else State.SUCCEEDED)

    def _run_step(self, node: Node) -> None:
        ended = State.SUCCEEDED

        def work() -> None:
            nonlocal ended
            cached, node.outputs = self._steps.run(node)
            ended = State.SKIPPED if cached else State.SUCCEEDED

        error = attempt(work, node.detail.task_name)
        if error:
            ended = State.CANCELLED if error.status == "CANCELLED" else State.FAILED
        self._set(node, ended, error)

    def _skip(self, node: Node, state: int) -> None:
        """End a node and all below it that never started."""
        for each in self._nodes.values():
            if each.path[: len(node.path)] == node.path and each.state == State.PENDING:
                self._set(each, state)

    def _resolve(self, node: Node, outer: Values) -> Values:
        """What goes into a task: parameters in their declared types, with defaults; artifacts.

        Raises:
            ApiError: FAILED_PRECONDITION for a required input without a value.
        """
        def find(kind: str, source: dict) -> object:
            word = kind.title().removesuffix("s")
            if f"taskOutput{word}" in source:
                one = source[f"taskOutput{word}"]
                producer = self._nodes[*node.path[:-1], one["producerTask"]]
                return getattr(producer.outputs, kind).get(one[f"output{word}Key"])
            if f"componentInput{word}" in source:
                return getattr(outer, kind).get(source[f"componentInput{word}"])
            return source.get("runtimeValue", {}).get("constant")

        found = Values()
        for kind in ("parameters", "artifacts"):
            sources = node.task.get("inputs", {}).get(kind, {})
            values = getattr(found, kind)
            for name, definition in language.definitions(node.component, "input", kind).items():
                value = find(kind, sources.get(name, {}))
                value = definition.get("defaultValue") if value is None else value
                if value is None and not definition.get("isOptional"):
                    raise precondition(
                        "pipelines.missing-input",
                        f"Input {name!r} has no {kind.removesuffix('s')}.")
                if value is not None:
                    values[name] = value if kind == "artifacts" else language.typed(
                        value, definition["parameterType"], name)
        return found

    def _set(self, node: Node, state: int, error: ApiError | None = None) -> None:
        """Put a state into the task's details, and store the job."""
        detail = node.detail
        detail.state = state
        status = detail.pipeline_task_status.add(state=state)
        status.update_time.GetCurrentTime()
        if error:
            rpc_status = error.rpc_status()
            detail.error.code, detail.error.message = rpc_status["code"], rpc_status["message"]
            status.error.CopyFrom(detail.error)
        if state == State.RUNNING:
            detail.start_time.GetCurrentTime()
            for name, artifact in node.inputs.artifacts.items():
                detail.inputs[name].artifacts.append(artifact)
        if state in ENDED:
            detail.end_time.GetCurrentTime()
            for name, artifact in node.outputs.artifacts.items():
                detail.outputs[name].artifacts.append(artifact)
        if state in EXECUTION:
            self._describe_execution(node)
        self._vertex.state.put(self._job)

    def _describe_execution(self, node: Node) -> None:
        """The metadata of the execution: parameters as `input:name` and `output:name`."""
        detail, execution = node.detail, node.detail.execution
        execution.name = metadata_name(self._job, "executions", detail.task_id)
        execution.display_name = detail.task_name
        execution.state = types.Execution.State[EXECUTION[detail.state]]
        execution.schema_title = f"system.{'Dag' if node.is_dag else 'Container'}Execution"
        execution.schema_version = "0.0.1"
        execution.create_time.CopyFrom(detail.start_time)
        execution.update_time.GetCurrentTime()
        for side, values in (("input", node.inputs), ("output", node.outputs)):
            execution.metadata.update({f"{side}:{k}": v for k, v in values.parameters.items()})
