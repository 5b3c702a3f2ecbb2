"""tests/README.md: what the walkthrough must survive, what was tried, and what came of it.

    .venv/bin/python -m tests.survival.table                write the page from the last results
    .venv/bin/python -m tests.survival.table --run          run the tests of the list first (all
                                                            options after it are pytest's)
    .venv/bin/python -m tests.survival.table --record 2     run the long commands of line 2 first
    .venv/bin/python -m tests.survival.table --log 2 FILE   take their results from their output

lines.toml says which tests and commands belong to which line, and which defects were found.
results.json holds the last results: trials run and passed, and the day.

A test counts as one trial, or as many as it reports by the fixture `trials`. A command ends with
a line "N of M passed".
"""

import argparse
import datetime
import json
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "tests" / "README.md"
RESULTS = HERE / "results.json"
LINES = tomllib.loads((HERE / "lines.toml").read_text(encoding="utf-8"))["line"]


def results() -> dict[str, dict]:
    """Test node or command -> {"run": trials, "passed": trials, "day": "2026-11-25"}."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def run_tests(options: Sequence[str]) -> None:
    """Run the tests of the list with these options of pytest, and keep their counts."""
    nodes = [node for line in LINES for node in line["tests"]]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1",
             f"--junit-xml={report}", *options, *dict.fromkeys(nodes)], cwd=ROOT, check=False)
        cases = ET.parse(report).getroot().iter("testcase")
    found: dict[str, list[int]] = {}
    for case in cases:
        name = re.sub(r"\[.*", "", case.get("name"))
        file = case.get("file") or case.get("classname").replace(".", "/") + ".py"
        trials = next((int(each.get("value")) for each in case.iter("property")
                       if each.get("name") == "trials"), 1)
        if case.find("skipped") is None:
            passed = case.find("failure") is None and case.find("error") is None
            for node in (file, f"{file}::{name}"):
                count = found.setdefault(node, [0, 0])
                count[0] += trials
                count[1] += trials * passed
    keep({node: found[node] for node in nodes if node in found})


def run_commands(number: int) -> None:
    """Run the commands of a line, and keep what their last lines say."""
    for command in _line(number).get("commands", []):
        done = subprocess.run(shlex.split(command), cwd=ROOT, text=True, stdout=subprocess.PIPE)
        keep_output(command, done.stdout)


def keep_output(command: str, text: str) -> None:
    """Keep the counts of "N of M passed" in a command's output.

    Raises:
        SystemExit: it has no such line.
    """
    found = re.findall(r"^(\d+) of (\d+) passed", text, re.MULTILINE)
    if not found:
        sys.exit(f'no line "N of M passed" in the output of {command}')
    passed, run = map(int, found[-1])
    keep({command: [run, passed]})


def keep(counts: dict[str, list[int]]) -> None:
    """Put trials run and passed into results.json."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    new = {key: {"run": run, "passed": passed, "day": today}
           for key, (run, passed) in counts.items()}
    RESULTS.write_text(json.dumps(results() | new, indent=1, sort_keys=True) + "\n")


def page() -> str:
    """The text of tests/README.md."""
    known = results()
    rows = ["| | what it survives | tried by | trials run | passed | day |",
            "|---|---|---|---|---|---|"]
    defects = []
    for line in LINES:
        for number, key in enumerate([*line["tests"], *line.get("commands", [])]):
            result = known.get(key, {"run": "not run", "passed": "-", "day": "-"})
            title = [str(line["number"]), line["title"]] if not number else ["", ""]
            rows.append("| " + " | ".join([
                *title, f"`{key.removeprefix('tests/')}`",
                *(_shown(result[column]) for column in ("run", "passed", "day"))]) + " |")
        defects += [f"| {line['number']} | {defect['was']} | {defect['now']} | "
                    f"`{defect['test'].removeprefix('tests/')}` |"
                    for defect in line.get("defects", [])]
    return "\n".join([
        "# Tests", "", *map(str.strip, INTRODUCTION.strip().splitlines()), "",
        "## It survives", "", *rows, "", "## Defects found on the way", "",
        "| | what happened | what happens now | held by |", "|---|---|---|---|", *defects, ""])


INTRODUCTION = """
The folders are those of `lib`; besides, `contract` (requests as Google gets them), `sql` (against
brute force, and in Google's own SQL engine), `notebooks`, and `support` (what several tests use).
`scripts/test.sh` runs them all.

They need two cores and 5 GB of memory: three workers, with their local clouds and kernels, took up
to 4.1 GB (PSS of all processes, while the largest files ran at once). On Linux, temporary folders
are in /dev/shm where it has 4 GB free, and tests that are stopped or killed leave no process.

This page is written by `python -m tests.survival.table` from `tests/survival/lines.toml` and the
results of the last runs. Trials are tests, requests that hypothesis drew, kills, or whole runs.
"""


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _line(number: int) -> dict:
    return next(line for line in LINES if line["number"] == number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.survival.table", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="PYTEST_OPTION",
                        help="run the tests of the list")
    parser.add_argument("--record", type=int, metavar="LINE", help="run the commands of a line")
    parser.add_argument("--log", nargs=2, metavar=("LINE", "FILE"),
                        help="take the result of a line's first command from its output")
    options = parser.parse_args(arguments)
    if options.run is not None:
        run_tests(options.run)
    if options.record:
        run_commands(options.record)
    if options.log:
        keep_output(_line(int(options.log[0]))["commands"][0], Path(options.log[1]).read_text())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
