"""Custom jobs: one container with its arguments, run to its end."""

import logging
import shutil
import threading

from google.api_core.exceptions import GoogleAPIError
from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

from lib.localcloud.vertex import listing, operations, rules
from lib.localcloud.vertex.errors import ApiError, invalid, precondition, unsupported
from lib.localcloud.vertex.mount import split_uri
from lib.localcloud.vertex.pipeline_run import folder_of
from lib.localcloud.vertex.runner import Task, run_mounted, workplace
from lib.localcloud.vertex.state import new_message, split

State = types.JobState
ENDED = {State.JOB_STATE_SUCCEEDED, State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED}
OUTPUT_ONLY = ("name", "state", "error", "create_time", "start_time", "end_time", "update_time",
               "web_access_uris")
# Each would make the job do something that nothing here does.
UNSUPPORTED = ("persistent_resource_id", "tensorboard", "enable_web_access",
               "enable_dashboard_access", "experiment", "experiment_run", "models")
UNSUPPORTED_IN_POOL = ("python_package_spec", "nfs_mounts", "lustre_mounts")
MAX_VARIABLES = 100
FILTERS = ("labels", "display_name", "state", "create_time", "update_time", "end_time")
OUTPUT_VARIABLES = {
    "AIP_MODEL_DIR": "model", "AIP_CHECKPOINT_DIR": "checkpoints",
    "AIP_TENSORBOARD_LOG_DIR": "logs"}


def create_custom_job(cloud, request: Message) -> Message:
    """CreateCustomJob: refuses what cannot be run here, then starts it."""
    job = new_message(types.CustomJob)
    job.CopyFrom(request.custom_job)
    for field in OUTPUT_ONLY:
        job.ClearField(field)
    rules.check_display_name(job.display_name)
    rules.check_labels(job.labels)
    _check_spec(job.job_spec)
    job.name = f"{request.parent}/customJobs/{operations.new_id()}"
    job.state = State.JOB_STATE_PENDING
    cloud.state.insert(job)
    cloud.background.start(job.name, lambda stop: _run(cloud, job.name, stop))
    return job


def get_custom_job(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_custom_jobs(cloud, request: Message) -> Message:
    return listing.page(
        cloud.state.children(request.parent, "customJobs"), request,
        new_message(types.ListCustomJobsResponse), "custom_jobs", FILTERS, wildcards=True)


def cancel_custom_job(cloud, request: Message) -> Message:
    """CancelCustomJob: answers at once; the job ends as CANCELLED soon after."""
    if cloud.state.get(request.name).state in ENDED:
        raise precondition(f"{request.name} is over and cannot be cancelled.")
    cloud.background.stop(request.name)
    return empty_pb2.Empty()


def delete_custom_job(cloud, request: Message) -> dict:
    """DeleteCustomJob: with its log; what it has written stays in Cloud Storage."""
    if cloud.state.get(request.name).state not in ENDED:
        raise precondition(f"{request.name} is still running: cancel it first.")
    cloud.state.delete(request.name)
    shutil.rmtree(folder_of(cloud, request.name), ignore_errors=True)
    return operations.done(cloud.state, "DeleteCustomJob", request.name)


def end_interrupted(cloud) -> None:
    """After a restart: jobs that were running have failed."""
    for job in cloud.state.all("customJobs"):
        if job.state not in ENDED:
            _end(cloud, job, ApiError(
                "ABORTED", "The local cloud was stopped while this job ran."))


def _check_spec(spec: Message) -> None:
    if set_fields := [name for name in UNSUPPORTED if getattr(spec, name)]:
        raise unsupported(f"job_spec.{set_fields[0]}")
    # Only the first pool must be there: the others "can be skipped by providing an empty value".
    pools = [pool for pool in spec.worker_pool_specs if pool.ByteSize()]
    if len(pools) > 1:
        raise unsupported("job_spec.worker_pool_specs: more than one worker pool")
    if not pools or pools[0] != spec.worker_pool_specs[0]:
        raise invalid("job_spec.worker_pool_specs: the first pool is required.")
    for name in UNSUPPORTED_IN_POOL:
        if name in {field.name for field, _ in pools[0].ListFields()}:
            raise unsupported(f"job_spec.worker_pool_specs[0].{name}")
    if pools[0].replica_count > 1:
        raise unsupported("job_spec.worker_pool_specs[0].replica_count: more than one replica")
    container = pools[0].container_spec
    if not container.image_uri:
        raise invalid("job_spec.worker_pool_specs[0].container_spec.image_uri is required.")
    if len(container.env) > MAX_VARIABLES:
        raise invalid(f"container_spec.env: at most {MAX_VARIABLES} are allowed.")
    if spec.base_output_directory.output_uri_prefix:
        split_uri(spec.base_output_directory.output_uri_prefix)


def _run(cloud, name: str, stop: threading.Event) -> None:
    """From PENDING to the end; if the local cloud stops, its next start ends the job."""
    job = cloud.state.get(name)
    job.state = State.JOB_STATE_RUNNING
    job.start_time.GetCurrentTime()
    cloud.state.put(job)
    error = None
    try:
        _execute(cloud, job, stop)
    except ApiError as failed:
        error = failed
    except (GoogleAPIError, OSError) as failed:  # Cloud Storage, or the disk
        error = ApiError("INTERNAL", str(failed))
    except Exception as failed:  # a defect of ours: the job must end all the same
        logging.getLogger(__name__).exception("%s", name)
        error = ApiError("INTERNAL", f"Internal error of the stand-in: {failed!r}")
    if not cloud.background.closing:
        _end(cloud, job, error)


def _execute(cloud, job: Message, stop: threading.Event) -> None:
    container = job.job_spec.worker_pool_specs[0].container_spec
    base = job.job_spec.base_output_directory.output_uri_prefix.rstrip("/")
    outputs = {key: f"{base}/{folder}/" for key, folder in OUTPUT_VARIABLES.items()} if base else {}
    place = cloud.data_dir / "scratch" / split(job.name)[2]
    with workplace(cloud, place) as mount:
        run_mounted(cloud, Task(
            name=f"Job {job.display_name}", image=container.image_uri,
            command=tuple(container.command), args=tuple(container.args),
            environment=outputs | {v.name: v.value for v in container.env}, folder=place,
            log=folder_of(cloud, job.name) / "workerpool0-0.log",
            seconds=job.job_spec.scheduling.timeout.ToTimedelta().total_seconds() or None,
        ), mount, stop)


def _end(cloud, job: Message, error: ApiError | None) -> None:
    job.state = State.JOB_STATE_SUCCEEDED
    if error:
        cancelled = error.status == "CANCELLED"
        job.state = State.JOB_STATE_CANCELLED if cancelled else State.JOB_STATE_FAILED
        job.error.code = code_pb2.Code.Value(error.status)
        job.error.message = error.message
    job.end_time.GetCurrentTime()
    cloud.state.put(job)
