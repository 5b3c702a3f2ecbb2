"""Write the generated parts of the READMEs: `cog` blocks in them call the functions below.

    .venv/bin/python -m scripts.readmes [--run FOLDER]

The figures come from readme_sample.json, which --run takes from a finished run first; the
pictures come from the committed notebooks. Exit status: that of cog, 0 if all went well.
"""

import argparse
import base64
import json
import sys
import textwrap
from pathlib import Path

import jinja2
import nbformat
from cogapp import Cog

from lib import cloud, config, stages
from lib.config import ROOT
from lib.operate import run
from lib.report import facts, plan

READMES = ("README.md", "lib/operate/README.md", "lib/operate/SCALE.md",
           "lib/localcloud/README.md")  # with cog blocks
SAMPLE = Path(__file__).with_name("readme_sample.json")
FINDINGS = Path(__file__).with_name("readme_findings.md.j2")
KEPT = ("labels", "metrics", "leakage", "parity", "freshness", "latency_ms")  # of summary.json
LINES = ("[3/7]", "[5/7]", "[7/7]", "customer", "finished", "report.html")  # of run.log
OPTIONS = ("--target", "--env", "--lang", "--from", "--source", "--keep-running")
PICTURES = {  # file in notebooks/images -> (notebook, the call that draws it)
    "architecture.png": ("01_data", "charts.architecture("),
    "leakage.png": ("05_train", "leakage_promise("),
    "faults_caught.png": ("07_online_predict", "faults_caught("),
}


# -- what the READMEs show -------------------------------------------------------------------


def sample_run() -> str:
    """Six lines that a run prints."""
    return "\n".join(["```text", *_sample()["lines"], "```\n"])


def findings() -> str:
    """The four findings of the sample run, in words; lines of at most 100 characters."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["number"] = facts.number
    sample = _sample()
    text = environment.from_string(FINDINGS.read_text(encoding="utf-8")).render(
        facts.findings(sample), run=sample, settings=config.load(target="local"))
    return "\n\n".join(
        textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)
        for paragraph in text.split("\n\n")) + "\n"


def option_table() -> str:
    """The options of ./run_all.sh that a first reader needs, with their help."""
    rows = []
    for action in run.parser()._actions:
        name = action.option_strings[-1] if action.option_strings else ""
        if name in OPTIONS:
            values = "\\|".join(action.choices) if action.choices and not action.metavar else (
                action.metavar or "")
            rows.append(f"| `{f'{name} {values}'.strip()}` | {action.help} |")
    return "\n".join(["| option | what it does |", "|---|---|", *rows]) + "\n"


def fidelity() -> str:
    """How the rules of the local cloud are known: the counts of its ledger."""
    counts, divergences = cloud.fidelity().split("; ")
    return (f"The stand-in follows {counts}.\nThere are {divergences}. "
            "[Its ledger](lib/localcloud/README.md) has the source and the test of each rule.\n")


def plan_finding() -> str:
    """What the plan adds up to, in two sentences."""
    steps = config.load(target="local").plan
    return f"**{plan.finding(steps)}. {plan.rerun_finding(steps)}.**\n"


def _sample() -> dict:
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


# -- writing the READMEs -----------------------------------------------------------------------


def take_sample(folder: Path) -> None:
    """Write readme_sample.json from a finished run: the figures of the findings, and six lines."""
    summary = stages.read_summary(folder)
    log = (folder / "run.log").read_text(encoding="utf-8").splitlines()
    lines = [next(line for line in log if line.startswith(start) and not line.endswith("started"))
             for start in LINES]
    figures = {step: found for stage in summary["stages"]
               for step, found in stage["figures"].items()}
    rows = {name.removesuffix(" rows"): count for found in figures.values()
            for name, count in found.items() if name.endswith(" rows")}
    for unread in ("future", "ladder"):  # long, and shown by no README
        summary["leakage"].pop(unread, None)
    sample = {key: summary[key] for key in KEPT} | {
        "lines": lines, "rows": rows, "served": figures["sync"]["rows"],
        "sql_seconds": {step["name"]: step["seconds"] for stage in summary["stages"]
                        for step in stage["steps"] if step["name"].startswith("sql/")}}
    SAMPLE.write_text(json.dumps(sample, indent=1) + "\n", encoding="utf-8")


def picture(name: str) -> bytes:
    """The PNG that a committed notebook shows, by its file name in notebooks/images."""
    stem, call = PICTURES[name]
    for cell in nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells:
        for output in cell.get("outputs", []):
            if call in cell.source and "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    raise LookupError(f"no cell of {stem}.ipynb draws {call}...)")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status of cog."""
    parser = argparse.ArgumentParser(prog="python -m scripts.readmes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="such as runs/latest")
    options = parser.parse_args(arguments)
    if options.run:
        take_sample(options.run)
    for name in PICTURES:
        (ROOT / "notebooks" / "images" / name).write_bytes(picture(name))
    return Cog().main(["cog", "-r", *(str(ROOT / name) for name in READMES)])


if __name__ == "__main__":
    sys.exit(main())
