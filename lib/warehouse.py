"""BigQuery: run a sql/ file, build its tables once, estimate and cap its cost, read a table.

The files in sql/ are BigQuery SQL with Jinja placeholders for names and the feature list
(`{{ tables.features }}`) and query parameters for values (`@horizon_days`).
"""

import io
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery

from lib import source
from lib.cloud import Cloud
from lib.config import ANY_RATE, ROOT, Settings
from lib.errors import Needed, existing, wrong_location
from lib.stages import Outcome

# The tables that each file makes, and those of ours that it reads; of the raw tables, which are
# built together, at most three: their build times must fit into a label of 63 characters.
BUILDS = {
    "01_prepare_bq": (
        ("raw_users", "raw_orders", "raw_order_items", "raw_products", "source_counts"), ()),
    "02_build_features": (("features",), ("raw_orders", "raw_order_items", "raw_users")),
    "03_build_labels_churn": (("labels",), ("raw_orders",)),
    "04_build_train": (("train",), ("features", "labels")),
    "04_build_train_naive": (("train_naive",), ("features", "labels")),
}
# The head of a statement that makes a table: its name and its layout.
HEAD = re.compile(
    r"^create or replace table `(?P<table>[^`]+)`"
    r"(?:\npartition by timestamp_trunc\((?P<column>\w+), (?P<unit>\w+)\))?"
    r"(?:\ncluster by (?P<clusters>\w+(?:, \w+)*))?\nas$", re.MULTILINE)
TIB, DAY_MS = 2**40, 24 * 3600 * 1000
# The snapshots that sql/02 builds unless it is told otherwise: all.
FIRST_TIME, LAST_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
# A label of the features while a refresh changes tables: the first snapshot that it computes.
UNFINISHED, NOTHING = "refresh_from", "none"
READER = "READER"  # of a dataset: BigQuery's own name of roles/bigquery.dataViewer on it


# -- from a file of sql/ to statements that run ------------------------------------------------


def render(file: str, settings: Settings, **names: object) -> list[str]:
    """The statements of sql/<file>.sql with every name filled in; `names`: further ones.

    Raises:
        jinja2.UndefinedError: for a placeholder that nothing fills.
    """
    text = (ROOT / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    tables = {key: settings.table(key) for key in settings.tables.model_dump()}
    rendered = environment.from_string(text).render(
        tables=tables, source=settings.source_dataset, label_column=settings.label.column,
        features=settings.features, **names,
    )
    return [part.strip() for part in rendered.split(";\n") if part.strip()]


def select_in(statement: str) -> str:
    """The query of a `create or replace table ... as` of a sql/ file."""
    return statement.split("\nas\n", 1)[1].removesuffix(";")


def parameters(settings: Settings) -> dict[str, int | float | datetime]:
    """Every query parameter that a sql/ file may use."""
    low, high = settings.positive_rate_band or ANY_RATE
    return {
        "sample_percent": settings.snapshots.sample_percent,
        "step_days": settings.snapshots.step_days,
        "snapshots_from": FIRST_TIME,
        "snapshots_until": LAST_TIME,
        "history_days": settings.snapshots.history_days,
        "horizon_days": settings.label.horizon_days,
        "active_days": settings.label.active_days,
        "positive_rate_low": low,
        "positive_rate_high": high,
        "min_join_coverage": settings.checks.min_join_coverage,
        "max_null_rate": settings.checks.max_null_rate,
        "min_customers": settings.checks.min_customers,
        "min_week_of_orders": settings.checks.min_week_of_orders,
    }


def job_config(
    cloud: Cloud, sql: str, values: dict | None = None, **options: object
) -> bigquery.QueryJobConfig:
    """Parameters that `sql` uses (`values` before those of config.yaml), labels and `options`, for
    one statement."""
    used = _used(parameters(cloud.settings) | (values or {}), sql)
    return bigquery.QueryJobConfig(
        query_parameters=[_parameter(name, value) for name, value in used.items()],
        labels=cloud.settings.labels, **options)


def _capped(cloud: Cloud, sql: str, values: dict | None = None) -> bigquery.QueryJobConfig:
    """`job_config` of a statement that runs; BigQuery refuses it above the cap on bytes."""
    return job_config(
        cloud, sql, values, maximum_bytes_billed=cloud.settings.costs.max_bytes_billed)


def _used(values: dict, sql: str) -> dict:
    return {name: value for name, value in values.items() if re.search(rf"@{name}\b", sql)}


def _parameter(name: str, value: object):
    kinds = {str: "STRING", int: "INT64", float: "FLOAT64", datetime: "TIMESTAMP"}
    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, kinds[type(value[0])], value)
    return bigquery.ScalarQueryParameter(name, kinds.get(type(value), "TIMESTAMP"), value)


# -- tables, which are built once --------------------------------------------------------------


def build(cloud: Cloud, file: str) -> Outcome:
    """Make the tables of sql/<file>.sql, or reuse them if nothing they depend on changed.

    Each table has three labels: `fingerprint` (of the SQL, the parameters and the source),
    `inputs` (the builds of the tables that it reads) and `build` (when). The old fingerprint is
    taken away first and the labels are written last, so that an interrupted build is repeated.
    BigQuery does not replace a table by one with another layout ("Instead, DROP the table, and
    then recreate it"), so an old table of ours with another layout is deleted first.

    Raises:
        Needed: an input is not built yet, a statement would scan more than the cap, a table with
            another layout is not ours, or the source changed between two statements of 01.
        google.api_core.exceptions.GoogleAPICallError: BigQuery refused a statement.
    """
    settings = cloud.settings
    makes, _ = BUILDS[file]
    statements, labels = render(file, settings), expected_labels(cloud, file)
    tables = [find_table(cloud, key) for key in makes]
    if all(t is not None and labels.items() <= t.labels.items() for t in tables):
        return Outcome("reused", settings.table(makes[-1]), _figures(tables))
    outdated = {settings.table(key) for key, table, statement
                in zip(makes, tables, statements, strict=True)
                if table is not None and _has_other_layout(cloud, table, statement)}
    # All before the first: the cap must stop the build before it changes or deletes a table.
    scanned = sum(announce(cloud, select_in(statement), what=f"{file}, statement {number} of "
                           f"{len(statements)}") for number, statement in enumerate(statements, 1))
    if any(tables):  # Google does not say whether a table that is replaced keeps its labels
        forget(cloud, file)
    for statement in statements:
        name, _ = layout_in_sql(statement)
        if name in outdated:
            cloud.bigquery.delete_table(name, not_found_ok=True)
        cloud.bigquery.query(statement, job_config=_capped(cloud, statement)).result()
    if file == "01_prepare_bq":
        require_snapshot(cloud)
    tables = [stamp(cloud, key, labels) for key in makes]
    figures = _figures(tables)
    if scanned:
        figures |= {"scanned_gb": round(scanned / 1e9, 3),
                    "usd_at_most": round(dollars(settings, scanned), 4)}
    return Outcome("created", settings.table(makes[-1]), figures)


def fingerprint(settings: Settings, file: str) -> str:
    """Changes with the SQL of sql/<file>.sql, its parameters and, for 01, the source."""
    statements = render(file, settings)
    used = _used(parameters(settings), " ".join(statements))
    origin = [] if BUILDS[file][1] else [settings.thelook, source.origin(settings)]
    return settings.fingerprint(statements, used, origin)


def expected_labels(cloud: Cloud, file: str) -> dict[str, str]:
    """The labels that the tables of sql/<file>.sql have if nothing they depend on changed.

    Raises:
        Needed: an input is not built yet.
    """
    reads = BUILDS[file][1]
    inputs = [built_at(cloud, key) for key in reads]
    if None in inputs:
        raise Needed(f"sql/{file}.sql reads {', '.join(reads)}, not all built yet",
                     "the earlier stages", cloud.settings.rerun_command())
    return labels_of(cloud.settings, file, inputs)


def labels_of(settings: Settings, file: str, inputs: list[str]) -> dict[str, str]:
    """The labels of the tables of sql/<file>.sql, made from these builds of their inputs."""
    return {"fingerprint": fingerprint(settings, file),
            "inputs": "-".join(inputs) or NOTHING, UNFINISHED: NOTHING}


def stamp(cloud: Cloud, key: str, labels: dict[str, str]) -> bigquery.Table:
    """Label one of our tables as built now, from what `expected_labels` said; the table."""
    table = cloud.bigquery.get_table(cloud.settings.table(key))
    table.labels = {**cloud.settings.labels, **labels, "build": str(time.time_ns())}
    return cloud.bigquery.update_table(table, ["labels"])


def _figures(tables: list[bigquery.Table]) -> dict[str, int]:
    return {f"{table.table_id} rows": table.num_rows for table in tables}


def built_at(cloud: Cloud, key: str) -> str | None:
    """The `build` label of one of our tables (nanoseconds since 1970), None if not built."""
    table = find_table(cloud, key)
    return table.labels.get("build") if table else None


def find_table(cloud: Cloud, key: str) -> bigquery.Table | None:
    """One of our tables, or None if it does not exist. key: a key of `tables` in config.yaml."""
    return existing(cloud.bigquery.get_table, cloud.settings.table(key))


def forget(cloud: Cloud, *files: str) -> None:
    """Let the next `build` of these files make their tables again."""
    for table in [find_table(cloud, key) for file in files for key in BUILDS[file][0]]:
        if table and table.labels.get("fingerprint", NOTHING) != NOTHING:
            table.labels = {**table.labels, "fingerprint": NOTHING}
            cloud.bigquery.update_table(table, ["labels"])


def require_snapshot(cloud: Cloud) -> None:
    """Check that the raw tables belong together; if not, let the next run build them again.

    Raises:
        Needed: with the checks of sql/checks/snapshot.sql that failed.
    """
    checks = query_file(cloud, "checks/snapshot")
    failed = checks[checks["status"] == "fail"]
    if len(failed):
        forget(cloud, "01_prepare_bq")
        texts = [f"{row.check} = {row.value:,.0f}" for row in failed.itertuples()]
        raise Needed(
            "the copied tables do not belong together: " + ", ".join(texts) + ": the source "
            "changed while it was copied, or a copy was changed",
            "a source that stays as it is for some minutes; the next run copies it again",
            cloud.settings.rerun_command())


# -- what a statement costs --------------------------------------------------------------------


def estimate(cloud: Cloud, statement: str, values: dict | None = None) -> int:
    """Bytes that one statement would scan, by a dry run (free). The local cloud says 0.

    No cap is sent: if BigQuery enforces it in a dry run, `announce` would not come to its message.
    """
    config = job_config(cloud, statement, values, dry_run=True, use_query_cache=False)
    return cloud.bigquery.query(statement, job_config=config).total_bytes_processed or 0


def dollars(settings: Settings, scanned: int) -> float:
    """Price of that many bytes on demand; the first TiB of a month is free."""
    return scanned / TIB * settings.costs.usd_per_tib_scanned


def announce(cloud: Cloud, statement: str, values: dict | None = None,
             what: str = "a statement") -> int:
    """Print what one statement will cost; the bytes of its estimate.

    Raises:
        Needed: it would scan more than the cap.
    """
    scanned, cap = estimate(cloud, statement, values), cloud.settings.costs.max_bytes_billed
    if scanned:
        print(f"  {what}: will scan {scanned / 1e9:.3f} GB, at most "
              f"${dollars(cloud.settings, scanned):.4f}; the first TiB a month is free", flush=True)
    if scanned > cap:
        raise Needed(
            f"a statement would scan {scanned / 1e9:.1f} GB, over the cap of {cap / 1e9:.1f} GB",
            "fewer customers (snapshots.sample_percent) or a higher costs.max_bytes_billed",
            "edit config.yaml")
    return scanned


# -- how BigQuery stores a table ---------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How BigQuery stores a table.

    partition: (column, unit), the unit in capitals as in BigQuery's API ("DAY"), or None.
    clusters: the columns that it is clustered by, in their order.
    """

    partition: tuple[str | None, str] | None = None
    clusters: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = [f"partitioned by {self.partition[0]} ({self.partition[1]})"] if self.partition else []
        by += [f"clustered by {', '.join(self.clusters)}"] if self.clusters else []
        return " and ".join(by) or "neither partitioned nor clustered"


def layout_in_sql(statement: str) -> tuple[str, Layout]:
    """Full name and layout of the table that a statement of a sql/ file makes.

    Raises:
        Needed: its first lines are written differently from the files' own.
    """
    head = HEAD.search(statement)
    if head is None:
        raise Needed(
            f"a statement that begins {statement[:80]!r} cannot be read",
            "first lines of the form that sql/02_build_features.sql has: table, partition, "
            "clusters, as", "git diff sql")
    partition = (head["column"], head["unit"].upper()) if head["column"] else None
    clusters = tuple(head["clusters"].split(", ")) if head["clusters"] else ()
    return head["table"], Layout(partition, clusters)


def layout_of(table: bigquery.Table) -> Layout:
    """The layout of an existing table."""
    partition = None
    if table.time_partitioning:
        partition = table.time_partitioning.field, table.time_partitioning.type_
    elif table.range_partitioning:
        partition = table.range_partitioning.field, "RANGE"
    return Layout(partition, tuple(table.clustering_fields or ()))


def _has_other_layout(cloud: Cloud, table: bigquery.Table, statement: str) -> bool:
    """True if an existing table of ours has another layout than the statement makes.

    A table without labels, left by an interrupted build, is ours if its dataset is.
    (The local BigQuery keeps no layout, so every table that should have one is rebuilt there.)

    Raises:
        Needed: its layout is different, and it is not ours.
    """
    settings, (name, wanted) = cloud.settings, layout_in_sql(statement)
    if layout_of(table) == wanted:
        return False
    labels = table.labels or cloud.bigquery.get_dataset(
        bigquery.DatasetReference(table.project, table.dataset_id)).labels
    if not settings.owns(labels):
        raise Needed(
            f"table {name} exists, is {layout_of(table)}, and has no labels "
            f"app={settings.app} and env={settings.env}: it is not ours to replace by one "
            f"{wanted}",
            "another dataset (names.dataset in config.yaml), or this table deleted",
            f"bq rm -t {table.project}:{table.dataset_id}.{table.table_id}")
    return True


# -- datasets ----------------------------------------------------------------------------------


def find_dataset(cloud: Cloud, name: str = "") -> bigquery.Dataset | None:
    """The app's dataset, or another one (project.dataset); None if it does not exist."""
    return existing(cloud.bigquery.get_dataset, name or cloud.settings.dataset)


def create_dataset(cloud: Cloud, name: str | None = None) -> Outcome:
    """Create or reuse the app's dataset (or another one: project.dataset) in its location.

    Its tables expire after retention.table_expiration_days, if that is set.

    Raises:
        Needed: it exists in another location.
    """
    settings, location = cloud.settings, cloud.settings.target_settings.location
    name = name or settings.dataset
    if found := find_dataset(cloud, name):
        if found.location != location:
            raise wrong_location("dataset", name, found.location, location)
        return Outcome("reused", name)
    dataset = bigquery.Dataset(name)
    dataset.location, dataset.labels = location, settings.labels
    if days := settings.retention.table_expiration_days:
        dataset.default_table_expiration_ms = days * DAY_MS
    cloud.bigquery.create_dataset(dataset)
    return Outcome("created", name)


def grant_reader(cloud: Cloud, email: str) -> None:
    """Let a service account read the tables of the app's dataset (BigQuery Data Viewer).

    BigQuery takes no entry of an account that was deleted, such as the one of a view that was, and
    names it deleted:serviceAccount:EMAIL?uid=N (unverified).
    """
    dataset = cloud.bigquery.get_dataset(cloud.settings.dataset)
    entry = bigquery.AccessEntry(role=READER, entity_type="userByEmail", entity_id=email)
    if entry not in dataset.access_entries:
        dataset.access_entries = [
            *(one for one in dataset.access_entries
              if not str(one.entity_id).startswith("deleted:")), entry]
        cloud.bigquery.update_dataset(dataset, ["access_entries"])


# -- loading and reading -----------------------------------------------------------------------


def load_table(cloud: Cloud, name: str, rows: pa.Table, schema: dict[str, str]) -> None:
    """Replace table `name` by `rows`; schema: column -> BigQuery type."""
    fields = [bigquery.SchemaField(column, kind) for column, kind in schema.items()]
    cloud.bigquery.delete_table(name, not_found_ok=True)
    cloud.bigquery.create_table(bigquery.Table(name, schema=fields))
    file = io.BytesIO()
    pq.write_table(rows, file)
    file.seek(0)
    config = bigquery.LoadJobConfig(
        source_format="PARQUET", write_disposition="WRITE_TRUNCATE", labels=cloud.settings.labels)
    # size=None: a resumable upload, which both targets accept.
    cloud.bigquery.load_table_from_file(file, name, size=None, job_config=config).result()


def read_table(cloud: Cloud, key: str) -> pd.DataFrame:
    """One of our tables, through the Storage Read API."""
    return read_rows(cloud, cloud.settings.table(key)).to_pandas()


def read_rows(cloud: Cloud, table: str | bigquery.TableReference) -> pa.Table:
    """The rows of a table (project.dataset.table) in their order, through the Storage Read API.

    By that API's own client: `to_arrow` of BigQuery's looks only every 0.2 s whether the rows have
    ended.
    """
    project, dataset, name = str(table).split(".")
    session = cloud.bigquery_read.create_read_session(
        parent=f"projects/{cloud.settings.project}", max_stream_count=1, read_session={
            "table": f"projects/{project}/datasets/{dataset}/tables/{name}",
            "data_format": "ARROW"})
    if session.streams:
        return cloud.bigquery_read.read_rows(session.streams[0].name).to_arrow(session)
    return pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema)).empty_table()


def query(cloud: Cloud, sql: str, large: bool = False, **values: object) -> pd.DataFrame:
    """A query result: a small one with the answer to the request that starts the query, a large
    one through the Storage Read API.

    values: query parameters (str, int, float, datetime, a list of one of them).
    """
    config = _capped(cloud, sql, values)
    if large:
        job = cloud.bigquery.query(sql, job_config=config)
        job.result()
        return read_rows(cloud, job.destination).to_pandas()
    rows = cloud.bigquery.query_and_wait(sql, job_config=config)
    return rows.to_arrow(create_bqstorage_client=False).to_pandas()


def query_file(cloud: Cloud, file: str, large: bool = False, table: str = "",
               **values: object) -> pd.DataFrame:
    """`query` of the only statement of sql/<file>.sql; table: what {{ table }} stands for there."""
    (statement,) = render(file, cloud.settings, table=table)
    return query(cloud, statement, large, **values)


def run_checks(cloud: Cloud) -> pd.DataFrame:
    """The rows (check, value, low, high, status) of sql/05_sanity_checks.sql."""
    return query_file(cloud, "05_sanity_checks")
