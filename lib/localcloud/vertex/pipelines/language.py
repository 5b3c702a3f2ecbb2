"""How a compiled pipeline is read: its tasks, typed values, placeholders and conditions.

As kfp 2.17 reads and writes them: kfp/local/placeholder_utils.py and
kfp/compiler/pipeline_spec_builder.py.
"""

import json
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lib.localcloud.errors import ApiError, invalid, precondition, unsupported

TYPES: dict[str, Callable[[object], bool]] = {
    "STRING": lambda v: isinstance(v, str),
    "BOOLEAN": lambda v: isinstance(v, bool),
    "NUMBER_INTEGER": lambda v: _is_number(v) and v == int(v),
    "NUMBER_DOUBLE": lambda v: _is_number(v),
    "LIST": lambda v: isinstance(v, list),
    "STRUCT": lambda v: isinstance(v, dict),
}
PLACEHOLDER = re.compile(r"\{\{\$(.*?)\}\}")
STRUCTURES = ('{"Concat": ', '{"IfPresent": ')
REFERENCE = re.compile(
    r"""\.(?P<side>inputs|outputs)\.(?P<kind>parameters|artifacts)
        \[(?P<quote>['"])(?P<name>.+?)(?P=quote)\](?:\.(?P<field>path|uri|output_file))?""",
    re.VERBOSE)
OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
             ">": operator.gt, ">=": operator.ge}
OPERAND = r"""(?:(?:int|double)\()?(?:inputs\.parameter_values\['[^']+'\]|'[^']*'|true|false
              |-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\)?"""
CONDITION = re.compile(rf"({OPERAND})\s*(==|!=|<=|>=|<|>)\s*({OPERAND})", re.VERBOSE)


# Components and tasks


def definitions(component: dict, side: str, kind: str) -> dict:
    """What a component declares: side is input or output, kind parameters or artifacts."""
    return component.get(f"{side}Definitions", {}).get(kind, {})


def container(spec: dict, component: dict) -> dict:
    return spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]


def producers(task: dict) -> set[str]:
    """The tasks of the same dag whose outputs a task takes."""
    return {source[key]["producerTask"]
            for sources in task.get("inputs", {}).values() for source in sources.values()
            for key in ("taskOutputParameter", "taskOutputArtifact") if key in source}


def upstream(task: dict) -> set[str]:
    """The tasks of the same dag that must have ended before this one starts."""
    return {*task.get("dependentTasks", []), *producers(task)}


# Values


def parameter_values(component: dict, given: dict) -> dict:
    """The values of a component's declared parameters, with defaults; INVALID_ARGUMENT if wrong."""
    declared = definitions(component, "input", "parameters")
    if unknown := sorted(set(given) - set(declared)):
        raise invalid(
            "pipelines.parameters",
            f"runtime_config.parameter_values: {', '.join(unknown)}: no such parameter.")
    values = {}
    for name, definition in declared.items():
        value = given.get(name, definition.get("defaultValue"))
        if value is not None:
            values[name] = typed(value, definition["parameterType"], name)
        elif not definition.get("isOptional"):
            raise invalid(
                "pipelines.parameters", f"runtime_config.parameter_values: {name!r} is required.")
    return values


def typed(value: object, kind: str, name: str) -> object:
    """The value in its parameter's type: a spec has whole numbers as 3.0."""
    if not TYPES[kind](value):
        raise invalid(
            "pipelines.parameters", f"Parameter {name!r}: {value!r} is not of type {kind}.")
    return {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}.get(kind, lambda v: v)(value)


def text_of(value: object) -> str:
    """A parameter as kfp writes it into a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def value_of(text: str, kind: str, name: str) -> object:
    """An output parameter as kfp reads its file: a string unchanged, other types as JSON."""
    if kind == "STRING":
        return text
    try:
        return typed(json.loads(text.lower() if kind == "BOOLEAN" else text), kind, name)
    except (ValueError, ApiError):
        raise precondition(
            "pipelines.output-parameters",
            f"Output {name!r}: {text[:80]!r} is no {kind}.") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Placeholders


@dataclass(frozen=True)
class Reference:
    """One placeholder: an input or output by name."""

    side: str  # "inputs", "outputs"
    kind: str  # "parameters", "artifacts"
    name: str
    field: str


def references(text: str) -> Iterator[Reference]:
    """The placeholders of a text; INVALID_ARGUMENT for one that is not served."""
    return map(_reference, PLACEHOLDER.finditer(text))


def _reference(match: re.Match) -> Reference:
    found = REFERENCE.fullmatch(match[1])
    if found:
        reference = Reference(found["side"], found["kind"], found["name"], found["field"] or "")
        allowed = {("inputs", "parameters"): ("",), ("outputs", "parameters"): ("output_file",)}
        if reference.field in allowed.get((reference.side, reference.kind), ("path", "uri")):
            return reference
    lightweight = " (lightweight Python components)" if match[1] == "" else ""
    raise unsupported("divergence.pipeline-language", f"The placeholder {match[0]}{lightweight}")


def substitute(text: str, resolve: Callable[[Reference], str]) -> str:
    """Replace each placeholder, once: a placeholder inside a value is only text."""
    return PLACEHOLDER.sub(lambda match: resolve(_reference(match)), text)


def expand(element: object, present: set[str]) -> list[str]:
    """The words that a word of a command stands for: none, one or several.

    Args:
        element: a text, or a structure: Concat or IfPresent.
        present: the names of inputs that have a value.
    """
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


# Conditions: the part of CEL that kfp writes for dsl.If


def parse_condition(text: str) -> tuple[str, str, str]:
    """(left, operator, right) of a comparison; INVALID_ARGUMENT for anything else."""
    match = CONDITION.fullmatch(text)
    if match is None:
        raise unsupported(
            "divergence.pipeline-language", f"The condition {text!r} (such as dsl.Elif, dsl.Else)")
    return match[1], match[2], match[3]


def holds(text: str, parameters: dict) -> bool:
    """Whether a condition is true.

    Raises:
        ApiError: INVALID_ARGUMENT if it compares different types, which CEL does not do;
            FAILED_PRECONDITION if a parameter has no value.
    """
    left, sign, right = parse_condition(text)
    a, b = _operand(left, parameters), _operand(right, parameters)
    if _is_number(a) != _is_number(b) or not _is_number(a) and type(a) is not type(b):
        raise invalid(
            "pipelines.conditions", f"Condition {text!r}: {a!r} and {b!r} cannot be compared.")
    return OPERATORS[sign](a, b)


def _operand(text: str, parameters: dict) -> object:
    text = re.sub(r"^(?:int|double)\((.*)\)$", r"\1", text)  # parameters have their types already
    if name := re.fullmatch(r"inputs\.parameter_values\['([^']+)'\]", text):
        if name[1] not in parameters:
            raise precondition("pipelines.conditions", f"Condition: {name[1]!r} has no value.")
        return parameters[name[1]]
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if text.startswith("'") else float(text)
