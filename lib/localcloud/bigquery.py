"""BigQuery of the local cloud: the `bqemulator` package (DuckDB + sqlglot) on loopback."""

import asyncio
import io
import json
import re
import sys
import threading
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import bqemulator.server
import duckdb
import duckdb_extensions
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from bqemulator.api.dependencies import AppContext
from bqemulator.catalog.duckdb_repository import DuckDBCatalogRepository
from bqemulator.config import LogLevel, PersistenceMode, Settings
from bqemulator.domain.errors import DomainError, InvalidQueryError
from bqemulator.domain.events import TableDataChanged
from bqemulator.domain.result import Err, Ok, Result
from bqemulator.grpc_api import read_servicer
from bqemulator.jobs import executor
from bqemulator.row_access.identity import CallerIdentity
from bqemulator.sql import builtin_udfs
from bqemulator.sql.translator import SQLTranslator
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.versioning.snapshots import SnapshotManager
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from lib.localcloud import bigquery_http, bigquery_results, thelook
from lib.localcloud.errors import by_rule
from lib.localcloud.storage import objects_folder

PUBLIC_DATASET = "bigquery-public-data.thelook_ecommerce"
# What translates; how many statements are kept, each with the columns of its tables.
VERSIONS = (bqemulator.__version__, sqlglot.__version__, duckdb.__version__)
TRANSLATIONS: dict[str, str] = {}
MOST_TRANSLATIONS = 256
DATASET = re.compile(r"(?i)(`[\w-]+\.)(?!information_schema)(\w+)(?=\.\w+`)")
# The modules of bqemulator that change no tree that they parse.
READERS = ("bqemulator.api.routes.jobs", "bqemulator.catalog.ddl_sync", "bqemulator.jobs.",
           "bqemulator.sql.catalog_schema")


def _load_parquet(path: str, target: str, context: AppContext) -> None:
    """Load Parquet by the names of the columns, as Google does; bqemulator goes by position."""
    if not context.engine.execute(
            "select count(*) from duckdb_tables() where schema_name || '.' || table_name = ?",
            [target.replace('"', "")]).fetchone()[0]:
        raise by_rule("divergence.parquet-schema", InvalidQueryError(
            "The local cloud loads Parquet into a table that exists, or needs a schema in the "
            "load job. Please create the table first."))
    context.engine.execute(f"INSERT INTO {target} BY NAME SELECT * FROM read_parquet(?)", [path])


def _load_json(path: str, target: str, context: AppContext) -> None:
    """Load JSON lines, but refuse fields that the table lacks, as Google does."""
    fields = context.engine.execute(
        "select distinct unnest(json_keys(json)) from read_ndjson_objects(?)", [path]).fetchall()
    columns = {row[0].lower() for row in context.engine.execute(f"DESCRIBE {target}").fetchall()}
    if unknown := sorted(field for field, in fields if field.lower() not in columns):
        raise by_rule(
            "bigquery.unknown-columns", ValueError(f"No such field: {', '.join(unknown)}."))
    _COPY_JSON(path, target, context)


def _record_change(manager: SnapshotManager, *table: str) -> None:
    """After DML or a load: publish the change. bqemulator also copies the whole table, for time
    travel, which is off here: one new week of features would cost a copy of all weeks."""
    manager._events.publish(TableDataChanged(*table))


@lru_cache(64)
def _parsed(sql: str) -> sqlglot.exp.Expression:
    return _PARSE_ONE(sql, read="bigquery")


def _parse_one(sql: str, **options: object) -> sqlglot.exp.Expression:
    """sqlglot.parse_one, which bqemulator calls up to twenty times with the same statement, mostly
    to see of what kind it is. Who changes the tree gets a copy, a fifth of the time of parsing."""
    if options != {"read": "bigquery"}:
        return _PARSE_ONE(sql, **options)
    only_reads = sys._getframe(1).f_globals["__name__"].startswith(READERS)
    return _parsed(sql) if only_reads else _parsed(sql).copy()


def _translated(sql: str, tables: str, caller: CallerIdentity | None) -> str:
    """tables: name -> column -> type, as JSON. Raises DomainError, which is not kept.

    A dataset's name changes nothing: the features of a copy are built by the same statement.
    """
    datasets = list(dict.fromkeys(found[2] for found in DATASET.finditer(sql)))
    if re.search(r"(?i)dataset_\d+_", sql):
        datasets, anonymous = [], sql
    else:
        anonymous = DATASET.sub(
            lambda found: f"{found[1]}dataset_{datasets.index(found[2])}_", sql)
    key = repr((VERSIONS, anonymous, tables, caller))
    if key not in TRANSLATIONS:
        translated = _TRANSLATE(
            executor._translator, anonymous, schema=json.loads(tables), caller=caller)
        if isinstance(translated, Err):  # in its words, the names of the statement
            return _TRANSLATE(
                executor._translator, sql, schema=json.loads(tables), caller=caller).unwrap()
        TRANSLATIONS[key] = translated.unwrap()
    while len(TRANSLATIONS) > MOST_TRANSLATIONS:
        del TRANSLATIONS[next(iter(TRANSLATIONS))]
    found = TRANSLATIONS[key]
    for n, dataset in enumerate(datasets):
        # The name of a function may be written in capitals.
        found = re.sub(f"(?i)dataset_{n}_", dataset, found)
    return found


def _translate(
    _self: SQLTranslator, bq_sql: str, *, schema: dict | None = None,
    caller: CallerIdentity | None = None,
) -> Result:
    """SQLTranslator.translate, but only once for the same statement over the same columns, such as
    a table that is built again or a look-up for one customer after the other. BigQueryServer keeps
    what was translated: a second run spent a second on it."""
    try:
        return Ok(_translated(bq_sql, json.dumps(schema), caller))
    except DomainError as error:
        return Err(error)


def _fetch_arrow(
    engine: DuckDBEngine, sql: str, parameters: list[object] | None = None
) -> pa.Table:
    """DuckDBEngine.fetch_arrow, which plans the SELECT of a dry run and reads nothing, as Google
    does; bqemulator runs it whole, only to know its columns. The functions of places (ST_...) are
    loaded for the first statement that names one: bqemulator loads them at each start, a fifth of
    its CPU."""
    if bigquery_http.DRY_RUN.get():
        with suppress(duckdb.Error):  # no SELECT, or a wrong one: fails below with its own words
            return _FETCH_ARROW(engine, f"select * from ({sql}\n) limit 0", parameters)
    try:
        return _FETCH_ARROW(engine, sql, parameters)
    except duckdb.CatalogException as error:
        if "spatial extension" not in str(error):
            raise
    # From the PyPI wheel: bqemulator would download it.
    duckdb_extensions.import_extension("spatial")
    _LOAD_SPATIAL(engine)
    return _FETCH_ARROW(engine, sql, parameters)


@lru_cache(256)
def _around_parameters(sql: str) -> list[str]:
    """The SQL in parts, of which each second one is a parameter such as $name."""
    parts, end = [], 0
    for sign, name in pairwise(sqlglot.tokenize(sql, read="duckdb")):
        if sign.token_type == sqlglot.TokenType.PARAMETER and name.start == sign.end + 1:
            parts += sql[end:sign.start], sql[sign.start:name.end + 1]
            end = name.end + 1
    return [*parts, sql[end:]]


def _bind_parameters(sql: str, parameters: list[dict] | None = None) -> tuple[str, list]:
    """bqemulator's bind_parameters, which takes a parameter's name in a comment or in a text for
    the parameter."""
    if not (parameters and parameters[0].get("name")):
        return _BIND_PARAMETERS(sql, parameters)
    parts, values = _around_parameters(sql).copy(), []
    for n in range(1, len(parts), 2):
        parts[n], found = _BIND_PARAMETERS(parts[n], parameters)
        values += found
    return "".join(parts), values


_FETCH_ARROW = DuckDBEngine.fetch_arrow
DuckDBEngine.fetch_arrow = _fetch_arrow
_LOAD_SPATIAL = DuckDBEngine._load_spatial
DuckDBEngine._load_spatial = lambda engine: None
# It would write each job into DuckDB, without its result: a fifth of what a small query costs.
DuckDBCatalogRepository._write_job = lambda catalog, job: None
_PARSE_ONE = sqlglot.parse_one
sqlglot.parse_one = _parse_one
_TRANSLATE = SQLTranslator.translate
SQLTranslator.translate = _translate
_BIND_PARAMETERS = executor.bind_parameters
executor.bind_parameters = _bind_parameters
executor.rewrite_table_refs = lru_cache(256)(executor.rewrite_table_refs)
# FARM_FINGERPRINT, written in Python, of the same ids in one query after the other.
builtin_udfs.bqemu_farm_fingerprint = lru_cache(2**18)(builtin_udfs.bqemu_farm_fingerprint)
# bqemulator has no hooks: its server finds its parts under these names when it starts.
_COPY_JSON = executor._LOAD_FORMAT_HANDLERS["NEWLINE_DELIMITED_JSON"]
bqemulator.server.create_app = bigquery_http.create_app
read_servicer.BigQueryReadHandler = bigquery_results.ReadHandler
SnapshotManager.record_change = _record_change
executor._LOAD_FORMAT_HANDLERS |= {
    "PARQUET": _load_parquet, "NEWLINE_DELIMITED_JSON": _load_json}


class BigQueryServer:
    """One bqemulator in this process; tables live in a DuckDB file under `data_dir`.

    It has a thread and an event loop of its own: a statement holds the loop until it is done, a
    minute with ten times the data, and meanwhile Vertex AI and the health check must answer.

    Args:
        data_dir: folder of the DuckDB file.
        project: the project of requests that name none.
        storage: data folder of the StorageServer, from which gs:// is loaded; None: not served.
    """

    def __init__(self, data_dir: Path, project: str, storage: Path | None = None):
        data_dir.mkdir(parents=True, exist_ok=True)
        self._server = bqemulator.server.EmulatorServer(
            Settings(
                rest_port=0,
                grpc_port=0,
                persistence_mode=PersistenceMode.PERSISTENT,
                data_dir=data_dir,
                default_project_id=project,
                gcs_local_root=objects_folder(storage) if storage else None,
                enable_format_extensions=False,  # Avro only; would need a download
                time_travel_retention_days=0,  # else every rewrite keeps a copy for a week
                log_level=LogLevel.WARNING,
            )
        )

        self._kept = data_dir / "translations.json"
        with suppress(OSError, ValueError, TypeError):  # none yet, or something else
            TRANSLATIONS.update(json.loads(self._kept.read_text()))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result()
        with suppress(OSError):  # a full disk
            draft = self._kept.with_suffix(".draft")
            draft.write_text(json.dumps(TRANSLATIONS))
            draft.replace(self._kept)  # in one step: half a file would be lost
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def rest(self) -> str:
        """http://127.0.0.1:port of the REST API."""
        return self._server.rest_url

    @property
    def grpc(self) -> str:
        """127.0.0.1:port of the Storage Read API."""
        return self._server.grpc_endpoint


def load_thelook(rest: str, project: str, users: int, seed: int, as_of: datetime) -> None:
    """Create the public theLook dataset and fill it by BigQuery load jobs.

    Does nothing if its description says that it was drawn with the same arguments.
    """
    client = bigquery.Client(
        project=project,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": rest},
    )
    wanted = f"Synthetic theLook: {users} users, seed {seed}, as of {as_of.isoformat()}"
    dataset = client.create_dataset(PUBLIC_DATASET, exists_ok=True)
    if client.get_dataset(PUBLIC_DATASET).description == wanted:
        return
    for table, rows in thelook.generate(users=users, seed=seed, as_of=as_of).items():
        _load(client, f"{PUBLIC_DATASET}.{table}", thelook.SCHEMAS[table], rows)
    dataset.description = wanted  # last: an interrupted load is repeated
    client.update_dataset(dataset, ["description"])


def _load(
    client: bigquery.Client, name: str, schema: list[tuple[str, str]], rows: pa.Table
) -> None:
    fields = [bigquery.SchemaField(column, kind) for column, kind in schema]
    client.delete_table(name, not_found_ok=True)
    client.create_table(bigquery.Table(name, schema=fields))
    file = io.BytesIO()
    pq.write_table(rows, file, use_dictionary=False)  # a third of the time
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
    # size=None makes the upload resumable; the emulator refuses multipart uploads.
    client.load_table_from_file(file, name, size=None, job_config=config).result()


async def load_thelook_async(*args: object) -> None:
    """`load_thelook` off the event loop, which the emulator itself needs."""
    await asyncio.to_thread(load_thelook, *args)
