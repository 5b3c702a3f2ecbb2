"""Rules of schedules; each is listed with its source in ../../README.md."""

from google.protobuf.message import Message

from lib.localcloud.errors import invalid, precondition, unsupported
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.online.rules import check_cron
from lib.localcloud.vertex.pipelines.nodes import parameters_of, spec_of
from lib.localcloud.vertex.pipelines.rules import check_job


def check_schedule(vertex: Vertex, schedule: Message) -> None:
    """Raise INVALID_ARGUMENT unless it has a name, a time, a limit and a job that could start."""
    rules.check_display_name(schedule.display_name)
    if not schedule.cron:
        raise invalid("schedules.required", "schedule.cron is required.")
    check_cron(schedule.cron, "schedule.cron")
    if schedule.max_concurrent_run_count < 1:
        raise invalid("schedules.required",
                      "schedule.max_concurrent_run_count is required: 1 or more.")
    if schedule.WhichOneof("request") != "create_pipeline_job_request":
        raise unsupported("divergence.schedule", "A schedule of anything but a pipeline job")
    request = schedule.create_pipeline_job_request
    parent = schedule.name.rsplit("/schedules/", 1)[0]
    if request.parent != parent:
        raise invalid("schedules.parent",
                      f"create_pipeline_job_request.parent must be {parent!r}.")
    job = request.pipeline_job
    check_job(job, spec_of(job), parameters_of(job))


def check_state(schedule: Message, wanted: str) -> None:
    """Raise FAILED_PRECONDITION unless the schedule is in that state."""
    found = type(schedule).State.Name(schedule.state)
    if found != wanted:
        raise precondition("schedules.states", f"The schedule is {found}, not {wanted}.")
