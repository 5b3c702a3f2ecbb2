"""data_load as a process and in process, against an emulated BigQuery."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCHEMA = {
    "customer_id": "STRING", "label_churn_60d": "INT64", "orders_90d": "INT64",
    "avg_order_value_90d": "FLOAT64", "country": "STRING", "label_timestamp": "TIMESTAMP",
}


def labels(weeks: int = 30, count: int = 40) -> pd.DataFrame:
    """`count` customers at each of `weeks` weekly times."""
    customer, week = np.meshgrid(np.arange(count), np.arange(weeks))
    customer, week = customer.ravel(), week.ravel()
    return pd.DataFrame({
        "customer_id": customer.astype(str),
        "label_churn_60d": ((customer + week) % 4 > 0).astype("int64"),
        "orders_90d": customer % 5,
        "avg_order_value_90d": np.where(customer % 5 > 0, customer * 1.25, np.nan),
        "country": "Spain",
        "label_timestamp": pd.Timestamp("2025-06-01", tz="UTC") + pd.to_timedelta(week * 7, "D"),
    })


@pytest.fixture(scope="module")
def tables(bigquery_server) -> dict[str, str]:
    """Full names of tables, good and bad."""
    good = labels()
    bad_label = good.copy()
    bad_label["label_churn_60d"] = bad_label["label_churn_60d"].astype("Int64")
    no_label = bad_label.copy()
    no_label.loc[3, "label_churn_60d"] = pd.NA
    bad_label.loc[3, "label_churn_60d"] = 2
    no_id = good.copy()
    no_id.loc[0, "customer_id"] = None
    made = {
        "good": good, "empty": good[:0], "label_null": no_label, "label_two": bad_label,
        "one_class": good.assign(label_churn_60d=1), "few_dates": labels(weeks=5),
        "id_null": no_id,
    }
    return {name: bigquery_server.load(name, SCHEMA, rows) for name, rows in made.items()}


def arguments(table: str, output, **changes: object) -> list[str]:
    options = {
        "table": table, "label_col": "label_churn_60d", "time_col": "label_timestamp",
        "id_col": "customer_id", "feature_cols": "orders_90d,avg_order_value_90d",
        "gap_days": 60, "output_dataset": output, **changes}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def here(bigquery_server, monkeypatch):
    """The emulated BigQuery, for a component run in this process."""
    for name, value in bigquery_server.environment.items():
        monkeypatch.setenv(name, value)


def test_help(program):
    done = program("data_load", "--help")
    assert done.returncode == 0 and "--gap_days" in done.stdout and not done.stderr


def test_program_splits_a_table(program, bigquery_server, tables, tmp_path):
    output = tmp_path / "made" / "on the way"
    done = program("data_load", *arguments(tables["good"], output),
                   environment=bigquery_server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "read 1200 rows" in done.stdout and "positive rate" in done.stdout

    report = json.loads((output / "split.json").read_text())
    parts = {name: pq.read_table(output / f"{name}.parquet") for name in report["splits"]}
    assert list(parts) == ["train", "valid", "test"]
    for name, part in parts.items():
        assert part.schema.field("label_timestamp").type == pa.timestamp("us", tz="UTC")
        assert part.schema.names == ["customer_id", "label_timestamp", "label_churn_60d",
                                     "orders_90d", "avg_order_value_90d"]
        assert report["splits"][name]["rows"] == len(part)
    # The rows are those of the table, values and NULLs included.
    source = labels().drop(columns="country").set_index(["label_timestamp", "customer_id"])
    read = pd.concat([part.to_pandas() for part in parts.values()])
    read = read.set_index(["label_timestamp", "customer_id"])
    pd.testing.assert_frame_equal(
        read, source.loc[read.index][read.columns], check_dtype=False, check_index_type=False)
    gap = pd.Timedelta(days=60)
    time = {name: part["label_timestamp"].to_pandas() for name, part in parts.items()}
    assert time["train"].max() + gap <= time["valid"].min()
    assert time["valid"].max() + gap <= time["test"].min()


def test_without_the_read_api_rows_are_the_same(data_load, here, tables, tmp_path, monkeypatch):
    assert data_load.main(arguments(tables["good"], tmp_path / "grpc")) == 0
    monkeypatch.delenv("BIGQUERY_STORAGE_GRPC_ENDPOINT")
    assert data_load.main(arguments(tables["good"], tmp_path / "rest")) == 0
    for name in ("train.parquet", "valid.parquet", "test.parquet", "split.json"):
        assert (tmp_path / "grpc" / name).read_bytes() == (tmp_path / "rest" / name).read_bytes()


@pytest.mark.parametrize("kind", ["DATE", "DATETIME"])
def test_other_types_of_column(data_load, here, bigquery_server, tmp_path, kind):
    """INT64 ids, days as time, BOOL labels; NUMERIC and BOOL features become float64."""
    rows = labels()
    days = rows["label_timestamp"].dt.tz_localize(None)
    rows = pd.DataFrame({
        "customer_id": rows["customer_id"].astype("int64"),
        "label_timestamp": days.dt.date if kind == "DATE" else days,
        "label_churn_60d": rows["label_churn_60d"].astype(bool),
        "orders_90d": [Decimal(int(n)) / 4 for n in rows["orders_90d"]],
        "is_new": rows["orders_90d"] > 2,
    })
    schema = {"customer_id": "INT64", "label_timestamp": kind, "label_churn_60d": "BOOL",
              "orders_90d": "NUMERIC", "is_new": "BOOL"}
    table = bigquery_server.load(f"types_{kind}", schema, rows)
    assert data_load.main(arguments(table, tmp_path, feature_cols="orders_90d,is_new")) == 0
    part = pq.read_table(tmp_path / "train.parquet")
    assert [str(kind) for kind in part.schema.types] == [
        "string", "timestamp[us, tz=UTC]", "int64", "double", "double"]
    assert part["label_timestamp"][0].as_py() == datetime(2025, 6, 1, tzinfo=UTC)
    read = part.to_pandas()
    assert (read["orders_90d"] * 4 == read["customer_id"].astype(int) % 5).all()
    assert (read["is_new"] == (read["orders_90d"] > 0.5)).all()


@pytest.mark.parametrize("table, changes, reason", [
    ("absent", {}, "does not exist"),
    ("empty", {}, "has no rows"),
    ("label_null", {}, "label_churn_60d is NULL in 1 of 1200 rows"),
    ("label_two", {}, "must be 0 or 1, but has [0, 1, 2]"),
    ("one_class", {}, "is 1 in all"),
    ("id_null", {}, "customer_id of demo-project.churn.id_null is NULL in 1 rows"),
    ("few_dates", {}, "need at least 19"),
    ("good", {"feature_cols": "orders_90d,nothing"}, "has no column nothing; it has customer_id"),
    ("good", {"feature_cols": "orders_90d,country"}, "country of demo-project.churn.good is STRI"),
    ("good", {"time_col": "avg_order_value_90d", "feature_cols": "orders_90d"}, "not a TIMESTAMP"),
    ("good", {"gap_days": 400}, "too few"),
    ("good", {"sample_percent": 0.000001}, "split train is empty"),
])
def test_unusable_tables_are_reported_in_one_line(
    data_load, here, refusal, tables, tmp_path, table, changes, reason
):
    name = tables.get(table, "demo-project.churn.absent")
    status, line = refusal(data_load, *arguments(name, tmp_path / "out", **changes))
    assert status == 1 and reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes, reason", [
    ({"gap_days": "-1"}, "--gap_days"),
    ({"gap_days": "soon"}, "not a whole number"),
    ({"split_ratios": "0.6,0.4"}, "three shares"),
    ({"split_ratios": "0.6,0.2,0.3"}, "add up to 1"),
    ({"split_ratios": "0.8,0.2,0"}, "above 0"),
    ({"split_ratios": "nan,0.2,0.2"}, "three shares"),
    ({"sample_percent": "0"}, "--sample_percent"),
    ({"sample_percent": "nan"}, "--sample_percent"),
    ({"feature_cols": "a,,b"}, "not a list of names"),
    ({"feature_cols": "a,a"}, "more than once: a"),
    ({"feature_cols": "a,label_churn_60d"}, "more than once: label_churn_60d"),
    ({"nonsense": "1"}, "unrecognized"),
])
def test_bad_command_lines_are_reported_in_one_line(data_load, refusal, tmp_path, changes, reason):
    status, line = refusal(data_load, *arguments("p.d.t", tmp_path / "out", **changes))
    assert status == 2 and reason in line


def test_bad_table_name(data_load, here, refusal, tmp_path):
    status, line = refusal(data_load, *arguments("train_dataset", tmp_path / "out"))
    assert status == 1 and "is not project.dataset.table" in line


def test_process_has_no_traceback(program, bigquery_server, tmp_path):
    done = program("data_load", *arguments("demo-project.churn.absent", tmp_path),
                   environment=bigquery_server.environment)
    assert done.returncode == 1
    assert done.stderr == "data_load: table demo-project.churn.absent does not exist\n"


def test_nobody_answers(data_load, monkeypatch, refusal, tmp_path):
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(data_load, "LOCAL_RETRY_SECONDS", 1)
    status, line = refusal(data_load, *arguments("p.d.t", tmp_path))
    assert status == 1 and "cannot be read" in line


def test_output_that_is_a_file(data_load, here, refusal, tables, tmp_path):
    (tmp_path / "out").write_text("in the way")
    status, line = refusal(data_load, *arguments(tables["good"], tmp_path / "out"))
    assert status == 1 and "out" in line
