"""Bring newer orders in, and compute the snapshots that they make due: the second program here.

    python src/refresh.py --plan JSON

The plan has the SQL of the project, rendered, and its parameters (`plan` of lib/refresh.py writes
it; `python -m lib.refresh` calls `refresh` of this file). In this order:

1. The source is read once, into tables beside the copied ones: what arrived.
2. They are compared with the copied tables: which snapshots are due.
3. A label of the features says which snapshot is the first to compute (at the end: `none`). So a
   refresh that was killed from here on is done again by the next one.
4. The copied tables are replaced by what arrived; the features change in one MERGE.

Needed on Google Cloud: roles/bigquery.dataEditor on the dataset, roles/bigquery.jobUser.
Exit status: 0 refreshed, or nothing was due; 1 refused or failed, 2 a bad command line.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

UNFINISHED, NOTHING = "refresh_from", "none"


class Refused(Exception):
    """A refresh cannot do this. Arguments: what was found, what is needed, the command."""

    def __str__(self):
        found, needed, command = self.args
        return f"{found}; needed: {needed}: {command}"


def connect(project: str):
    """BigQuery's client; without `project` it would use Google's tenant project in a job."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    if os.environ.get("BIGQUERY_EMULATOR_HOST"):  # the client reads it by itself
        return bigquery.Client(project=project, credentials=AnonymousCredentials())
    return bigquery.Client(project=project)


def query(client, plan: dict, sql: str, before: Callable | None = None, **times: datetime) -> list:
    """Run one statement with those parameters that it names, after `before(sql, times)`; its rows.
    """
    from google.cloud import bigquery

    if before:
        before(sql, times)
    given = {name: ("INT64", value) for name, value in plan["parameters"].items()}
    given |= {name: ("TIMESTAMP", value) for name, value in times.items()}
    config = bigquery.QueryJobConfig(
        labels=plan["labels"], maximum_bytes_billed=plan["max_bytes_billed"],
        query_parameters=[bigquery.ScalarQueryParameter(name, kind, value)
                          for name, (kind, value) in given.items()
                          if re.search(rf"@{name}\b", sql)])
    return list(client.query(sql, job_config=config).result())


def label(client, plan: dict, table: str, **labels: str) -> None:
    """Add labels to a table, or replace their values. If it expires, its time begins anew: BigQuery
    counts it from the table's creation, and neither a MERGE nor a copy creates it."""
    found = client.get_table(table)
    found.labels, fields = {**found.labels, **plan["labels"], **labels}, ["labels"]
    if found.expires and plan["expiration_days"]:
        found.expires = datetime.now(UTC) + timedelta(days=plan["expiration_days"])
        fields.append("expires")
    client.update_table(found, fields)


def read_source(client, plan: dict, before: Callable | None = None) -> dict:
    """Copy the source into the tables of what arrived; how they differ from the copied tables: the
    row of sql/refresh/changes.sql.

    Raises:
        Refused: the source changed while it was read.
    """
    for table in plan["tables"].values():
        client.delete_table(table["arrived"], not_found_ok=True)  # of a refresh that was killed
        query(client, plan, table["sql"], before)
    failed = [row["check"] for row in query(client, plan, plan["check"], before)
              if row["status"] == "fail"]
    if failed:
        raise Refused(
            f"the source does not belong together: {', '.join(failed)}: it changed while it was "
            "read", "a source that stays as it is for some minutes", plan["commands"]["refresh"])
    return dict(query(client, plan, plan["changes"], before)[0].items())


def require_growth(plan: dict, facts: dict) -> None:
    """Raise Refused unless the source is the copied one, grown, with at most late changes."""
    newest, days = facts["newest_snapshot"], plan["horizon_days"]
    rebuild = "every snapshot computed anew", plan["commands"]["rebuild"]
    if 2 * facts["changed_orders"] > facts["raw_orders"]:
        raise Refused(
            f"{facts['changed_orders']:,} of the {facts['raw_orders']:,} orders that were copied "
            f"are gone from {plan['source']} or are others now: it was replaced, and did not grow. "
            "Google generates the public theLook anew every day, with new ids", *rebuild)
    if facts["last_day"] > datetime.now(UTC):  # the snapshots would go on up to that day
        raise Refused(f"the source has an order of {facts['last_day']:%Y-%m-%d}, in the future",
                      "its right date", plan["commands"]["refresh"])
    if facts["last_day"] < newest:
        raise Refused(
            f"the newest order is of {facts['last_day']:%Y-%m-%d}, before the newest snapshot of "
            f"{newest:%Y-%m-%d}: the source lost its newest orders", *rebuild)
    if facts["snapshots_from"] < (oldest := newest - timedelta(days=days)):
        raise Refused(
            f"the source changed from {facts['changed_from']:%Y-%m-%d} on: a refresh computes the "
            f"snapshots of the last {days} days again (label.horizon_days), those from "
            f"{oldest:%Y-%m-%d} on. Changed: {facts['new_orders']:,} new orders, "
            f"{facts['changed_orders']:,} others, {facts['changed_others']:,} items, sign-ups or "
            "categories", *rebuild)


def replace_copies(client, plan: dict) -> None:
    """Replace each copied table by what arrived. Until all are, no run may reuse one of them.
    (Google does not say whether a table that is replaced keeps its labels: all are set again.)"""
    for name in plan["tables"]:
        label(client, plan, name, fingerprint=NOTHING)
    for name, table in plan["tables"].items():
        client.copy_table(table["arrived"], name, job_config=_truncate(plan)).result()
        label(client, plan, name, fingerprint=NOTHING, build=str(time.time_ns()))
    for name in plan["tables"]:
        label(client, plan, name, **plan["copy_labels"])


def _truncate(plan: dict):
    from google.cloud import bigquery

    return bigquery.CopyJobConfig(write_disposition="WRITE_TRUNCATE", labels=plan["labels"])


def replace_snapshots(client, plan: dict, before: Callable | None, first: datetime,
                      last: datetime) -> None:
    """Compute the snapshots from `first` to `last` and put them into the features, in one MERGE;
    snapshots older than the history go."""
    query(client, plan, plan["replace"], before, snapshots_from=first, snapshots_until=last)
    builds = [client.get_table(table).labels["build"] for table in plan["inputs"]]
    label(client, plan, plan["features"], **{
        UNFINISHED: NOTHING, "inputs": "-".join(builds), "build": str(time.time_ns())})


def refresh(client, plan: dict, before: Callable | None = None) -> dict:
    """Bring newer orders in, and compute the due snapshots, unless none is due.

    Args:
        before: called with each statement and its times before it is run.

    Returns:
        first and last, the times of the first and last computed snapshot (first > last: none was
        due); newest_snapshot, the newest one before; new_orders; last_day, of the newest order.

    Raises:
        Refused: the features are not built, or by another definition; the source lost orders, was
            replaced, or changed before the last horizon: all of these need a rebuild or a run.
    """
    from google.api_core.exceptions import NotFound

    try:
        labels = client.get_table(plan["features"]).labels
    except NotFound:
        labels = {}
    if "build" not in labels:
        raise Refused("the features are not built yet", "a whole run first",
                      plan["commands"]["run"])
    if labels.get("fingerprint") != plan["fingerprint"]:
        raise Refused(
            f"{plan['features']} was built by another SQL or other settings, and its snapshots "
            "must all be of one definition", "every snapshot computed anew; on a schedule also the "
            "schedule created again", plan["commands"]["rebuild"])
    try:
        facts = read_source(client, plan, before)
        require_growth(plan, facts)
        first, last = facts["snapshots_from"], facts["snapshots_until"]
        if (unfinished := labels.get(UNFINISHED, NOTHING)) != NOTHING:
            first = min(first, datetime.fromisoformat(unfinished).replace(tzinfo=UTC))
        if first <= last:
            label(client, plan, plan["features"], **{UNFINISHED: f"{first:%Y-%m-%d}"})
            replace_copies(client, plan)
            replace_snapshots(client, plan, before, first, last)
    finally:
        for table in plan["tables"].values():
            client.delete_table(table["arrived"], not_found_ok=True)
    return {**facts, "first": first, "last": last}


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=json.loads, required=True)
    plan = parser.parse_args(argv).plan

    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError

    try:
        done = refresh(connect(plan["project"]), plan)
    except (Refused, GoogleAPICallError, RetryError, GoogleAuthError) as error:
        print(f"refresh: {error}", file=sys.stderr)
        return 1
    print(f"refresh: no snapshot is due; the newest order is of {done['last_day']:%Y-%m-%d}"
          if done["first"] > done["last"] else
          f"refresh: snapshots of {done['first']:%Y-%m-%d} to {done['last']:%Y-%m-%d} computed; "
          f"{done['new_orders']} new orders", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
