"""Stages of a run: log lines, resource names, figures, summary.json, and errors that help.

A notebook is one stage. It opens it with `open_run`, does its work in steps (`run.step`), and
closes it with `run.finish`. Every line is printed and appended to run.log; what a step made is
kept in summary.json, so that a run that dies half-way still tells what stands.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import requests
import tenacity
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors

from lib.config import ROOT, Settings
from lib.source import SourceError

# $CHURN_DEMO_RUNS: another folder, so that a test leaves runs/latest as it was.
RUNS = Path(os.environ.get("CHURN_DEMO_RUNS") or ROOT / "runs")
SUMMARY_KEYS = (
    "labels", "metrics", "leakage", "parity", "freshness", "latency_ms", "predictions")
# Refusals that another try may not meet. BigQuery's and Cloud Storage's clients try again by
# themselves; those of Vertex AI do not.
TRANSIENT = (google_errors.TooManyRequests, google_errors.ServiceUnavailable)


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    status: created (made now), reused (stood already), done (neither), started (goes on in the
        background; a later step of the same name waits for it).
    resource: full name of the main resource, or "".
    figures: key figures for the log line, name -> number or short text.
    value: what the notebook goes on with.
    """

    status: Literal["created", "reused", "done", "started"]
    resource: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    value: Any = None


class StageError(RuntimeError):
    """A step failed: where, on what, why, what is needed, and the command that provides it."""

    def __init__(self, stage: str, attempted: str, cause: str, need: str, command: str = "",
                 resource: str = ""):
        self.stage, self.attempted, self.cause = stage, attempted, cause
        self.need, self.command, self.resource = need, command, resource
        told = {"stage": stage, "attempted": attempted, "resource": resource, "cause": cause,
                "needed": need, "command": command}
        super().__init__("\n".join(f"{k + ':':<11}{v}" for k, v in told.items() if v))

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

    def __init__(self, stage: str, settings: Settings, folder: Path, quiet: bool = False):
        self.stage, self.settings, self.folder, self._quiet = stage, settings, folder, quiet
        self._started = time.monotonic()
        self._entry = {
            "name": stage, "started_at": _now(), "seconds": 0.0, "status": "running",
            "resources": {}, "figures": {}, "steps": []}
        self._statuses: list[str] = []
        self._begun = self._save()["started_at"]

    def step(self, name: str, work: Callable[..., Outcome], *args: Any, **kwargs: Any) -> Any:
        """Run `work(*args, **kwargs)`, log a line before and after, keep what it made.

        Returns the Outcome's value.

        Raises:
            StageError: for any failure that a user can act on, in their terms.
        """
        self._log(f"{name}: started")
        began = time.monotonic()
        try:
            outcome = self._attempts(name)(work, *args, **kwargs)
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
        self._entry["steps"].append({
            "name": name, "status": outcome.status, "seconds": round(seconds, 2),
            "started": round(self._since_start() - seconds, 2)})
        if outcome.resource:
            self._entry["resources"][name] = outcome.resource
        if outcome.figures:
            self._entry["figures"][name] = outcome.figures
        self._save()
        return outcome.value

    def _attempts(self, name: str) -> tenacity.Retrying:
        """A step is done again after "too many requests" or "unavailable": it makes or reuses,
        so that a second time does no harm."""
        retries = self.settings.retries

        def say(attempt: tenacity.RetryCallState) -> None:
            self._log(f"  {name}: {_message(attempt.outcome.exception())}; attempt "
                      f"{attempt.attempt_number + 1} of {retries.attempts} in "
                      f"{attempt.next_action.sleep:.0f} s")

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TRANSIENT), reraise=True, before_sleep=say,
            stop=tenacity.stop_after_attempt(retries.attempts),
            wait=tenacity.wait_exponential_jitter(
                retries.first_pause_seconds, retries.longest_pause_seconds,
                jitter=retries.first_pause_seconds))

    def _since_start(self) -> float:
        """Seconds since the run began, by the clock: a notebook is a process of its own."""
        began = datetime.fromisoformat(self._begun)
        return (datetime.now(UTC) - began).total_seconds()

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
        if not (quiet or self._quiet):
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


def open_run(
    stage: str, settings: Settings, folder: str | Path = "", quiet: bool = False
) -> Run:
    """Open a stage, e.g. "02_features", in a run's folder (default: runs/interactive).

    quiet: its lines go to run.log alone.
    """
    folder = Path(folder) if folder else RUNS / "interactive"
    folder.mkdir(parents=True, exist_ok=True)
    return Run(stage, settings, folder, quiet)


def new_summary(run_id: str, settings: Settings) -> dict:
    """summary.json before any stage has run: every key there, nothing known yet."""
    return {
        "run_id": run_id, "target": settings.target, "env": settings.env,
        "started_at": _now(), "seconds": 0.0, "stages": [], "background": [],
        **dict.fromkeys(SUMMARY_KEYS),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _background(stages: list[dict]) -> list[dict]:
    """What was started in one step and ready when a later one of the same name had ended:
    name, started (seconds since the run began) and seconds (None: nobody waited yet)."""
    steps = [step for stage in stages for step in stage.get("steps", [])]
    found = []
    for place, step in enumerate(steps):
        if step["status"] == "started":
            ends = [s["started"] + s["seconds"] for s in steps[place + 1:]
                    if s["name"] == step["name"]]
            seconds = round(max(ends) - step["started"], 2) if ends else None
            found.append({"name": step["name"], "started": step["started"], "seconds": seconds})
    return found


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


@dataclass(frozen=True)
class Rule:
    """What is needed after an error of one kind. `words` is searched in Google's message; the
    texts are filled in from `_known`."""

    kinds: tuple[type[Exception], ...]
    words: str
    need: str
    command: str = ""


# About the project that a call is counted for: google/api/error_reason.proto has the first, whose
# text is "Caller does not have required permission to use project ..."; Google's page on
# troubleshooting application default credentials the second.
MAY_NOT_USE = r"USER_PROJECT_DENIED|permission to use project|serviceusage\.services\.use\b"
NO_QUOTA_PROJECT = "requires a quota project"
CONSUMER = "roles/serviceusage.serviceUsageConsumer"

# The first that fits is told. Wordings are Google's; where one could not be seen, any that says
# the same is taken.
RULES = (
    Rule((auth_errors.InvalidOperation, auth_errors.RefreshError, google_errors.Unauthorized), "",
         "credentials that are still good: they have expired or were taken back",
         "gcloud auth application-default login"),
    Rule((auth_errors.DefaultCredentialsError,), "",
         "application default credentials of an account in the project",
         "gcloud auth application-default login"),
    Rule((auth_errors.TransportError, requests.ConnectionError, requests.Timeout), "",
         "a network on which Google's addresses (for target local: the local cloud) answer",
         "{again}"),
    Rule((auth_errors.GoogleAuthError,), "",
         "credentials that Google takes", "gcloud auth application-default login"),
    # These two before the rules for an API and for quota, whose words Google uses here too.
    Rule((google_errors.Forbidden,), NO_QUOTA_PROJECT,
         "a quota project in the credentials, which a person's have not by themselves",
         "gcloud auth application-default set-quota-project {project}"),
    Rule((google_errors.Forbidden,), MAY_NOT_USE,
         "serviceusage.services.use, as in {consumer} on project {quota_project}, which the calls "
         "are counted for; that takes some minutes to count",
         "gcloud projects add-iam-policy-binding {quota_project} --member user:YOU@EXAMPLE.COM "
         "--role {consumer}"),
    Rule((google_errors.Forbidden,), "has not been used|SERVICE_DISABLED|accessNotConfigured",
         "the API {api}, enabled in {project}; that takes some minutes to count",
         "gcloud services enable {api} --project {project}"),
    Rule((google_errors.Forbidden,), "(?i)quota|rateLimitExceeded",
         "more quota in {project}, {region}, or another try later",
         "https://console.cloud.google.com/iam-admin/quotas?project={project}"),
    Rule((google_errors.Forbidden,), "",
         "{permission}{roles} on project {project}; that takes some minutes to count",
         "gcloud projects add-iam-policy-binding {project} --member user:YOU@EXAMPLE.COM "
         "--role {role}"),
    Rule((google_errors.BadRequest,), "bytes billed",
         "fewer customers (snapshots.sample_percent) or a higher costs.max_bytes_billed",
         "edit config.yaml, then {again}"),
    Rule((google_errors.NotFound, google_errors.BadRequest, google_errors.Conflict),
         r"(?i)not found in location|different locations?\b|in location|wrong location",
         # BigQuery words a table that is just gone in the same way.
         "everything made, and in one place: BigQuery and Cloud Storage in {location}, Vertex AI "
         "in {region}; the list tells what is missing and what stands elsewhere",
         "bq ls --project_id={project} --format=prettyjson"),
    Rule((google_errors.GoogleAPICallError,),
         r"(?i)manifest[ _]unknown|image\b.*(not found|not exist|cannot be pulled|no such)",
         "that image in {repository}, by the digest of lib/images.lock.json",
         "scripts/build_push_all.sh --target {target} --env {env}"),
    Rule((google_errors.GoogleAPICallError,),
         "(?i)health|model server|container (exited|ended|terminated)",
         "a serving container that starts, reads its model and answers /health; its log says "
         "what stopped it",
         "gcloud logging read 'resource.type=\"aiplatform.googleapis.com/Endpoint\"' "
         "--project {project} --freshness 1h --limit 20"),
    Rule((google_errors.NotFound,), "",
         "the resource of an earlier stage in {project}, {region}",
         "./run_all.sh --target {target} --env {env}"),
    Rule((google_errors.Conflict,), "",
         "that name to be free, or the resource to be ours: it stands already, in another place "
         "or in somebody else's hands",
         ".venv/bin/python -m lib.teardown --target {target} --env {env}"),
    Rule((google_errors.TooManyRequests,), "",
         "free quota in {project}, {region}; it was tried {attempts} times",
         "https://console.cloud.google.com/iam-admin/quotas?project={project}"),
    Rule((google_errors.ServiceUnavailable,), "",
         "the service to answer; it was tried {attempts} times, what was made is kept",
         "{again}"),
    Rule((google_errors.GoogleAPICallError,), "",
         "the service to accept this in {project}, {region}", "{again}"),
)

# Smallest predefined roles for a stage's work: Google's access-control page for Vertex AI.
# README, "Permissions", has each permission alone.
_ROLES = {
    "01_data": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "02_features": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "03_training_set": ("roles/bigquery.user", "roles/bigquery.dataEditor"),
    "05_train": ("roles/aiplatform.user", "roles/storage.objectUser", "roles/bigquery.user"),
}


def explain(
    error: Exception, stage: str, attempted: str, settings: Settings
) -> StageError | None:
    """An error in the user's terms, or None if it is a bug of ours (keep its traceback)."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, Needed):
        return StageError(stage, attempted, error.cause, error.need, error.command)
    if isinstance(error, SourceError):
        return StageError(stage, attempted, str(error), "an export of theLook that has these")
    for rule in RULES:
        if isinstance(error, rule.kinds) and re.search(rule.words, str(error)):
            known = _known(error, stage, settings)
            return StageError(
                stage, attempted, _message(error), rule.need.format(**known),
                rule.command.format(**known), _resource(error))
    return None


def _known(error: Exception, stage: str, settings: Settings) -> dict[str, object]:
    """What the texts of RULES may name."""
    permission = re.search(r"[Pp]ermission '?([a-z]+\.[\w.]+)'?", str(error))
    api = re.search(r"([a-z]+\.googleapis\.com)(?! (?:POST|GET))", _message(error))
    used = re.search(r"permission to use project ([\w.:-]*\w)", str(error))
    service = "bigquery" if "/bigquery/" in str(error) else "aiplatform"
    roles = _ROLES.get(stage, ("roles/aiplatform.user",))
    number = stage[:2] if stage[:2].isdigit() and stage[:2] != "00" else ""
    return {
        "project": settings.project, "region": settings.region, "target": settings.target,
        "env": settings.env, "location": settings.place.location,
        "repository": settings.serve.image_repository, "attempts": settings.retries.attempts,
        "permission": f"{permission[1]}, as in " if permission else "",
        "roles": " and ".join(roles), "role": roles[0], "consumer": CONSUMER,
        "quota_project": used[1] if used else settings.project,
        "api": api[1] if api else f"{service}.googleapis.com",
        "again": settings.again(number)}


def _message(error: Exception) -> str:
    """What Google said: the clients put the HTTP method and URL in front of it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^(\d{3} )?(?:GET|POST|PUT|PATCH|DELETE) http[^ ]+: ", r"\1", text)[:500]


def _resource(error: Exception) -> str:
    """The resource that the request was about; "" if the error does not tell."""
    given = getattr(error, "resource_name", "")
    path = re.search(r"https?://[^/ ]+/[^ ?]*?((?:projects|b)/[^ ?]+)", str(error))
    return given or (path[1].rstrip(":") if path else "")
