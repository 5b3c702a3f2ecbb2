"""scripts/bench.py: whole runs, and what their imports cost."""

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from lib import config
from lib.stages import read_summary
from scripts.bench import Options, Row, take_turns

IMPORTS = ("pandas", "pyarrow", "matplotlib.pyplot", "sklearn.ensemble", "google.cloud.bigquery",
           "google.cloud.aiplatform_v1", "google.cloud.aiplatform", "lib.cloud", "lib.predict")
PAUSE_SECONDS = 0.1  # between two looks at the processes of a run


def run(options: Options, folder: Path) -> list[Row]:
    """The newest finished run, stage by stage, and what each import costs a process."""
    summary = read_summary(config.RUNS / "latest")
    if summary is None:
        rows = [Row("run", "stages", note="./run_all.sh first")]
    else:
        note = f"{summary['run_id']}, with the imports of its kernel"
        rows = [Row("run", stage["name"], [stage["seconds"]], "s wall", note=note)
                for stage in summary["stages"]]
        rows.append(Row("run", "all", [summary["seconds"]], "s wall", note=note))
    samples = take_turns(
        {"nothing": partial(_import, ""), **{name: partial(_import, name) for name in IMPORTS}},
        options.repeats)
    return rows + [Row("imports", name, found, base="nothing") for name, found in samples.items()]


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}" if name else ""], check=True,
                   cwd=config.ROOT)


def runs(options: Options, folder: Path) -> list[Row]:
    """A first run, its local cloud empty, and a second: of this checkout and another one in turns.

    The runs have the interpreter of this one, and their notebooks stay in their checkout.
    """
    checkouts = {"ours": config.ROOT}
    if options.against:
        checkouts[options.against.name] = options.against.resolve()
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.repeats):
        for name, checkout in checkouts.items():
            state = folder / f"run-{turn}-{name}"
            for which in ("first", "second"):
                print(f"  {which} run of {name} ...", file=sys.stderr, flush=True)
                for unit, seconds in zip(
                        ("s CPU", "s wall"), measure(checkout, state), strict=True):
                    found.setdefault((f"{which} run, {name}", unit), []).append(seconds)
            _python(checkout, state, "lib.localcloud", "stop").wait()
    rows = []
    for (what, unit), samples in found.items():
        which = what.split(",")[0]
        base = f"{which}, {options.against.name}" if options.against else ""
        rows.append(Row("runs, " + unit, what, samples, unit, base))
    return rows


def measure(checkout: Path, state: Path) -> tuple[float, float]:
    """(user and system CPU seconds of all processes, wall seconds) of one run.

    A process belongs to it if its environment names the state folder, as that of the local cloud,
    or if one of them started it. The last look at one that ends misses less than PAUSE_SECONDS.
    """
    module = re.search(r"\.venv/bin/python -m (\S+)", (checkout / "run_all.sh").read_text())[1]
    before, seen = cpu_seconds(state), {}
    began = time.perf_counter()
    program = _python(checkout, state, module)
    while program.poll() is None:
        seen |= cpu_seconds(state)
        time.sleep(PAUSE_SECONDS)
    wall = time.perf_counter() - began
    seen |= cpu_seconds(state)
    if program.returncode:
        raise SystemExit(f"{module} in {checkout} ended with status {program.returncode}")
    return sum(seconds - before.get(key, 0) for key, seconds in seen.items()), wall


def _python(checkout: Path, state: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=checkout, stdout=subprocess.DEVNULL,
        env=os.environ | {"LOCALCLOUD_STATE": str(state)})


def cpu_seconds(state: Path) -> dict[tuple[int, float], float]:
    """(pid, start) -> user and system CPU seconds so far, of the processes with this state and of
    those that they started."""
    found, ours = {}, set()
    for process in sorted(psutil.process_iter(["create_time"]),
                          key=lambda process: process.info["create_time"]):
        try:
            if process.ppid() in ours or (
                    process.environ().get("LOCALCLOUD_STATE") == str(state)):
                times = process.cpu_times()
                ours.add(process.pid)
                found[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return found
