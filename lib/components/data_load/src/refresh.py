"""Bring newer orders in, and compute the snapshots that they make due: the second program here.

    python src/refresh.py --plan JSON

The plan has the SQL of the project, rendered, and its parameters (lib/operate/schedule.py writes
it). Snapshots go on from the newest one. The features change in one MERGE; before any table
changes, a label of the features says which snapshot is the first to compute, and at the end it says
`none`: a refresh that was killed in between is done again from there by the next one.

Needed on Google Cloud: roles/bigquery.dataEditor on the dataset, roles/bigquery.jobUser.
Exit status: 0 refreshed, or nothing was due; 1 refused or failed, 2 a bad command line.
"""

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta

UNFINISHED, NOTHING = "refresh_from", "none"


class Refused(Exception):
    """What a refresh cannot do; the message says why."""


def connect(project: str):
    """BigQuery's client; without `project` it would use Google's tenant project in a job."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    if os.environ.get("BIGQUERY_EMULATOR_HOST"):  # the client reads it by itself
        return bigquery.Client(project=project, credentials=AnonymousCredentials())
    return bigquery.Client(project=project)


def query(client, plan: dict, sql: str, **times: datetime):
    """Run one statement with those parameters that it names; its rows."""
    from google.cloud import bigquery

    given = {name: ("INT64", value) for name, value in plan["parameters"].items()}
    given |= {name: ("TIMESTAMP", value) for name, value in times.items()}
    config = bigquery.QueryJobConfig(
        labels=plan["labels"], maximum_bytes_billed=plan["max_bytes_billed"],
        query_parameters=[bigquery.ScalarQueryParameter(name, kind, value)
                          for name, (kind, value) in given.items()
                          if re.search(rf"@{name}\b", sql)])
    return list(client.query(sql, job_config=config).result())


def label(client, table: str, **labels: str) -> None:
    """Add labels to a table, or replace their values."""
    found = client.get_table(table)
    found.labels = {**found.labels, **labels}
    client.update_table(found, ["labels"])


def check(plan: dict, facts: dict, labels: dict, first: datetime) -> None:
    """Raise Refused unless the features are of this plan, and the source has only grown."""
    newest, needed = facts["newest_snapshot"], "; needed: `python -m lib.refresh --rebuild`"
    if labels.get("fingerprint") != plan["fingerprint"]:
        raise Refused("the features were built by another SQL or other settings than this "
                      "schedule; needed: create the schedule again")
    if 2 * facts["changed_orders"] > facts["raw_orders"]:
        raise Refused(f"{facts['changed_orders']} of {facts['raw_orders']} copied orders are gone "
                      f"or others now: the source was replaced{needed}")
    if facts["last_day"] > datetime.now(UTC):  # the snapshots would go on up to that day
        raise Refused(f"the source has an order of {facts['last_day']:%Y-%m-%d}, in the future; "
                      "needed: its right date")
    if facts["last_day"] < newest:
        raise Refused(f"the source lost its newest orders{needed}")
    if first < newest - timedelta(days=plan["horizon_days"]):
        raise Refused(f"the source changed from {facts['changed_from']:%Y-%m-%d} on, longer ago "
                      f"than {plan['horizon_days']} days before the newest snapshot{needed}")


def refresh(client, plan: dict) -> str:
    """Do it; what was done, in a line."""
    facts = dict(query(client, plan, plan["changes"])[0].items())
    labels = client.get_table(plan["features"]).labels
    first, last = facts["snapshots_from"], facts["snapshots_until"]
    check(plan, facts, labels, first)
    if (unfinished := labels.get(UNFINISHED, NOTHING)) != NOTHING:
        first = min(first, datetime.fromisoformat(unfinished).replace(tzinfo=UTC))
    if first > last:
        return f"no snapshot is due; the newest order is of {facts['last_day']:%Y-%m-%d}"
    label(client, plan["features"], **{UNFINISHED: f"{first:%Y-%m-%d}"})
    kept = {table: client.get_table(table).labels for table in plan["copies"]}
    for table in plan["copies"]:  # until the copies are checked, no run may reuse one of them
        label(client, table, fingerprint=NOTHING)
    for table, statement in plan["copies"].items():
        query(client, plan, statement)
        label(client, table, **{**plan["labels"], **kept[table], "fingerprint": NOTHING,
                                "build": str(time.time_ns())})
    failed = [row["check"] for row in query(client, plan, plan["check"]) if row["status"] == "fail"]
    if failed:
        raise Refused(f"the source changed while it was copied: {', '.join(failed)}; the next "
                      "refresh copies it again")
    for table in plan["copies"]:
        label(client, table, fingerprint=plan["copy_fingerprint"])
    query(client, plan, plan["replace"], snapshots_from=first, snapshots_until=last)
    builds = [client.get_table(table).labels["build"] for table in plan["inputs"]]
    label(client, plan["features"], **{
        UNFINISHED: NOTHING, "inputs": "-".join(builds), "build": str(time.time_ns())})
    features = client.get_table(plan["features"])
    if features.expires and plan["expiration_days"]:  # else it counts from the last whole build
        features.expires = datetime.now(UTC) + timedelta(days=plan["expiration_days"])
        client.update_table(features, ["expires"])
    return (f"snapshots of {first:%Y-%m-%d} to {last:%Y-%m-%d} computed; "
            f"{facts['new_orders']} new orders")


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=json.loads, required=True)
    plan = parser.parse_args(argv).plan

    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError

    try:
        print(f"refresh: {refresh(connect(plan['project']), plan)}", flush=True)
    except (Refused, GoogleAPICallError, RetryError, GoogleAuthError) as error:
        print(f"refresh: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
