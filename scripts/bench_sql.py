"""scripts/bench.py: the point-in-time join, the feature build and the sync."""

import contextlib
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
from google.auth.credentials import AnonymousCredentials

from lib import config, warehouse
from lib.cloud import Cloud
from lib.localcloud.bigquery import BigQueryServer, load_thelook
from lib.localcloud.vertex.base.state import State
from lib.localcloud.vertex.online import values
from lib.localcloud.vertex.registry.tables import BigQuery, ServedTable
from scripts.bench import Different, Options, Row, take_turns

OTHER = Path(__file__).with_name("bench_other.py")
# Above these scales a way takes minutes or more memory than a laptop has.
LARGEST = {"pandas merge_asof": 3, "range join, QUALIFY": 1, "Feast": 0.2}


class Tables:
    """BigQuery of the local cloud in this process, with the raw tables in it.

    database: the same tables, by a DuckDB connection of our own, as the emulator names them.
    """

    def __init__(self, settings: config.Settings, cloud: Cloud, database, folder: Path):
        self.settings, self.cloud, self.database = settings, cloud, database
        self.folder = folder

    def name(self, key: str) -> str:
        """A table of ours as DuckDB knows it."""
        project, dataset, table = self.settings.table(key).split(".")
        return f'"{project}__{dataset}"."{table}"'

    def statement(self, file: str, checkout: Path | None = None) -> str:
        """The only statement of sql/<file>.sql, of this checkout or another one."""
        (found,) = warehouse.render(
            str((checkout / "sql" / file).resolve()) if checkout else file, self.settings)
        return found

    def run(self, statement: str) -> None:
        """As a run does it: by Google's client, and the emulator behind it."""
        warehouse.query(self.cloud, statement)

    def digest(self, relation: str, columns: dict[str, str]) -> tuple:
        """Number of rows, and a sum of hashes that does not depend on their order."""
        cast = ", ".join(f"cast({name} as {kind})" for name, kind in columns.items())
        return self.database.execute(
            f"select count(*), sum(hash(row({cast}))::hugeint) from {relation}").fetchone()

    def columns(self, key: str) -> dict[str, str]:
        """Column -> type of one of our tables."""
        return {name: kind for name, kind, *_ in
                self.database.execute(f"describe {self.name(key)}").fetchall()}


@contextlib.contextmanager
def tables(folder: Path, scale: float, *files: str) -> Iterator[Tables]:
    """The raw tables at this scale, and what these sql/ files build from them."""
    users = config.load(target="local", env="dev", overrides={}).thelook.users
    settings = config.load(target="local", env="dev", overrides={
        "thelook": {"users": round(users * min(scale, 1))}})
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # layout that DuckDB has not
    drawn = settings.thelook
    server = BigQueryServer(folder / f"bigquery-{scale}", settings.project)
    server.start()
    try:
        load_thelook(server.rest, settings.project, drawn.users, drawn.seed, drawn.as_of)
        cloud = Cloud(settings, AnonymousCredentials(), vertex="", bigquery_rest=server.rest,
                      bigquery_grpc=server.grpc)
        database = duckdb.connect(str(folder / f"bigquery-{scale}" / "bqemulator.duckdb"))
        database.execute("set TimeZone = 'UTC'")
        found = Tables(settings, cloud, database, folder)
        warehouse.create_dataset(cloud)
        for statement in warehouse.render("01_prepare_bq", settings):
            found.run(statement)
        for key in ("raw_users", "raw_orders", "raw_order_items") if scale > 1 else ():
            database.execute(
                f"insert into {found.name(key)} select t.* replace (customer_id || '-' || copy as "
                f"customer_id) from {found.name(key)} as t, range(1, {round(scale)}) as c(copy)")
        for file in files:
            found.run(found.statement(file))
        yield found
        database.close()
    finally:
        server.stop()


def join(options: Options, folder: Path) -> list[Row]:
    """sql/04, and the same rows by what people use; raises Different if they are not the same."""
    with tables(folder, options.scale, "02_build_features", "03_build_labels_churn") as there:
        cases, skipped = _joins(there, options)
        _check_equal(there, cases)
        labels = there.database.execute(f"select count(*) from {there.name('labels')}").fetchone()
        samples = take_turns(cases, options.repeats)
    part = f"join, {labels[0]:,} labels"
    return [Row(part, name, found, base="DuckDB ASOF") for name, found in samples.items()] + [
        Row(part, name, note=why) for name, why in skipped.items()]


def _joins(there: Tables, options: Options) -> tuple[dict[str, Callable], dict[str, str]]:
    """The ways to join, each of which leaves its rows where `_result` says; and those skipped."""
    features, labels = there.name("features"), there.name("labels")
    names, label = there.settings.feature_names, there.settings.label.column
    head = (f"create or replace table bench_result as select l.customer_id, l.{label}, "
            f"{', '.join(f'f.{name}' for name in names)}, l.label_timestamp, f.feature_timestamp "
            f"from {labels} as l")
    same_customer = "l.customer_id = f.customer_id and f.feature_timestamp <= l.label_timestamp"
    cases = {
        "DuckDB ASOF": partial(there.database.execute, (
            f"{head} asof left join {features} as f on {same_customer}")),
        "sql/04": partial(there.run, there.statement("04_build_train")),
        "range join, QUALIFY": partial(there.database.execute, (
            f"{head} left join {features} as f on {same_customer} qualify row_number() over ("
            "partition by l.customer_id, l.label_timestamp "
            "order by f.feature_timestamp desc) = 1")),
    }
    if options.scale <= LARGEST["pandas merge_asof"]:
        frames = [there.database.execute(f"select * from {each}").to_arrow_table().to_pandas()
                  for each in (labels, features)]
        cases["pandas merge_asof"] = partial(_merge_asof, there, *frames)
    skipped = {}
    for key in ("labels", "features"):
        there.database.execute(
            f"copy {there.name(key)} to '{there.folder}/{key}.parquet' (format parquet)")
    for name, package in (("polars join_asof", "polars"), ("Feast", "feast")):
        if subprocess.run([options.python, "-c", f"import {package}"],
                          capture_output=True).returncode:
            skipped[name] = (f"python3 -m venv .bench && .bench/bin/pip install {package} pyarrow, "
                             "then --python .bench/bin/python")
        else:
            cases[name] = partial(_elsewhere, there, options.python, package, label)
    if options.against:
        cases[f"sql/04 of {options.against.name}"] = partial(
            there.run, there.statement("04_build_train", options.against))
    for name in [name for name in cases if options.scale > LARGEST.get(name, options.scale)]:
        skipped[name] = f"only up to --scale {LARGEST[name]}: its time or memory grows too fast"
        del cases[name]
    return cases, skipped


def _merge_asof(there: Tables, labels: pd.DataFrame, features: pd.DataFrame) -> None:
    joined = pd.merge_asof(
        labels.sort_values("label_timestamp"), features.sort_values("feature_timestamp"),
        left_on="label_timestamp", right_on="feature_timestamp", by="customer_id")
    joined.to_parquet(there.folder / "result.parquet")


def _elsewhere(there: Tables, python: str, package: str, label: str) -> float:
    """scripts/bench_other.py, by a Python that has the package; the seconds that it measured."""
    names = json.dumps([label, *there.settings.feature_names])
    done = subprocess.run([python, str(OTHER), package, str(there.folder), names], check=True,
                          stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def _check_equal(there: Tables, cases: dict[str, Callable]) -> None:
    """Run each case once, which also warms it up.

    Raises:
        Different: with the names of the two ways.
    """
    there.run(there.statement("04_build_train"))
    columns = there.columns("train")
    expected = there.digest(there.name("train"), columns)
    equal = []
    for name, case in cases.items():
        case()
        if name.startswith("sql/04"):
            relation = there.name("train")
        elif "ASOF" in name or "QUALIFY" in name:
            relation = "bench_result"
        else:
            relation = f"'{there.folder}/result.parquet'"
        if (found := there.digest(relation, columns)) != expected:
            raise Different(f"{name} gives other rows than sql/04: {found} and {expected} "
                            f"(number of rows, sum of their hashes); equal: {', '.join(equal)}")
        equal.append(name)


def build(options: Options, folder: Path) -> list[Row]:
    """sql/02; at least, its result is written, so a copy of the finished table is the floor."""
    with tables(folder, options.scale, "02_build_features") as there:
        features, columns = there.name("features"), there.columns("features")
        expected = there.digest(features, columns)
        cases = {
            "copy of the result": partial(there.database.execute, (
                f"create or replace table bench_result as select * from {features}")),
            "sql/02": partial(there.run, there.statement("02_build_features")),
        }
        base = "copy of the result"
        note = ""
        if options.against:
            base = f"sql/02 of {options.against.name}"
            cases[base] = partial(there.run, there.statement("02_build_features", options.against))
            ours = {name: there.digest(features, {name: kind}) for name, kind in columns.items()}
            cases[base]()
            other = [name for name, kind in columns.items()
                     if there.digest(features, {name: kind}) != ours[name]]
            note = f"other values in {', '.join(other)}" if other else "equal rows"
        samples = take_turns(cases, options.repeats)
    return [Row(f"build, {expected[0]:,} rows", name, found, base=base,
                note=note if name == base else "") for name, found in samples.items()]


def sync(options: Options, folder: Path) -> list[Row]:
    """A feature view's sync, as the local cloud does it: newest rows, then the values in SQLite.

    The floor reads the newest rows by DuckDB, and writes nothing.
    """
    with tables(folder, options.scale, "02_build_features") as there:
        features, names = there.name("features"), there.settings.feature_names
        served = ServedTable("customer", there.settings.table("features"), ("customer_id",),
                             {name: name for name in names}, "feature_timestamp", dense=True)
        source = BigQuery(there.settings.project, there.cloud.bigquery_rest,
                          there.cloud.bigquery_grpc)
        written = []

        def load() -> None:
            state = State(folder / f"values-{len(written)}.sqlite")
            columns, rows, _ = source.newest(served)
            written.append(values.put(state, "view", served.key, columns, rows))
            state.close()

        samples = take_turns({
            "newest rows by DuckDB": lambda: there.database.execute(
                f"select * from {features} qualify row_number() over (partition by customer_id "
                "order by feature_timestamp desc) = 1").to_arrow_table(),
            "sync": load,
        }, options.repeats)
        source.close()
    return [Row(f"sync, {written[0]:,} entities", name, found, base="newest rows by DuckDB")
            for name, found in samples.items()]
