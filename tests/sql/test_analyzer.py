"""Google's own analyzer accepts every statement that the product can send to BigQuery.

The product's functions run with `Analyzer` in place of BigQuery's client. It resolves each
statement with the parameter types that are sent, and answers with one made-up row.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from lib import cloud as clouds
from lib import config, lookups, refresh, served_log, source, source_load, warehouse
from lib.components.data_load.src.refresh import Refresh
from lib.config import ENTITY, ROOT, TIMESTAMP
from lib.errors import Needed
from lib.localcloud import thelook
from lib.operate import preflight
from lib.proof import freshness, future, ladder, latency, parity, planted, remedies, served
from lib.stages import Outcome
from tests.sql.googlesql import GoogleSql, SqlError, Statement, Tables, declared

GCP = {"targets": {"gcp": {"project": "some-project-1"}}}
AT = datetime(2026, 3, 10, tzinfo=UTC)
MADE_UP = {"STRING": ["7"], "INT64": [1], "FLOAT64": [1.0], "DATE": [AT.date()],
           "TIMESTAMP": pa.array([AT], pa.timestamp("us", "UTC"))}
SQL = re.compile(
    r"\bselect\b.+\bfrom\b|\bwith\b.+\bselect\b|\binsert\s+into\b|\bdelete\s+from\b"
    r"|\bupdate\s+\S+\s+set\b|\bmerge\s+(into\b|`)"
    r"|\b(create|drop|alter|truncate)\s+(or\s+replace\s+)?(temp\s+)?(table|view|schema|function)\b",
    re.IGNORECASE | re.DOTALL)


@dataclass
class Analyzer:
    """BigQuery's client as far as the product uses it to send SQL.

    tables: what exists, full name -> column -> type. made: what a statement made. rendered:
    file of sql/ -> its statements. sent: the statements. callers: (file, function) of every
    function that was running when one was sent. replaced: tables replaced with another layout.
    """

    google: GoogleSql
    tables: Tables
    made: dict[str, Statement] = field(default_factory=dict)
    rendered: dict[str, set[str]] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    callers: set[tuple[str, str]] = field(default_factory=set)
    replaced: list[str] = field(default_factory=list)
    resolved: dict[str, Statement] = field(default_factory=dict)

    def analyze(self, *statement):
        """The same statement over the same tables is resolved once."""
        key = repr(statement)
        if key not in self.resolved:
            self.resolved[key] = self.google.analyze(*statement)
        return self.resolved[key]

    def query(self, sql, job_config):
        tables = {name: columns for name, columns in self.tables.items() if name in sql}
        found = self.analyze(sql, tables, declared(job_config.to_api_repr()["query"]))
        self.sent.add(sql)
        self.callers |= {(frame.f_code.co_filename, frame.f_code.co_name)
                         for frame in _frames(sys._getframe(1))}
        if found.table:
            old = self.made.get(found.table, found)
            if (old.partition, old.clusters) != (found.partition, found.clusters):
                self.replaced.append(found.table)
            self.made[found.table] = found
            self.tables[found.table] = found.columns
        row = pa.table({name: MADE_UP[kind] for name, kind in found.columns.items()})
        result = Rows(row.to_pylist())
        result.to_arrow = lambda **_: row
        return SimpleNamespace(total_bytes_processed=0, result=lambda: result, destination=row)

    def query_and_wait(self, sql, job_config):
        return self.query(sql, job_config).result()

    def get_table(self, name):
        if name not in self.made:
            raise NotFound(name)
        table = bigquery.Table(name)
        table.labels = {"build": "1"}
        return table

    def update_table(self, table, fields):
        return table

    def delete_table(self, name, not_found_ok):
        self.made.pop(name, None)


class Rows(list):
    """Rows of a result, which has a method of its own."""


def _frames(frame):
    while frame:
        yield frame
        frame = frame.f_back


def empty(columns):
    return pd.DataFrame({name: [] for name in columns})


def send_everything(cloud):
    """Call every function of lib that sends SQL, but for the other services."""
    list(preflight.CHECKS["cost"](cloud))
    source_load.facts(cloud)
    source_load.orders_after(cloud, "2026-07-03")
    for file in warehouse.BUILDS:
        warehouse.build(cloud, file)
    step = Refresh(cloud.bigquery, refresh.plan(cloud.settings))
    step.read_source()
    step.replace_snapshots(AT, AT)
    lookups.newest_label(cloud)
    lookups.rows_since(cloud, datetime(2026, 3, 10, tzinfo=UTC))
    warehouse.run_checks(cloud)
    warehouse.require_snapshot(cloud)
    remedies.label_dates(cloud)
    lookups.customer_rows(cloud, "features", "7")
    lookups.newest_features(cloud)
    lookups.orders_per_day(cloud)
    lookups.labels_per_snapshot(cloud)
    lookups.example_label(cloud)
    lookups.active_features(cloud)
    lookups.served_customers(cloud, 5)
    lookups.newest_row(cloud, "7")
    lookups.base_rate(cloud)
    lookups.label_rows(cloud, "train", 10)
    lookups.label_times(cloud, "train_naive")
    lookups.silent_customer(cloud)
    latency.by_sql(cloud, ["7"], 1)
    served.logged_rows(cloud, datetime(2026, 3, 10, tzinfo=UTC))
    parity.ages(cloud, empty(parity.COLUMNS))
    offline = planted.healthy_rows(cloud)
    copied = planted.copy(cloud, planted.NAME, ["7"])
    for fault in planted.FAULTS.values():
        planted.plant(copied, fault, offline)
    freshness.new_day(freshness.prepare(cloud))
    ladder.compute(cloud, ["7"], AT)
    label_rows = pd.DataFrame({"customer_id": ["7"], "label_timestamp": [pd.Timestamp(AT)]})
    future.features_after(cloud, label_rows, [7, 30])


@pytest.fixture(scope="module")
def gcp():
    return config.load(target="gcp", env="dev", overrides=GCP)


@pytest.fixture(scope="module")
def analyzed(google, gcp):
    """The Analyzer, after everything was sent, for the public theLook on Google."""
    analyzer = Analyzer(google, {gcp.table("served"): served_log.SCHEMA} | {
        f"{gcp.source_dataset}.{name}": dict(columns) for name, columns in thelook.SCHEMAS.items()})

    def remove(cloud, name):
        for table in [t for t in analyzer.made if t.startswith(f"{gcp.dataset}_{name}.")]:
            del analyzer.made[table], analyzer.tables[table]

    def render(file, settings, **names):
        statements = real_render(file, settings, **names)
        analyzer.rendered.setdefault(file, set()).update(statements)
        return statements

    real_render = warehouse.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clouds.Cloud, "bigquery", analyzer)
        patch.setattr(warehouse, "render", render)
        patch.setattr(warehouse, "create_dataset", lambda cloud: None)
        patch.setattr(planted, "remove", remove)
        patch.setattr(planted, "stop_serving", lambda cloud: None)
        patch.setattr(warehouse, "read_rows", lambda _, rows: rows)
        patch.setattr(warehouse, "read_table", lambda *_: pd.DataFrame(
            {ENTITY: ["7"], TIMESTAMP: [AT], **dict.fromkeys(gcp.feature_names, [1.0])}))
        patch.setattr(planted, "serve", lambda cloud: Outcome("done", figures={"rows": 0}))
        patch.setattr(parity, "compare", lambda *_: empty(parity.COLUMNS))
        send_everything(clouds.Cloud(gcp, AnonymousCredentials(), "https://vertex.invalid"))
    return analyzer


def test_every_sql_file_is_sent(analyzed):
    files = {str(path.relative_to(ROOT / "sql").with_suffix(""))
             for path in (ROOT / "sql").rglob("*.sql")}
    assert set(analyzed.rendered) == files, "call what sends it in send_everything()"
    for file, statements in analyzed.rendered.items():
        assert statements and statements <= analyzed.sent, file


def test_no_table_is_replaced_with_another_layout(analyzed):
    """BigQuery: "Cannot replace a table with a different partitioning spec. Instead, DROP the
    table, and then recreate it" (dataform-co/dataform#590; clustering: airbytehq/airbyte#26215).
    Not a rule of the language, so the analyzer does not have it."""
    assert len(analyzed.made) > 9
    assert analyzed.replaced == []


def test_layouts_are_read_from_sql_as_google_reads_them(analyzed, gcp):
    for file, (makes, _) in warehouse.BUILDS.items():
        for key, statement in zip(makes, warehouse.render(file, gcp), strict=True):
            name, layout = warehouse.layout_in_sql(statement)
            made = analyzed.made[name]
            assert name == gcp.table(key)
            assert layout == warehouse.Layout(made.partition, made.clusters)
    with pytest.raises(Needed, match="cannot be read"):
        warehouse.layout_in_sql(statement.replace("timestamp_trunc(", "date("))


def sql_in(text: str) -> list[tuple[str, str]]:
    """(function, string) of each string in Python source that looks like SQL; function "" outside
    of all. Docstrings and the patterns of `re` are left out."""
    found, tree = [], ast.parse(text)
    docs = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body and isinstance(node.body[0], ast.Expr)}

    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            return
        if isinstance(node, ast.JoinedStr):
            parts = [n.value if isinstance(n, ast.Constant) else "x" for n in node.values]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [node.value]
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, function)
            return
        if id(node) not in docs and SQL.search("".join(parts)):
            found.append((function, "".join(parts)))

    visit(tree, "")
    return found


def python_files(*folders):
    """Python source by path: but of what sends SQL to DuckDB itself, not to BigQuery."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "localcloud" not in path.parts and path.name != "bench_sql.py":
                yield path, path.read_text(encoding="utf-8")


def test_every_sql_string_in_python_is_covered(analyzed):
    found = {(str(path), function) for path, text in python_files("lib")
             for function, _ in sql_in(text)}
    assert len(found) >= 3
    missing = found - analyzed.callers
    assert not missing, f"call these in send_everything(): {missing}"


def test_notebooks_and_scripts_hold_no_sql():
    cells = [(path, "".join(cell["source"]))
             for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
             for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code"]
    assert cells
    for path, text in [*cells, *python_files("scripts")]:
        assert sql_in(re.sub(r"(?m)^\s*[%!].*", "", text)) == [], path


def test_only_warehouse_sends_sql():
    sending = re.compile(r"\bbigquery\s*\.\s*(query|query_and_wait)\(")
    found = {path.name for path, text in python_files("lib", "scripts") if sending.search(text)}
    assert found == {"warehouse.py"}


@pytest.mark.parametrize("text, expected", [
    ('def f(t):\n    return g(f"select a from `{t}`")', [("f", "select a from `x`")]),
    ('X = ("insert "\n     "into t values (1)")', [("", "insert into t values (1)")]),
    ('def f():\n    """select a from b"""\n    return "select one of these"', []),
    ('def f():\n    h("drop table x")', [("f", "drop table x")]),
    ('X = re.compile("drop table (.*)")', []),
])
def test_sql_in_python_is_found(text, expected):
    assert sql_in(text) == expected


@pytest.mark.parametrize("key", ["features", "train", "train_naive"])
def test_features_have_the_types_of_the_configuration(gcp, analyzed, key):
    found = analyzed.tables[gcp.table(key)]
    assert {f.name: found[f.name] for f in gcp.features} == {f.name: f.type for f in gcp.features}


def test_keys_times_and_labels_have_their_types(gcp, analyzed):
    expected = {key: {ENTITY: "STRING"} for key in (
        "raw_users", "raw_orders", "raw_order_items", "features", "labels", "train", "train_naive")}
    for key in ("features", "train", "train_naive"):
        expected[key][TIMESTAMP] = "TIMESTAMP"
    for key in ("labels", "train", "train_naive"):
        expected[key] |= {"label_timestamp": "TIMESTAMP", gcp.label.column: "INT64"}
    assert {key: {column: analyzed.tables[gcp.table(key)][column] for column in columns}
            for key, columns in expected.items()} == expected


def test_an_export_that_holds_only_what_is_needed_is_enough(google, gcp):
    analyzer = Analyzer(google, {
        f"{gcp.source_dataset}.{name}": columns for name, columns in source.NEEDED.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clouds.Cloud, "bigquery", analyzer)
        warehouse.build(clouds.Cloud(gcp, AnonymousCredentials(), ""), "01_prepare_bq")
    assert set(analyzer.made) == {gcp.table(key) for key in warehouse.BUILDS["01_prepare_bq"][0]}


# What the local BigQuery runs and Google refuses, with Google's message.
@pytest.mark.parametrize("wrong, message", [
    ("select timestamp_sub(feature_timestamp, interval 1 month) from `{t}`",
     "does not support the MONTH date part"),
    ("select * from `{t}` where customer_id = 7", "No matching signature for operator ="),
    ("select * from `{t}` where feature_timestamp >= date '2026-01-01'",
     "No matching signature for operator >="),
    ("select mod(revenue_30d, 2.5) from `{t}`", "No matching signature for function MOD"),
    ("select orders_30d as n from `{t}` where n > 1", "Unrecognized name: n"),
    ("select median(orders_30d) from `{t}`", "Function not found: median"),
    ("select epoch(feature_timestamp) from `{t}`", "Function not found: epoch"),
    ("select count(*) filter (where orders_30d > 1) from `{t}`", "Syntax error"),
    ("select count(distinct customer_id, orders_30d) from `{t}`",
     "No matching signature for aggregate function COUNT"),
    ("select * exclude (orders_30d) from `{t}`", "Syntax error"),
    ("select generate_date_array(min(feature_timestamp), max(feature_timestamp)) from `{t}`",
     "No matching signature for function GENERATE_DATE_ARRAY"),
    ("create or replace table `x` partition by revenue_30d as select * from `{t}`",
     "PARTITION BY expression may not be a floating point type"),
])
def test_what_only_the_local_bigquery_accepts_is_refused(google, gcp, analyzed, wrong, message):
    with pytest.raises(SqlError, match=message):
        google.analyze(wrong.format(t=gcp.table("features")), analyzed.tables, {})
