"""Stages of a run: log lines, resource names, figures, summary.json, and errors that help.

A notebook is one stage. It opens it with `open_stage`, does its work in steps (`run.step`), and
closes it with `run.finish`. A step prints one line, its result. run.log also has the line of its
start, and full resource names; summary.json keeps what each step made, also of a run that stops
half-way.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lib import errors, language, waiting
from lib.config import RUNS, Settings, relative

SUMMARY_KEYS = (
    "labels", "metrics", "leakage", "parity", "freshness", "latency_ms", "predictions")


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    status: created (made now), reused (existed), done (neither), started (runs in the background;
        a later step of the same name waits for it).
    resource: full name of the main resource, or "".
    figures: key figures for the log line, name -> number or short text.
    value: what the notebook works with next.
    """

    status: Literal["created", "reused", "done", "started"]
    resource: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    value: Any = None


class Stage:
    """One stage of a run; made by `open_stage`."""

    def __init__(self, stage: str, settings: Settings, folder: Path, quiet: bool = False):
        self.stage, self.settings, self.folder, self._quiet = stage, settings, folder, quiet
        self._started = time.monotonic()
        self._entry = {
            "name": stage, "started_at": _now(), "seconds": 0.0, "status": "running",
            "resources": {}, "figures": {}, "steps": []}
        self._statuses: list[str] = []
        self._run_start = datetime.fromisoformat(self._save()["started_at"])

    def step(self, name: str, work: Callable[..., Outcome], *args: Any, **kwargs: Any) -> Any:
        """Run `work(*args, **kwargs)`, log its result, keep what it made in summary.json.

        Returns the Outcome's value.

        Raises:
            StageError: for any failure that a user can act on, in their terms.
        """
        self._log(f"{name}: started", print_it=False)
        began = time.monotonic()
        # A step creates or reuses, so that running it twice does no harm.
        retrying = waiting.retrying(self.settings, lambda line: self._log(f"  {name}: {line}"))
        try:
            outcome = retrying(work, *args, **kwargs)
        except Exception as error:
            explained = self.fail(name, error)
            if explained is None:
                raise
            raise explained from error
        seconds = time.monotonic() - began
        status = f"{name}: {outcome.status} in {seconds:.1f} s"
        if outcome.status == "started":
            status = f"{name}: started, runs in the background"
        figures = ", ".join(f"{k} {_plain(v)}" for k, v in outcome.figures.items())
        self._log(" | ".join(filter(None, [status, short(outcome.resource), figures])))
        if outcome.resource:
            self._log(f"{name}: {outcome.resource}", print_it=False)
            self._entry["resources"][name] = outcome.resource
        if outcome.figures:
            self._entry["figures"][name] = outcome.figures
        self._statuses.append(outcome.status)
        since_start = (datetime.now(UTC) - self._run_start).total_seconds()
        self._entry["steps"].append({
            "name": name, "status": outcome.status, "seconds": round(seconds, 2),
            "started": round(since_start - seconds, 2)})
        self._save()
        return outcome.value

    def fail(self, attempted: str, error: Exception) -> errors.StageError | None:
        """Record that the stage failed; the error in the user's terms, None for a bug of ours."""
        explained = errors.explain(error, self.stage, attempted, self.settings)
        self._entry["status"] = "failed"
        with suppress(OSError):  # the disk may be full: then that is the error
            self._save()
            self._log(f"{attempted}: FAILED\n{explained or error}", print_it=False)
        return explained

    def finish(self, **summary: Any) -> None:
        """Close the stage; keep `summary` (labels=, metrics=, leakage=, ...) in summary.json.

        Raises:
            ValueError: for a key that summary.json does not have.
        """
        unknown = set(summary) - set(SUMMARY_KEYS)
        if unknown:
            raise ValueError(f"summary.json has no {sorted(unknown)}; it has {SUMMARY_KEYS}")
        self._entry["status"] = next(
            (s for s in ("created", "reused") if s in self._statuses), "done")
        self._entry["seconds"] = round(time.monotonic() - self._started, 1)
        self._save(**summary)
        _explain_errors_of_cells(None)
        self._log(f"{self.stage}: finished in {self._entry['seconds']} s")

    def _log(self, line: str, print_it: bool = True) -> None:
        if print_it and not self._quiet:
            print(line, flush=True)
        with (self.folder / "run.log").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {self.stage} {line}\n")

    def _save(self, **changes: Any) -> dict:
        summary = read_summary(self.folder) or new_summary(self.folder.name, self.settings)
        stages = [s for s in summary["stages"] if s["name"] != self.stage]
        summary["stages"] = sorted([*stages, self._entry], key=lambda s: s["name"])
        summary["seconds"] = round(sum(s["seconds"] for s in summary["stages"]), 1)
        summary["background"] = _background(summary["stages"])
        write_summary(self.folder, summary | changes)
        return summary


@contextmanager
def alone(name: str) -> Iterator[Path]:
    """The folder runs/<name> of a command that writes or deletes our tables, while no other one
    does in this checkout. The lock ends with its process.

    name: of its folder, or of its module, if it has no folder.

    Raises:
        lib.errors.Needed: another one is going on.
    """
    import filelock  # here: the notebooks need none

    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / ".lock"
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        other = file.read_text() or name
        if not (RUNS / other).is_dir():
            raise errors.Needed(f"another command is going on here: {other}",
                                "its end, or Ctrl-C where it runs") from None
        raise errors.Needed(
            f"another run is going on here: {relative((RUNS / other).resolve())}",
            "its end, or Ctrl-C where it runs; its log shows how far it is",
            f"tail -f {relative(RUNS / other / 'run.log')}") from None
    try:
        file.write_text(name)
        yield RUNS / name
    finally:
        lock.release()


def open_stage(
    stage: str, settings: Settings, folder: str | Path = "", quiet: bool = False
) -> Stage:
    """Open a stage, e.g. "02_features", in a run's folder (default: runs/interactive); what is
    shown from now on is in the language of the settings.

    quiet: its lines go to run.log only.
    """
    folder = Path(folder) if folder else RUNS / "interactive"
    folder.mkdir(parents=True, exist_ok=True)
    language.use(settings.language)
    opened = Stage(stage, settings, folder, quiet)
    _explain_errors_of_cells(opened)
    return opened


def _explain_errors_of_cells(opened: Stage | None) -> None:
    """In a notebook: show an error that a user can act on as `Stage.step` does, whichever cell
    raised it. Papermill passes on only the name and the text of what is shown.

    opened: the stage that such an error fails; None: it is finished, and errors are its no more.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    if opened is None:
        shell.set_custom_exc((), None)
        return

    # IPython calls this instead of printing the traceback.
    def show(shell, kind, error, traceback, tb_offset=None) -> None:
        explained = error  # a StageError has been recorded by `step`
        if not isinstance(error, errors.StageError):
            explained = opened.fail(f"cell {len(shell.user_ns['In']) - 1}", error)
        if explained is None:
            shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
        else:
            shell.showtraceback((errors.StageError, explained, None))

    shell.set_custom_exc((Exception,), show)


def new_summary(run_id: str, settings: Settings) -> dict:
    """summary.json before the first stage: every key, without values."""
    return {
        "run_id": run_id, "target": settings.target, "env": settings.env,
        "language": settings.language,
        "source": {"title": settings.source_title, "is_thelook": settings.is_thelook},
        "started_at": _now(), "seconds": 0.0, "stages": [], "background": [],
        **dict.fromkeys(SUMMARY_KEYS),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _background(stages: list[dict]) -> list[dict]:
    """What ran in the background: steps "started" until the end of a later step of the same name.

    Returns name, started (seconds since the run began) and seconds (None: no step waited for it).
    """
    steps = [step for stage in stages for step in stage.get("steps", [])]
    found = []
    for position, step in enumerate(steps):
        if step["status"] == "started":
            ends = [s["started"] + s["seconds"] for s in steps[position + 1:]
                    if s["name"] == step["name"]]
            seconds = round(max(ends) - step["started"], 2) if ends else None
            found.append({"name": step["name"], "started": step["started"], "seconds": seconds})
    return found


def read_summary(folder: Path) -> dict | None:
    """A run's summary.json, or None if it does not exist yet."""
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_summary(folder: Path, summary: dict) -> None:
    """Write summary.json in one step, so that no reader sees half of it."""
    draft = folder / f"summary.json.{os.getpid()}"
    draft.write_text(json.dumps(summary, indent=2, default=str) + "\n")
    draft.replace(folder / "summary.json")


def close_running(folder: Path) -> str | None:
    """Record that the stage which was running has failed, when its notebook cannot; its name.

    None: no stage was running.
    """
    summary = read_summary(folder)
    running = [s for s in summary["stages"] if s["status"] == "running"]
    for stage in running:
        stage["status"] = "failed"
    write_summary(folder, summary)
    return running[-1]["name"] if running else None


def short(name: str) -> str:
    """The last part of a resource's name, with long numbers shortened.

    projects/p/locations/r/models/8247321771790154100@1 -> 8247…4100@1;
    project.dataset.table -> table.
    """
    return re.sub(r"(\d{4})\d{8,}(\d{4})", r"\1…\2", re.split("[/.]", name)[-1])


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
