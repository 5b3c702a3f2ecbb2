"""ScheduleService: schedules are checked and kept, and never fire."""

from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.schedules import rules

SCHEDULES = Collection(types.Schedule, "schedules", rules.check_schedule, id_optional=True)
State = types.Schedule.State


def create_schedule(vertex: Vertex, request: Message) -> Message:
    """CreateSchedule: no operation; the schedule is active at once."""
    request.schedule.state = State.ACTIVE
    return SCHEDULES.add(vertex, request)


def pause_schedule(vertex: Vertex, request: Message) -> Message:
    """PauseSchedule."""
    schedule = vertex.state.get(request.name)
    rules.check_state(schedule, "ACTIVE")
    schedule.state = State.PAUSED
    schedule.last_pause_time.GetCurrentTime()
    vertex.state.put(schedule)
    return empty_pb2.Empty()


def resume_schedule(vertex: Vertex, request: Message) -> Message:
    """ResumeSchedule: no missed run is made up for, since none is started here."""
    schedule = vertex.state.get(request.name)
    rules.check_state(schedule, "PAUSED")
    schedule.state, schedule.catch_up = State.ACTIVE, request.catch_up
    schedule.last_resume_time.GetCurrentTime()
    vertex.state.put(schedule)
    return empty_pb2.Empty()


METHODS = {
    **SCHEDULES.handlers("get", "list", "delete"),
    "CreateSchedule": create_schedule,
    "PauseSchedule": pause_schedule,
    "ResumeSchedule": resume_schedule,
}
