"""One run of a pipeline: which task is due, what goes into it, how it ended.

The thread of the run alone writes the job; at most PARALLEL tasks work at a time, each in a
thread that only computes (steps.py). Rules and sources: ../../README.md.
"""

import graphlib
import random
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import ApiError, precondition
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.pipelines import cache, language
from lib.localcloud.vertex.pipelines.nodes import (
    Node,
    Result,
    TaskState,
    Values,
    parameters_of,
    spec_of,
)
from lib.localcloud.vertex.pipelines.steps import Steps, metadata_name

PARALLEL = 2
TICK_SECONDS = 0.1  # until a cancellation is noticed
OK = {TaskState.SUCCEEDED, TaskState.SKIPPED}
ENDED = OK | {TaskState.FAILED, TaskState.NOT_TRIGGERED, TaskState.CANCELLED}
EXECUTION = {
    TaskState.RUNNING: "RUNNING", TaskState.SUCCEEDED: "COMPLETE", TaskState.FAILED: "FAILED",
    TaskState.SKIPPED: "CACHED", TaskState.CANCELLED: "CANCELLED"}


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
            detail.state = TaskState.CANCELLED
            detail.end_time.GetCurrentTime()


class PipelineRun:
    """The nodes of one running job."""

    def __init__(self, vertex: Vertex, job: Message, stop: threading.Event):
        self._vertex, self._job, self._stop = vertex, job, stop
        self._spec = spec_of(job)
        self._steps = Steps(vertex, job, self._spec, stop)
        self._inputs = Values(language.parameter_values(self._spec["root"], parameters_of(job)))
        self._nodes: dict[tuple[str, ...], Node] = {}
        self._changed = True  # since the job was stored last
        self._plan((), self._spec["root"], 0)

    def run(self) -> None:
        """See `run` above."""
        running: dict[Future, Node] = {}
        with ThreadPoolExecutor(PARALLEL) as pool:
            while True:
                for node in self._due()[: PARALLEL - len(running)]:
                    self._set(node, TaskState.RUNNING)
                    running[pool.submit(self._steps.run, node)] = node
                if self._vertex.background.closing or not running:
                    break
                if self._stop.is_set():
                    self._job.state = types.PipelineState.PIPELINE_STATE_CANCELLING
                if self._changed:
                    self._vertex.state.put(self._job)
                    self._changed = False
                for future in wait(running, TICK_SECONDS, FIRST_COMPLETED).done:
                    self._finish(running.pop(future), future.result())
        self._end()

    # Which task is due

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
            self._set(node, TaskState.PENDING)
            if node.is_dag:
                self._plan(node.path, component, detail.task_id)

    def _due(self) -> list[Node]:
        """Advance all nodes that need no work; returns the tasks that can start."""
        while True:
            waiting = [node for node in self._nodes.values() if node.state not in ENDED]
            if not any([self._advance(node) for node in waiting]):
                return [node for node in waiting if node.ready and not self._stop.is_set()
                        and node.state == TaskState.PENDING]

    def _advance(self, node: Node) -> bool:
        """Take a node one state further, if no work is needed; whether it was."""
        if node.is_dag and node.state == TaskState.RUNNING:
            return self._close_dag(node)
        if (node.state != TaskState.PENDING or node.ready or self._stop.is_set()
                or not self._upstream_ended(node)):
            return False
        parent = node.path[:-1]
        if any(self._nodes[*parent, key].state not in OK for key in language.upstream(node.task)):
            return self._drop(node)
        try:
            node.inputs = self._resolve(node)
            condition = node.task.get("triggerPolicy", {}).get("condition")
            if condition and not language.holds(condition, node.inputs.parameters):
                return self._drop(node)
        except ApiError as error:
            self._set(node, TaskState.FAILED, error)
            return self._drop(node)
        if node.is_dag:
            self._set(node, TaskState.RUNNING)
        else:
            node.ready = True
        return True

    def _upstream_ended(self, node: Node) -> bool:
        parent = node.path[:-1]
        return (not parent or self._nodes[parent].state == TaskState.RUNNING) and all(
            self._nodes[*parent, key].state in ENDED for key in language.upstream(node.task))

    def _below(self, node: Node) -> list[Node]:
        depth = len(node.path)
        return [n for n in self._nodes.values() if n.path[:depth] == node.path and n is not node]

    def _drop(self, node: Node) -> bool:
        """A node that will not run, and all below it, are NOT_TRIGGERED."""
        for each in (node, *self._below(node)):
            if each.state == TaskState.PENDING:
                self._set(each, TaskState.NOT_TRIGGERED)
        return True

    def _close_dag(self, node: Node) -> bool:
        below = [n for n in self._below(node) if len(n.path) == len(node.path) + 1]
        if any(n.state not in ENDED for n in below):
            return False
        failed = [n.detail.task_name for n in below if n.state == TaskState.FAILED]
        if failed:
            self._set(node, TaskState.FAILED, precondition(
                f"Tasks in it failed: {', '.join(failed)}."))
        else:
            self._set(node, TaskState.SUCCEEDED)
        return True

    # What goes into a task

    def _resolve(self, node: Node) -> Values:
        """Parameters in their declared types, with defaults, and artifacts.

        Raises:
            ApiError: FAILED_PRECONDITION for a required input without a value.
        """
        parent = node.path[:-1]
        outer = self._nodes[parent].inputs if parent else self._inputs
        found = Values()
        for name, source in node.task.get("inputs", {}).get("parameters", {}).items():
            if "taskOutputParameter" in source:
                one = source["taskOutputParameter"]
                outputs = self._nodes[*parent, one["producerTask"]].outputs
                found.parameters[name] = outputs.parameters.get(one["outputParameterKey"])
            elif "componentInputParameter" in source:
                found.parameters[name] = outer.parameters.get(source["componentInputParameter"])
            else:
                found.parameters[name] = source.get("runtimeValue", {}).get("constant")
        for name, source in node.task.get("inputs", {}).get("artifacts", {}).items():
            if "taskOutputArtifact" in source:
                one = source["taskOutputArtifact"]
                outputs = self._nodes[*parent, one["producerTask"]].outputs
                found.artifacts[name] = outputs.artifacts.get(one["outputArtifactKey"])
            else:
                found.artifacts[name] = outer.artifacts.get(source["componentInputArtifact"])
        return _declared(node.component, found)

    # States

    def _set(self, node: Node, state: int, error: ApiError | None = None) -> None:
        self._changed = True
        detail = node.detail
        detail.state = state
        status = detail.pipeline_task_status.add(state=state)
        status.update_time.GetCurrentTime()
        if error:
            rpc_status = error.rpc_status()
            detail.error.code, detail.error.message = rpc_status["code"], rpc_status["message"]
            status.error.CopyFrom(detail.error)
        if state == TaskState.RUNNING:
            detail.start_time.GetCurrentTime()
            for name, artifact in node.inputs.artifacts.items():
                detail.inputs[name].artifacts.append(artifact)
        if state in ENDED:
            detail.end_time.GetCurrentTime()
            for name, artifact in node.outputs.artifacts.items():
                detail.outputs[name].artifacts.append(artifact)
        if state in EXECUTION:
            self._describe_execution(node)

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

    def _finish(self, node: Node, result: Result) -> None:
        node.outputs = result.outputs
        self._set(node, result.state, result.error)
        if result.cache_entry:
            cache.put(self._vertex.state, self._steps.scope, result.cache_key, result.cache_entry)

    def _end(self) -> None:
        """The states of the tasks that never started, and the error of the job."""
        nodes = list(self._nodes.values())
        failed = [n for n in nodes if n.state == TaskState.FAILED and not n.is_dag]
        failed = failed or [n for n in nodes if n.state == TaskState.FAILED]
        cancelled = self._stop.is_set() and any(
            n.state not in ENDED or n.state == TaskState.CANCELLED for n in nodes)
        for node in reversed(nodes):
            if node.state == TaskState.RUNNING:
                has_failed = TaskState.FAILED in {n.state for n in self._below(node)}
                self._set(node, TaskState.FAILED if has_failed else TaskState.CANCELLED)
            elif node.state not in ENDED:
                self._set(node, TaskState.CANCELLED if cancelled else TaskState.NOT_TRIGGERED)
        if cancelled:
            raise ApiError("CANCELLED", "The job was cancelled.")
        if failed:
            names = ", ".join(n.detail.task_name for n in failed)
            raise precondition("\n".join([
                "The DAG failed because some tasks failed. The failed tasks are: "
                f"[{names}].",
                *(f"{n.detail.task_name}: {n.detail.error.message.splitlines()[-1]}"
                  for n in failed)]))


def _declared(component: dict, given: Values) -> Values:
    """The declared inputs of a component out of what it was given."""
    found = Values()
    for name, definition in language.definitions(component, "input", "parameters").items():
        value = given.parameters.get(name)
        value = definition.get("defaultValue") if value is None else value
        if value is not None:
            found.parameters[name] = language.typed(value, definition["parameterType"], name)
        elif not definition.get("isOptional"):
            raise precondition(f"Input {name!r} has no value.")
    for name, definition in language.definitions(component, "input", "artifacts").items():
        if given.artifacts.get(name) is not None:
            found.artifacts[name] = given.artifacts[name]
        elif not definition.get("isOptional"):
            raise precondition(f"Input {name!r} has no artifact.")
    return found
