"""Bring newer orders in, and compute the snapshots that they make due: the second program here.

    python src/refresh.py --plan JSON

The plan has the SQL of the project, rendered, and its parameters (`plan` of lib/refresh.py writes
it, and `python -m lib.refresh` uses the class of this file). In this order:

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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

UNFINISHED, NOTHING = "refresh_from", "none"


class Refused(Exception):
    """A refresh cannot do this. Arguments: what was found, what is needed, the command."""

    def __str__(self):
        found, needed, command = self.args
        return f"{found}; needed: {needed}: {command}"


def connect(project: str) -> bigquery.Client:
    """BigQuery's client; without `project` it would use Google's tenant project in a job."""
    if os.environ.get("BIGQUERY_EMULATOR_HOST"):  # the client reads it by itself
        return bigquery.Client(project=project, credentials=AnonymousCredentials())
    return bigquery.Client(project=project)


@dataclass
class Refresh:
    """One refresh. before: called with each statement and its times before it is run."""

    client: bigquery.Client
    plan: dict
    before: Callable[[str, dict], object] | None = None

    def run(self) -> dict:
        """Bring newer orders in, and compute the due snapshots, unless none is due.

        Returns:
            first and last, the times of the first and last computed snapshot (first > last: none
            was due); newest_snapshot, the newest one before; new_orders; last_day, of the newest
            order.

        Raises:
            Refused: the features are not built, or by another definition; the source lost orders,
                was replaced, or changed before the last horizon: these need a rebuild or a run.
        """
        unfinished = self.require_built().get(UNFINISHED, NOTHING)
        try:
            facts = self.read_source()
            self.require_growth(facts)
            first, last = facts["snapshots_from"], facts["snapshots_until"]
            if unfinished != NOTHING:
                first = min(first, datetime.fromisoformat(unfinished).replace(tzinfo=UTC))
            if first <= last:
                self.label(self.plan["features"], **{UNFINISHED: f"{first:%Y-%m-%d}"})
                self.replace_copies()
                self.replace_snapshots(first, last)
        finally:
            for table in self.plan["tables"].values():
                self.client.delete_table(table["arrived"], not_found_ok=True)
        return {**facts, "first": first, "last": last}

    def require_built(self) -> dict[str, str]:
        """The labels of the features; Refused unless they are built by the SQL of this plan."""
        commands = self.plan["commands"]
        try:
            labels = self.client.get_table(self.plan["features"]).labels
        except NotFound:
            labels = {}
        if "build" not in labels:
            raise Refused("the features are not built yet", "a whole run first", commands["run"])
        if labels.get("fingerprint") != self.plan["fingerprint"]:
            raise Refused(
                f"{self.plan['features']} was built by another SQL or other settings, and its "
                "snapshots must all be of one definition", "every snapshot computed anew; on a "
                "schedule also the schedule created again", commands["rebuild"])
        return labels

    def read_source(self) -> dict:
        """Copy the source into the tables of what arrived; how they differ from the copied tables:
        the row of sql/refresh/changes.sql. Refused if the source changed while it was read."""
        for table in self.plan["tables"].values():
            # One of a refresh that was killed may have another layout.
            self.client.delete_table(table["arrived"], not_found_ok=True)
            self.query(table["sql"])
        failed = [row["check"] for row in self.query(self.plan["check"])
                  if row["status"] == "fail"]
        if failed:
            raise Refused(
                f"the source does not belong together: {', '.join(failed)}: it changed while it "
                "was read", "a source that stays as it is for some minutes",
                self.plan["commands"]["refresh"])
        return dict(self.query(self.plan["changes"])[0].items())

    def require_growth(self, facts: dict) -> None:
        """Raise Refused unless the source is the copied one, grown, with at most late changes."""
        newest, last_day = facts["newest_snapshot"], facts["last_day"]
        commands, days = self.plan["commands"], self.plan["horizon_days"]
        rebuild = "every snapshot computed anew", commands["rebuild"]
        if 2 * facts["changed_orders"] > facts["raw_orders"]:
            raise Refused(
                f"{facts['changed_orders']:,} of the {facts['raw_orders']:,} orders that were "
                f"copied are gone from {self.plan['source']} or are others now: it was replaced, "
                "and did not grow. Google generates the public theLook anew every day, with new "
                "ids", *rebuild)
        if last_day > datetime.now(UTC):  # the snapshots would go on up to that day
            raise Refused(f"the source has an order of {last_day:%Y-%m-%d}, in the future",
                          "its right date", commands["refresh"])
        if last_day < newest:
            raise Refused(
                f"the newest order is of {last_day:%Y-%m-%d}, before the newest snapshot of "
                f"{newest:%Y-%m-%d}: the source lost its newest orders", *rebuild)
        if facts["snapshots_from"] < (oldest := newest - timedelta(days=days)):
            raise Refused(
                f"the source changed from {facts['changed_from']:%Y-%m-%d} on: a refresh computes "
                f"the snapshots of the last {days} days again (label.horizon_days), those from "
                f"{oldest:%Y-%m-%d} on. Changed: {facts['new_orders']:,} new orders, "
                f"{facts['changed_orders']:,} others, {facts['changed_others']:,} items, sign-ups "
                "or categories", *rebuild)

    def replace_copies(self) -> None:
        """Replace each copied table by what arrived. Until all are, no run may reuse one of them.
        (Google does not say whether a table that is replaced keeps its labels: all are set again.)
        """
        replacing = bigquery.CopyJobConfig(
            write_disposition="WRITE_TRUNCATE", labels=self.plan["labels"])
        for name, table in self.plan["tables"].items():
            self.label(name, fingerprint=NOTHING)
            self.client.copy_table(table["arrived"], name, job_config=replacing).result()
        for name in self.plan["tables"]:
            self.label(name, build=str(time.time_ns()), **self.plan["copy_labels"])

    def replace_snapshots(self, first: datetime, last: datetime) -> None:
        """Compute the snapshots from `first` to `last` and put them into the features, in one
        MERGE; snapshots older than the history go."""
        self.query(self.plan["replace"], snapshots_from=first, snapshots_until=last)
        builds = [self.client.get_table(table).labels["build"] for table in self.plan["inputs"]]
        self.label(self.plan["features"], **{
            UNFINISHED: NOTHING, "inputs": "-".join(builds), "build": str(time.time_ns())})

    def query(self, sql: str, **times: datetime) -> list[bigquery.Row]:
        """Run one statement with those parameters that it names; its rows."""
        if self.before:
            self.before(sql, times)
        given = {name: ("INT64", value) for name, value in self.plan["parameters"].items()}
        given |= {name: ("TIMESTAMP", value) for name, value in times.items()}
        config = bigquery.QueryJobConfig(
            labels=self.plan["labels"], maximum_bytes_billed=self.plan["max_bytes_billed"],
            query_parameters=[bigquery.ScalarQueryParameter(name, kind, value)
                              for name, (kind, value) in given.items()
                              if re.search(rf"@{name}\b", sql)])
        return list(self.client.query(sql, job_config=config).result())

    def label(self, table: str, **labels: str) -> None:
        """Add labels to a table, or replace their values. If it expires, its time begins anew:
        BigQuery counts it from the table's creation, and neither a MERGE nor a copy creates it."""
        found, days = self.client.get_table(table), self.plan["expiration_days"]
        found.labels, fields = {**found.labels, **self.plan["labels"], **labels}, ["labels"]
        if found.expires and days:
            found.expires = datetime.now(UTC) + timedelta(days=days)
            fields.append("expires")
        self.client.update_table(found, fields)


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=json.loads, required=True)
    plan = parser.parse_args(argv).plan
    try:
        done = Refresh(connect(plan["project"]), plan).run()
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
