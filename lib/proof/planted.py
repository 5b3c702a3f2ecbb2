"""Faults planted on purpose, to show that the parity check notices them.

All work on one small copy: the raw rows of a few customers in a dataset of its own. Each fault
builds its features, makes one mistake on the way, and serves them through a feature group and a
view of its own (on the one online store); what they serve is compared with the healthy offline
rows.
"""

import dataclasses
import re
from collections.abc import Callable
from contextlib import suppress

import pandas as pd
from google.api_core.exceptions import NotFound
from google.cloud import aiplatform_v1 as vertex

from lib import feature_store, lookups, waiting, warehouse
from lib.cloud import Cloud
from lib.language import mark
from lib.proof import parity
from lib.stages import Outcome

NAME = "planted"  # ending of the copy's names
# (words of sql/02_build_features.sql, what someone might type instead)
WRONG_WINDOW = ("interval 90 day", "interval 60 day")
WRONG_MIDNIGHT = ("timestamp(snapshot_date)", "timestamp(snapshot_date, 'Asia/Seoul')")


# -- the faults: each makes one mistake while it serves a copy ------------------------------------


def without_dense(copied: Cloud) -> None:
    """A feature group without `dense`: a NULL is served as the last value that was not NULL."""
    build_features(copied)
    sparse = copied.settings.feature_view.model_copy(update={"dense": False})
    serve(_with(copied, feature_view=sparse))


def another_window(copied: Cloud) -> None:
    """Served from a table whose "90d" columns were computed over 60 days."""
    build_features(copied, WRONG_WINDOW)
    serve(copied)


def local_midnight(copied: Cloud) -> None:
    """Served from snapshots taken at midnight in Seoul: nine hours before midnight UTC."""
    build_features(copied, WRONG_MIDNIGHT)
    serve(copied)


def never_synced(copied: Cloud) -> None:
    """A new snapshot was built, and the view was not synced after it."""
    build_features(copied)
    run_sql(copied, "checks/forget_newest_snapshot")
    serve(copied)
    build_features(copied)


FAULTS = {
    mark("no dense"): without_dense, mark("60 days as 90d"): another_window,
    mark("midnight in Seoul"): local_midnight, mark("never synced"): never_synced,
}


def plant(
    copied: Cloud, fault: Callable[[Cloud], None], offline: pd.DataFrame
) -> pd.DataFrame:
    """Compare what a copy with this fault serves with the healthy offline rows; stop serving it.

    offline: of `healthy_rows`.

    Returns:
        The table of `parity.compare`.
    """
    fault(copied)
    compared = parity.compare(copied, list(offline.index), offline)
    stop_serving(copied)
    return compared


def healthy_rows(cloud: Cloud) -> pd.DataFrame:
    """The newest row of each customer of the copies, by customer_id."""
    return lookups.newest_rows(cloud, choose(cloud, cloud.settings.checks.planted_customers))


def check(cloud: Cloud, healthy: pd.DataFrame) -> Outcome:
    """Plant every fault, unless targets.<target>.planted_faults is false: each takes minutes on
    Google Cloud.

    healthy: the comparison of the healthy store, to show beside the faults.

    Returns:
        Outcome whose value is {"healthy" or the fault's name: comparison}, or None if left out.
    """
    if not cloud.settings.target_settings.planted_faults:
        return left_out(cloud, "planted_faults")
    found, offline = {mark("healthy"): healthy}, healthy_rows(cloud)
    try:
        copied = copy(cloud, NAME, list(offline.index))
        for name, fault in FAULTS.items():
            print(f"  planted fault: {name}", flush=True)
            found[name] = plant(copied, fault, offline)
    finally:
        remove(cloud, NAME)
    noticed = sum(count > 0 for count in caught(found).values())
    return Outcome("done", figures={
        "planted": len(FAULTS), "caught": noticed,
        "customers in each": cloud.settings.checks.planted_customers}, value=found)


def left_out(cloud: Cloud, switch: str, value: object = None) -> Outcome:
    """The Outcome of a check that config.yaml switches off for this target."""
    return Outcome("done", figures={
        "left out by": f"targets.{cloud.settings.target}.{switch}: false"}, value=value)


def table(found: dict[str, pd.DataFrame] | None) -> pd.DataFrame | None:
    """One row per comparison: the customers and values that are not equal, and the first one."""
    if found is None:
        return None
    rows = []
    for name, compared in found.items():
        bad = parity.differences(compared)
        features = ", ".join(dict.fromkeys(bad["feature"])) or "none"
        example = parity.describe(bad.head(1))
        rows.append((name, bad["customer_id"].nunique(), len(bad), features, example))
    return pd.DataFrame(
        rows, columns=["fault", "customers", "values", "features", "for example"])


def caught(found: dict[str, pd.DataFrame] | None) -> dict[str, int]:
    """Fault -> number of values that the parity check found different, for summary.json."""
    return {name: len(parity.differences(compared))
            for name, compared in (found or {}).items() if name != "healthy"}


# -- a copy beside the healthy resources --------------------------------------------------------


def choose(cloud: Cloud, count: int) -> list[str]:
    """`count` customers for a copy (sql/checks/planted_customers.sql); the same ones each time."""
    found = warehouse.query_file(
        cloud, "checks/planted_customers", feature_timestamp=lookups.newest_snapshot(cloud),
        count_each=count // 2)
    return sorted(found["customer_id"], key=lambda customer: (len(customer), customer))


def beside(cloud: Cloud, name: str) -> Cloud:
    """The same project and store, with a dataset, group and view that end in `_<name>`."""
    settings = cloud.settings
    names = {key: f"{getattr(settings.names, key)}_{name}"
             for key in ("dataset", "feature_group", "feature_view")}
    return _with(cloud, names=settings.names.model_copy(update=names), source=settings.dataset)


def _with(cloud: Cloud, **changes: object) -> Cloud:
    return dataclasses.replace(cloud, settings=cloud.settings.model_copy(update=changes))


def copy(cloud: Cloud, name: str, customers: list[str]) -> Cloud:
    """Copy the raw rows of these customers; removes first what an interrupted run left."""
    remove(cloud, name)
    copied = beside(cloud, name)
    warehouse.create_dataset(copied)
    run_sql(copied, "checks/copy_raw_tables", customers=customers)
    return copied


def build_features(copied: Cloud, *mistakes: tuple[str, str]) -> None:
    """Run sql/02_build_features.sql in the copy, with mistakes: (words of it, wrong words).

    Raises:
        ValueError: the file no longer holds the words that a mistake replaces.
    """
    (statement,) = warehouse.render("02_build_features", copied.settings)
    for right, wrong in mistakes:
        if right not in statement:
            raise ValueError(f"sql/02_build_features.sql does not say {right!r}")
        statement = statement.replace(right, wrong)
    warehouse.query(copied, statement)


def serve(copied: Cloud) -> Outcome:
    """Create the copy's group, features and view, and sync the view."""
    again = _retrying(copied)
    for make in (feature_store.create_group, feature_store.register_features,
                 feature_store.create_view):
        again(make, copied)
    return again(feature_store.sync, copied, force=True)


def _retrying(copied: Cloud):
    """Retries one part of a check: a stage could only repeat the whole check, with all its
    calls."""
    return waiting.retrying(copied.settings, lambda line: print(f"  {line}", flush=True))


def remove(cloud: Cloud, name: str) -> None:
    """Delete the view, group and dataset of the copy `name`, if they exist."""
    copied = beside(cloud, name)
    stop_serving(copied)
    copied.bigquery.delete_dataset(
        copied.settings.dataset, delete_contents=True, not_found_ok=True)


def stop_serving(copied: Cloud) -> None:
    """Delete the view and the group of a copy, if they exist."""
    view, group = feature_store.view_name(copied), feature_store.group_name(copied)
    forced = vertex.DeleteFeatureGroupRequest(name=group, force=True)
    for resource, delete in (
        (view, lambda: copied.online_admin.delete_feature_view(name=view)),
        (group, lambda: copied.registry.delete_feature_group(request=forced)),
    ):
        with suppress(NotFound):
            waiting.operation(copied.settings, "removal", _retrying(copied)(delete), resource)


def run_sql(copied: Cloud, file: str, **values: object) -> None:
    """Run every statement of sql/<file>.sql, each with those of `values` that it names."""
    for statement in warehouse.render(file, copied.settings):
        used = {k: v for k, v in values.items() if re.search(rf"@{k}\b", statement)}
        warehouse.query(copied, statement, **used)
