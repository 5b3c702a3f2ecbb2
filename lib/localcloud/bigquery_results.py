"""Query results of bqemulator: readable by the Storage Read API, and bounded in age and memory.

bqemulator keeps every result and every read session in memory for as long as it runs, and can
read only stored tables by the Storage Read API.
"""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pyarrow as pa
from bqemulator.api.dependencies import AppContext
from bqemulator.domain.errors import NotFoundError, UnsupportedFeatureError
from bqemulator.grpc_api.read_servicer import BigQueryReadHandler
from bqemulator.jobs.executor import JOB_RESULTS, JOB_SCHEMAS
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.streaming.read_session import create_read_session, get_session
from google.cloud.bigquery_storage_v1 import types

from lib.localcloud.errors import by_rule

# What is kept beside the newest. Google keeps results for 24 hours and read sessions for 6:
# https://cloud.google.com/bigquery/docs/cached-results, .../docs/reference/storage
MAX_SECONDS = 6 * 3600
MAX_BYTES = 2 * 2**30
DATASET = "_bqemu_anonymous"  # under which bqemulator names a result: anon<job id without ->
MESSAGE_BYTES = 4 * 2**20  # of rows in one message: bqemulator's gRPC server sends 11 MiB at most
MESSAGE_ROWS = 65536
GONE = ("The result of job {} is no longer kept: the local cloud keeps results in memory, for 6 "
        "hours and 2 GiB in all. Please run the query again, or create a table from it.")
ARROW = {
    "INTEGER": pa.int64(), "FLOAT": pa.float64(), "BOOLEAN": pa.bool_(), "STRING": pa.string(),
    "BYTES": pa.binary(), "JSON": pa.string(), "DATE": pa.date32(), "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38),
}


class Bounded:
    """Names of things in memory; drops the oldest when they are too old or too big in all."""

    def __init__(self, drop: Callable[[str], None]):
        self._drop = drop
        self._kept: dict[str, tuple[float, int]] = {}  # in order of arrival: time, bytes
        self._lock = threading.Lock()

    def add(self, name: str, size: int) -> None:
        """Remember one more, and drop what exceeds the limits. The newest always stays."""
        with self._lock:
            now = time.monotonic()
            self._kept.setdefault(name, (now, size))
            total = sum(size for _, size in self._kept.values())
            for old, (born, size) in list(self._kept.items())[:-1]:
                if now - born <= MAX_SECONDS and total <= MAX_BYTES:
                    break
                del self._kept[old]
                total -= size
                self._drop(old)

    def __contains__(self, name: str) -> bool:
        return name in self._kept


def _drop_result(job: str) -> None:
    JOB_RESULTS.pop(job, None)
    JOB_SCHEMAS.pop(job, None)


def _drop_session(name: str) -> None:
    """Empty a session: its streams are not found from now on."""
    session = get_session(name)
    session.streams.clear()
    session.table = session.table.schema.empty_table()


results = Bounded(_drop_result)
_sessions = Bounded(_drop_session)


def bound_results() -> None:
    """Note the results that came since the last call, and drop what exceeds the limits."""
    for job, table in list(JOB_RESULTS.items()):
        if job not in results:
            results.add(job, table.nbytes)


class OnDisk:
    """bqemulator's engine, as the Storage Read API uses it: the rows of a session go through to a
    file, which is mapped into memory. A table of any size takes the memory of one batch."""

    def __init__(self, engine: DuckDBEngine, folder: Path | None):
        self._engine, self._folder = engine, folder
        for left in Path(folder).glob("read-*.arrow") if folder else ():  # of one that was killed
            left.unlink()

    def fetch_arrow(self, sql: str) -> pa.Table:
        """The rows of a SELECT; its file ends with the last use of the table."""
        schema = self._engine.fetch_arrow(f"select * from ({sql}) limit 0").schema
        # A connection of its own: another statement on the same one would end the stream.
        with (self._engine.connection.cursor() as own,
              tempfile.NamedTemporaryFile(
                  dir=self._folder, prefix="read-", suffix=".arrow") as file):
            own.execute("set TimeZone = 'UTC'")
            with pa.ipc.new_file(file, schema) as writer:
                for batch in own.execute(sql).to_arrow_reader(MESSAGE_ROWS):
                    writer.write_batch(batch.cast(schema))
            file.flush()
            return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


class ReadHandler(BigQueryReadHandler):
    """bqemulator's Storage Read API, which also reads query results and forgets old sessions."""

    def __init__(self, context: AppContext):
        super().__init__(dataclasses.replace(
            context, engine=OnDisk(context.engine, context.settings.data_dir)))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        handler = super().service(handler_call_details)
        if not handler_call_details.method.endswith("BigQueryRead/CreateReadSession"):
            return handler
        create = handler.unary_unary

        def create_bounded(content: bytes, context: grpc.ServicerContext) -> bytes:
            request = types.CreateReadSessionRequest.deserialize(content)
            _, project, _, dataset, _, table = request.read_session.table.split("/")
            if dataset == DATASET:
                answer = _read_result(project, table.removeprefix("anon"), request)
            else:
                answer = create(content, context)
            if answer:  # else `context` carries an error
                _prepare(get_session(types.ReadSession.deserialize(answer).name))
            return answer

        return grpc.unary_unary_rpc_method_handler(create_bounded)


def _read_result(project: str, flat: str, request: types.CreateReadSessionRequest) -> bytes:
    """Open a session on the result of the job whose id without hyphens is `flat`.

    Raises:
        DomainError: the result is gone, or asked for in a way that is not served.
    """
    job = next((job for job in list(JOB_RESULTS) if job.replace("-", "") == flat), None)
    if job is None:
        raise by_rule("divergence.results-in-memory", NotFoundError(GONE.format(flat)))
    asked = request.read_session
    if asked.data_format != types.DataFormat.ARROW or asked.read_options.row_restriction:
        raise by_rule("divergence.result-formats", UnsupportedFeatureError(
            "The local cloud reads query results in the Arrow format and without a row "
            "restriction. Please create a table of the result (create table ... as select) and "
            "read that."))
    session = create_read_session(
        project, asked.table, google_types(JOB_RESULTS[job], JOB_SCHEMAS[job]),
        max_streams=request.max_stream_count or 1,
        selected_fields=list(asked.read_options.selected_fields))
    return types.ReadSession.serialize(types.ReadSession(
        name=session.session_name, table=asked.table, data_format=asked.data_format,
        streams=[types.ReadStream(name=stream.name) for stream in session.streams],
        estimated_total_bytes_scanned=session.table.nbytes, read_options=asked.read_options,
        arrow_schema=types.ArrowSchema(serialized_schema=session.arrow_schema_bytes)))


def _prepare(session: object) -> None:
    """Cut a session's table into messages that gRPC can send, and bound what is kept."""
    size, rows = session.table.nbytes, session.table.num_rows
    chunk = max(1, min(MESSAGE_ROWS, rows * MESSAGE_BYTES // max(size, 1)))
    session.table = pa.Table.from_batches(
        session.table.to_batches(max_chunksize=chunk), session.table.schema)
    _sessions.add(session.session_name, size)


def google_types(table: pa.Table, fields: list[dict]) -> pa.Table:
    """The table in the Arrow types that Google gives to these fields of a REST schema.

    DuckDB's are narrower or wider: `select 1` is an int32, a sum of integers a decimal.
    """
    names = [field["name"] for field in fields]
    kinds = [_google_type(field, column.type)
             for field, column in zip(fields, table.itercolumns(), strict=True)]
    return table.rename_columns(names).cast(
        pa.schema([pa.field(*pair) for pair in zip(names, kinds, strict=True)]))


def _google_type(field: dict, kind: pa.DataType) -> pa.DataType:
    if field["mode"] == "REPEATED":
        return pa.list_(_google_type(field | {"mode": "NULLABLE"}, kind.value_type))
    if field["type"] == "RECORD":
        return pa.struct([
            pa.field(part["name"], _google_type(part, kind.field(n).type))
            for n, part in enumerate(field["fields"])])
    return ARROW.get(field["type"], kind)
