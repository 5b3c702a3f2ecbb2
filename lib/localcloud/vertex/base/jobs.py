"""The life of a job, custom or pipeline: pending, running, its end; cancel, delete, restart."""

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from lib.localcloud.errors import ApiError, defect, precondition, refused
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.resources import Collection

OUTPUT_ONLY = {
    "state", "job_detail", "error", "create_time", "start_time", "end_time", "update_time",
    "schedule_name", "template_metadata", "web_access_uris"}


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    Attributes:
        states: enum of its states.
        prefix: what the states' names begin with, such as JOB_STATE_.
        work: runs a job to its end, or raises ApiError (CANCELLED soon after the event is set).
        interrupt: marks the parts of a job that a restart has ended.
    """

    collection: Collection
    states: type
    prefix: str
    work: Callable[[Vertex, Message, threading.Event], None]
    interrupt: Callable[[Message], None] = lambda job: None

    def state(self, name: str) -> int:
        return self.states[self.prefix + name]

    def ended(self, job: Message) -> bool:
        return job.state in {self.state(s) for s in ("SUCCEEDED", "FAILED", "CANCELLED")}

    def start(self, vertex: Vertex, job: Message) -> Message:
        """Store a checked job as pending and start it."""
        for name in OUTPUT_ONLY & set(job.DESCRIPTOR.fields_by_name):
            job.ClearField(name)
        if "job_detail" in job.DESCRIPTOR.fields_by_name:
            job.job_detail.SetInParent()  # {}: k8s-config-connector's recording
        job.state = self.state("PENDING")
        vertex.state.insert(job)
        vertex.background.start(job.name, lambda stop: self._run(vertex, job.name, stop))
        return job

    def cancel(self, vertex: Vertex, request: Message) -> Message:
        """Answers at once; the job ends as CANCELLED soon after."""
        if self.ended(vertex.state.get(request.name)):
            raise precondition("jobs.ended", f"{request.name} is over and cannot be cancelled.")
        vertex.background.stop(request.name)
        return empty_pb2.Empty()

    def delete(self, vertex: Vertex, request: Message) -> dict:
        """With its logs; what it has written stays in Cloud Storage."""
        if not self.ended(vertex.state.get(request.name)):
            raise precondition("jobs.ended", f"{request.name} is still running: cancel it first.")
        shutil.rmtree(log_folder(vertex, request.name), ignore_errors=True)
        return self.collection.delete(vertex, request)

    def end_interrupted(self, vertex: Vertex) -> None:
        """After a restart: a job that was running has failed."""
        for job in vertex.state.all(self.collection.segment):
            if not self.ended(job):
                self.interrupt(job)
                self._end(vertex, job, refused(
                    "divergence.interrupted",
                    "ABORTED", "The local cloud was stopped while this job ran."))

    def _run(self, vertex: Vertex, name: str, stop: threading.Event) -> None:
        job = vertex.state.get(name)
        if stop.is_set():  # cancelled while pending: no error (k8s-config-connector's recording)
            if not vertex.background.closing:
                job.state = self.state("CANCELLED")
                job.end_time.GetCurrentTime()
                vertex.state.put(job)
            return
        job.state = self.state("RUNNING")
        job.start_time.GetCurrentTime()
        vertex.state.put(job)
        error = attempt(lambda: self.work(vertex, job, stop), name)
        if not vertex.background.closing:  # else the next start ends it
            self._end(vertex, job, error)

    def _end(self, vertex: Vertex, job: Message, error: ApiError | None) -> None:
        job.state = self.state("SUCCEEDED")
        if error:
            job.state = self.state("CANCELLED" if error.status == "CANCELLED" else "FAILED")
            status = error.rpc_status()
            job.error.code, job.error.message = status["code"], status["message"]
        job.end_time.GetCurrentTime()
        vertex.state.put(job)


def attempt(work: Callable[[], None], name: str) -> ApiError | None:
    """Do the work of a job or task; the error that it ended with, if any."""
    try:
        work()
    except ApiError as error:
        return error
    except (GoogleAPIError, OSError) as error:  # Cloud Storage, or the disk
        return defect(str(error))
    except Exception as error:  # a defect of the stand-in: the job must end all the same
        logging.getLogger(__name__).exception("%s", name)
        return defect(f"Internal error of the stand-in: {error!r}")
    return None


def log_folder(vertex: Vertex, job_name: str) -> Path:
    """Where the logs of a job's tasks are; by the name that answers give it."""
    name = job_name.replace(f"projects/{vertex.project}/", f"projects/{vertex.project_number}/")
    return vertex.data_dir / "logs" / name.replace("/", ".")
