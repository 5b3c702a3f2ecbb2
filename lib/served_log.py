"""The log of what was served: each answer of the predictor, with its time and its features.

A request appends one line to a file of the run: some 30 microseconds, and no network.
`load` appends the file's new lines to a BigQuery table by a load job (Google charges nothing for
it), at the end of a run or whenever it is called. Both are the same on each target; config.yaml
switches them off with targets.<target>.served_log.

The log holds customer ids and features: personal data, which lib/README.md tells how to delete.
"""

from __future__ import annotations

import io
import json
import os
import uuid
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import ENTITY, RUNS, Settings
from lib.stages import Outcome

if TYPE_CHECKING:
    from lib.cloud import Cloud

# features: a JSON object, so that the table stays as it is when the feature list changes. It is
# NULL where nothing was served.
SCHEMA = {
    "request_id": "STRING", "served_at": "TIMESTAMP", ENTITY: "STRING",
    "feature_timestamp": "TIMESTAMP", "features": "STRING", "churn_probability": "FLOAT64"}


def path(settings: Settings) -> Path:
    """The file of this run for what is served from this dataset's features."""
    return RUNS / settings.run_id / f"served-{settings.dataset}.jsonl"


def append(
    settings: Settings, at: datetime, customer_id: str, features: dict[str, object] | None = None,
    taken_at: datetime | None = None, probability: float | None = None,
) -> None:
    """Add a line, unless the log is off. Threads and processes may do so at the same time.

    at: when the request came. features: what was served, None for nothing; taken_at: their
    snapshot. A disk that refuses the line is a warning: the answer is worth more than its log.
    """
    if not settings.target_settings.served_log:
        return
    row = {"request_id": uuid.uuid4().hex, "served_at": at.isoformat(), ENTITY: str(customer_id),
           "feature_timestamp": taken_at and taken_at.isoformat(),
           "features": None if features is None else json.dumps(features),
           "churn_probability": probability}
    # The newline comes first: a line that a full disk cut off does not swallow the next one.
    line, file = f"\n{json.dumps(row)}".encode(), path(settings)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # One write with O_APPEND: no other line comes in between, and a killed process loses none.
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(handle, line) < len(line):
                raise OSError("only a part of the line fits on the disk")
        finally:
            os.close(handle)
    except OSError as error:
        warnings.warn(f"what was served is not logged: {error}", stacklevel=2)


def read(file: Path, start: int = 0) -> tuple[list[dict], int]:
    """The rows of a log's file from byte `start` on, and where they end; torn lines are left out.

    A last line that is not whole may still be being written: it comes after that end.
    """
    try:
        with file.open("rb") as log:
            log.seek(start)
            content = log.read()
    except FileNotFoundError:
        return [], start
    rows, torn = [], 0
    for line in content.split(b"\n"):
        try:
            row, torn = json.loads(line), 0
        except ValueError:  # an empty line, or one that was cut off
            torn = len(line)
            continue
        if isinstance(row, dict) and row.keys() == SCHEMA.keys():
            rows.append(row)
    return rows, start + len(content) - torn


def load(cloud: Cloud, file: Path | None = None) -> Outcome:
    """Append the rows that were logged since the last `load` to the table `tables.served`: of this
    run, and of every other in the folder of runs (python -m lib.predict logs into one of its own).

    One that is killed before it has noted how far it came loads them again; the comparison counts
    a request once. file: only this one.
    """
    from google.cloud import bigquery

    settings = cloud.settings
    table, loaded = settings.table("served"), 0
    files = [file] if file else sorted(
        {each.resolve() for each in RUNS.glob(f"*/{path(settings).name}")})
    for each in files:
        mark = each.with_suffix(".loaded")
        rows, end = read(each, int(mark.read_text()) if mark.exists() else 0)
        if not rows:
            continue
        config = bigquery.LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", write_disposition="WRITE_APPEND",
            schema=[bigquery.SchemaField(name, kind) for name, kind in SCHEMA.items()],
            time_partitioning=bigquery.TimePartitioning(field="served_at"),
            clustering_fields=[ENTITY], labels=settings.labels)
        lines = io.BytesIO("\n".join(map(json.dumps, rows)).encode())
        # size=None: a resumable upload, which both targets accept.
        cloud.bigquery.load_table_from_file(lines, table, size=None, job_config=config).result()
        draft = mark.with_suffix(".draft")
        draft.write_text(str(end))
        draft.replace(mark)  # in one step: half a number would end the next load
        loaded += len(rows)
    return Outcome("done", table, {"rows": loaded})
