"""The same training as four CustomJobs, one after the other (train.runner: custom_job).

For projects without Vertex AI Pipelines. Each job runs one component's image with the arguments
that the pipeline would give it; artifacts pass through Cloud Storage, mounted at /gcs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import yaml
from google.cloud.aiplatform_v1.types import CustomJob

from lib import images
from lib.cloud import Cloud
from lib.errors import Needed
from lib.training import inputs, jobs

# Where each output goes, below the folder of its training; which output an input is.
OUTPUTS = {
    "data_load.output_dataset": "dataset", "train.output_model": "model",
    "eval.output_metrics": "metrics.json", "eval.output_curves": "curves.json",
    "eval.output_verdict": "verdict", "approve.output_model": "approved"}
INPUTS = {"input_dataset": "data_load.output_dataset", "input_model": "train.output_model",
          "input_metrics": "eval.output_metrics"}


def arguments(values: dict, folder: str) -> dict[str, dict[str, object]]:
    """Step -> the arguments of its program, as its interface file names them.

    Args:
        values: the pipeline's parameters (`lib.training.inputs.parameters`).
        folder: /gcs/... where this training's artifacts go.
    """
    found = {}
    for step in inputs.STEPS:
        file = "eval/approve.yaml" if step == "approve" else f"{step}/component.yaml"
        interface = yaml.safe_load((inputs.COMPONENTS / file).read_text(encoding="utf-8"))
        names = [each["name"] for each in (*interface["inputs"], *interface["outputs"])]
        places = {name: INPUTS.get(name, f"{step}.{name}") for name in names}
        found[step] = {name: values[name] for name in names if name in values} | {
            name: f"{folder}/{OUTPUTS[place]}" for name, place in places.items()
            if place in OUTPUTS}
    return found


@dataclass
class Chain:
    """One training: its fingerprint, and the job of each step."""

    fingerprint: str
    jobs: dict[str, CustomJob] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Of its artifacts in the bucket."""
        return f"custom_jobs/{self.fingerprint}"


def find_or_submit(cloud: Cloud, fingerprint: str) -> tuple[Chain, str]:
    """The chain with this fingerprint if its steps have succeeded, and "reused"; else an empty
    one, and "started": `wait` starts its jobs one by one, each when it has its input. A chain
    that was interrupted starts again, each step with the same arguments."""
    chain = Chain(fingerprint)
    verdict = _verdict(cloud, chain)
    if verdict is not None:
        for job in cloud.custom_jobs.list_custom_jobs(request={
                "parent": cloud.parent, "filter": jobs.label_filter(fingerprint)}):
            if jobs.state(job) == "SUCCEEDED":
                chain.jobs.setdefault(job.display_name.rsplit("-", 1)[1], job)
    wanted = inputs.STEPS if verdict == "pass" else inputs.STEPS[:-1]
    return (chain, "reused") if set(wanted) <= set(chain.jobs) else (Chain(fingerprint), "started")


def wait(cloud: Cloud, chain: Chain, say: Callable[[str], None] = print) -> Chain:
    """Run the steps of an empty chain, and return it; approval only if eval's verdict lets the
    model pass.

    Raises:
        Needed: a job failed (naming the step and its last line), or has not ended after
            waits.training_seconds.
    """
    if chain.jobs:
        return chain
    folder = f"/gcs/{cloud.settings.names.bucket}/{chain.prefix}"
    for step, given in arguments(inputs.parameters(cloud), folder).items():
        if step == "approve" and _verdict(cloud, chain) != "pass":
            say("  approve: not triggered")
            break
        name = start(cloud, chain, step, given).name
        job = chain.jobs[step] = jobs.wait(
            cloud, step, name, partial(cloud.custom_jobs.get_custom_job, name=name))
        if jobs.state(job) != "SUCCEEDED":
            raise Needed(f"step {step} ({name}) failed: {jobs.last_line(job.error)}",
                         "a step that succeeds", cloud.settings.rerun_command("05"))
        say(f"  {step}: succeeded")
    return chain


def start(cloud: Cloud, chain: Chain, step: str, given: dict) -> CustomJob:
    """Submit the job of one step with these arguments, by the SDK."""
    settings = cloud.settings
    image = images.reference(settings, "eval" if step == "approve" else step,
                             required=settings.target_settings.pinned_images)
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    job = cloud.aiplatform.CustomJob(
        display_name=jobs.display_name(settings, step),
        labels=jobs.labels(settings, chain.fingerprint),
        worker_pool_specs=[{
            "machine_spec": {"machine_type": settings.train.machine_type}, "replica_count": 1,
            "container_spec": {
                "image_uri": image, "args": ["approve", *words] if step == "approve" else words},
        }])
    job.submit(service_account=settings.service_account)
    return job.gca_resource


def name(chain: Chain) -> str:
    """Resource name of the train job."""
    return chain.jobs["train"].name


def states(chain: Chain) -> dict[str, str]:
    """Step -> state of its job."""
    return {step: jobs.state(chain.jobs[step]) if step in chain.jobs else "NOT_TRIGGERED"
            for step in inputs.STEPS}


def artifacts(cloud: Cloud, chain: Chain) -> dict[str, str]:
    """Step and output -> gs:// address, as `lib.training.pipeline_job.artifacts` gives them."""
    folder = f"gs://{cloud.settings.names.bucket}/{chain.prefix}"
    return {output: f"{folder}/{place}" for output, place in OUTPUTS.items()
            if output.split(".")[0] in chain.jobs}


def _verdict(cloud: Cloud, chain: Chain) -> str | None:
    """What eval wrote ("pass", "fail"); None before it has."""
    blob = cloud.storage.bucket(cloud.settings.names.bucket).blob(
        f"{chain.prefix}/{OUTPUTS['eval.output_verdict']}")
    return blob.download_as_text().strip() if blob.exists() else None
