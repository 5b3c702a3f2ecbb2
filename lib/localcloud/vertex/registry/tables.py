"""The BigQuery tables that features come from: their schemas, and reading them for a sync."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

import google.api_core.exceptions as google_errors
import grpc
import pyarrow as pa
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, bigquery_storage_v1
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)

from lib.localcloud.errors import invalid, refused

TIMESTAMP_COLUMN = "feature_timestamp"
# BigQuery type -> field of FeatureValue; a timestamp is served as int64 microseconds.
VALUE_FIELDS = {
    "BOOLEAN": "bool", "BOOL": "bool", "INTEGER": "int64", "INT64": "int64",
    "FLOAT": "double", "FLOAT64": "double", "STRING": "string", "TIMESTAMP": "int64",
    "BYTES": "bytes",
}
SCRATCH_DATASET = "_vertex_sync"
TIMEOUT = 600  # seconds


@dataclass(frozen=True)
class ServedTable:
    """One table and how to reduce it to one row per entity.

    Attributes:
        key: differs from that of other tables of the same view (the group's id, or "").
        table: `project.dataset.table`.
        columns: feature name -> column.
        order: the timestamp column; None for a table that is no time series.
        dense: the newest row, nulls and all; else the newest non-null value of each column.
    """

    key: str
    table: str
    entity_columns: tuple[str, ...]
    columns: dict[str, str]
    order: str | None
    dense: bool


class BigQuery:
    """Google's clients, pointed at the local BigQuery."""

    def __init__(self, project: str, rest: str, grpc_address: str):
        self._client = bigquery.Client(
            project=project, credentials=AnonymousCredentials(),
            client_options={"api_endpoint": rest})
        # A record batch is larger than gRPC's default limit of 4 MiB a message.
        self._channel = grpc.insecure_channel(
            grpc_address, options=[
                ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)])
        self._reader = bigquery_storage_v1.BigQueryReadClient(
            transport=BigQueryReadGrpcTransport(channel=self._channel))

    def close(self) -> None:
        self._channel.close()
        self._client.close()

    def schema(self, uri: str) -> dict[str, bigquery.SchemaField]:
        """Column name -> field of a `bq://project.dataset.table`.

        Raises:
            ApiError: INVALID_ARGUMENT for a malformed URI; NOT_FOUND for the table.
        """
        try:
            found = self._client.get_table(table_id(uri), retry=None, timeout=TIMEOUT)
        except google_errors.NotFound:
            raise refused(
                "registry.source-exists",
                "NOT_FOUND", f"BigQuery table {uri} was not found.") from None
        return {field.name: field for field in found.schema}

    def newest(self, served: ServedTable) -> tuple[list, Iterator[tuple[str, tuple]], int]:
        """One row per entity: ([name, value field] pairs, (entity, values) rows, slot ms).

        BigQuery writes the reduction into a scratch table, which is read through the Storage
        Read API, batch by batch: query results over REST are limited to a few thousand rows a
        second. The rows come in the order of the entities, which is also the order on disk:
        writing them takes half the time.

        Raises:
            google.api_core.exceptions.GoogleAPIError: such as a deleted table or column.
        """
        scratch = f"{self._client.project}.{SCRATCH_DATASET}.{uuid.uuid4().hex}"
        self._client.create_dataset(SCRATCH_DATASET, exists_ok=True, retry=None)
        started = time.monotonic()
        try:
            job = self._client.query(
                f"create table `{scratch}` as {reduction(served)} order by "
                + ", ".join(f"`entity {i}`" for i in range(len(served.entity_columns))),
                retry=None, job_retry=None)
            job.result(timeout=TIMEOUT)
            # The emulator counts no slots: the statement's wall time is used instead.
            slot_ms = job.slot_millis or round((time.monotonic() - started) * 1000)
            schema = self._client.get_table(scratch, retry=None).schema
            session = self._open(scratch)  # it keeps the rows when the table is gone
        finally:
            self._client.delete_table(scratch, not_found_ok=True, retry=None)
        columns = [[f.name, value_field(f)] for f in schema if not f.name.startswith("entity ")]
        return columns, _rows(self._read(session), len(served.entity_columns)), slot_ms

    def readers(self, dataset: str) -> set[str]:
        """The accounts that may read every table of a dataset, by its access list."""
        entries = self._client.get_dataset(dataset, retry=None).access_entries
        return {e.entity_id for e in entries if e.entity_type == "userByEmail"}

    def _open(self, table: str) -> bigquery_storage_v1.types.ReadSession:
        project, dataset, name = table.split(".")
        return self._reader.create_read_session(
            parent=f"projects/{project}",
            read_session=bigquery_storage_v1.types.ReadSession(
                table=f"projects/{project}/datasets/{dataset}/tables/{name}",
                data_format=bigquery_storage_v1.types.DataFormat.ARROW),
            max_stream_count=1)

    def _read(self, session: bigquery_storage_v1.types.ReadSession) -> Iterator[pa.RecordBatch]:
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        for stream in session.streams:
            for part in self._reader.read_rows(stream.name):
                yield pa.ipc.read_record_batch(
                    pa.py_buffer(part.arrow_record_batch.serialized_record_batch), schema)


def table_id(uri: str) -> str:
    """`bq://project.dataset.table` -> `project.dataset.table`; or INVALID_ARGUMENT."""
    parts = uri.removeprefix("bq://").split(".")
    if not uri.startswith("bq://") or len(parts) != 3 or not all(parts) or "`" in uri:
        raise invalid("registry.source-uri", f"{uri!r} must be bq://project.dataset.table.")
    return ".".join(parts)


def value_field(field: bigquery.SchemaField) -> str | None:
    """The field of FeatureValue for this column, without "_value"; None if it has none."""
    scalar = VALUE_FIELDS.get(field.field_type)
    if field.mode != "REPEATED" or scalar is None:
        return scalar
    return None if scalar == "bytes" else f"{scalar}_array"


def reduction(served: ServedTable) -> str:
    """The SELECT that leaves one row per entity."""
    entity = [f"`{column}`" for column in served.entity_columns]
    # The space keeps the name different from every feature id.
    keys = [f"cast({column} as string) as `entity {i}`" for i, column in enumerate(entity)]
    present = " and ".join(f"{column} is not null" for column in entity)
    by = ", ".join(entity)
    order = f"`{served.order}`" if served.order else None
    stamp = [f"{{}} as `{TIMESTAMP_COLUMN}`"] if order else []

    if served.dense or not order:
        values = [f"`{column}` as `{name}`" for name, column in served.columns.items()]
        selected = ", ".join(keys + values + [s.format(order) for s in stamp])
        newest = f"order by {order} desc" if order else f"order by {by}"
        return (
            f"select {selected} from `{served.table}` where {present} "
            f"qualify row_number() over (partition by {by} {newest}) = 1")
    values = [
        f"any_value(`{column}` having max if(`{column}` is null, null, {order})) as `{name}`"
        for name, column in served.columns.items()]
    selected = ", ".join(keys + values + [s.format(f"max({order})") for s in stamp])
    return f"select {selected} from `{served.table}` where {present} group by {by}"


def entity_key(parts: Sequence[str]) -> str:
    """The key of an entity in the online store: a JSON list, made by the part of json.dumps that
    takes the least time."""
    return f"[{', '.join(map(encode_basestring_ascii, parts))}]"


def _rows(batches: Iterator[pa.RecordBatch], keys: int) -> Iterator[tuple[str, tuple]]:
    """(entity, values) of each row."""
    for batch in batches:
        columns = [_plain(column) for column in batch.columns]
        values = zip(*columns[keys:], strict=True) if columns[keys:] else [()] * batch.num_rows
        entities = map(entity_key, zip(*columns[:keys], strict=True))
        yield from zip(entities, values, strict=True)


def _plain(column: pa.Array) -> list:
    """Values as a feature view serves them: timestamps as microseconds, bytes as latin-1 text."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_pylist()
    if pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
        zone = column.type.value_type.tz
        micros = column.cast(pa.list_(pa.timestamp("us", zone)))
        return micros.cast(pa.list_(pa.int64())).to_pylist()
    if pa.types.is_binary(column.type):
        return [value and value.decode("latin-1") for value in column.to_pylist()]
    return column.to_pylist()
