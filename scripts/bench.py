"""Measure what is said to be fast, and print a table; runs/bench.json has it too.

    .venv/bin/python -m scripts.bench                       all parts, small data
    .venv/bin/python -m scripts.bench join build --scale 10
    .venv/bin/python -m scripts.bench --against FOLDER      beside another checkout of this project

Parts: join (the point-in-time join, beside what people use for it), build (the features), sync,
serve (fetch and predict under load; needs a walk that was kept running), run (a finished run, stage
by stage), runs (a first and a second run; only if named, since three turns take ten minutes).
Scale 1 is thelook.users of config.yaml; above it each customer is copied.

The ways of one part take turns, so that a busy machine slows all of them; a ratio is of the medians
of one run. Times are user CPU seconds of all processes that take part, unless the unit says
otherwise. A figure without a ratio is local: it is of this machine, and says nothing of Google's.

Exit status: 0 measured, 1 two ways gave different rows or a service a wrong value, 2 wrong options.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.config import RUNS

PARTS = ("join", "build", "sync", "serve", "run")  # without any named; "runs" only if it is
ALL = (*PARTS, "runs")
HEAD = ("part", "what", "median", "spread", "unit", "ratio", "note")


class Different(Exception):
    """Two ways to compute the same gave different results."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    samples: what was measured, one for each repetition; none for a way that was skipped.
    base: the row of the same part that the ratio is taken to ("" for a local figure).
    """

    part: str
    what: str
    samples: list[float] = field(default_factory=list)
    unit: str = "s CPU"
    base: str = ""
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


@dataclass(frozen=True)
class Options:
    """What the command line says. against: another checkout; python: one with polars and feast."""

    scale: float
    repeats: int
    against: Path | None
    python: str


def user_seconds() -> float:
    """User CPU so far of this process and its children that ended."""
    return sum(resource.getrusage(who).ru_utime
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def take_turns(
    cases: dict[str, Callable[[], object]], repeats: int,
    clock: Callable[[], float] = user_seconds,
) -> dict[str, list[float]]:
    """Run each case once, then each once more, and so on; its seconds by the clock.

    A case that returns a number has measured itself, in another process.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            began = clock()
            measured = case()
            samples[name].append(measured if isinstance(measured, float) else clock() - began)
    return samples


def with_ratios(rows: list[Row]) -> list[dict]:
    """The rows as runs/bench.json has them: with median, spread, and ratio to their base."""
    medians = {(row.part, row.what): row.median for row in rows}
    found = []
    for row in rows:
        base = medians.get((row.part, row.base))
        found.append(asdict(row) | {
            "median": row.median,
            "spread": [min(row.samples), max(row.samples)] if row.samples else None,
            "ratio": row.median / base if base and row.median is not None else None,
            "local": not row.base,
        })
    return found


def table(found: list[dict]) -> str:
    """The rows of `with_ratios`, aligned."""
    lines = [HEAD]
    for row in found:
        if row["samples"]:
            low, high = row["spread"]
            ratio = f"{row['ratio']:.2f} x {row['base']}" if row["ratio"] else "local"
            lines.append((row["part"], row["what"], _short(row["median"]),
                          f"{_short(low)} to {_short(high)}", row["unit"], ratio, row["note"]))
        else:
            lines.append((row["part"], row["what"], "skipped", "", "", "", row["note"]))
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    return "\n".join("  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True))
                     .rstrip() for line in lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m scripts.bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(ALL)}")
    parser.add_argument("--scale", type=float, default=0.2, help="of thelook.users (0.2)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way (3)")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--python", default=sys.executable,
                        help="a Python that has polars and feast, if this one has not")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(ALL):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    if given.scale <= 0 or given.repeats < 1:
        parser.error("--scale must be above 0, --repeats at least 1")
    with contextlib.redirect_stdout(io.StringIO()):  # bqemulator prints a line when it is imported
        from scripts import bench_run, bench_serve, bench_sql

    options = Options(given.scale, given.repeats, given.against, given.python)
    measure = {"join": bench_sql.join, "build": bench_sql.build, "sync": bench_sql.sync,
               "serve": bench_serve.serve, "run": bench_run.run, "runs": bench_run.runs}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for part in given.parts or PARTS:
            print(f"measuring {part} ...", file=sys.stderr, flush=True)
            try:
                rows += measure[part](options, Path(folder))
            except Different as error:
                print(error, file=sys.stderr)
                return 1
    found = with_ratios(rows)
    RUNS.mkdir(exist_ok=True)
    (RUNS / "bench.json").write_text(json.dumps(
        {"scale": options.scale, "repeats": options.repeats, "rows": found}, indent=2))
    print(table(found))
    print(f"written: {RUNS / 'bench.json'}")
    return 0


if __name__ == "__main__":
    from scripts import bench  # the module that the parts import: their `Different` is its class

    sys.exit(bench.main())
