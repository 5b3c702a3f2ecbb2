"""Submit the training pipeline to Vertex AI Pipelines, and wait for it.

    python -m lib.training.pipeline_job [--compile-only] [--no-wait] [--no-cache] [--target gcp]

Prints a line for each task as its state changes, and the console address. Exit status:
0 succeeded (or submitted, with --no-wait), 1 failed: the step and its last line are named,
2 a bad command line or config.yaml.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from google.cloud.aiplatform_v1.types import PipelineState, PipelineTaskDetail

from lib import cloud as clouds
from lib import config, errors, waiting
from lib.cloud import Cloud
from lib.errors import Needed
from lib.training import compile as compiling
from lib.training import inputs

ENDED = {PipelineState.PIPELINE_STATE_SUCCEEDED, PipelineState.PIPELINE_STATE_FAILED,
         PipelineState.PIPELINE_STATE_CANCELLED}
ENDED_TASK = {"SUCCEEDED", "SKIPPED", "NOT_TRIGGERED", "FAILED", "CANCELLED"}
# Our steps, in their order; the service lists more (the pipeline itself, the condition).
OWN_TASKS = ("data_load", "train", "eval", "approve")


def submit(cloud: Cloud, fingerprint: str, cache: bool = True):
    """Compile and submit; the running aiplatform.PipelineJob, labelled with `fingerprint`."""
    settings = cloud.settings
    with tempfile.TemporaryDirectory() as folder:
        template, _ = compiling.compile_to(settings, Path(folder))
        job = cloud.aiplatform.PipelineJob(
            display_name=f"{settings.app}-{settings.env}-training", template_path=str(template),
            pipeline_root=f"gs://{settings.names.bucket}/pipelines",
            parameter_values=inputs.parameters(cloud), labels={**settings.labels, "training": fingerprint},
            # None leaves each step's own setting; False turns every one off.
            enable_caching=None if cache else False,
        )
        job.submit(service_account=settings.train.service_account)
    return job


def find(cloud: Cloud, fingerprint: str):
    """A succeeded job with this fingerprint (aiplatform.PipelineJob), or None."""
    jobs = cloud.aiplatform.PipelineJob.list(filter=f'labels.training="{fingerprint}"')
    return next((job for job in jobs if job.state == PipelineState.PIPELINE_STATE_SUCCEEDED), None)


def find_running(cloud: Cloud, fingerprint: str):
    """A job with this fingerprint that is not over (aiplatform.PipelineJob), or None."""
    jobs = cloud.aiplatform.PipelineJob.list(filter=f'labels.training="{fingerprint}"')
    return next((job for job in jobs if job.state not in ENDED), None)


def wait(
    cloud: Cloud, job, say: Callable[[str], None] = print, running: bool = False
) -> None:
    """Poll the job to its end; say when a task has ended (with `running`: when it starts, too).

    Raises:
        Needed: the job failed or was cancelled (naming the step and its last line), or it is
            not over after waits.training_seconds.
    """
    said: dict[str, str] = {}

    def look():
        # One answer for both: asked for twice, the last step could end in between, unsaid.
        job_state = job.state
        for task in tasks(job):
            state = PipelineTaskDetail.State(task.state).name
            shown = state in ENDED_TASK or (running and state == "RUNNING")
            if shown and said.get(task.task_name) != state:
                said[task.task_name] = state
                say(f"  {task.task_name}: {_word(state)}")
        return job_state

    waiting.until(
        cloud.settings, "training", look, ENDED.__contains__, cloud.settings.waits.training_seconds,
        lambda state: PipelineState(state).name, job._dashboard_uri())
    if job.state != PipelineState.PIPELINE_STATE_SUCCEEDED:
        raise Needed(_why(job), "a step that succeeds; what was done is kept, and taken from the "
                     "cache",
                     f".venv/bin/python -m lib.training.pipeline_job --target {cloud.settings.target} "
                     f"--env {cloud.settings.env}")


def tasks(job) -> list[PipelineTaskDetail]:
    """The details of our own steps, in the order of the pipeline, as last read by `job.state`."""
    details = job.gca_resource.job_detail.task_details
    found = {task.task_name: task for task in details}
    return [found[name] for name in _names(found)]


def _names(found: dict) -> list[str]:
    """kfp names a task after its component, with "-" for "_"."""
    return [n for step in OWN_TASKS for n in found if n.replace("-", "_") == step]


def _word(state: str) -> str:
    return {"SKIPPED": "reused from cache", "NOT_TRIGGERED": "not triggered"}.get(
        state, state.lower())


def _why(job) -> str:
    """Which step failed and what it said last."""
    for task in tasks(job):
        if task.error.code or task.state == PipelineTaskDetail.State.FAILED:
            last = (task.error.message.strip() or "no message").splitlines()[-1]
            return f"step {task.task_name} of {job.resource_name} failed: {last}"
    message = job.gca_resource.error.message or PipelineState(job.state).name
    return f"pipeline job {job.resource_name}: {message}"


def name(job) -> str:
    """Resource name of the job."""
    return job.resource_name


def states(job) -> dict[str, str]:
    """Step -> state, as the service tells it."""
    return {task.task_name.replace("-", "_"): PipelineTaskDetail.State(task.state).name
            for task in tasks(job)}


def artifacts(cloud: Cloud, job) -> dict[str, str]:
    """Step and output -> gs:// address, e.g. {"train.output_model": "gs://..."}."""
    return {
        f"{task.task_name.replace('-', '_')}.{name}": found.artifacts[0].uri
        for task in tasks(job) for name, found in task.outputs.items() if found.artifacts
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.pipeline_job", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile-only", action="store_true",
                        help="write the spec, submit nothing")
    parser.add_argument("--no-wait", action="store_true", help="submit and leave")
    parser.add_argument("--no-cache", action="store_true", help="run every step anew")
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    options = parser.parse_args(arguments)
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if options.compile_only:
            print(*compiling.compile_to(settings, compiling.DEFAULT_OUTPUT), sep="\n")
            return 0
        cloud = clouds.connect(settings)
        inputs.make_bucket(cloud)
        job = submit(cloud, inputs.fingerprint(cloud), cache=not options.no_cache)
        print(job.resource_name, job._dashboard_uri(), sep="\n")
        if not options.no_wait:
            wait(cloud, job, running=True)
    except Exception as error:
        told = errors.explain(error, "pipeline", "training", settings)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
