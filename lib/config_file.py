"""The text of config.yaml -> one tree of plain values, and the words for what is wrong in it."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
FILLED = ("names", "serve")  # the blocks in which placeholders are filled
LONGEST = 200  # characters of a value in a message


class ConfigError(ValueError):
    """config.yaml cannot be used; the message names the key, the value and what is allowed."""


class _Strict:
    """For a loader of PyYAML: a key given twice is an error (PyYAML takes the last), and so is an
    alias: with aliases a short file can stand for a value without an end."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, f"*{alias.anchor}: aliases are not allowed here, repeat the value",
                alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Loader(_Strict, yaml.SafeLoader):
    """Its errors show the line."""


class _QuickLoader(_Strict, yaml.composer.Composer, yaml.CSafeLoader):
    """Reads by libyaml, in a seventh of the time. Its own composer would call none of ours."""

    def __init__(self, text: str):
        yaml.composer.Composer.__init__(self)
        yaml.CSafeLoader.__init__(self, text)


def read(path: Path) -> dict:
    """The file as a dict.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or not YAML, has a key twice, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        try:
            tree = yaml.load(text, _QuickLoader)
        except yaml.YAMLError:
            tree = yaml.load(text, _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start + 1}): save it with that "
                          "encoding") from None
    except RecursionError:
        raise ConfigError(f"{path}: is not valid YAML: nested too deeply") from None
    # ValueError: PyYAML does not catch it for a date such as 2026-13-01, or an endless number.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from None
    return require_block(tree, str(path), "must be a YAML mapping of keys to values")


def require_block(value: object, key: str, allowed: str = "must be a block of keys") -> dict:
    """`value`, if it is a mapping with text as keys; else ConfigError."""
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {show(value)}: {allowed}")
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(f"{key}: the key {show(name)} is no text: put it in quotes")
    return value


def merge(base: dict, over: dict) -> dict:
    """A copy of `base` with the keys of `over`, block by block."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def fill(file: str, tree: dict, known: Mapping[str, object]) -> dict:
    """A copy of `tree` with the placeholders of the blocks `names` and `serve` filled in.

    known: placeholder -> value. One whose value is no text stays as it is: `explain` reports the
    value, not the names that are made of it.

    Raises:
        ConfigError: a placeholder that is not in `known`, or a brace that is none.
    """
    def filled(key: str, text: object) -> object:
        if not isinstance(text, str):
            return text
        rest = PLACEHOLDER.sub(lambda found: "" if found[1] in known else "{", text)
        if "{" in rest or "}" in rest:
            allowed = ", ".join(f"{{{name}}}" for name in known)
            raise ConfigError(f"{file}: {key} = {show(text)}: known are only {allowed}")
        return PLACEHOLDER.sub(
            lambda found: known[found[1]] if isinstance(known[found[1]], str) else found[0], text)

    blocks = {block: {key: filled(f"{block}.{key}", text) for key, text in tree[block].items()}
              for block in FILLED if isinstance(tree.get(block), dict)}
    return {**tree, **blocks}


def explain(file: str, error: ValidationError, keys: list[str]) -> str:
    """One line for each problem that pydantic found. keys: all that there are, for a hint."""
    lines = []
    for problem in error.errors(include_url=False):
        block, value = problem["loc"][:1], problem["input"]
        if block and block[0] in FILLED and isinstance(value, str) and PLACEHOLDER.search(value):
            continue  # not filled, because of another problem
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]") or "settings"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1)
            text = f"{key}: unknown key" + (f"; is {near[0]} meant?" if near else "")
        elif problem["type"] == "missing":
            text = f"{key}: missing"
        else:
            text = f"{key} = {show(value)}: {problem['msg'].removeprefix('Value error, ')}"
        lines.append(f"{file}: {text}")
    return "\n".join(dict.fromkeys(lines))


_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother = 3, LONGEST, LONGEST


def show(value: object) -> str:
    """A value of the file as text of at most some lines, whatever it is."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of more than 4300 digits"
