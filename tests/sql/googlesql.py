"""Google's own SQL analyzer and reference engine, set up as BigQuery sets them.

ZetaSQL is the SQL front end of BigQuery. The PyPI package `zetasql` has it as WebAssembly, which
runs in this process. The first load compiles it (15 s or more) into wasmtime's cache
(~/.cache/wasmtime, 21 MB); later loads take less than a second.

ZetaSQL knows the language, not the service: it has no rule about replacing a table that has
another layout, about quotas or about permissions.
"""

import ctypes
import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import tzdata
from google.protobuf import empty_pb2
from wasmtime import Config, Engine, Linker, Module, Store, WasiConfig
from zetasql.wasi import get_wasm_path
from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto import options_pb2, simple_catalog_pb2
from zetasql.wasi._pb2.zetasql.public import options_pb2 as public
from zetasql.wasi._pb2.zetasql.public import type_pb2, value_pb2
from zetasql.wasi._pb2.zetasql.resolved_ast import resolved_node_kind_pb2 as kinds

# What the project's SQL uses beyond the core of the language, and no more.
FEATURES = ("ANALYTIC_FUNCTIONS", "QUALIFY", "CREATE_TABLE_PARTITION_BY",
            "CREATE_TABLE_CLUSTER_BY", "WITH_ON_SUBQUERY", "NULL_HANDLING_MODIFIER_IN_ANALYTIC")
STATEMENTS = ("QUERY_STMT", "CREATE_TABLE_AS_SELECT_STMT", "INSERT_STMT", "MERGE_STMT")
# BigQuery's name of a type -> ZetaSQL's.
TYPES = {"INT64": "INT64", "FLOAT64": "DOUBLE", "STRING": "STRING", "TIMESTAMP": "TIMESTAMP",
         "DATE": "DATE", "GEOGRAPHY": "GEOGRAPHY"}
NAMES = {type_pb2.TypeKind.Value(f"TYPE_{kind}"): name for name, kind in TYPES.items()}
FIELDS = {"INT64": "int64_value", "FLOAT64": "double_value", "STRING": "string_value"}
UNITS = {3: "DAY", 2: "MONTH"}  # zetasql/public/functions/datetime.proto: DateTimestampPart
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Tables = dict[str, dict[str, str]]  # full name -> column -> type


class SqlError(ValueError):
    """Google's message about a statement, with line and column."""


@dataclass(frozen=True)
class Statement:
    """A resolved statement.

    columns: of its result, name -> type. For a CREATE TABLE also: table, its full name;
    partition, (column, "DAY" or "MONTH") or None; clusters, its columns.
    """

    columns: dict[str, str]
    table: str | None = None
    partition: tuple[str, str] | None = None
    clusters: tuple[str, ...] = ()


class GoogleSql:
    """One instance of ZetaSQL."""

    def __init__(self):
        config, wasi = Config(), WasiConfig()
        config.cache = config.shared_memory = True  # the module declares a shared memory
        wasi.inherit_stderr()
        wasi.preopen_dir(str(Path(tzdata.__file__).parent / "zoneinfo"), "/usr/share/zoneinfo")
        engine = Engine(config)
        self._store, linker = Store(engine), Linker(engine)
        self._store.set_wasi(wasi)
        linker.define_wasi()
        instance = linker.instantiate(self._store, Module.from_file(engine, str(get_wasm_path())))
        self._exports = instance.exports(self._store)
        self._exports["_initialize"](self._store)
        self._language = options_pb2.LanguageOptionsProto(
            product_mode=public.PRODUCT_EXTERNAL,  # the functions and types outside of Google
            enabled_language_features=[public.LanguageFeature.Value(f"FEATURE_{name}")
                                       for name in FEATURES],
            supported_statement_kinds=[kinds.ResolvedNodeKind.Value(f"RESOLVED_{name}")
                                       for name in STATEMENTS],
            # As in BigQuery: https://github.com/google/googlesql/issues/115
            reserved_keywords=["QUALIFY"])

    def analyze(self, sql: str, tables: Tables, parameters: dict[str, str]) -> Statement:
        """Resolve one statement.

        Args:
            parameters: name -> type; a statement with any other parameter is refused.

        Raises:
            SqlError: Google refuses the statement.
        """
        node = self._call("Analyze", service.AnalyzeRequest(
            sql_statement=sql, options=self._options(parameters),
            simple_catalog=self._catalog(tables)), service.AnalyzeResponse).resolved_statement
        node = _unwrap(node)
        columns = {c.name: NAMES.get(c.column.type.type_kind, "?")
                   for c in getattr(node, "output_column_list", ())}
        if node.DESCRIPTOR.name != "ResolvedCreateTableAsSelectStmtProto":
            return Statement(columns)
        partition = None
        for expression in node.partition_by_list:
            call = _unwrap(expression).parent
            if call.function.name != "ZetaSQL:timestamp_trunc":
                raise NotImplementedError(f"partition by {call.function.name}")
            column, unit = (_unwrap(argument) for argument in call.argument_list)
            partition = column.column.name, UNITS[unit.value.value.enum_value]
        return Statement(columns, ".".join(node.parent.parent.name_path), partition,
                         tuple(_unwrap(c).column.name for c in node.cluster_by_list))

    def run(
        self, query: str, tables: Tables, rows: dict[str, list], parameters: dict[str, str],
        *values: dict[str, object],
    ) -> list[list]:
        """Compute a query in the reference engine, once per `values`; the rows of all of them.

        Args:
            rows: full name -> rows, each in the order of `tables[name]`. Times are UTC datetimes.
            parameters, values: name -> type and name -> value; `query` need not use all.
        """
        used = {name: columns for name, columns in tables.items() if f"`{name}`" in query}
        wanted = {name: kind for name, kind in parameters.items() if f"@{name}" in query}
        request = service.PrepareQueryRequest(
            sql=query, options=self._options(wanted), simple_catalog=self._catalog(used))
        for name, columns in used.items():
            data = request.table_content[name].table_data
            data.SetInParent()
            for row in rows[name]:
                data.row.add(cell=[_value(*pair)
                                   for pair in zip(columns.values(), row, strict=True)])
        query_id = self._call("PrepareQuery", request, service.PrepareQueryResponse) \
            .prepared.prepared_query_id
        try:
            found = [self._call("EvaluateQuery", service.EvaluateQueryRequest(
                prepared_query_id=query_id,
                params=[service.Parameter(name=name, value=_value(kind, each[name]))
                        for name, kind in wanted.items()]), service.EvaluateQueryResponse)
                for each in values]
        finally:
            self._call("UnprepareQuery",
                       service.UnprepareQueryRequest(prepared_query_id=query_id), empty_pb2.Empty)
        return [[_plain(cell) for cell in row.cell]
                for answer in found for row in answer.content.table_data.row]

    def _options(self, parameters: dict[str, str]) -> options_pb2.AnalyzerOptionsProto:
        options = options_pb2.AnalyzerOptionsProto(
            language_options=self._language, default_timezone="UTC",
            error_message_mode="ERROR_MESSAGE_MULTI_LINE_WITH_CARET")
        for name, kind in parameters.items():
            options.query_parameters.add(name=name, type=_type(kind))
        return options

    def _catalog(self, tables: Tables) -> simple_catalog_pb2.SimpleCatalogProto:
        catalog = simple_catalog_pb2.SimpleCatalogProto()
        catalog.builtin_function_options.language_options.CopyFrom(self._language)
        for number, (name, columns) in enumerate(tables.items(), 1):
            # `project.dataset.table` in one pair of backticks is one identifier to ZetaSQL.
            table = catalog.table.add(name=name, serialization_id=number)
            for column, kind in columns.items():
                table.column.add(name=column, type=_type(kind), is_writable_column=True)
        return catalog

    def _call(self, method: str, request, answer):
        """Send one request, serialized, through the module's memory."""
        allocate, free = (lambda n: self._exports["wasm_malloc"](self._store, n),
                          lambda at: self._exports["wasm_free"](self._store, at))
        data = request.SerializeToString()
        sent, size = allocate(len(data) or 1), allocate(4)
        try:
            ctypes.memmove(self._address() + sent, data, len(data))
            function = self._exports[f"ZetaSqlLocalService_{method}"]
            got = function(self._store, sent, len(data), size)
            if not got:
                raise SqlError(self._read(
                    self._exports["wasm_get_last_error"](self._store),
                    self._exports["wasm_get_last_error_size"](self._store)).decode())
            result = answer.FromString(
                self._read(got, int.from_bytes(self._read(size, 4), "little")))
            free(got)
            return result
        finally:
            free(sent)
            free(size)

    def _address(self) -> int:
        return ctypes.addressof(self._exports["memory"].data_ptr().contents)

    def _read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._address() + at, size)


def declared(query: dict) -> dict[str, str]:
    """Name -> type of the parameters in a job's `configuration.query`, as sent to BigQuery."""
    return {parameter["name"]: _declared(parameter["parameterType"])
            for parameter in query.get("queryParameters", [])}


def _declared(kind: dict) -> str:
    return f"ARRAY<{_declared(kind['arrayType'])}>" if kind["type"] == "ARRAY" else kind["type"]


def _unwrap(node):
    """The message inside of ZetaSQL's `Any...Proto` wrappers."""
    while "node" in node.DESCRIPTOR.oneofs_by_name:
        node = getattr(node, node.WhichOneof("node"))
    return node


def _type(kind: str) -> type_pb2.TypeProto:
    if kind.startswith("ARRAY<"):
        return type_pb2.TypeProto(type_kind="TYPE_ARRAY", array_type=type_pb2.ArrayTypeProto(
            element_type=_type(kind[6:-1])))
    return type_pb2.TypeProto(type_kind=f"TYPE_{TYPES[kind]}")


def _value(kind: str, value: object) -> value_pb2.ValueProto:
    out = value_pb2.ValueProto()
    if value is None:
        return out
    if kind == "TIMESTAMP":
        span = value - EPOCH
        out.timestamp_value.seconds = span.days * 86400 + span.seconds
        out.timestamp_value.nanos = span.microseconds * 1000
    elif kind.startswith("ARRAY<"):
        out.array_value.element.extend(_value(kind[6:-1], part) for part in value)
    else:
        setattr(out, FIELDS[kind], value)
    return out


def _plain(cell: value_pb2.ValueProto) -> object:
    kind = cell.WhichOneof("value")
    if kind == "timestamp_value":
        return EPOCH + dt.timedelta(seconds=cell.timestamp_value.seconds,
                                    microseconds=cell.timestamp_value.nanos // 1000)
    return getattr(cell, kind) if kind else None
