"""JobService: custom jobs - one container with its arguments, run to its end."""

import threading

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.base import operations, tasks
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.jobs import JobKind, log_folder
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.state import split
from lib.localcloud.vertex.jobs import rules
from lib.localcloud.vertex.programs.runner import Task

OUTPUT_VARIABLES = {
    "AIP_MODEL_DIR": "model", "AIP_CHECKPOINT_DIR": "checkpoints",
    "AIP_TENSORBOARD_LOG_DIR": "logs"}


def create_custom_job(vertex: Vertex, request: Message) -> Message:
    """CreateCustomJob: refuses what cannot be run here, then starts it."""
    job = request.custom_job
    rules.check_job(job)
    job.name = f"{request.parent}/customJobs/{operations.new_id()}"
    return JOBS.start(vertex, job)


def _work(vertex: Vertex, job: Message, stop: threading.Event) -> None:
    container = job.job_spec.worker_pool_specs[0].container_spec
    base = job.job_spec.base_output_directory.output_uri_prefix.rstrip("/")
    outputs = {key: f"{base}/{folder}/" for key, folder in OUTPUT_VARIABLES.items()} if base else {}
    with tasks.workplace(vertex, split(job.name)[2]) as (folder, mount):
        tasks.run(vertex, Task(
            name=f"Job {job.display_name}", image=container.image_uri,
            command=tuple(container.command), args=tuple(container.args),
            environment=outputs | {v.name: v.value for v in container.env}, folder=folder,
            log=log_folder(vertex, job.name) / "workerpool0-0.log",
            seconds=job.job_spec.scheduling.timeout.ToTimedelta().total_seconds() or None,
        ), mount, stop)


JOBS = JobKind(
    Collection(types.CustomJob, "customJobs"), types.JobState, "JOB_STATE_", _work)
METHODS = {
    **JOBS.collection.handlers("get", "list"),
    "CreateCustomJob": create_custom_job,
    "CancelCustomJob": JOBS.cancel,
    "DeleteCustomJob": JOBS.delete,
}
