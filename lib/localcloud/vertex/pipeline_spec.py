"""What a compiled pipeline says, and a refusal by name of all that is not served here.

The language: the messages of `kfp.pipeline_spec` (schema 2.1.0). GRAMMAR lists what is served;
how placeholders and conditions are read follows kfp/local/placeholder_utils.py and
kfp/compiler/pipeline_spec_builder.py (kfp 2.17).
"""

import graphlib
import json
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lib.localcloud.vertex.errors import ApiError, invalid, unsupported

SCHEMA = "2.1.0"
ANY = object()
TYPES: dict[str, Callable[[object], bool]] = {
    "STRING": lambda v: isinstance(v, str),
    "BOOLEAN": lambda v: isinstance(v, bool),
    "NUMBER_INTEGER": lambda v: _number(v) and v == int(v),
    "NUMBER_DOUBLE": lambda v: _number(v),
    "LIST": lambda v: isinstance(v, list),
    "STRUCT": lambda v: isinstance(v, dict),
}

# A dict lists the fields that are served; "*" stands for names of the user's. A list has items.
ARTIFACT = {"artifactType": {"schemaTitle": ANY, "schemaVersion": ANY}, "description": ANY}
PARAMETER = {"parameterType": ANY, "description": ANY}
SELECTOR = {"producerSubtask": ANY, "outputArtifactKey": ANY, "outputParameterKey": ANY}
TASK = {
    "taskInfo": {"name": ANY},
    "componentRef": {"name": ANY},
    "dependentTasks": [ANY],
    "cachingOptions": {"enableCache": ANY},
    "triggerPolicy": {"condition": ANY},
    "retryPolicy": ANY,
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
    "dag": {
        "tasks": {"*": TASK},
        "outputs": {
            "parameters": {"*": {
                "valueFromParameter": SELECTOR,
                "valueFromOneof": {"parameterSelectors": [SELECTOR]}}},
            "artifacts": {"*": {"artifactSelectors": [SELECTOR]}}}},
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
# What the user knows these fields as.
FEATURES = {
    "parameterIterator": "a loop (dsl.ParallelFor)",
    "artifactIterator": "a loop over artifacts (dsl.ParallelFor)",
    "importer": "an importer (dsl.importer)",
    "taskFinalStatus": "the final status of another task (dsl.ExitHandler)",
    "strategy": "another trigger strategy (dsl.ExitHandler, ignore_upstream_failure)",
    "isArtifactList": "a list of artifacts (dsl.Collected)",
    "parameterExpressionSelector": "a part of a parameter (an element of a dict or list)",
    "lifecycle": "a hook in the container's life cycle",
    "literals": "a parameter of listed values (typing.Literal)",
    "cacheKey": "a cache key of one's own",
}
FACTS = (
    "pipeline_job_name", "pipeline_job_resource_name", "pipeline_job_uuid",
    "pipeline_job_create_time_utc", "pipeline_job_schedule_time_utc", "pipeline_root",
    "pipeline_task_name", "pipeline_task_uuid")
PLACEHOLDER = re.compile(r"\{\{\$(.*?)\}\}")
STRUCTURES = ('{"Concat": ', '{"IfPresent": ')
REFERENCE = re.compile(
    r"""\.(?P<side>inputs|outputs)\.(?P<kind>parameters|artifacts)
        \[(?P<quote>['"])(?P<name>.+?)(?P=quote)\](?:\.(?P<field>path|uri|output_file))?""",
    re.VERBOSE)
OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
             ">": operator.gt, ">=": operator.ge}
OPERAND = r"""(?:(?:int|double)\()*(?:inputs\.parameter_values\['[^']+'\]|'[^']*'|true|false
              |-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\)*"""
COMPARISON = re.compile(
    rf"(!\()?\s*({OPERAND})\s*(==|!=|<=|>=|<|>)\s*({OPERAND})(?:\s*&&\s*|$)", re.VERBOSE)


def check(spec: dict, given: dict) -> None:
    """Raise INVALID_ARGUMENT for a spec that is wrong or not served, or wrong parameters.

    Args:
        spec: the pipeline spec.
        given: values of the pipeline's own parameters.
    """
    if spec.get("schemaVersion") != SCHEMA:
        raise unsupported(f"pipeline_spec.schemaVersion {spec.get('schemaVersion')!r}, other than "
                          f"{SCHEMA!r},")
    _check_grammar(spec, GRAMMAR, "pipeline_spec")
    if not spec.get("pipelineInfo", {}).get("name") or "dag" not in spec.get("root", {}):
        raise invalid("pipeline_spec: pipelineInfo.name and root.dag are required.")
    _check_component(spec, "root", spec["root"], ())
    parameter_values(spec["root"], given)


def parameter_values(component: dict, given: dict) -> dict:
    """The values of a component's declared parameters, with defaults; INVALID_ARGUMENT if wrong."""
    declared = definitions(component, "input", "parameters")
    if unknown := sorted(set(given) - set(declared)):
        raise invalid(f"runtime_config.parameter_values: {', '.join(unknown)}: no such parameter.")
    values = {}
    for name, definition in declared.items():
        value = given.get(name, definition.get("defaultValue"))
        if value is not None:
            values[name] = typed(value, definition["parameterType"], name)
        elif not definition.get("isOptional"):
            raise invalid(f"runtime_config.parameter_values: {name!r} is required.")
    return values


def typed(value: object, kind: str, name: str) -> object:
    """The value in its parameter's type: whole numbers travel as 3.0 in a spec."""
    if not TYPES[kind](value):
        raise invalid(f"Parameter {name!r}: {value!r} is not of type {kind}.")
    return {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}.get(kind, lambda v: v)(value)


def definitions(component: dict, side: str, kind: str) -> dict:
    """What a component declares: side is input or output, kind parameters or artifacts."""
    return component.get(f"{side}Definitions", {}).get(kind, {})


def container(spec: dict, component: dict) -> dict:
    return spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]


def upstream(task: dict) -> set[str]:
    """The tasks of the same dag that must be over before this one."""
    found = set(task.get("dependentTasks", []))
    for sources in task.get("inputs", {}).values():
        for source in sources.values():
            for key in ("taskOutputParameter", "taskOutputArtifact"):
                if key in source:
                    found.add(source[key]["producerTask"])
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_grammar(value: object, rule: object, path: str) -> None:
    if rule is ANY:
        return
    if not isinstance(value, type(rule)):
        raise invalid(f"{path} must be {'an object' if isinstance(rule, dict) else 'a list'}.")
    if isinstance(rule, list):
        for number, item in enumerate(value):
            _check_grammar(item, rule[0], f"{path}[{number}]")
        return
    for name, inner in value.items():
        if name in rule or "*" in rule:
            _check_grammar(inner, rule.get(name, rule.get("*")), f"{path}.{name}")
        elif inner not in (None, False):
            what = FEATURES.get(name, "this field")
            raise unsupported(f"{path}.{name}: {what}")


def _check_component(spec: dict, name: str, component: dict, outer: tuple[str, ...]) -> None:
    if name in outer:
        raise invalid(f"pipeline_spec: component {name!r} contains itself.")
    for side in ("input", "output"):
        for parameter, definition in definitions(component, side, "parameters").items():
            if definition.get("parameterType") not in TYPES:
                raise unsupported(f"Component {name!r}, parameter {parameter!r}: type "
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
        raise invalid(f"pipeline_spec: tasks wait for each other: {error.args[1]}.") from None


def _check_task(spec: dict, name: str, task: dict, tasks: dict) -> None:
    component = spec.get("components", {}).get(task.get("componentRef", {}).get("name"))
    if component is None:
        raise invalid(f"pipeline_spec: task {name!r} refers to no component of the spec.")
    if unknown := sorted(upstream(task) - set(tasks)):
        raise invalid(f"pipeline_spec: task {name!r} waits for {', '.join(unknown)}: no such task.")
    if "dag" in component and task.get("retryPolicy"):
        raise unsupported(f"Task {name!r}: a retry of a whole dag")
    if condition := task.get("triggerPolicy", {}).get("condition"):
        parse_condition(condition)
    for source in task.get("inputs", {}).get("parameters", {}).values():
        constant = source.get("runtimeValue", {}).get("constant")
        for found in references(constant) if isinstance(constant, str) else ():
            if found.side and (found.side, found.kind) != ("inputs", "parameters"):
                raise unsupported(f"Task {name!r}: a placeholder other than a parameter in a value")


def _check_executor(spec: dict, name: str, component: dict) -> None:
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    found = executors.get(component.get("executorLabel"), {}).get("container")
    if not found or not found.get("image"):
        raise invalid(f"pipeline_spec: component {name!r} has no container image.")
    for element in (*found.get("command", []), *found.get("args", [])):
        for used in (r for text in _leaves(element) for r in references(text) if r.side):
            if used.name not in definitions(component, used.side.rstrip("s"), used.kind):
                raise invalid(f"pipeline_spec: component {name!r} uses {used.side}.{used.kind} "
                              f"{used.name!r}, which it does not declare.")


# Placeholders


@dataclass(frozen=True)
class Reference:
    """One placeholder: a fact of the job, or an input or output by name."""

    side: str  # "inputs", "outputs", or "" for a fact
    kind: str
    name: str
    field: str


def references(text: str) -> Iterator[Reference]:
    """The placeholders of a text; INVALID_ARGUMENT for one that is not served."""
    for match in PLACEHOLDER.finditer(text):
        yield _reference(match)


def _reference(match: re.Match) -> Reference:
    inner = match[1]
    if inner.startswith(".") and inner[1:] in FACTS:
        return Reference("", "", inner[1:], "")
    found = REFERENCE.fullmatch(inner)
    if found:
        reference = Reference(found["side"], found["kind"], found["name"], found["field"] or "")
        allowed = {("inputs", "parameters"): ("",), ("outputs", "parameters"): ("output_file",)}
        if reference.field in allowed.get((reference.side, reference.kind), ("path", "uri")):
            return reference
    lightweight = " (lightweight Python components)" if inner == "" else ""
    raise unsupported(f"The placeholder {match[0]}{lightweight}")


def substitute(text: str, value_of: Callable[[Reference], str]) -> str:
    """The text with each placeholder replaced, once: what a value holds is no placeholder."""
    return PLACEHOLDER.sub(lambda match: value_of(_reference(match)), text)


def expand(element: object, present: set[str]) -> list[str]:
    """A word of a command, with Concat and IfPresent carried out: no word, one, or several."""
    if isinstance(element, str):
        if not element.startswith(STRUCTURES):
            return [element]
        element = json.loads(element)
    if "Concat" in element:
        return ["".join(word for part in element["Concat"] for word in expand(part, present))]
    choice = element["IfPresent"]
    branch = choice["Then"] if choice["InputName"] in present else choice.get("Else")
    if branch is None:
        return []
    parts = branch if isinstance(branch, list) else [branch]
    return [word for part in parts for word in expand(part, present)]


def _leaves(element: object) -> Iterator[str]:
    """Every plain text in a word; INVALID_ARGUMENT for a structure that is neither of the two."""
    if isinstance(element, str) and element.startswith(STRUCTURES):
        try:
            element = json.loads(element)
        except ValueError:
            raise invalid(f"pipeline_spec: {element!r} is no JSON.") from None
    if isinstance(element, str):
        yield element
    elif isinstance(element, list):
        for part in element:
            yield from _leaves(part)
    elif isinstance(element, dict) and set(element) == {"Concat"}:
        yield from _leaves(element["Concat"])
    elif (isinstance(element, dict) and set(element) == {"IfPresent"}
          and {"InputName", "Then"} <= set(element["IfPresent"]) <= {"InputName", "Then", "Else"}):
        yield from _leaves(element["IfPresent"]["Then"])
        yield from _leaves(element["IfPresent"].get("Else") or [])
    else:
        raise unsupported(f"The placeholder {json.dumps(element)}")


# Conditions: the part of CEL that kfp writes for dsl.If, dsl.Elif and dsl.Else


def parse_condition(text: str) -> list[tuple[bool, str, str, str]]:
    """(negated, left, operator, right) of each comparison; all of them must hold."""
    found, position = [], 0
    while position < len(text):
        match = COMPARISON.match(text, position)
        if match is None:
            raise unsupported(f"The condition {text!r}")
        negation, left, sign, right = match.groups()
        if negation:  # the last operand took the parenthesis that closes "!("
            right = right[:-1] if right.endswith(")") else "("
        bare = [re.sub("'[^']*'", "", side) for side in (left, right)]
        if any(side.count("(") != side.count(")") for side in bare):
            raise unsupported(f"The condition {text!r}")
        found.append((bool(negation), left, sign, right))
        position = match.end()
    return found


def holds(text: str, parameters: dict) -> bool:
    """Whether a condition is true.

    Raises:
        ApiError: INVALID_ARGUMENT if it compares what cannot be compared, as in CEL.
    """
    for negated, left, sign, right in parse_condition(text):
        a, b = _operand(left, parameters), _operand(right, parameters)
        if _number(a) != _number(b) or not _number(a) and type(a) is not type(b):
            raise invalid(f"Condition {text!r}: {a!r} and {b!r} cannot be compared.")
        if OPERATORS[sign](a, b) == negated:
            return False
    return True


def _operand(text: str, parameters: dict) -> object:
    if cast := re.fullmatch(r"(int|double)\((.*)\)", text):
        value = _operand(cast[2], parameters)
        try:
            return {"int": int, "double": float}[cast[1]](value)
        except (TypeError, ValueError):
            raise invalid(f"Condition: {value!r} is no number.") from None
    if name := re.fullmatch(r"inputs\.parameter_values\['([^']+)'\]", text):
        if name[1] not in parameters:
            raise ApiError("FAILED_PRECONDITION", f"Condition: {name[1]!r} has no value.")
        return parameters[name[1]]
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if text.startswith("'") else float(text)
