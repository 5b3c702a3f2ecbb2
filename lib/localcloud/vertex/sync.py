"""Feature view syncs: from BigQuery into the online store, one at a time for each view."""

import queue
import threading

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message
from google.rpc import code_pb2

from lib.localcloud.vertex import online
from lib.localcloud.vertex.errors import ApiError
from lib.localcloud.vertex.operations import new_id
from lib.localcloud.vertex.source import Source
from lib.localcloud.vertex.state import new_message

CLOSE_SECONDS = 10


class Syncs:
    """The running and waiting syncs; one worker thread for each view that was ever synced."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._queues: dict[str, queue.SimpleQueue] = {}
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._end_interrupted()

    def add(self, view_name: str) -> str:
        """Put a sync behind those of the same view; its full name."""
        sync = new_message(types.FeatureViewSync)
        sync.name = f"{view_name}/featureViewSyncs/{new_id()}"
        self._cloud.state.insert(sync)
        with self._lock:
            if view_name not in self._queues:
                self._queues[view_name] = queue.SimpleQueue()
                self._workers.append(threading.Thread(
                    target=self._work, args=(self._queues[view_name],),
                    name=f"sync {view_name}", daemon=True))
                self._workers[-1].start()
            self._queues[view_name].put(sync.name)
        return sync.name

    def close(self) -> None:
        """Wait for what runs; what waits is ended by the next start of the process."""
        with self._lock:
            self._closed = True
            for waiting in self._queues.values():
                waiting.put(None)
        for worker in self._workers:
            worker.join(CLOSE_SECONDS)

    def _work(self, waiting: queue.SimpleQueue) -> None:
        while (name := waiting.get()) is not None and not self._closed:
            if (sync := self._cloud.state.find(name)) is not None:  # else its view was deleted
                self._run(sync)

    def _run(self, sync: Message) -> None:
        state = self._cloud.state
        sync.run_time.start_time.GetCurrentTime()
        state.put(sync)
        try:
            self._fault()
            self._load(sync)
            sync.final_status.SetInParent()  # code 0: OK
        except ApiError as error:
            _fail(sync, code_pb2.Code.Value(error.status), error.message)
        except Exception as error:  # whatever BigQuery said is the sync's final status
            _fail(sync, code_pb2.INTERNAL, str(error))
        sync.run_time.end_time.GetCurrentTime()
        with state.transaction():
            if state.find(sync.name) is not None:
                state.put(sync)

    def _fault(self) -> None:
        """What a test asked of this sync: to take longer, to hang, to fail."""
        fault = self._cloud.faults.take("sync", "sync")
        if fault is None:
            return
        if not self._cloud.faults.wait(fault):
            raise ApiError("ABORTED", "The local cloud was stopped during this sync.")
        if fault.status:
            raise ApiError(fault.status, fault.message)

    def _load(self, sync: Message) -> None:
        """Read every source of the view, then write them all in one transaction.

        Entities that are no longer in the source stay: Bigtable serving keeps them.
        """
        state = self._cloud.state
        view_name = sync.name.rsplit("/", 2)[0]
        view = state.get(view_name)
        sources = online.sources(self._cloud, view)
        self._check_access(view, sources)
        read = [(source.key, *self._cloud.bigquery.newest(source)) for source in sources]
        with state.transaction():
            state.get(view_name)  # NOT_FOUND if it was deleted meanwhile
            for key, columns, rows, _ in read:
                sync.sync_summary.row_synced += state.put_values(view_name, key, columns, rows)
        sync.sync_summary.total_slot = sum(slot_ms for *_, slot_ms in read)

    def _check_access(self, view: Message, sources: list[Source]) -> None:
        """A view that reads as itself must have been given each dataset (FS/featureview)."""
        if view.service_agent_type != online.OWN_ACCOUNT:
            return
        for source in sources:
            dataset = source.table.rsplit(".", 1)[0]
            if view.service_account_email not in self._cloud.bigquery.readers(dataset):
                raise ApiError(
                    "PERMISSION_DENIED", f"Permission bigquery.tables.getData denied on table "
                    f"{source.table} for {view.service_account_email}.")

    def _end_interrupted(self) -> None:
        """After a restart: a sync that was waiting or running has come to nothing."""
        for sync in self._cloud.state.all("featureViewSyncs"):
            if not sync.run_time.HasField("end_time"):
                _fail(sync, code_pb2.ABORTED, "The local cloud was stopped during this sync.")
                sync.run_time.end_time.GetCurrentTime()
                self._cloud.state.put(sync)


def _fail(sync: Message, code: int, message: str) -> None:
    sync.final_status.code = code
    sync.final_status.message = message
