"""PipelineService: pipeline jobs; what runs them is in run.py."""

import re

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.base import operations
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.jobs import JobKind
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.rules import check_id
from lib.localcloud.vertex.pipelines import rules, run
from lib.localcloud.vertex.pipelines.nodes import parameters_of, spec_of

JOBS = JobKind(
    Collection(types.PipelineJob, "pipelineJobs"), types.PipelineState, "PIPELINE_STATE_",
    run.run, run.interrupt)


def create_pipeline_job(vertex: Vertex, request: Message) -> Message:
    """CreatePipelineJob: refuses what cannot be run here, then starts it."""
    job = request.pipeline_job
    spec = spec_of(job)
    rules.check_job(job, spec, parameters_of(job))
    job_id = request.pipeline_job_id or _new_id(spec["pipelineInfo"]["name"])
    check_id("pipelines.id", job_id, rules.JOB_ID, "pipeline_job_id")
    job.name = f"{request.parent}/pipelineJobs/{job_id}"
    # Filled in by the service: k8s-config-connector's recording of a PipelineJob.
    job.labels["vertex-ai-pipelines-run-billing-id"] = operations.new_id()
    job.service_account = job.service_account or (
        f"{vertex.project_number}-compute@developer.gserviceaccount.com")
    return JOBS.start(vertex, job)


def list_pipeline_jobs(vertex: Vertex, request: Message) -> Message:
    """ListPipelineJobs: the newest first, without the details of their tasks."""
    found = vertex.state.children(request.parent, "pipelineJobs")
    for job in found:
        job.job_detail.ClearField("task_details")
    return JOBS.collection.page(found[::-1], request)


def _new_id(pipeline_name: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", pipeline_name.lower()).strip("-")
    return f"{name if name[:1].isalpha() else 'pipeline'}-{operations.new_id()}"


METHODS = {
    **JOBS.collection.handlers("get"),
    "CreatePipelineJob": create_pipeline_job,
    "ListPipelineJobs": list_pipeline_jobs,
    "CancelPipelineJob": JOBS.cancel,
    "DeletePipelineJob": JOBS.delete,
}
