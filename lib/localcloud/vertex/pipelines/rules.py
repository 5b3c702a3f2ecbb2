"""Rules of pipeline jobs: what a compiled pipeline may hold; the rest is refused by name.

The language: the messages of `kfp.pipeline_spec` (schema 2.1.0). GRAMMAR lists what is served.
Each rule is listed with its source in ../../README.md.
"""

import graphlib
import re

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import invalid, unsupported
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.pipelines import language
from lib.localcloud.vertex.pipelines.language import definitions, upstream
from lib.localcloud.vertex.programs.mount import split_uri

JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
SCHEMA = "2.1.0"
ANY = object()

# A dict lists the fields that are served; "*" stands for names of the user's. A list has items.
ARTIFACT = {"artifactType": {"schemaTitle": ANY, "schemaVersion": ANY}, "description": ANY}
PARAMETER = {"parameterType": ANY, "description": ANY}
TASK = {
    "taskInfo": {"name": ANY},
    "componentRef": {"name": ANY},
    "dependentTasks": [ANY],
    "cachingOptions": {"enableCache": ANY},
    "triggerPolicy": {"condition": ANY},
    "inputs": {
        "parameters": {"*": {
            "componentInputParameter": ANY, "runtimeValue": {"constant": ANY},
            "taskOutputParameter": {"producerTask": ANY, "outputParameterKey": ANY}}},
        "artifacts": {"*": {
            "componentInputArtifact": ANY,
            "taskOutputArtifact": {"producerTask": ANY, "outputArtifactKey": ANY}}},
    },
}
COMPONENT = {
    "executorLabel": ANY,
    "inputDefinitions": {
        "parameters": {"*": PARAMETER | {"defaultValue": ANY, "isOptional": ANY}},
        "artifacts": {"*": ARTIFACT | {"isOptional": ANY}}},
    "outputDefinitions": {"parameters": {"*": PARAMETER}, "artifacts": {"*": ARTIFACT}},
    # kfp lists metrics as outputs of a dag, unasked; that no task uses them is checked below.
    "dag": {"tasks": {"*": TASK}, "outputs": ANY},
}
GRAMMAR = {
    "schemaVersion": ANY, "sdkVersion": ANY, "defaultPipelineRoot": ANY,
    "pipelineInfo": {"name": ANY, "displayName": ANY, "description": ANY},
    "root": COMPONENT,
    "components": {"*": COMPONENT},
    "deploymentSpec": {"executors": {"*": {"container": {
        "image": ANY, "command": [ANY], "args": [ANY], "resources": ANY,
        "env": [{"name": ANY, "value": ANY}]}}}},
}
# What users know these fields as.
FEATURES = {
    "parameterIterator": "a loop (dsl.ParallelFor)",
    "artifactIterator": "a loop over artifacts (dsl.ParallelFor)",
    "importer": "an importer (dsl.importer)",
    "taskFinalStatus": "the final status of another task (dsl.ExitHandler)",
    "strategy": "another trigger strategy (dsl.ExitHandler, ignore_upstream_failure)",
    "isArtifactList": "a list of artifacts (dsl.Collected)",
    "parameterExpressionSelector": "a part of a parameter (an element of a dict or list)",
    "retryPolicy": "a retry (set_retry)",
}


def check_job(job: Message, spec: dict, parameters: dict) -> None:
    """Everything but the id; raises INVALID_ARGUMENT.

    Args:
        spec: the job's pipeline spec.
        parameters: the values that the job gives to the pipeline's own parameters.
    """
    runtime = job.runtime_config
    if job.template_uri and not spec:
        raise unsupported("divergence.pipeline-options", "template_uri without a pipeline_spec")
    if runtime.input_artifacts or runtime.parameters:
        raise unsupported(
            "divergence.pipeline-options", "runtime_config.input_artifacts or .parameters")
    if runtime.failure_policy == types.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST:
        raise unsupported("divergence.pipeline-options", "runtime_config.failure_policy: fail fast")
    if job.display_name:
        rules.check_display_name(job.display_name)
    rules.check_labels(job.labels)
    if not runtime.gcs_output_directory:
        raise invalid("pipelines.root", "runtime_config.gcs_output_directory is required.")
    split_uri(runtime.gcs_output_directory)
    check_spec(spec)
    language.parameter_values(spec["root"], parameters)


def check_spec(spec: dict) -> None:
    """Raise INVALID_ARGUMENT for a pipeline that is malformed or holds what is not served."""
    if spec.get("schemaVersion") != SCHEMA:
        raise unsupported(
            "divergence.pipeline-language",
            f"pipeline_spec.schemaVersion {spec.get('schemaVersion')!r}, other than "
            f"{SCHEMA!r},")
    _check_grammar(spec, GRAMMAR, "pipeline_spec")
    if not spec.get("pipelineInfo", {}).get("name") or "dag" not in spec.get("root", {}):
        raise invalid(
            "pipelines.spec", "pipeline_spec: pipelineInfo.name and root.dag are required.")
    _check_component(spec, "root", spec["root"], ())


def _check_grammar(value: object, rule: object, path: str) -> None:
    if rule is ANY:
        return
    if not isinstance(value, type(rule)):
        raise invalid(
            "pipelines.spec",
            f"{path} must be {'an object' if isinstance(rule, dict) else 'a list'}.")
    if isinstance(rule, list):
        for number, item in enumerate(value):
            _check_grammar(item, rule[0], f"{path}[{number}]")
        return
    for name, inner in value.items():
        if name in rule or "*" in rule:
            _check_grammar(inner, rule.get(name, rule.get("*")), f"{path}.{name}")
        elif inner not in (None, False):
            raise unsupported(
                "divergence.pipeline-language",
                f"{path}.{name}: {FEATURES.get(name, 'this field')}")


def _check_component(spec: dict, name: str, component: dict, outer: tuple[str, ...]) -> None:
    if name in outer:
        raise invalid("pipelines.spec", f"pipeline_spec: component {name!r} contains itself.")
    for side in ("input", "output"):
        for parameter, definition in definitions(component, side, "parameters").items():
            if definition.get("parameterType") not in language.TYPES:
                raise unsupported(
                    "divergence.pipeline-language",
                    f"Component {name!r}, parameter {parameter!r}: type "
                    f"{definition.get('parameterType')!r}")
    if "dag" not in component:
        _check_executor(spec, name, component)
        return
    tasks = component["dag"].get("tasks", {})
    for task_name, task in tasks.items():
        _check_task(spec, task_name, task, tasks)
        reference = task["componentRef"]["name"]
        _check_component(spec, reference, spec["components"][reference], (*outer, name))
    try:
        graphlib.TopologicalSorter({n: upstream(t) for n, t in tasks.items()}).prepare()
    except graphlib.CycleError as error:
        raise invalid(
            "pipelines.spec",
            f"pipeline_spec: tasks wait for each other: {error.args[1]}.") from None


def _check_task(spec: dict, name: str, task: dict, tasks: dict) -> None:
    components = spec.get("components", {})
    if task.get("componentRef", {}).get("name") not in components:
        raise invalid(
            "pipelines.spec", f"pipeline_spec: task {name!r} refers to no component of the spec.")
    if unknown := sorted(upstream(task) - set(tasks)):
        raise invalid(
            "pipelines.spec",
            f"pipeline_spec: task {name!r} waits for {', '.join(unknown)}: no such task.")
    for producer in language.producers(task):
        if "dag" in components.get(tasks[producer].get("componentRef", {}).get("name"), {}):
            raise unsupported(
                "divergence.pipeline-language",
                f"Task {name!r}: an output of a branch or of a pipeline (dsl.OneOf)")
    if condition := task.get("triggerPolicy", {}).get("condition"):
        language.parse_condition(condition)
    for source in task.get("inputs", {}).get("parameters", {}).values():
        constant = source.get("runtimeValue", {}).get("constant")
        if isinstance(constant, str) and language.PLACEHOLDER.search(constant):
            raise unsupported(
                "divergence.pipeline-language",
                f"Task {name!r}: a placeholder in a value (an f-string)")


def _check_executor(spec: dict, name: str, component: dict) -> None:
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    found = executors.get(component.get("executorLabel"), {}).get("container")
    if not found or not found.get("image"):
        raise invalid(
            "pipelines.spec", f"pipeline_spec: component {name!r} has no container image.")
    for word in (*found.get("command", []), *found.get("args", [])):
        if not isinstance(word, str):
            raise invalid(
                "pipelines.spec",
                f"pipeline_spec: {word!r} in a command of {name!r} must be a text.")
        for used in language.references(word):
            if used.name not in definitions(component, used.side.rstrip("s"), used.kind):
                raise invalid(
                    "pipelines.spec",
                    f"pipeline_spec: component {name!r} uses {used.side}.{used.kind} "
                    f"{used.name!r}, which it does not declare.")
