"""Submit the training pipeline to Vertex AI Pipelines, and wait for it.

    python -m lib.training.pipeline_job [--no-wait] [--no-cache] [--target gcp]

Prints a line for each task as its state changes, and the console address. Exit status:
0 succeeded (or submitted, with --no-wait), 1 failed: the step and its last line are named,
2 a bad command line or config.yaml.
"""

import argparse
import sys
from collections.abc import Callable
from datetime import datetime

from google.api_core.exceptions import Conflict
from google.cloud.aiplatform_v1.types import PipelineJob, PipelineTaskDetail

from lib import cli, waiting
from lib.cloud import Cloud, connect
from lib.config import Settings
from lib.errors import Needed
from lib.training import inputs, jobs


def submit(cloud: Cloud, fingerprint: str, cache: bool = True) -> PipelineJob:
    """Compile and submit; the running job, labelled with `fingerprint`."""
    from lib.training import compile, pipeline  # they import kfp: only a new training needs it

    settings = cloud.settings
    spec = compile.specification(pipeline.define(settings))
    for part in [] if cache else [spec["root"], *spec["components"].values()]:
        for task in part.get("dag", {"tasks": {}})["tasks"].values():
            task["cachingOptions"] = {"enableCache": False}
    job_id = f"{spec['pipelineInfo']['name']}-{fingerprint}-{datetime.now():%Y%m%d%H%M%S}"
    try:
        return cloud.pipeline_jobs.create_pipeline_job(
            parent=cloud.parent, pipeline_job_id=job_id, pipeline_job=message(
                settings, "training", spec, inputs.parameters(cloud),
                jobs.labels(settings, fingerprint)))
    except Conflict:  # submitted in this second, by a call that seemed to fail
        return waiting.made(settings, "training", lambda: _get(
            cloud, f"{cloud.parent}/pipelineJobs/{job_id}"))


def message(
    settings: Settings, step: str, spec: dict, parameters: dict, labels: dict[str, str]
) -> PipelineJob:
    """A pipeline job as it is sent. step: of its display name; spec: by `compile.specification`."""
    return PipelineJob(
        display_name=jobs.display_name(settings, step), pipeline_spec=spec, labels=labels,
        service_account=settings.service_account or "",
        runtime_config=PipelineJob.RuntimeConfig(
            gcs_output_directory=f"gs://{settings.names.bucket}/pipelines",
            parameter_values=parameters))


def _get(cloud: Cloud, name: str) -> PipelineJob:
    return cloud.pipeline_jobs.get_pipeline_job(name=name)


def find_or_submit(cloud: Cloud, fingerprint: str) -> tuple[PipelineJob, str]:
    """A job with this fingerprint, and whether it is "reused", because it has succeeded, or
    "started": running, or submitted now."""
    listed = cloud.pipeline_jobs.list_pipeline_jobs(request={
        "parent": cloud.parent, "filter": jobs.label_filter(fingerprint)})
    known = [(job, jobs.state(job)) for job in listed]
    for job, state in known:
        if state == "SUCCEEDED":
            return job, "reused"
    running = (job for job, state in known if state not in jobs.ENDED)
    return next(running, None) or submit(cloud, fingerprint), "started"


def wait(
    cloud: Cloud, job: PipelineJob, say: Callable[[str], None] = print, running: bool = False
) -> PipelineJob:
    """Poll the job until it has ended, and return it with its steps, which a list leaves out;
    print which of them have ended (with `running`: have started, too).

    Raises:
        Needed: the job failed or was cancelled (naming the step and its last line), or has not
            ended after waits.training_seconds.
    """
    printed: dict[str, str] = {}
    words = {"SKIPPED": "reused from cache", "NOT_TRIGGERED": "not triggered"}

    def probe() -> PipelineJob:
        # One response for both: in a second one the last step could have ended unprinted.
        read = _get(cloud, job.name)
        for step, reached in states(read).items():
            shown = reached in jobs.ENDED or (running and reached == "RUNNING")
            if shown and printed.get(step) != reached:
                printed[step] = reached
                say(f"  {step}: {words.get(reached, reached.lower())}")
        return read

    ended = jobs.wait(cloud, "training", job.name, probe)
    if jobs.state(ended) != "SUCCEEDED":
        raise Needed(_why(ended), "a step that succeeds; finished steps are kept in the cache",
                     cloud.settings.command("lib.training.pipeline_job"))
    return ended


def _why(job: PipelineJob) -> str:
    """Which step failed, and the last line of its error."""
    for step, task in tasks(job).items():
        if task.error.code or jobs.state(task) == "FAILED":
            return f"step {step} of {job.name} failed: {jobs.last_line(task.error)}"
    return f"pipeline job {job.name}: {job.error.message or jobs.state(job)}"


def tasks(job: PipelineJob) -> dict[str, PipelineTaskDetail]:
    """Our steps, in their order. The service lists more tasks (the pipeline itself, the
    condition), and kfp writes "-" for "_" in their names."""
    found = {task.task_name.replace("-", "_"): task for task in job.job_detail.task_details}
    return {step: found[step] for step in inputs.STEPS if step in found}


def name(job: PipelineJob) -> str:
    """Resource name of the job."""
    return job.name


def states(job: PipelineJob) -> dict[str, str]:
    """Step -> state, as the service reports it."""
    return {step: jobs.state(task) for step, task in tasks(job).items()}


def artifacts(cloud: Cloud, job: PipelineJob) -> dict[str, str]:
    """Step and output -> gs:// address, e.g. {"train.output_model": "gs://..."}."""
    return {f"{step}.{output}": found.artifacts[0].uri for step, task in tasks(job).items()
            for output, found in task.outputs.items() if found.artifacts}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("python -m lib.training.pipeline_job", __doc__)
    parser.add_argument("--no-wait", action="store_true", help="submit, and do not wait")
    parser.add_argument("--no-cache", action="store_true", help="run every step again")
    return cli.run(parser.parse_args(arguments), "pipeline", "training", _run)


def _run(settings: Settings, options: argparse.Namespace) -> None:
    cloud = connect(settings)
    inputs.make_bucket(cloud)
    job = submit(cloud, inputs.fingerprint(cloud), cache=not options.no_cache)
    print(job.name, jobs.console(job.name), sep="\n")
    if not options.no_wait:
        wait(cloud, job, running=True)


if __name__ == "__main__":
    sys.exit(main())
