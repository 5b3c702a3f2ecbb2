"""Faults planted on purpose, each in a small copy beside the healthy resources.

Every function here copies the rows of a few customers into a dataset of its own, serves them
through a feature group and a view of their own (on the one online store), makes one mistake on
the way, compares online with the healthy offline rows, and removes all of it again.
"""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pandas as pd
from google.api_core.exceptions import NotFound
from google.cloud import aiplatform_v1 as vertex

from lib import feature_store, lookups, waiting, warehouse
from lib.cloud import Cloud
from lib.proof import parity
from lib.stages import Outcome

# What someone typed instead of what stands in sql/02_build_features.sql.
WRONG_WINDOW = ("interval 90 day", "interval 60 day")
WRONG_MIDNIGHT = ("timestamp(snapshot_date)", "timestamp(snapshot_date, 'Asia/Seoul')")


# -- the faults ---------------------------------------------------------------------------------


def without_dense(cloud: Cloud) -> Outcome:
    """A feature group made without `dense`: NULL is served as the last value that was none."""
    with _planting(cloud) as (there, customers):
        build_features(there)
        sparse = there.settings.feature_view.model_copy(update={"dense": False})
        serve(_with(there, feature_view=sparse))
        return _caught(cloud, there, customers)


def another_window(cloud: Cloud) -> Outcome:
    """Served from a table whose "90d" columns were computed over 60 days."""
    with _planting(cloud) as (there, customers):
        build_features(there, WRONG_WINDOW)
        serve(there)
        return _caught(cloud, there, customers)


def local_midnight(cloud: Cloud) -> Outcome:
    """Served from snapshots taken at midnight in Seoul: nine hours before midnight UTC."""
    with _planting(cloud) as (there, customers):
        build_features(there, WRONG_MIDNIGHT)
        serve(there)
        return _caught(cloud, there, customers)


def never_synced(cloud: Cloud) -> Outcome:
    """A new snapshot was built, and the view was not synced after it."""
    with _planting(cloud) as (there, customers):
        build_features(there)
        run_sql(there, "checks/forget_newest_snapshot")
        serve(there)
        build_features(there)
        return _caught(cloud, there, customers)


FAULTS = {
    "no dense": without_dense, "60 days as 90d": another_window,
    "midnight in Seoul": local_midnight, "never synced": never_synced,
}


def table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per comparison: customers and values that are not equal, and the first of them."""
    rows = []
    for name, compared in found.items():
        bad = parity.differences(compared)
        rows.append((name, bad["customer_id"].nunique(), len(bad),
                     ", ".join(dict.fromkeys(bad["feature"])) or "none",
                     parity.told(bad, most=1).split("; and")[0] or ""))
    return pd.DataFrame(
        rows, columns=["fault", "customers", "values", "features", "for example"])


def caught(found: dict[str, pd.DataFrame]) -> dict[str, int]:
    """Fault -> values that the parity check found different, for summary.json."""
    return {name: len(parity.differences(compared))
            for name, compared in found.items() if name != "healthy"}


@contextmanager
def _planting(cloud: Cloud) -> Iterator[tuple[Cloud, list[str]]]:
    """A copy for one fault, removed at the end whatever happens."""
    customers = choose(cloud, cloud.settings.checks.planted_customers)
    try:
        yield copy(cloud, "planted", customers), customers
    finally:
        remove(cloud, "planted")


def _caught(cloud: Cloud, there: Cloud, customers: list[str]) -> Outcome:
    """What the parity check says of the copy's view, against the healthy offline rows."""
    compared = parity.compare(there, customers, lookups.newest_rows(cloud, customers))
    bad = parity.differences(compared)
    figures = {
        "customers": len(customers), "customers caught": bad["customer_id"].nunique(),
        "features": bad["feature"].nunique(), "mismatches": len(bad)}
    return Outcome("done", figures=figures, value=compared)


# -- a copy beside the healthy resources --------------------------------------------------------


def choose(cloud: Cloud, count: int) -> list[str]:
    """`count` customers, the same ones each time: half ordered in the last 90 days, half did
    in the year before, so that they have NULLs now and had values then."""
    sql = (f"select customer_id from `{cloud.settings.table('features')}` where feature_timestamp "
           "= @t and days_since_last_order < 400 qualify row_number() over (partition by "
           f"orders_90d > 0 order by farm_fingerprint(customer_id)) <= {count // 2}")
    found = warehouse.query(cloud, sql, t=lookups.newest_snapshot(cloud))
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
    """Copy these customers' raw rows beside; what an interrupted run left there goes first."""
    remove(cloud, name)
    there = beside(cloud, name)
    warehouse.create_dataset(there)
    run_sql(there, "checks/copy_raw_tables", customers=customers)
    return there


def build_features(there: Cloud, mistake: tuple[str, str] | None = None) -> None:
    """Run sql/02_build_features.sql in the copy, with a mistake if one is given.

    Raises:
        ValueError: the file no longer holds the words that the mistake replaces.
    """
    (statement,) = warehouse.render("02_build_features", there.settings)
    if mistake:
        right, wrong = mistake
        if right not in statement:
            raise ValueError(f"sql/02_build_features.sql does not say {right!r}")
        statement = statement.replace(right, wrong)
    warehouse.query(there, statement)


def serve(there: Cloud) -> Outcome:
    """Group, features and view of the copy, and a sync."""
    feature_store.create_group(there)
    feature_store.register_features(there)
    feature_store.create_view(there)
    return feature_store.sync(there, force=True)


def remove(cloud: Cloud, name: str) -> None:
    """Delete the copy `name`: view, group, dataset. What is not there is gone already."""
    there = beside(cloud, name)
    view, group = feature_store.view_name(there), feature_store.group_name(there)
    forced = vertex.DeleteFeatureGroupRequest(name=group, force=True)
    for gone, delete in ((view, lambda: there.online_admin.delete_feature_view(name=view)),
                         (group, lambda: there.registry.delete_feature_group(request=forced))):
        with suppress(NotFound):
            waiting.operation(there.settings, "removal", delete(), gone)
    there.bigquery.delete_dataset(
        there.settings.dataset, delete_contents=True, not_found_ok=True)


def run_sql(there: Cloud, file: str, **values: object) -> None:
    """Run every statement of sql/<file>.sql, each with those of `values` that it names."""
    for statement in warehouse.render(file, there.settings):
        used = {k: v for k, v in values.items() if re.search(rf"@{k}\b", statement)}
        warehouse.query(there, statement, **used)
