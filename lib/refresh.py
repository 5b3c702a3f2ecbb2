"""Newer orders arrived: bring them in, compute only the snapshots that they make due, and sync.

    python -m lib.refresh [--rebuild]

Snapshots go on from the newest one in steps of snapshots.step_days. Orders, returns and corrections
that arrive late, up to label.horizon_days before the newest snapshot, make the snapshots from
there on be computed again. --rebuild copies the source and computes every snapshot anew.

Exit status: 0 refreshed, or nothing was due; 1 it failed, and the message says what is needed;
2 a bad command line or config.yaml.
"""

import argparse
import sys
from datetime import datetime, timedelta

from lib import cli, feature_store, lookups, source_load, stages, warehouse
from lib.cloud import Cloud, connect
from lib.components.data_load.src import refresh as program
from lib.config import Settings
from lib.errors import Needed
from lib.stages import Outcome

COPY, BUILD = "01_prepare_bq", "02_build_features"


def plan(settings: Settings) -> dict:
    """What lib/components/data_load/src/refresh.py is given, here and on a schedule."""
    names, (_, reads) = warehouse.BUILDS[COPY][0], warehouse.BUILDS[BUILD]
    beside = settings.model_copy(update={"tables": settings.tables.model_copy(
        update={key: f"{getattr(settings.tables, key)}_arrived" for key in names})})
    arrived = {key: beside.table(key) for key in names}
    (check,) = warehouse.render("checks/snapshot", beside)
    (changes,) = warehouse.render("refresh/changes", settings, arrived=arrived)
    (build_all,) = warehouse.render(BUILD, settings)
    (replace,) = warehouse.render(
        "refresh/replace_snapshots", settings, built=warehouse.select_in(build_all))
    return {
        "project": settings.project, "source": settings.source_title,
        "tables": {settings.table(key): {"arrived": arrived[key], "sql": sql} for key, sql in zip(
            names, warehouse.render(COPY, beside), strict=True)},
        "check": check, "changes": changes, "replace": replace,
        "features": settings.table("features"), "inputs": [settings.table(key) for key in reads],
        "parameters": {name: value for name, value in warehouse.parameters(settings).items()
                       if type(value) is int},
        "fingerprint": warehouse.fingerprint(settings, BUILD),
        "copy_labels": warehouse.labels_of(settings, COPY, []), "labels": settings.labels,
        "horizon_days": settings.label.horizon_days,
        "expiration_days": settings.retention.table_expiration_days,
        "max_bytes_billed": settings.costs.max_bytes_billed,
        "commands": {"run": settings.rerun_command(), "refresh": settings.command("lib.refresh"),
                     "rebuild": settings.command("lib.refresh", "--rebuild")}}


def snapshots(cloud: Cloud) -> Outcome:
    """Copy the source and compute the due snapshots, unless none is due.

    Returns:
        Outcome with the snapshots added and computed again, the rows in them, and the bytes that
        BigQuery estimated; its value is the time of the newest snapshot.

    Raises:
        Needed: see `run` of the program's Refresh.
    """
    scanned, table = [], cloud.settings.table("features")

    def announce(sql: str, times: dict) -> None:
        scanned.append(warehouse.announce(cloud, sql, times))

    try:
        done = program.Refresh(cloud.bigquery, plan(cloud.settings), announce).run()
    except program.Refused as refused:
        raise Needed(*refused.args) from None
    first, last, newest = done["first"], done["last"], done["newest_snapshot"]
    step = timedelta(days=cloud.settings.snapshots.step_days)
    if first > last:
        return Outcome("reused", table, {
            "snapshots added": 0, "computed again": 0,
            "newest order": f"{done['last_day']:%Y-%m-%d}",
            "next snapshot": f"{newest + step:%Y-%m-%d}"}, newest)
    again = max(0, (newest - first) // step + 1)
    figures = {"snapshots added": (last - first) // step + 1 - again, "computed again": again,
               "first": f"{first:%Y-%m-%d}", "last": f"{last:%Y-%m-%d}",
               "rows": lookups.rows_since(cloud, first), "new orders": done["new_orders"]}
    if any(scanned):
        figures["scanned_gb"] = round(sum(scanned) / 1e9, 3)
    return Outcome("created", table, figures, last)


def rebuild(cloud: Cloud) -> Outcome:
    """Copy the source and compute every snapshot, whatever exists; as `snapshots`."""
    warehouse.forget(cloud, COPY, BUILD)
    warehouse.build(cloud, COPY)
    built = warehouse.build(cloud, BUILD)
    return Outcome(built.status, built.resource, built.figures, lookups.newest_snapshot(cloud))


def labels(cloud: Cloud, newest: datetime) -> Outcome:
    """The label dates that are complete up to a snapshot, and those that the labels have."""
    due = newest - timedelta(days=cloud.settings.label.horizon_days)
    have = lookups.newest_label(cloud)
    return Outcome("done", figures={
        "newest label date": f"{have:%Y-%m-%d}" if have else "none",
        "complete up to": f"{due:%Y-%m-%d}"}, value=have is None or have < due)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("python -m lib.refresh", __doc__)
    parser.add_argument("--rebuild", action="store_true",
                        help="copy the source and compute every snapshot anew")
    return cli.run(parser.parse_args(arguments), "refresh", "the newest orders", _run)


def _run(settings: Settings, options: argparse.Namespace) -> None:
    with stages.alone("refresh") as folder:
        cloud = connect(settings)
        run = stages.open_stage("refresh", settings, folder)
        run.step("source", source_load.load, cloud)
        newest = run.step("snapshots", rebuild if options.rebuild else snapshots, cloud)
        run.step("sync", feature_store.sync, cloud)
        outdated = run.step("labels", labels, cloud, newest)
        run.finish()
    if outdated:
        print(f"to train on the newer labels: {settings.rerun_command('03')}")


if __name__ == "__main__":
    sys.exit(main())
