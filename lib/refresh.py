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
from datetime import UTC, datetime, timedelta

from lib import cli, feature_store, lookups, stages, warehouse
from lib.cloud import Cloud, connect
from lib.config import Settings
from lib.errors import Needed
from lib.stages import Outcome

COPY, BUILD = "01_prepare_bq", "02_build_features"


def snapshots(cloud: Cloud) -> Outcome:
    """Copy the source and compute the due snapshots, unless none is due and nothing changed.

    The table of features changes in one statement. Before any table changes, the first snapshot
    to compute is written into a label of the features, and it is removed at the end: a refresh
    that was killed in between is done again from there by the next one.

    Returns:
        Outcome with the snapshots added and computed again, the rows in them, and the bytes that
        BigQuery estimated; its value is the time of the newest snapshot.

    Raises:
        Needed: the features are not built, or by another definition; the source lost orders, was
            replaced, or changed before the last horizon: all of these need --rebuild or a run.
    """
    labels = _require_built(cloud)
    facts = warehouse.source_changes(cloud)
    first, last, newest = (facts[name].to_pydatetime() for name in (
        "snapshots_from", "snapshots_until", "newest_snapshot"))
    _require_growth(cloud, facts, first)
    if (unfinished := labels.get(warehouse.UNFINISHED, warehouse.NOTHING)) != warehouse.NOTHING:
        first = min(first, datetime.fromisoformat(unfinished).replace(tzinfo=UTC))
    step = timedelta(days=cloud.settings.snapshots.step_days)
    table = cloud.settings.table("features")
    if first > last:
        return Outcome("reused", table, {
            "snapshots added": 0, "computed again": 0,
            "newest order": f"{facts['last_day']:%Y-%m-%d}",
            "next snapshot": f"{newest + step:%Y-%m-%d}"}, newest)
    warehouse.set_labels(
        cloud, "features", **{warehouse.UNFINISHED: f"{first:%Y-%m-%d}"})
    warehouse.forget(cloud, COPY)
    copied = warehouse.build(cloud, COPY)
    scanned = warehouse.replace_snapshots(cloud, first, last)
    warehouse.stamp(cloud, "features", warehouse.expected_labels(cloud, BUILD))
    again = max(0, (newest - first) // step + 1)
    figures = {"snapshots added": (last - first) // step + 1 - again, "computed again": again,
               "first": f"{first:%Y-%m-%d}", "last": f"{last:%Y-%m-%d}",
               "rows": lookups.rows_since(cloud, first), "new orders": facts["new_orders"]}
    if scanned := scanned / 1e9 + copied.figures.get("scanned_gb", 0):
        figures["scanned_gb"] = round(scanned, 3)
    return Outcome("created", table, figures, last)


def _require_built(cloud: Cloud) -> dict[str, str]:
    """The labels of the features; Needed if they are not built as config.yaml and sql/ say now."""
    table = warehouse.find_table(cloud, "features")
    if table is None or "build" not in table.labels:
        raise Needed("the features are not built yet", "a whole run first",
                     cloud.settings.rerun_command())
    if table.labels.get("fingerprint") != warehouse.fingerprint(cloud.settings, BUILD):
        raise Needed(
            f"{cloud.settings.table('features')} was built by another sql/{BUILD}.sql or other "
            "settings, and its snapshots must all be of one definition",
            "every snapshot computed anew", _rebuild(cloud.settings))
    return table.labels


def _require_growth(cloud: Cloud, facts: dict, first: datetime) -> None:
    """Raise Needed unless the source is the copied one, grown, with at most late changes."""
    settings, newest = cloud.settings, facts["newest_snapshot"]
    oldest = newest - timedelta(days=settings.label.horizon_days)
    if 2 * facts["changed_orders"] > facts["raw_orders"]:
        raise Needed(
            f"{facts['changed_orders']:,} of the {facts['raw_orders']:,} orders that were copied "
            f"are gone from {settings.source_title} or are others now: it was replaced, and did "
            "not grow. Google generates the public theLook anew every day, with new ids",
            "every snapshot computed anew; or a source that grows", _rebuild(settings))
    if facts["last_day"] < newest:
        raise Needed(
            f"the newest order is of {facts['last_day']:%Y-%m-%d}, before the newest snapshot of "
            f"{newest:%Y-%m-%d}: the source lost its newest orders",
            "the orders back in the source, or every snapshot computed anew", _rebuild(settings))
    if first < oldest:
        raise Needed(
            f"the source changed from {facts['changed_from']:%Y-%m-%d} on: a refresh computes the "
            f"snapshots of the last {settings.label.horizon_days} days again (label.horizon_days), "
            f"those from {oldest:%Y-%m-%d} on. Changed: {facts['new_orders']:,} new orders, "
            f"{facts['changed_orders']:,} others, {facts['changed_others']:,} items, sign-ups or "
            "categories", "every snapshot computed anew", _rebuild(settings))


def _rebuild(settings: Settings) -> str:
    return settings.command("lib.refresh", "--rebuild")


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
        run.step("source", warehouse.load_source, cloud)
        newest = run.step("snapshots", rebuild if options.rebuild else snapshots, cloud)
        run.step("sync", feature_store.sync, cloud)
        outdated = run.step("labels", labels, cloud, newest)
        run.finish()
    if outdated:
        print(f"to train on the newer labels: {settings.rerun_command('03')}")


if __name__ == "__main__":
    sys.exit(main())
