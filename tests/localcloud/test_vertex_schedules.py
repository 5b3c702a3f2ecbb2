"""Schedules of pipeline jobs: Google's own client against the stand-in."""

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1

from lib import config
from lib.operate import schedule as refresh

State = aiplatform_v1.Schedule.State


@pytest.fixture
def schedules(vertex):
    return vertex.client(aiplatform_v1.ScheduleServiceClient)


@pytest.fixture
def wanted(location):
    """A schedule that is accepted."""
    settings = config.load(target="local", env="dev")
    return aiplatform_v1.Schedule(
        display_name="weekly", cron="TZ=Asia/Seoul 0 1 * * 1", max_concurrent_run_count=1,
        create_pipeline_job_request={"parent": location,
                                     "pipeline_job": refresh.job(settings)})


def create(schedules, schedule):
    parent = schedule.create_pipeline_job_request.parent
    return schedules.create_schedule(parent=parent, schedule=schedule)


def test_a_schedule_is_made_listed_and_deleted(schedules, wanted, location):
    made = create(schedules, wanted)
    assert (made.state, made.cron) == (State.ACTIVE, "TZ=Asia/Seoul 0 1 * * 1")
    assert made.create_time and made.name.rsplit("/", 1)[1].isdecimal()
    assert schedules.get_schedule(name=made.name) == made
    found = schedules.list_schedules(
        request={"parent": location, "filter": 'display_name="weekly"'})
    assert [schedule.name for schedule in found] == [made.name]
    schedules.delete_schedule(name=made.name).result()
    with pytest.raises(exceptions.NotFound):
        schedules.get_schedule(name=made.name)


def test_a_schedule_is_paused_and_resumed(schedules, wanted):
    name = create(schedules, wanted).name
    with pytest.raises(exceptions.BadRequest, match="is ACTIVE, not PAUSED"):
        schedules.resume_schedule(name=name)
    schedules.pause_schedule(name=name)
    paused = schedules.get_schedule(name=name)
    assert paused.state == State.PAUSED and paused.last_pause_time
    with pytest.raises(exceptions.BadRequest, match="is PAUSED, not ACTIVE"):
        schedules.pause_schedule(name=name)
    schedules.resume_schedule(name=name)
    assert schedules.get_schedule(name=name).state == State.ACTIVE
    schedules.delete_schedule(name=name).result()


@pytest.mark.parametrize("change, message", [
    ({"cron": ""}, "cron is required"),
    ({"cron": "every Monday"}, "schedule.cron: 'every Monday' must have five fields"),
    ({"max_concurrent_run_count": 0}, "max_concurrent_run_count is required"),
    ({"display_name": ""}, "display_name must have 1 to 128"),
    ({"create_pipeline_job_request": {"parent": "projects/p/locations/elsewhere"}},
     "create_pipeline_job_request.parent must be"),
    ({"create_notebook_execution_job_request": {"parent": "x"}}, "anything but a pipeline job"),
])
def test_what_is_wrong_is_refused(schedules, wanted, location, change, message):
    for name, value in change.items():
        setattr(wanted, name, value)
    with pytest.raises(exceptions.BadRequest, match=message):
        schedules.create_schedule(parent=location, schedule=wanted)


def test_the_job_of_a_schedule_is_checked(schedules, wanted):
    wanted.create_pipeline_job_request.pipeline_job.runtime_config.gcs_output_directory = ""
    with pytest.raises(exceptions.BadRequest, match="gcs_output_directory is required"):
        create(schedules, wanted)
