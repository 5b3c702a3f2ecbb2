"""The table of tests/README.md is that of its sources, and names tests that exist."""

import ast
from pathlib import Path

from tests.survival import table

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date():
    assert table.PAGE.read_text(encoding="utf-8") == table.page()


def test_results_are_below_their_headings(monkeypatch):
    """In results.json the keys are sorted: the day comes first."""
    node = table.LINES[0]["tests"][0]
    monkeypatch.setattr(table, "results", lambda: {node: {"day": "a day", "passed": 2, "run": 3}})
    assert f"`{node.removeprefix('tests/')}` | 3 | 2 | a day |" in table.page()


def test_every_line_has_tests_that_exist():
    assert [line["number"] for line in table.LINES] == list(range(1, 9))
    nodes = [node for line in table.LINES for node in line["tests"]]
    nodes += [defect["test"] for line in table.LINES for defect in line.get("defects", [])]
    missing = []
    for node in nodes:
        file, _, name = node.partition("::")
        functions = {part.name for part in ast.walk(ast.parse((ROOT / file).read_text()))
                     if isinstance(part, ast.FunctionDef)} if (ROOT / file).exists() else set()
        if not functions or name and name not in functions:
            missing.append(node)
    assert missing == []
