"""Everything the stand-in stores: one SQLite file, which survives a restart.

Resources are serialized protobuf messages under their full name; the segment before the id
(`featureGroups`, `models`, ...) says which message.
"""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import already_exists, not_found

KINDS = {
    "featureGroups": types.FeatureGroup,
    "features": types.Feature,
    "featureOnlineStores": types.FeatureOnlineStore,
    "featureViews": types.FeatureView,
    "featureViewSyncs": types.FeatureViewSync,
    "models": types.Model,
    "versions": types.Model,  # internal: projects/../models/m/versions/1, served as models/m@1
    "evaluations": types.ModelEvaluation,
    "endpoints": types.Endpoint,
    "pipelineJobs": types.PipelineJob,
    "schedules": types.Schedule,
    "customJobs": types.CustomJob,
}

# online_values and schemas belong to online/values.py, task_cache to pipelines/cache.py.
TABLES = """
create table if not exists resources (
    name text primary key, parent text not null, collection text not null, data blob not null);
create index if not exists resources_by_parent on resources (parent, collection);
create table if not exists operations (name text primary key, data text not null);
create table if not exists schemas (id integer primary key, columns text not null);
create table if not exists online_values (
    view text, entity text, source text, schema_id integer not null, data blob not null,
    primary key (view, entity, source)) without rowid;
create table if not exists task_cache (
    scope text, key text, data text not null, primary key (scope, key)) without rowid;
"""


def new_message(kind: type) -> Message:
    """An empty protobuf message of a proto-plus type; faster to handle than its wrapper."""
    return kind.pb()()


def split(name: str) -> tuple[str, str, str]:
    """Full resource name -> (parent's name, collection, id)."""
    parent, collection, resource_id = name.rsplit("/", 2)
    return parent, collection, resource_id


class Connection(sqlite3.Connection):
    """sqlite3's own class cannot be referenced weakly; a subclass can."""


class State:
    """The SQLite file: one connection per thread, one writer at a time (`lock`)."""

    def __init__(self, file: Path):
        self.lock = threading.RLock()
        self._file = file
        self._local = threading.local()
        # Weak: a connection is closed with the thread that it was made for.
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.connection().executescript(TABLES)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(
                self._file, timeout=60, isolation_level=None, check_same_thread=False,
                factory=Connection)
            # Of a new file. A sync writes large pages in four fifths of the time of SQLite's own.
            connection.execute("pragma page_size = 16384")
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            self._local.connection = connection
            self._connections.add(connection)
        return self._local.connection

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing; may be nested."""
        with self.lock:
            connection = self.connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    # Resources

    def find(self, name: str) -> Message | None:
        """The resource of that full name, or None."""
        row = self.connection().execute(
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

    def check_parent(self, parent: str) -> None:
        """Raise NOT_FOUND for a parent that does not exist; every location does."""
        if parent.count("/") > 3:
            self.get(parent)

    def insert(self, message: Message) -> Message:
        """Store a new resource, with its creation time.

        Raises:
            ApiError: ALREADY_EXISTS; NOT_FOUND for its parent.
        """
        self.check_parent(split(message.name)[0])
        if self.find(message.name) is not None:
            raise already_exists(message.name)
        message.create_time.GetCurrentTime()
        return self.put(message)

    def put(self, message: Message) -> Message:
        """Store a resource, replacing an older one, with a new etag and update time."""
        fields = message.DESCRIPTOR.fields_by_name
        if "update_time" in fields:
            message.update_time.GetCurrentTime()
        if "etag" in fields:
            message.etag = ""
            content = message.SerializeToString(deterministic=True)
            message.etag = hashlib.sha256(content).hexdigest()[:16]
        parent, collection, _ = split(message.name)
        with self.transaction() as connection:
            connection.execute(
                "insert or replace into resources values (?, ?, ?, ?)",
                (message.name, parent, collection, message.SerializeToString()))
        return message

    def delete(self, name: str) -> None:
        """Delete a resource, all below it, and the online values of the views among them."""
        below = (name, f"{name}/", f"{name}0")  # '0' is the character after '/'
        with self.transaction() as connection:
            for table, column in (("resources", "name"), ("online_values", "view")):
                connection.execute(f"delete from {table} where {column} = ? "
                                   f"or {column} >= ? and {column} < ?", below)

    def children(self, parent: str, collection: str) -> list[Message]:
        """The resources of one collection, in order of creation."""
        return self._select("parent = ? and collection = ?", parent, collection)

    def all(self, collection: str) -> list[Message]:
        """Every resource of a collection, under any parent."""
        return self._select("collection = ?", collection)

    def _select(self, condition: str, *values: str) -> list[Message]:
        rows = self.connection().execute(
            f"select collection, data from resources where {condition}", values)
        found = [_decode(*row) for row in rows]
        return sorted(found, key=lambda m: (m.create_time.ToNanoseconds(), m.name))

    # Operations

    def put_operation(self, operation: dict) -> None:
        with self.transaction() as connection:
            connection.execute("insert or replace into operations values (?, ?)",
                               (operation["name"], json.dumps(operation)))

    def operation(self, name: str) -> dict:
        """The operation of that name.

        Raises:
            ApiError: NOT_FOUND.
        """
        row = self.connection().execute(
            "select data from operations where name = ?", (name,)).fetchone()
        if row is None:
            raise not_found(name)
        return json.loads(row[0])

    def operations(self) -> list[dict]:
        """Every operation."""
        return [json.loads(data) for (data,) in
                self.connection().execute("select data from operations")]


def _decode(collection: str, data: bytes) -> Message:
    message = new_message(KINDS[collection])
    message.ParseFromString(data)
    return message
