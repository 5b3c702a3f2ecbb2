"""The weekly refresh on Google Cloud: a pipeline of one step, and its schedule.

    python -m lib.operate.schedule create|show|pause|resume|delete|run [--target local|gcp]

create: at feature_view.refresh_cron the pipeline does what `python -m lib.refresh` does; the view's
own schedule (feature_view.sync_cron) then syncs. It is made for the SQL and settings of now: after
a change of them, create replaces it. run: submits the same pipeline once, now, and waits for it.
The local cloud keeps a schedule, but never fires it.

Exit status: 0 done, 1 it failed (the message says what is needed), 2 a bad command line or
config.yaml.
"""

import argparse
import json
import sys
from functools import partial

from google.cloud import aiplatform_v1 as vertex
from kfp import dsl

from lib import cli, refresh, stages, waiting
from lib.cloud import Cloud, connect
from lib.config import Settings
from lib.errors import Needed
from lib.training import compile, inputs, jobs, pipeline, pipeline_job

MODULE = "lib.operate.schedule"
STEP = "refresh"


def job(settings: Settings) -> vertex.PipelineJob:
    """The pipeline job that the schedule creates each time.

    Raises:
        Needed: the source is a folder, which no step on Google Cloud can read.
    """
    if settings.source_is_folder:
        raise Needed(
            f"the source is the folder {settings.source_folder} on this machine, which a scheduled "
            "step cannot read", "a BigQuery dataset with the orders (source in config.yaml), or "
            "the refresh from here", settings.command("lib.refresh"))
    step = pipeline.component(settings, "data_load", "refresh.yaml")

    @dsl.pipeline(name=jobs.display_name(settings, STEP),
                  description="churn: bring newer orders in, compute the due snapshots")
    def weekly(plan: str):
        step(plan=plan).set_cpu_limit("1").set_memory_limit("2G").set_caching_options(False) \
            .set_display_name(STEP)

    return pipeline_job.message(settings, STEP, compile.specification(weekly),
                                {"plan": json.dumps(refresh.plan(settings))}, settings.labels)


def _require_account(cloud: Cloud) -> None:
    """Raise Needed unless the account of the step has its roles, naming the commands."""
    # Here: teardown imports this module, and needs no preflight.
    from lib.operate import preflight, preflight_access

    preflight.require(cloud, {"refresh account": preflight_access.refresh_account})


def find(cloud: Cloud) -> list[vertex.Schedule]:
    """The schedules of that name."""
    name = jobs.display_name(cloud.settings, STEP)
    found = cloud.schedules.list_schedules(request={
        "parent": cloud.parent, "filter": f'display_name="{name}"'})
    return [schedule for schedule in found if schedule.display_name == name]


def create(cloud: Cloud) -> vertex.Schedule:
    """Make the schedule; one that exists is deleted after the new one is there.

    Raises:
        Needed: the source is a folder, or the account of the step lacks roles; nothing was made.
    """
    settings = cloud.settings
    wanted = job(settings)
    _require_account(cloud)
    inputs.make_bucket(cloud)
    old = find(cloud)
    made = cloud.schedules.create_schedule(parent=cloud.parent, schedule=vertex.Schedule(
        display_name=jobs.display_name(settings, STEP), cron=settings.feature_view.refresh_cron,
        max_concurrent_run_count=1,
        create_pipeline_job_request=vertex.CreatePipelineJobRequest(
            parent=cloud.parent, pipeline_job=wanted)))
    for schedule in old:
        delete(cloud, schedule.name)
    return made


def delete(cloud: Cloud, name: str) -> None:
    """Delete a schedule, and wait for the end."""
    waiting.operation(cloud.settings, "deleting the schedule",
                      cloud.schedules.delete_schedule(name=name), name)


def run(cloud: Cloud) -> str:
    """Submit the pipeline once and wait; the name of its job.

    Raises:
        Needed: as `create`; or it failed: the message has the last line of its step.
    """
    client, wanted = cloud.pipeline_jobs, job(cloud.settings)
    _require_account(cloud)
    inputs.make_bucket(cloud)
    name = client.create_pipeline_job(parent=cloud.parent, pipeline_job=wanted).name
    ended = jobs.wait(cloud, STEP, name, partial(client.get_pipeline_job, name=name))
    if jobs.state(ended) != "SUCCEEDED":
        errors = [task.error for task in ended.job_detail.task_details if task.error.message]
        raise Needed(f"the refresh failed: {jobs.last_line((errors or [ended.error])[0])}",
                     "what its message names", cloud.settings.command("lib.refresh"))
    return name


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser(f"python -m {MODULE}", __doc__)
    parser.add_argument("action", choices=["create", "show", "pause", "resume", "delete", "run"])
    return cli.run(parser.parse_args(arguments), "schedule", "the weekly refresh", _run)


def _run(settings: Settings, options: argparse.Namespace) -> None:
    if options.action == "run":
        with stages.alone(MODULE):
            print(f"refreshed by {run(connect(settings))}")
        return
    cloud = connect(settings)
    if options.action == "create":
        create(cloud)
    found = find(cloud)
    for schedule in found:
        if options.action == "pause":
            cloud.schedules.pause_schedule(name=schedule.name)
        elif options.action == "resume":
            cloud.schedules.resume_schedule(name=schedule.name)
        elif options.action == "delete":
            delete(cloud, schedule.name)
            print(f"deleted: {schedule.name}")
    for schedule in find(cloud):
        print(f"{schedule.name}: {schedule.cron}, {waiting.state_name(schedule.state).lower()}")
    if not found:
        print(f"no schedule; to create it: {settings.command(MODULE, 'create')}")


if __name__ == "__main__":
    sys.exit(main())
