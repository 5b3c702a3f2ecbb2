"""Make the source readable by SQL: load a folder of files into BigQuery, and check its contents."""

from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd

from lib import source, source_checks, warehouse
from lib.cloud import Cloud
from lib.errors import Needed, existing
from lib.stages import Outcome


def load(cloud: Cloud) -> Outcome:
    """Make the orders readable by SQL, and check them: load a folder; a BigQuery dataset is read
    where it is.

    Rows that sql/01 leaves out are printed, and counted in the Outcome's figures.

    Raises:
        lib.source.SourceError: a file, column or value of the folder cannot be used.
        Needed: the data would make the demo meaningless (see lib.source_checks.require), or the
            files changed while they were read.
    """
    outcome = _load(cloud)
    found = facts(cloud)
    last_usual = found["last_usual_date"]
    newest = orders_after(cloud, last_usual) if last_usual else None
    unusable = source_checks.require(found, newest, cloud.settings)
    left_out = source.filled_in(cloud.settings.source_folder) if (
        cloud.settings.source_is_folder) else []
    for problem in [*left_out, *unusable.values()]:
        print(f"  {problem}", flush=True)
    return replace(outcome, figures=outcome.figures | {
        name: found[name] for name in unusable})


def _load(cloud: Cloud) -> Outcome:
    """Load a folder, or reuse what was loaded from the same files."""
    settings = cloud.settings
    if not settings.source_is_folder:
        return Outcome("done", settings.source_dataset, {"as": "read where it is"})
    origin = source.origin(settings)
    found = warehouse.find_dataset(cloud, settings.source_dataset)
    if found and found.description == origin and all(  # a table may have expired
            existing(cloud.bigquery.get_table, found.table(name)) for name in source.NEEDED):
        return Outcome("reused", settings.source_dataset)
    tables = source.read_export(settings.source_folder)  # raises before anything is loaded
    if source.origin(settings) != origin:
        raise Needed(f"the files in {settings.source_folder} changed while they were read",
                     "a folder that nothing writes to", settings.rerun_command())

    def describe(text: str | None) -> None:
        dataset = cloud.bigquery.get_dataset(settings.source_dataset)
        dataset.description = text
        cloud.bigquery.update_dataset(dataset, ["description"])

    warehouse.create_dataset(cloud, settings.source_dataset)
    describe(None)  # until all is loaded, so that an interrupted load is repeated
    for name, rows in tables.items():
        warehouse.load_table(cloud, f"{settings.source_dataset}.{name}", rows, source.NEEDED[name])
    describe(origin)
    return Outcome("created", settings.source_dataset,
                   {f"{name} rows": rows.num_rows for name, rows in tables.items()})


def facts(cloud: Cloud) -> dict:
    """The row of sql/checks/source.sql, column -> value; None for NULL."""
    (row,) = warehouse.query_file(cloud, "checks/source").to_dict("records")
    return {name: None if pd.isna(value) else value for name, value in row.items()}


def orders_after(cloud: Cloud, day: str) -> pd.DataFrame:
    """The newest orders after a day (2026-07-03): order_id, user_id, ordered_at, order_count."""
    return warehouse.query_file(
        cloud, "checks/orders_after", day=datetime.fromisoformat(day).replace(tzinfo=UTC))
