"""Google's reference engine computes the same rows, to the bit, as the local BigQuery."""

import dataclasses
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import config, lookups, source, source_load, warehouse
from scripts import scale
from tests.conftest import SMALL
from tests.sql.hard_cases import build, make_source, short

# 4 in 100 customers of theLook, and 6 weeks of labels: a few seconds in the reference engine.
THELOOK = {**SMALL, "app": "engine", "snapshots": {"sample_percent": 4}}
QUERY = re.compile(r"create or replace table `([^`]+)`.*?\nas\n(.*)", re.DOTALL)
KINDS = {int: "INT64", float: "FLOAT64", datetime: "TIMESTAMP"}
REQUEST = {"customer_id": "STRING", "feature_timestamp": "TIMESTAMP"}


@pytest.fixture(scope="module", params=["hard cases", "theLook"])
def local(request, cloud, tmp_path_factory):
    """Tables 01 to 04 built on the local BigQuery."""
    if request.param == "hard cases":
        return build(cloud, make_source(), tmp_path_factory.mktemp("export"))[0]
    settings = short(config.load(target="local", env="dev", overrides=THELOOK))
    there = dataclasses.replace(cloud, settings=settings)
    warehouse.create_dataset(there)
    for file in warehouse.BUILDS:
        warehouse.build(there, file)
    return there


@pytest.fixture(scope="module")
def computed(google, local):
    """The same from the same source by Google's engine: tables (types) and rows by full name,
    kinds of the parameters, and run(query) on them."""
    settings, tables, rows = local.settings, {}, {}
    parameters = warehouse.parameters(settings)
    kinds = {name: KINDS[type(value)] for name, value in parameters.items()}

    def run(query, *values):
        return google.run(query, tables, rows, kinds | REQUEST, *(values or [parameters]))

    for name, columns in source.NEEDED.items():
        full = f"{settings.source_dataset}.{name}"
        tables[full], rows[full] = columns, table_rows(local, full, columns)
    for file in warehouse.BUILDS:
        for statement in warehouse.render(file, settings):
            name, query = QUERY.search(statement).groups()
            tables[name] = google.analyze(statement, tables, kinds).columns
            rows[name] = run(query)
    return SimpleNamespace(tables=tables, rows=rows, kinds=kinds, run=run)


@pytest.mark.parametrize("key", [key for makes, _ in warehouse.BUILDS.values() for key in makes])
def test_tables_are_equal(local, computed, key):
    name = local.settings.table(key)
    columns = computed.tables[name]
    assert [field.name for field in local.bigquery.get_table(name).schema] == list(columns)
    expected = table_rows(local, name, columns)
    assert len(expected) > 3
    assert different(expected, computed.rows[name], columns) == []


def test_sanity_checks_are_equal(google, local, computed):
    (statement,) = warehouse.render("05_sanity_checks", local.settings)
    columns = google.analyze(statement, computed.tables, computed.kinds).columns
    expected = plain(warehouse.run_checks(local).itertuples(index=False), columns)
    assert len(expected) > 20
    assert different(expected, computed.run(statement), columns) == []


def test_checks_of_the_source_are_equal(google, local, computed):
    (statement,) = warehouse.render("checks/source", local.settings)
    columns = google.analyze(statement, computed.tables, computed.kinds).columns
    facts = source_load.facts(local)
    assert facts["orders"] > 100
    expected = plain([facts.values()], columns)
    assert different(expected, computed.run(statement), columns) == []


def test_features_at_request_time_are_equal(local, computed):
    (statement,) = warehouse.render("request_time_features", local.settings)
    name, now = local.settings.table("features"), lookups.newest_snapshot(local).astimezone(UTC)
    columns = computed.tables[name]
    newest = [row for row in computed.rows[name] if row[-1] == now][:3]
    assert len(newest) == 3
    values = [{"customer_id": customer, "feature_timestamp": now} for customer, *_ in newest]
    assert different(newest, computed.run(statement, *values), columns) == []
    for each, expected in zip(values, newest, strict=True):
        frame = warehouse.query(local, statement, **each)
        assert different([expected], plain(frame.itertuples(index=False), columns), columns) == []


def different(expected, found, columns):
    """(column, expected, found) of each value that is not equal to the bit."""
    assert len(expected) == len(found)
    expected, found = sorted(expected, key=repr), sorted(found, key=repr)
    return [(column, *pair) for rows in zip(expected, found, strict=True)
            for column, *pair in zip(columns, *rows, strict=True) if repr(pair[0]) != repr(pair[1])]


def table_rows(cloud, name, columns):
    """A table's rows as lists, read through the Storage Read API."""
    table = cloud.bigquery.get_table(name)
    fields = [field for field in table.schema if field.name in columns]
    rows = cloud.bigquery.list_rows(table, selected_fields=fields).to_arrow(
        bqstorage_client=cloud.bigquery_read).select(list(columns))
    return plain(zip(*(column.to_pylist() for column in rows.columns), strict=True), columns)


def plain(rows, columns):
    """Python values by type: None for NULL, UTC datetimes; an INT64 as int, also where pandas
    has a float (beside a NULL) or the local BigQuery a NUMERIC (of countif)."""
    def value(kind, found):
        if found is None or found is pd.NaT or found != found:
            return None
        if kind == "TIMESTAMP":
            return pd.Timestamp(found).to_pydatetime().astimezone(UTC)
        return int(found) if kind == "INT64" else found

    return [[value(*pair) for pair in zip(columns.values(), row, strict=True)] for row in rows]


def test_the_arithmetic_of_more_customers_knows_the_bytes_of_each_row(local, computed):
    """One STRING, customer_id; each other column has 8 bytes (lib/operate/SCALE.md)."""
    keys = [key for makes, _ in warehouse.BUILDS.values() for key in makes]
    full = [local.settings.table(key) for key in keys]
    tables = {short_name: computed.tables[name] for name in full
              if (short_name := name.split(".")[-1]) in scale.COLUMNS}
    assert set(tables) == set(scale.COLUMNS)
    for name, columns in tables.items():
        kinds = list(columns.values())
        assert scale.COLUMNS[name] == (kinds.count("STRING"), len(kinds) - 1), name
        assert set(kinds) <= {"STRING", "INT64", "FLOAT64", "TIMESTAMP"}, name
