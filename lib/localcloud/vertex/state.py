"""Everything the stand-in remembers: one SQLite file, so that it survives a restart.

Resources are stored as serialized protobuf messages under their full resource name; the
segment before the id (`featureGroups`, `models`, ...) tells the message type.
"""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.errors import already_exists, not_found

KINDS = {
    "featureGroups": types.FeatureGroup,
    "features": types.Feature,
    "featureOnlineStores": types.FeatureOnlineStore,
    "featureViews": types.FeatureView,
    "featureViewSyncs": types.FeatureViewSync,
    "models": types.Model,
    "versions": types.Model,  # ours: projects/../models/m/versions/1, served as models/m@1
    "evaluations": types.ModelEvaluation,
    "endpoints": types.Endpoint,
    "pipelineJobs": types.PipelineJob,
    "customJobs": types.CustomJob,
}

TABLES = """
create table if not exists resources (
    name text primary key, parent text not null, collection text not null, data blob not null);
create index if not exists resources_by_parent on resources (parent, collection);
create table if not exists operations (name text primary key, data text not null);
create table if not exists schemas (id integer primary key, columns text not null);
create table if not exists online_values (
    view text, entity text, source text, schema_id integer not null, data text not null,
    primary key (view, entity, source)) without rowid;
create table if not exists task_cache (
    scope text, key text, data text not null, primary key (scope, key)) without rowid;
"""


def new_message(kind: type) -> Message:
    """An empty protobuf message of a proto-plus type; faster to handle than its wrapper."""
    return kind.pb(kind())


def split(name: str) -> tuple[str, str, str]:
    """Full resource name -> (parent's name, collection, id)."""
    parent, collection, resource_id = name.rsplit("/", 2)
    return parent, collection, resource_id


class Connection(sqlite3.Connection):
    """A subclass, since only such can be referred to weakly."""


class State:
    """The SQLite file; one connection a thread, one writer at a time (`lock`)."""

    def __init__(self, file: Path):
        self.lock = threading.RLock()
        self._file = file
        self._local = threading.local()
        # Weak: a connection is closed with the thread that it was made for.
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._schemas: dict[int, list] = {}
        self._connection().executescript(TABLES)

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(
                self._file, timeout=60, isolation_level=None, check_same_thread=False,
                factory=Connection)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            self._local.connection = connection
            self._connections.add(connection)
        return self._local.connection

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen, or none; may be nested."""
        with self.lock:
            connection = self._connection()
            if connection.in_transaction:
                yield
                return
            connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    # Resources

    def find(self, name: str) -> Message | None:
        """The resource of that full name, or None."""
        row = self._connection().execute(
            "select collection, data from resources where name = ?", (name,)).fetchone()
        return row and _decode(*row)

    def get(self, name: str) -> Message:
        """The resource of that full name.

        Raises:
            ApiError: NOT_FOUND.
        """
        found = self.find(name)
        if found is None:
            raise not_found(name)
        return found

    def insert(self, message: Message) -> Message:
        """Store a new resource, with its creation time.

        Raises:
            ApiError: ALREADY_EXISTS; NOT_FOUND for its parent.
        """
        parent, _, _ = split(message.name)
        if parent.count("/") > 3:  # a location is not stored: every one is accepted
            self.get(parent)
        if self.find(message.name) is not None:
            raise already_exists(message.name)
        message.create_time.GetCurrentTime()
        return self.put(message)

    def put(self, message: Message) -> Message:
        """Store a resource over what is there, with a new etag and update time."""
        fields = message.DESCRIPTOR.fields_by_name
        if "update_time" in fields:
            message.update_time.GetCurrentTime()
        if "etag" in fields:
            message.etag = ""
            content = message.SerializeToString(deterministic=True)
            message.etag = hashlib.sha256(content).hexdigest()[:16]
        parent, collection, _ = split(message.name)
        with self.transaction():
            self._connection().execute(
                "insert or replace into resources values (?, ?, ?, ?)",
                (message.name, parent, collection, message.SerializeToString()))
        return message

    def delete(self, name: str) -> None:
        """Forget a resource, all below it, and the online values of the views among them."""
        below = (f"{name}/", f"{name}0")  # '0' is the character after '/'
        with self.transaction():
            run = self._connection().execute
            run("delete from resources where name = ? or name >= ? and name < ?", (name, *below))
            run("delete from online_values where view = ? or view >= ? and view < ?",
                (name, *below))

    def children(self, parent: str, collection: str) -> list[Message]:
        """The resources of one collection, in order of creation."""
        rows = self._connection().execute(
            "select collection, data from resources where parent = ? and collection = ?",
            (parent, collection))
        found = [_decode(*row) for row in rows]
        return sorted(found, key=lambda m: (m.create_time.ToNanoseconds(), m.name))

    def all(self, collection: str) -> list[Message]:
        """Every resource of a collection, under whatever parent."""
        rows = self._connection().execute(
            "select collection, data from resources where collection = ?", (collection,))
        return [_decode(*row) for row in rows]

    # Operations

    def put_operation(self, operation: dict) -> None:
        with self.transaction():
            self._connection().execute(
                "insert or replace into operations values (?, ?)",
                (operation["name"], json.dumps(operation)))

    def delete_operation(self, name: str) -> None:
        with self.transaction():
            self._connection().execute("delete from operations where name = ?", (name,))

    def operations(self, name: str = "", prefix: str = "") -> list[dict]:
        """The operation of that name, or all whose name starts with `prefix`."""
        rows = self._connection().execute(
            "select data from operations where name = ? or (? <> '' and name glob ?)",
            (name, prefix, prefix + "*"))
        return [json.loads(data) for (data,) in rows]

    # Online values

    def put_values(
        self, view: str, source: str, columns: list, rows: Iterable[tuple[str, str]]
    ) -> int:
        """Upsert the values of entities, a JSON list each in the order of `columns`; how many."""
        with self.transaction():
            run = self._connection()
            schema = (json.dumps(columns),)
            known = run.execute("select id from schemas where columns = ?", schema).fetchone()
            schema_id = known[0] if known else run.execute(
                "insert into schemas (columns) values (?)", schema).lastrowid
            return run.executemany(
                "insert or replace into online_values values (?, ?, ?, ?, ?)",
                ((view, entity, source, schema_id, data) for entity, data in rows)).rowcount

    def values(self, view: str, entity: str) -> list[tuple[list, list]]:
        """(columns, values) of an entity, one pair for each source of the view; [] if unknown."""
        rows = self._connection().execute(
            "select schema_id, data from online_values where view = ? and entity = ?",
            (view, entity)).fetchall()
        return [(self._schema(schema_id), json.loads(data)) for schema_id, data in rows]

    # Outputs of pipeline tasks, to be used again

    def put_cached(self, scope: str, key: str, entry: dict) -> None:
        with self.transaction():
            self._connection().execute(
                "insert or replace into task_cache values (?, ?, ?)",
                (scope, key, json.dumps(entry)))

    def cached(self, scope: str, key: str) -> dict | None:
        """What was put under that key, or None."""
        row = self._connection().execute(
            "select data from task_cache where scope = ? and key = ?", (scope, key)).fetchone()
        return row and json.loads(row[0])

    def _schema(self, schema_id: int) -> list:
        if schema_id not in self._schemas:
            (columns,) = self._connection().execute(
                "select columns from schemas where id = ?", (schema_id,)).fetchone()
            self._schemas[schema_id] = json.loads(columns)
        return self._schemas[schema_id]


def _decode(collection: str, data: bytes) -> Message:
    message = new_message(KINDS[collection])
    message.ParseFromString(data)
    return message
