"""BigQuery of the local cloud with Google's own clients: results, loads, errors."""

import asyncio
import contextlib
import datetime
import decimal
import json
import threading
import time

import grpc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from bqemulator.jobs.executor import JOB_RESULTS
from bqemulator.streaming.read_session import get_session
from google.api_core import exceptions as errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)

from lib.localcloud import bigquery_http, bigquery_results
from lib.localcloud.bigquery import BigQueryServer

SECONDS = 5  # within which an error must reach the caller, with the client's own retries
MANY = 300_000
SERIES = f"select x from unnest(generate_array(1, {MANY})) x"
# One value of each type, under the types that Google's Storage Read API gives them.
TYPES = """
    select 1 as int_, 1.5 as float_, 'a' as string_, true as bool_, b'ab' as bytes_,
        date '2026-01-02' as date_, time '01:02:03' as time_,
        datetime '2026-01-02 03:04:05' as datetime_,
        timestamp '2026-01-02 03:04:05.000006+00' as timestamp_,
        numeric '1.5' as numeric_, bignumeric '1.5' as bignumeric_, json '{"a": 1}' as json_,
        [1, 2] as list_, struct(1 as a, 'b' as b) as struct_,
        (select sum(y) from unnest([1, 2]) y) as sum_, cast(null as int64) as null_"""
ARROW = {
    "int_": pa.int64(), "float_": pa.float64(), "string_": pa.string(), "bool_": pa.bool_(),
    "bytes_": pa.binary(), "date_": pa.date32(), "time_": pa.time64("us"),
    "datetime_": pa.timestamp("us"), "timestamp_": pa.timestamp("us", tz="UTC"),
    "numeric_": pa.decimal128(38, 9), "bignumeric_": pa.decimal256(76, 38),
    "json_": pa.string(), "list_": pa.list_(pa.int64()),
    "struct_": pa.struct({"a": pa.int64(), "b": pa.string()}), "sum_": pa.int64(),
    "null_": pa.int64(),
}


@pytest.fixture(scope="module")
def reader(bq_server):
    """Google's Storage Read API client."""
    channel = grpc.insecure_channel(
        bq_server.grpc, options=[("grpc.max_receive_message_length", -1)])
    yield BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
    channel.close()


@pytest.fixture
def soon():
    """The test ends within SECONDS: nothing was retried for minutes."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SECONDS


def name(table):
    """A table's name without bq://, as the BigQuery client wants it."""
    return table.removeprefix("bq://")


def rows(bq, table):
    """All rows of a table as tuples, in order of the first column."""
    return [tuple(row.values()) for row in bq.query(f"select * from `{table}` order by 1")]


def test_result_over_the_storage_read_api(bq, reader, soon):
    result = bq.query(SERIES).to_arrow(bqstorage_client=reader)
    assert sorted(result["x"].to_pylist()) == list(range(1, MANY + 1))


def test_result_as_a_dataframe(bq, reader):
    frame = bq.query(f"{SERIES} order by x").to_dataframe(bqstorage_client=reader)
    assert frame["x"].tolist() == list(range(1, MANY + 1))
    small = bq.query("select date '2026-01-02' as d, 'a' as s").to_dataframe(
        create_bqstorage_client=False)
    assert (small["d"][0], small["s"][0]) == (datetime.date(2026, 1, 2), "a")


def test_result_types_are_those_of_google(bq, reader):
    result = bq.query(TYPES).to_arrow(bqstorage_client=reader)
    assert dict(zip(result.schema.names, result.schema.types, strict=True)) == ARROW
    (row,) = result.to_pylist()
    assert (row["int_"], row["sum_"], row["null_"]) == (1, 3, None)
    assert row["numeric_"] == row["bignumeric_"] == decimal.Decimal("1.5")
    assert row["list_"] == [1, 2] and row["struct_"] == {"a": 1, "b": "b"}


def test_result_without_rows(bq, reader):
    result = bq.query("select 1 as a, 'x' as b limit 0").to_arrow(bqstorage_client=reader)
    assert (result.num_rows, result.schema.names) == (0, ["a", "b"])


def test_result_is_a_table_that_can_be_read_again(bq, reader):
    job = bq.query("select 1 as a, 2 as b union all select 3, 4")
    job.result()
    assert bq.get_table(job.destination).num_rows == 2
    for _ in range(2):
        read = bq.list_rows(job.destination, selected_fields=[bigquery.SchemaField("b", "INT64")])
        assert sorted(read.to_arrow(bqstorage_client=reader)["b"].to_pylist()) == [2, 4]


def test_rows_of_many_bytes(bq, reader, table):
    """A message of 65,536 rows of 320 bytes would exceed gRPC's limit of the emulator."""
    columns = ", ".join(f"x / {n}.5 as c{n}" for n in range(40))
    wide = f"select {columns} from unnest(generate_array(1, 70000)) x"
    result = bq.query(wide).to_arrow(bqstorage_client=reader)
    copy = bq.list_rows(name(table(wide))).to_arrow(bqstorage_client=reader)
    assert result.num_rows == copy.num_rows == 70000
    assert sum(result["c3"].to_pylist()) == pytest.approx(sum(copy["c3"].to_pylist()))


def test_result_in_avro_is_refused(bq, reader):
    job = bq.query("select 1 as a")
    job.result()
    path = job.destination.path.removeprefix("/")
    for options in ({"data_format": types.DataFormat.AVRO},
                    {"data_format": types.DataFormat.ARROW,
                     "read_options": {"row_restriction": "a > 0"}}):
        with pytest.raises(errors.MethodNotImplemented, match="create table"):
            reader.create_read_session(
                parent="projects/p1", read_session={"table": path, **options})


@pytest.fixture
def little_memory(monkeypatch):
    """Results and sessions of a megabyte at most, beside the newest."""
    monkeypatch.setattr(bigquery_results, "MAX_BYTES", 2**20)


def test_old_results_make_room(bq, reader, little_memory, soon):
    first = bq.query(SERIES)
    first.result()
    second = bq.query(SERIES)
    second.result()
    assert second.job_id in JOB_RESULTS and first.job_id not in JOB_RESULTS
    assert second.to_arrow(bqstorage_client=reader).num_rows == MANY
    for read in (lambda: first.to_arrow(bqstorage_client=reader),
                 lambda: first.to_arrow(create_bqstorage_client=False),
                 lambda: list(first.result())):
        with pytest.raises(errors.NotFound, match="no longer kept.*run the query again"):
            read()


def test_results_of_yesterday_make_room(bq, monkeypatch):
    first = bq.query("select 1")
    first.result()
    monkeypatch.setattr(bigquery_results, "MAX_SECONDS", -1)
    second = bq.query("select 2")
    assert [tuple(row) for row in second.result()] == [(2,)]
    assert first.job_id not in JOB_RESULTS


def test_old_read_sessions_make_room(bq, reader, table, little_memory):
    path = bigquery.TableReference.from_string(name(table(SERIES))).path.removeprefix("/")
    first, second = (reader.create_read_session(
        parent="projects/p1", max_stream_count=1,
        read_session={"table": path, "data_format": types.DataFormat.ARROW}) for _ in range(2))
    assert get_session(first.name).table.nbytes == 0
    assert sum(part.row_count for part in reader.read_rows(second.streams[0].name)) == MANY
    with pytest.raises(errors.NotFound):
        list(reader.read_rows(first.streams[0].name))


def test_a_read_session_is_kept_on_disk_and_not_in_memory(bq, reader, table):
    path = bigquery.TableReference.from_string(name(table(SERIES))).path.removeprefix("/")
    before = pa.total_allocated_bytes()
    session = reader.create_read_session(
        parent="projects/p1", max_stream_count=1,
        read_session={"table": path, "data_format": types.DataFormat.ARROW})
    assert get_session(session.name).table.nbytes >= 8 * MANY
    assert pa.total_allocated_bytes() - before < MANY  # a byte a row: no column is held


def test_a_long_statement_holds_up_nothing_but_bigquery(tmp_path, monkeypatch):
    """Else the health check would not answer, and a run would take the local cloud for dead."""
    runs, over, freed = threading.Event(), threading.Event(), []

    def long_statement(_):
        runs.set()
        freed.append(over.wait(5))

    monkeypatch.setattr(bigquery_http, "refusal", long_statement)

    async def serve():
        server = BigQueryServer(tmp_path, "p1")
        server.start()
        client = bigquery.Client("p1", credentials=AnonymousCredentials(),
                                 client_options={"api_endpoint": server.rest})
        asked = asyncio.create_task(asyncio.to_thread(client.query_and_wait, "select 1"))
        await asyncio.to_thread(runs.wait)
        over.set()  # by the loop of the one who started it
        await asked
        server.stop()

    asyncio.run(serve())
    assert freed and all(freed)


def test_many_rows_over_rest_are_refused_with_advice(bq, reader, table, monkeypatch, soon):
    monkeypatch.setattr(bigquery_http, "MAX_REST_ROWS", 1000)
    job, copy = bq.query(SERIES), name(table(SERIES))
    for read in (lambda: job.to_arrow(create_bqstorage_client=False),
                 lambda: bq.list_rows(copy).to_arrow(create_bqstorage_client=False),
                 lambda: list(bq.query_and_wait(SERIES))):
        with pytest.raises(errors.BadRequest, match="bqstorage_client=.*max_results"):
            read()
    assert job.to_arrow(bqstorage_client=reader).num_rows == MANY
    assert len(list(bq.list_rows(copy, max_results=2000))) == 2000


@pytest.mark.parametrize("pages", [{}, {"page_size": 3}])
def test_max_results(bq, table, pages):
    for read in (bq.query(f"{SERIES} order by x").result(max_results=7, **pages),
                 bq.list_rows(name(table(f"{SERIES} order by x")), max_results=7, **pages),
                 bq.query_and_wait(f"{SERIES} order by x", max_results=7, **pages)):
        assert [row["x"] for row in read] == [1, 2, 3, 4, 5, 6, 7]


FRAME = pd.DataFrame({
    "id": [1, 2], "name": ["a", None], "rate": [0.5, None],
    "at": pd.to_datetime(
        ["2026-01-02T03:04:05.000006", "2026-01-03T00:00:00.000000"], utc=True)})
FRAME_ROWS = [
    (1, "a", 0.5, datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)),
    (2, None, None, datetime.datetime(2026, 1, 3, tzinfo=datetime.UTC))]


@pytest.mark.filterwarnings("ignore:Load")
def test_load_from_a_dataframe(bq):
    """Into a new table, appended, replaced, and with the columns in another order."""
    target = "p1.ds.from_frame"
    assert bq.load_table_from_dataframe(FRAME, target).result().output_rows == 2
    assert rows(bq, target) == FRAME_ROWS
    assert [field.field_type for field in bq.get_table(target).schema] == [
        "INTEGER", "STRING", "FLOAT", "TIMESTAMP"]
    bq.load_table_from_dataframe(FRAME, target).result()
    assert len(rows(bq, target)) == 4
    replace = bigquery.LoadJobConfig(write_disposition="WRITE_TRUNCATE")
    for columns in (["id", "name", "rate", "at"], ["at", "rate", "name", "id"]):
        bq.load_table_from_dataframe(FRAME[columns], target, job_config=replace).result()
        assert rows(bq, target) == FRAME_ROWS


def test_load_from_json(bq):
    target = "p1.ds.from_json"
    schema = [bigquery.SchemaField("id", "INT64"), bigquery.SchemaField("name", "STRING"),
              bigquery.SchemaField("at", "TIMESTAMP")]
    records = [{"name": "a", "id": 1, "at": "2026-01-02T03:04:05Z"}, {"id": 2}]
    config = bigquery.LoadJobConfig(schema=schema)
    assert bq.load_table_from_json(records, target, job_config=config).result().output_rows == 2
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert rows(bq, target) == [(1, "a", at), (2, None, None)]
    bq.load_table_from_json([{"id": 5, "tag": "x"}], "p1.ds.from_json_without_schema").result()
    assert rows(bq, "p1.ds.from_json_without_schema") == [(5, "x")]


def test_load_from_cloud_storage(bq, gcs):
    bucket = gcs.create_bucket("loads")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"name": ["a", "b"], "id": [1, 2]}), sink)
    for part in "xy":
        bucket.blob(f"parts/{part}.parquet").upload_from_string(sink.getvalue().to_pybytes())
    bucket.blob("rows.csv").upload_from_string("id,name\n7,c\n")
    bucket.blob("rows.json").upload_from_string('{"name": "d", "id": 8}\n')
    schema = [bigquery.SchemaField("id", "INT64"), bigquery.SchemaField("name", "STRING")]
    expected = {"PARQUET": [(1, "a"), (1, "a"), (2, "b"), (2, "b")], "CSV": [(7, "c")],
                "NEWLINE_DELIMITED_JSON": [(8, "d")]}
    for (kind, found), uri in zip(
            expected.items(), ("parts/*.parquet", "rows.csv", "rows.json"), strict=True):
        config = bigquery.LoadJobConfig(source_format=kind, schema=schema)
        if kind == "CSV":
            config.skip_leading_rows = 1
        bq.load_table_from_uri(f"gs://loads/{uri}", f"p1.ds.gs_{kind}", job_config=config).result()
        assert sorted(rows(bq, f"p1.ds.gs_{kind}")) == found


def test_load_of_an_object_that_is_missing(bq, soon):
    config = bigquery.LoadJobConfig(
        source_format="PARQUET", schema=[bigquery.SchemaField("id", "INT64")])
    with pytest.raises(errors.GoogleAPICallError, match="No files found"):
        bq.load_table_from_uri("gs://loads/none", "p1.ds.none", job_config=config).result()


def test_load_of_parquet_into_a_table_that_is_missing(bq, soon):
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    with pytest.raises(errors.BadRequest, match="create the table first"):
        bq.load_table_from_uri("gs://loads/x", "p1.ds.missing", job_config=config).result()


def test_load_by_name_of_columns_that_the_table_lacks(bq, table, soon):
    config = bigquery.LoadJobConfig(schema=[bigquery.SchemaField("id", "INT64")])
    with pytest.raises(errors.GoogleAPICallError, match="No such field: rate"):
        bq.load_table_from_json([{"id": 1, "rate": 2}], "p1.ds.less", job_config=config).result()
    copy = name(table("select 1 as a"))
    with pytest.raises(errors.GoogleAPICallError, match='column with name "name"'):
        bq.load_table_from_dataframe(FRAME[["name"]], copy).result()


@pytest.mark.parametrize(("options", "named"), [
    ({"source_format": "CSV"}, "skip_leading_rows=1"),
    ({"source_format": "CSV", "skip_leading_rows": 1, "field_delimiter": ";"}, "fieldDelimiter"),
    ({"source_format": "NEWLINE_DELIMITED_JSON", "ignore_unknown_values": True},
     "ignoreUnknownValues"),
    ({"source_format": "PARQUET", "max_bad_records": 5}, "maxBadRecords")])
def test_load_options_that_the_emulator_ignores_are_refused(bq, tmp_path, options, named, soon):
    config = bigquery.LoadJobConfig(**options)
    with pytest.raises(errors.MethodNotImplemented, match=named):
        bq.load_table_from_uri("gs://loads/rows.csv", "p1.ds.refused", job_config=config).result()
    file = tmp_path / "rows"
    file.write_text("1,a")
    for size in (None, 3):  # resumable, multipart
        with file.open("rb") as content, pytest.raises(errors.MethodNotImplemented, match=named):
            bq.load_table_from_file(content, "p1.ds.refused", size=size, job_config=config).result()


def test_jobs_that_the_emulator_would_only_pretend_to_do_are_refused(bq, table, soon):
    copy = name(table("select 1 as a"))
    config = bigquery.QueryJobConfig(destination="p1.ds.result")
    with pytest.raises(errors.MethodNotImplemented, match="create or replace table"):
        bq.query("select 1", job_config=config).result()
    with pytest.raises(errors.MethodNotImplemented, match="gs://"):
        bq.extract_table(copy, "gs://loads/out.csv").result()
    export = "Export  Data options(uri='gs://loads/*.csv', format='CSV') as select 1"
    with pytest.raises(errors.MethodNotImplemented, match="gs://"):
        bq.query(export).result()
    with pytest.raises(errors.MethodNotImplemented, match="gs://"):
        bq.query_and_wait(export)


def test_a_defect_of_the_emulator_is_reported_at_once_with_its_cause(bq, table, soon):
    """bqemulator answers both with 500 internalError, which Google's client retries."""
    numbers = name(table("select 1 as a"))
    with pytest.raises(errors.MethodNotImplemented, match="'abc'(.|\n)*Known divergences"):
        bq.insert_rows_json(numbers, [{"a": "abc"}])
    with pytest.raises(errors.MethodNotImplemented, match="BinderException.*nothing"):
        list(bq.list_rows(numbers, selected_fields=[bigquery.SchemaField("nothing", "STRING")]))


def test_errors_of_the_caller_are_left_as_they_are(bq, soon):
    with pytest.raises(errors.BadRequest, match="Function not found"):
        bq.query("select no_such_function(1)").result()
    with pytest.raises(errors.NotFound):
        bq.get_table("p1.ds.nothing")


@pytest.mark.parametrize("sql, error", [
    *[(sql, errors.BadRequest)
      for sql in ("selec 1", "select absent", "select 1 / 0", "select error('x')")],
    ("select 1 from p1.ds.absent", errors.NotFound)])
def test_a_failed_query_is_an_error_for_every_method(bq, sql, error):
    """jobs.query, which query_and_wait calls, as jobs.insert."""
    for run in (bq.query_and_wait, lambda sql: bq.query(sql).result()):
        with pytest.raises(error):
            run(sql)


def test_a_statement_that_was_parsed_before_has_a_tree_of_its_own():
    first, second = (sqlglot.parse_one(SERIES, read="bigquery") for _ in range(2))
    assert first == second
    first.set("expressions", [])
    assert sqlglot.parse_one(SERIES, read="bigquery") == second != first


def test_a_statement_that_has_run_has_the_tree_that_it_was_parsed_to(bq):
    for statement in (
            "create or replace table ds.kept partition by d cluster by n as "
            "with few as (select date '2026-01-02' as d, 1.5 as n, 'a' as s) select * from few",
            "select avg(n / 2) as n, array_agg(s limit 1) as s from `p1.ds.kept` group by d",
            "insert into ds.kept (d, n, s) values (date '2026-01-03', 2.5, 'b')",
            "update ds.kept set n = n + 1 where s = 'b'",
            "merge ds.kept as t using (select 'b' as s) as u on t.s = u.s when matched then delete",
            "create or replace view ds.seen as select * from ds.kept", "select * from ds.seen",
            "drop view ds.seen", "drop table ds.kept"):
        bq.query(statement, job_config=bigquery.QueryJobConfig(dry_run=True))
        bq.query(statement).result()
        (parsed,) = sqlglot.parse(statement, read="bigquery")
        assert sqlglot.parse_one(statement, read="bigquery") == parsed


def test_a_dry_run_names_the_columns_and_runs_nothing(bq):
    """https://cloud.google.com/bigquery/docs/running-queries#dry-run"""
    sql = "select x as n, @word as s, if(x > 0, error('it ran'), 1.5) as f from unnest([1, 2]) x"
    parameters = [bigquery.ScalarQueryParameter("word", "STRING", "a")]
    planned = bq.query(sql, job_config=bigquery.QueryJobConfig(
        dry_run=True, query_parameters=parameters))
    assert [(field.name, field.field_type) for field in planned.schema] == [
        ("n", "INTEGER"), ("s", "STRING"), ("f", "FLOAT")]
    with pytest.raises(errors.GoogleAPICallError, match="it ran"):
        bq.query(sql, job_config=bigquery.QueryJobConfig(query_parameters=parameters)).result()
    with pytest.raises(errors.BadRequest, match="nowhere"):
        bq.query("select nowhere from unnest([1]) x",
                 job_config=bigquery.QueryJobConfig(dry_run=True))


def test_a_parameters_name_in_a_comment_or_in_a_text_is_no_parameter(bq):
    sql = """-- @word is not @word's place
        select @word as s, 'me@word, $word, it\\'s @word' as t, @word as u, `@word`
        from (select 1 as `@word`) /* @word */"""
    config = bigquery.QueryJobConfig(query_parameters=[
        bigquery.ScalarQueryParameter("word", "STRING", "a")])
    (row,) = bq.query(sql, job_config=config).result()
    assert tuple(row.values()) == ("a", "me@word, $word, it's @word", "a", 1)


def test_a_translation_is_kept_over_a_restart(tmp_path, monkeypatch):
    for sql in ("select safe_divide(1, 0) as x", "select nothing to do"):
        monkeypatch.setattr("lib.localcloud.bigquery.TRANSLATIONS", {})
        server = BigQueryServer(tmp_path, "p1")
        server.start()
        client = bigquery.Client("p1", credentials=AnonymousCredentials(),
                                 client_options={"api_endpoint": server.rest})
        with contextlib.suppress(errors.BadRequest):
            client.query(sql).result()
        server.stop()
    (translated,) = json.loads((tmp_path / "translations.json").read_text()).items()
    assert "safe_divide" in translated[0] and "safe_divide" not in translated[1].lower()
    assert [path.name for path in tmp_path.glob("translations*")] == ["translations.json"]


@pytest.mark.parametrize("content", ['{"select 1": "sel', "[1]", "null", "\xff"])
def test_a_file_of_translations_that_cannot_be_read_is_no_obstacle(tmp_path, monkeypatch, content):
    monkeypatch.setattr("lib.localcloud.bigquery.TRANSLATIONS", known := {})
    (tmp_path / "translations.json").write_text(content, encoding="latin-1")
    BigQueryServer(tmp_path, "p1")
    assert known == {}


def test_a_statement_is_translated_once_for_all_datasets(bq, monkeypatch):
    for dataset, x in (("first", 0), ("second", 1)):
        bq.create_dataset(dataset)
        bq.query(f"create table `p1.{dataset}.t` as select {x} as x").result()
    monkeypatch.setattr("lib.localcloud.bigquery.TRANSLATIONS", known := {})
    for one, other, expected in (("first", "second", (0, 1)), ("second", "first", (1, 0))):
        (row,) = bq.query(f"select a.x, safe_divide(b.x, 1) as y from `p1.{one}.t` as a "
                          f"cross join `p1.{other}.t` as b").result()
        assert tuple(row.values()) == expected and len(known) == 1
    (row,) = bq.query("select 'dataset_0_' as x from `p1.first.t`").result()
    assert row["x"] == "dataset_0_"
    rows = bq.query("select table_name from `p1.first.INFORMATION_SCHEMA.TABLES`").result()
    assert [row["table_name"] for row in rows] == ["t"]
    with pytest.raises(errors.BadRequest, match="absent_column"):
        bq.query("select absent_column from `p1.first.t`").result()
    for dataset, x in (("first", 10), ("second", 11)):
        bq.query(f"create function `p1.{dataset}.plus_ten`(x int64) as (x + 10)").result()
        (row,) = bq.query(
            f"select `p1.{dataset}.plus_ten`(x) as x from `p1.{dataset}.t`").result()
        assert row["x"] == x


def test_functions_of_places_are_there_once_they_are_asked_for(tmp_path):
    server = BigQueryServer(tmp_path, "p1")
    server.start()
    try:
        client = bigquery.Client("p1", credentials=AnonymousCredentials(),
                                 client_options={"api_endpoint": server.rest})
        client.create_dataset("ds")
        client.query("create table ds.places as select st_geogpoint(1, 2) as place").result()
        (row,) = client.query("select st_x(place) as x from ds.places").result()
        assert row["x"] == 1
    finally:
        server.stop()


def test_a_statement_that_was_translated_before_is_translated_anew_for_other_columns(bq):
    for kind, found in (("numeric", decimal.Decimal), ("float64", float)):
        bq.query(f"create or replace table ds.retyped as select cast(1.5 as {kind}) as x").result()
        (row,) = bq.query("select avg(x) as mean from ds.retyped").result()
        assert type(row["mean"]) is found
