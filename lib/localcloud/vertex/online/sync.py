"""Feature view syncs: from BigQuery into the online store, one at a time for each view."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message
from google.rpc import code_pb2

from lib.localcloud.errors import ApiError, refused
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.operations import new_id
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.online import values
from lib.localcloud.vertex.online.sources import served_tables
from lib.localcloud.vertex.registry.tables import ServedTable

LATE = 2  # syncs until a late grant counts
BATCH = 10_000  # entities in one transaction: other calls that write wait for one, not for a sync
OWN_ACCOUNT = types.FeatureView.ServiceAgentType.SERVICE_AGENT_TYPE_FEATURE_VIEW


class Syncs:
    """Running and waiting syncs; one worker thread for each view that was ever synced."""

    def __init__(self, vertex: Vertex):
        self._vertex = vertex
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._late: dict[str, int] = {}  # view -> syncs until its grant counts
        self._end_interrupted()

    def add(self, view_name: str) -> str:
        """Queue a sync after those of the same view; returns its full name."""
        sync = new_message(types.FeatureViewSync)
        sync.name = f"{view_name}/featureViewSyncs/{new_id()}"
        self._vertex.state.insert(sync)
        with self._vertex.state.lock:
            worker = self._workers.setdefault(view_name, ThreadPoolExecutor(1))
        worker.submit(self._run, sync.name)
        return sync.name

    def close(self) -> None:
        """Wait for running syncs; the next start of the process ends the waiting ones."""
        for worker in self._workers.values():
            worker.shutdown(cancel_futures=True)

    def _run(self, name: str) -> None:
        state = self._vertex.state
        if (sync := state.find(name)) is None:  # its view was deleted
            return
        sync.run_time.start_time.GetCurrentTime()
        state.put(sync)
        try:
            self._vertex.call("sync", sync, lambda: self._load(sync))
            if self._vertex.answers.take("sync_result") == "sent":
                sync.final_status.SetInParent()  # code 0: OK
            else:
                sync.run_time.ClearField("start_time")
                sync.ClearField("sync_summary")
        except ApiError as error:
            _fail(sync, error)
        except Exception as error:  # what BigQuery said is the sync's final status
            _fail(sync, refused("sync.ended", "INTERNAL", str(error)))
        sync.run_time.end_time.GetCurrentTime()
        with state.transaction():
            if state.find(sync.name) is not None:
                state.put(sync)

    def _load(self, sync: Message) -> None:
        """Reduce every table of the view, then write the values, batch by batch.

        A batch is read before its transaction begins: meanwhile others can write. So a sync that is
        killed leaves old values beside new ones, until the next one. Entities that are no longer in
        a table stay: Bigtable serving keeps them.
        """
        state = self._vertex.state
        view_name = sync.name.rsplit("/", 2)[0]
        view = state.get(view_name)
        tables = served_tables(self._vertex, view)
        self._check_access(view, tables)
        read = [(table.key, *self._vertex.tables.newest(table)) for table in tables]
        for key, columns, rows, _ in read:
            while batch := list(islice(rows, BATCH)):
                with state.transaction():
                    state.get(view_name)  # NOT_FOUND if it was deleted meanwhile
                    values.put(state, view_name, key, columns, batch)
                sync.sync_summary.row_synced += len(batch)
        sync.sync_summary.total_slot = sum(slot_ms for *_, slot_ms in read)

    def _check_access(self, view: Message, tables: list[ServedTable]) -> None:
        """A view with its own service account needs read access to each dataset (FS/featureview).

        Raises:
            ApiError: PERMISSION_DENIED.
        """
        if view.service_agent_type != OWN_ACCOUNT:
            return
        for table in tables:
            dataset = table.table.rsplit(".", 1)[0]
            if view.service_account_email not in self._vertex.tables.readers(dataset):
                raise _denied(table, view)
        # A grant that is there, but does not count yet.
        with self._vertex.state.lock:
            left = self._late.setdefault(
                view.name, LATE if self._vertex.answers.take("grant", "sync") == "late" else 0)
            self._late[view.name] = max(0, left - 1)
        if left:
            raise _denied(tables[0], view)

    def _end_interrupted(self) -> None:
        """After a restart: a sync that was waiting or running has failed."""
        for sync in self._vertex.state.all("featureViewSyncs"):
            if not sync.run_time.HasField("end_time"):
                _fail(sync, refused(
                    "divergence.interrupted",
                    "ABORTED", "The local cloud was stopped during this sync."))
                sync.run_time.end_time.GetCurrentTime()
                self._vertex.state.put(sync)


def _denied(table: ServedTable, view: Message) -> ApiError:
    return refused(
        "online.own-account-access", "PERMISSION_DENIED",
        f"Permission bigquery.tables.getData denied on table {table.table} for "
        f"{view.service_account_email}.")


def _fail(sync: Message, error: ApiError) -> None:
    sync.final_status.code = code_pb2.Code.Value(error.status)
    sync.final_status.message = error.message
