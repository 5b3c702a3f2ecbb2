"""Stages of a run: log lines, resource names, figures, summary.json, and errors that help.

A notebook is one stage. It opens it with `open_run`, does its work in steps (`run.step`), and
closes it with `run.finish`. Every line is printed and appended to run.log; what a step made is
kept in summary.json, so that a run that dies half-way still tells what stands.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors

from lib.config import ROOT, Settings
from lib.source import SourceError

RUNS = ROOT / "runs"
SUMMARY_KEYS = (
    "labels", "metrics", "leakage", "parity", "freshness", "latency_ms", "predictions")


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    status: created (made now), reused (stood already), done (neither).
    resource: full name of the main resource, or "".
    figures: key figures for the log line, name -> number or short text.
    value: what the notebook goes on with.
    """

    status: Literal["created", "reused", "done"]
    resource: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    value: Any = None


class StageError(RuntimeError):
    """A step failed: where, on what, why, what is needed, and the command that provides it."""

    def __init__(self, stage: str, attempted: str, cause: str, need: str, command: str = ""):
        self.stage, self.attempted, self.cause = stage, attempted, cause
        self.need, self.command = need, command
        lines = [
            f"stage:     {stage}", f"attempted: {attempted}", f"cause:     {cause}",
            f"needed:    {need}",
        ]
        super().__init__("\n".join(lines + ([f"command:   {command}"] if command else [])))

    def _render_traceback_(self) -> list[str]:
        """Jupyter shows this instead of a traceback."""
        return [f"STOPPED\n{self}"]


class Needed(RuntimeError):
    """Raised inside `lib` when something is missing; `step` adds the stage to it."""

    def __init__(self, cause: str, need: str, command: str = ""):
        super().__init__(f"{cause}. Needed: {need}" + (f" ({command})" if command else ""))
        self.cause, self.need, self.command = cause, need, command


class Run:
    """One stage of a run; made by `open_run`."""

    def __init__(self, stage: str, settings: Settings, folder: Path):
        self.stage, self.settings, self.folder = stage, settings, folder
        self._started = time.monotonic()
        self._entry = {"name": stage, "seconds": 0.0, "status": "running",
                       "resources": {}, "figures": {}}
        self._statuses: list[str] = []
        self._save()

    def step(self, name: str, work: Callable[..., Outcome], *args: Any, **kwargs: Any) -> Any:
        """Run `work(*args, **kwargs)`, log a line before and after, keep what it made.

        Returns the Outcome's value.

        Raises:
            StageError: for any failure that a user can act on, in their terms.
        """
        self._log(f"{name}: started")
        began = time.monotonic()
        try:
            outcome = work(*args, **kwargs)
        except Exception as error:
            self._entry["status"] = "failed"
            self._save()
            told = explain(error, self.stage, name, self.settings)
            self._log(f"{name}: FAILED\n{told or error}", quiet=True)
            if told is None:
                raise
            raise told from error
        seconds = time.monotonic() - began
        figures = ", ".join(f"{k} {_short(v)}" for k, v in outcome.figures.items())
        parts = [f"{name}: {outcome.status} in {seconds:.1f} s", outcome.resource, figures]
        self._log(" | ".join(part for part in parts if part))
        self._statuses.append(outcome.status)
        if outcome.resource:
            self._entry["resources"][name] = outcome.resource
        if outcome.figures:
            self._entry["figures"][name] = outcome.figures
        self._save()
        return outcome.value

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
        self._log(f"{self.stage}: finished in {self._entry['seconds']} s")

    def _log(self, line: str, quiet: bool = False) -> None:
        if not quiet:
            print(line, flush=True)
        with (self.folder / "run.log").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {self.stage} {line}\n")

    def _save(self, **changes: Any) -> None:
        summary = read_summary(self.folder) or new_summary(self.folder.name, self.settings)
        stages = [s for s in summary["stages"] if s["name"] != self.stage]
        summary["stages"] = sorted([*stages, self._entry], key=lambda s: s["name"])
        summary["seconds"] = round(sum(s["seconds"] for s in summary["stages"]), 1)
        write_summary(self.folder, {**summary, **changes})


def open_run(stage: str, settings: Settings, folder: str | Path = "") -> Run:
    """Open a stage, e.g. "02_features", in a run's folder (default: runs/interactive)."""
    folder = Path(folder) if folder else RUNS / "interactive"
    folder.mkdir(parents=True, exist_ok=True)
    return Run(stage, settings, folder)


def new_summary(run_id: str, settings: Settings) -> dict:
    """summary.json before any stage has run: every key there, nothing known yet."""
    return {
        "run_id": run_id, "target": settings.target, "env": settings.env,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0,
        "stages": [], **dict.fromkeys(SUMMARY_KEYS),
    }


def read_summary(folder: Path) -> dict | None:
    """A run's summary.json, or None before there is one."""
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_summary(folder: Path, summary: dict) -> None:
    """Write summary.json in one step, so that nobody reads half of it."""
    draft = folder / f"summary.json.{os.getpid()}"
    draft.write_text(json.dumps(summary, indent=2, default=str) + "\n")
    draft.replace(folder / "summary.json")


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


# -- what a failure means to whoever started the run ----------------------------------------

# Smallest predefined roles: Google's access-control page for Vertex AI and BigQuery.
_ROLES = {
    "01_data": "roles/bigquery.user and roles/bigquery.dataEditor",
    "02_features": "roles/bigquery.user and roles/bigquery.dataEditor",
    "03_training_set": "roles/bigquery.user and roles/bigquery.dataEditor",
    "04_feature_store": "roles/aiplatform.user",
    "05_train": "roles/aiplatform.user, roles/bigquery.user and roles/storage.objectUser",
    "06_deploy": "roles/aiplatform.user",
    "07_online_predict": "roles/aiplatform.user",
}


def explain(
    error: Exception, stage: str, attempted: str, settings: Settings
) -> StageError | None:
    """An error in the user's terms, or None if it is a bug of ours (keep its traceback)."""
    project, region = settings.project, settings.region
    if isinstance(error, StageError):
        return error
    if isinstance(error, Needed):
        return StageError(stage, attempted, error.cause, error.need, error.command)
    if isinstance(error, SourceError):
        return StageError(stage, attempted, str(error), "an export of theLook that has these")
    if isinstance(error, auth_errors.GoogleAuthError):
        return StageError(
            stage, attempted, f"no usable Google credentials ({_first_line(error)})",
            "application default credentials of an account in the project",
            "gcloud auth application-default login",
        )
    if isinstance(error, google_errors.Forbidden):
        if "has not been used" in str(error) or "SERVICE_DISABLED" in str(error):
            need, command = (
                "the APIs of BigQuery, Cloud Storage and Vertex AI",
                f"gcloud services enable bigquery.googleapis.com storage.googleapis.com "
                f"aiplatform.googleapis.com --project {project}",
            )
        else:
            role = _ROLES.get(stage, "roles/aiplatform.user").split(" and ")[0].split(",")[0]
            need = f"{_ROLES.get(stage, role)} on project {project}"
            command = (f"gcloud projects add-iam-policy-binding {project} "
                       f"--member user:YOU@EXAMPLE.COM --role {role}")
        return StageError(stage, attempted, _first_line(error), need, command)
    if isinstance(error, google_errors.NotFound):
        return StageError(
            stage, attempted, _first_line(error),
            f"the resource of an earlier stage in {project}, {region}",
            f"./run_all.sh --target {settings.target} --env {settings.env}",
        )
    if isinstance(error, google_errors.TooManyRequests):
        return StageError(
            stage, attempted, _first_line(error), f"free quota in {project}, {region}",
            "https://console.cloud.google.com/iam-admin/quotas?project=" + project,
        )
    if isinstance(error, google_errors.GoogleAPICallError):
        return StageError(
            stage, attempted, _first_line(error),
            f"the service to accept this in {project}, {region}",
        )
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
