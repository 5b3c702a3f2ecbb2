"""Pipeline jobs: their methods; what runs them is in pipeline_run.py."""

import logging
import re
import shutil
import threading
import time

from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2, field_mask_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

from lib.localcloud.vertex import listing, operations, pipeline_spec, rules
from lib.localcloud.vertex.errors import invalid, precondition, unsupported
from lib.localcloud.vertex.mount import split_uri
from lib.localcloud.vertex.pipeline_run import (
    OVER,
    PipelineRun,
    folder_of,
    parameters_of,
    spec_of,
)
from lib.localcloud.vertex.state import new_message

State = types.PipelineState
ENDED = {State.PIPELINE_STATE_SUCCEEDED, State.PIPELINE_STATE_FAILED,
         State.PIPELINE_STATE_CANCELLED}
JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
OUTPUT_ONLY = ("state", "job_detail", "error", "create_time", "start_time", "end_time",
               "update_time", "schedule_name", "template_metadata")
FILTERS = ("labels", "pipeline_name", "display_name", "pipeline_job_user_id", "state",
           "create_time", "update_time", "end_time", "template_uri")
MAX_BATCH = 32
POLL_SECONDS = 0.05


def create_pipeline_job(cloud, request: Message) -> Message:
    """CreatePipelineJob: refuses what cannot be run here, then starts it."""
    job = new_message(types.PipelineJob)
    job.CopyFrom(request.pipeline_job)
    for field in OUTPUT_ONLY:
        job.ClearField(field)
    if job.template_uri and not job.pipeline_spec.fields:
        raise unsupported("template_uri without a pipeline_spec")
    if job.runtime_config.input_artifacts or job.runtime_config.parameters:
        raise unsupported("runtime_config.input_artifacts or .parameters")
    if job.display_name:
        rules.check_display_name(job.display_name)
    rules.check_labels(job.labels)
    if not job.runtime_config.gcs_output_directory:
        raise invalid("runtime_config.gcs_output_directory is required.")
    split_uri(job.runtime_config.gcs_output_directory)
    spec = spec_of(job)
    pipeline_spec.check(spec, parameters_of(job))
    job_id = request.pipeline_job_id or _new_id(spec["pipelineInfo"]["name"])
    rules.check_id(job_id, JOB_ID, "pipeline_job_id")
    job.name = f"{request.parent}/pipelineJobs/{job_id}"
    job.state = State.PIPELINE_STATE_PENDING
    cloud.state.insert(job)
    cloud.background.start(job.name, lambda stop: _run(cloud, job.name, stop))
    return job


def get_pipeline_job(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_pipeline_jobs(cloud, request: Message) -> Message:
    """ListPipelineJobs: the newest first, without the details of the run."""
    found = cloud.state.children(request.parent, "pipelineJobs")
    for job in found:
        job.job_detail.ClearField("task_details")
    request = _without_inner_mask(request, found)
    if not request.order_by:
        found.reverse()
    return listing.page(found, request, new_message(types.ListPipelineJobsResponse),
                        "pipeline_jobs", FILTERS, wildcards=True)


def cancel_pipeline_job(cloud, request: Message) -> Message:
    """CancelPipelineJob: answers at once; the job ends as CANCELLED soon after."""
    if cloud.state.get(request.name).state in ENDED:
        raise precondition(f"{request.name} is over and cannot be cancelled.")
    cloud.background.stop(request.name)
    return empty_pb2.Empty()


def delete_pipeline_job(cloud, request: Message) -> dict:
    """DeletePipelineJob: with the logs of its tasks; artifacts stay in Cloud Storage."""
    _delete(cloud, [cloud.state.get(request.name)])
    return operations.done(cloud.state, "DeletePipelineJob", request.name)


def batch_delete_pipeline_jobs(cloud, request: Message) -> dict:
    """BatchDeletePipelineJobs: all or none."""
    response = new_message(types.BatchDeletePipelineJobsResponse)
    response.pipeline_jobs.extend(_batch(cloud, request))
    _delete(cloud, response.pipeline_jobs)
    return operations.done(cloud.state, "BatchDeletePipelineJobs", request.parent, response)


def batch_cancel_pipeline_jobs(cloud, request: Message) -> dict:
    """BatchCancelPipelineJobs: those that are over are left alone; done when all are over."""
    names = [job.name for job in _batch(cloud, request) if job.state not in ENDED]
    for name in names:
        cloud.background.stop(name)

    def finish() -> Message:
        response = new_message(types.BatchCancelPipelineJobsResponse)
        while any(cloud.state.get(name).state not in ENDED for name in names):
            time.sleep(POLL_SECONDS)
        response.pipeline_jobs.extend(cloud.state.get(name) for name in names)
        return response

    return operations.start(cloud.state, "BatchCancelPipelineJobs", request.parent, finish)


def end_interrupted(cloud) -> None:
    """After a restart: jobs that were running have failed, and their work is thrown away."""
    shutil.rmtree(cloud.data_dir / "scratch", ignore_errors=True)
    for job in cloud.state.all("pipelineJobs"):
        if job.state in ENDED:
            continue
        for task in job.job_detail.task_details:
            if task.state not in OVER:
                task.state = types.PipelineTaskDetail.State.CANCELLED
                task.end_time.GetCurrentTime()
        _fail(job, code_pb2.ABORTED, "The local cloud was stopped while this job ran.")
        cloud.state.put(job)


def _run(cloud, name: str, stop: threading.Event) -> None:
    try:
        PipelineRun(cloud, cloud.state.get(name), stop).run()
    except Exception as error:  # a defect of ours: the job must end all the same
        if cloud.background.closing:
            return
        logging.getLogger(__name__).exception("%s", name)
        job = cloud.state.get(name)
        _fail(job, code_pb2.INTERNAL, f"Internal error of the stand-in: {error!r}")
        cloud.state.put(job)


def _fail(job: Message, code: int, message: str) -> None:
    job.state = State.PIPELINE_STATE_FAILED
    job.error.code, job.error.message = code, message
    job.end_time.GetCurrentTime()


def _delete(cloud, jobs: list[Message]) -> None:
    for job in jobs:
        if job.state not in ENDED:
            raise precondition(f"{job.name} is still running: cancel it first.")
    for job in jobs:
        cloud.state.delete(job.name)
        shutil.rmtree(folder_of(cloud, job.name), ignore_errors=True)


def _batch(cloud, request: Message) -> list[Message]:
    if not 0 < len(request.names) <= MAX_BATCH:
        raise invalid(f"names: 1 to {MAX_BATCH} are allowed, not {len(request.names)}.")
    if any(not name.startswith(f"{request.parent}/pipelineJobs/") for name in request.names):
        raise invalid("names: a job is not below the parent.")
    return [cloud.state.get(name) for name in request.names]


def _new_id(pipeline_name: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", pipeline_name.lower()).strip("-")
    return f"{name if name[:1].isalpha() else 'pipeline'}-{operations.new_id()}"


def _without_inner_mask(request: Message, found: list[Message]) -> Message:
    """The request with a mask of whole fields: `pipeline_spec.pipeline_info` is inside a Struct."""
    paths = list(request.read_mask.paths)
    inner = {p.partition(".")[2] for p in paths if p.startswith("pipeline_spec.")}
    if not inner:
        return request
    keep = {re.sub(r"_([a-z])", lambda m: m[1].upper(), key) for key in inner}
    for job in found:
        for key in set(job.pipeline_spec.fields) - keep:
            del job.pipeline_spec.fields[key]
    changed = type(request)()
    changed.CopyFrom(request)
    whole = [p for p in paths if not p.startswith("pipeline_spec.")]
    changed.read_mask.CopyFrom(field_mask_pb2.FieldMask(paths=[*whole, "pipeline_spec"]))
    return changed
