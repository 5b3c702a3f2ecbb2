"""What pipeline jobs and CustomJobs have in common: names, labels, states, and the wait."""

from collections.abc import Callable
from typing import Any

from lib import waiting
from lib.cloud import Cloud
from lib.config import Settings

# States of a job, or of a task in a pipeline, that do not change any more: PipelineState,
# JobState and PipelineTaskDetail.State of aiplatform_v1, without their prefixes.
ENDED = {"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "SKIPPED",
         "NOT_TRIGGERED"}


def display_name(settings: Settings, step: str = "training") -> str:
    """Of the pipeline and its jobs, or of one step's CustomJobs."""
    return f"{settings.app}-{settings.env}-{step}"


def labels(settings: Settings, fingerprint: str) -> dict[str, str]:
    """Our labels, and the training that the job is part of; `label_filter` finds it by that."""
    return {**settings.labels, "training": fingerprint}


def label_filter(fingerprint: str) -> str:
    """List filter: the jobs of one training."""
    return f'labels.training="{fingerprint}"'


def state(job: Any) -> str:
    """State of a job, or of a pipeline's task, as it was read: such as RUNNING."""
    name = waiting.state_name(job.state)
    return name.removeprefix("PIPELINE_STATE_").removeprefix("JOB_STATE_")


def wait(cloud: Cloud, what: str, name: str, read: Callable[[], Any]) -> Any:
    """Read a job of that name until it has ended; the job.

    what: for the lines of progress.

    Raises:
        lib.errors.Needed: it has not ended after waits.training_seconds.
    """
    return waiting.until(
        cloud.settings, what, read, lambda job: state(job) in ENDED,
        cloud.settings.waits.training_seconds, state, console(name))


def console(name: str) -> str:
    """The address of a job's page in Google's console."""
    _, project, _, region, kind, job = name.split("/")
    app, page = {"pipelineJobs": ("vertex-ai", "pipelines/runs"),
                 "customJobs": ("agent-platform", "training")}[kind]
    return (f"https://console.cloud.google.com/{app}/locations/{region}/{page}/{job}"
            f"?project={project}")


def last_line(error: Any) -> str:
    """The last line of a failed job's or task's error (google.rpc.status_pb2.Status, or None)."""
    message = error.message.strip() if error else ""
    return (message or "no message").splitlines()[-1]
