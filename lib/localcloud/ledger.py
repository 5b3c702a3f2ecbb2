"""The ledger of fidelity, rules.toml: every rule of the stand-in, its evidence, and its test.

It imports nothing of the stand-in, so that a report or a README can count without starting one.
"""

import functools
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("rules.toml")
LEVELS = {"recorded": "recorded", "documented": "documented", "package": "from the package",
          "unverified": "unverified"}  # in the order of their weight -> in the line of counts
OUR_OWN = ("sources", "divergence")  # tables of the file that are no areas


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row; what the fields mean is written at the top of rules.toml."""

    id: str
    area: str
    rule: str
    status: str = ""
    methods: list[str]
    level: str
    open: str = ""
    source: str
    raises: str = ""
    answers: tuple[str, ...] | list[str] = ()
    test: str

    @property
    def refusal(self) -> str:
        """The id that its refusal carries in the code; "" if it refuses nothing."""
        return (self.raises or self.id) if self.status else ""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """What is known to differ from Google."""

    id: str
    what: str
    instead: str
    service: str = "vertex"
    test: str = ""


@dataclass(frozen=True)
class Ledger:
    """The whole file: titles of areas, rules and divergences by id, sources by their key."""

    areas: dict[str, str]
    rules: dict[str, Rule]
    divergences: dict[str, Divergence]
    sources: dict[str, str]


@functools.cache
def load() -> Ledger:
    """The ledger.

    Raises:
        TypeError: a row has an unknown field, or lacks a required one.
    """
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    areas = {name: rows.pop("title") for name, rows in content.items() if name not in OUR_OWN}
    return Ledger(
        areas=areas, sources=content["sources"],
        rules={f"{area}.{name}": Rule(id=f"{area}.{name}", area=area, **row)
               for area in areas for name, row in content[area].items()},
        divergences={f"divergence.{name}": Divergence(id=f"divergence.{name}", **row)
                     for name, row in content["divergence"].items()})


def counts() -> str:
    """One line: how many rules there are, by level, and how many known divergences."""
    ledger = load()
    by_level = Counter(rule.level for rule in ledger.rules.values())
    levels = ", ".join(f"{by_level[level]} {words}" for level, words in LEVELS.items())
    return f"{len(ledger.rules)} rules: {levels}; {len(ledger.divergences)} known divergences"


def rule_table(area: str) -> str:
    """The rules of an area as a Markdown table."""
    rows = ["| Rule | Status returned | Source | Level | Id |", "|---|---|---|---|---|"]
    for rule in load().rules.values():
        if rule.area == area:
            level = f"{rule.level}; unverified: {rule.open}" if rule.open else rule.level
            rows.append(_row(rule.rule, rule.status, rule.source, level, f"`{rule.id}`"))
    return "\n".join(rows) + "\n"


def divergence_table(*services: str) -> str:
    """The known divergences of some services as a Markdown table."""
    rows = ["| Not as on Google Cloud | What to do |", "|---|---|"]
    rows += [_row(one.what, one.instead) for one in load().divergences.values()
             if one.service in services]
    return "\n".join(rows) + "\n"


def source_list() -> str:
    """What the sources of the tables stand for, and when they were read, as a Markdown table."""
    rows = ["| Source | is | read |", "|---|---|---|"]
    rows += [_row(key, *text.rsplit(", ", 1)) for key, text in load().sources.items()]
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') or '-' for cell in cells)} |"
