"""The same training as three CustomJobs, one after the other (train.runner: custom_job).

For projects without Vertex AI Pipelines. Each job runs one component's image with the arguments
that the pipeline would give it; artifacts pass through Cloud Storage, mounted at /gcs.
"""

from collections.abc import Callable

from google.cloud import storage
from google.cloud.aiplatform_v1.types import JobState

from lib import images, waiting
from lib.cloud import Cloud
from lib.errors import Needed
from lib.training import inputs

STEPS = ("data_load", "train", "eval", "approve")
ENDED = {JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED,
         JobState.JOB_STATE_EXPIRED, JobState.JOB_STATE_PARTIALLY_SUCCEEDED}


def arguments(values: dict, folder: str) -> dict[str, dict[str, object]]:
    """Step -> the arguments of its program, given the pipeline's parameters.

    Args:
        values: `lib.training.inputs.parameters`.
        folder: /gcs/... where this training's artifacts go.
    """
    def pick(*names: str) -> dict:
        return {name: values[name] for name in names}

    dataset, model, metrics = (f"{folder}/{n}" for n in ("dataset", "model", "metrics.json"))
    return {
        "data_load": {
            **pick("table", "label_col", "time_col", "id_col", "feature_cols", "gap_days",
                   "split_ratios", "sample_percent", "seed", "build"),
            "output_dataset": dataset},
        "train": {
            "input_dataset": dataset, "output_model": model,
            **pick("model_type", "label_col", "feature_cols", "params", "seed")},
        "eval": {
            "input_dataset": dataset, "input_model": model, "output_metrics": metrics,
            "output_curves": f"{folder}/curves.json", "output_verdict": f"{folder}/verdict",
            **pick("label_col", "min_roc_auc", "max_roc_auc", "positive_rate_low",
                   "positive_rate_high")},
        "approve": {
            "input_model": model, "input_metrics": metrics,
            "output_model": f"{folder}/approved"},
    }


class Chain:
    """One training: where its artifacts are, and the CustomJob of each step that ran."""

    def __init__(self, mark: str, prefix: str):
        self.mark, self.prefix, self.jobs = mark, prefix, {}


def find(cloud: Cloud, mark: str) -> Chain | None:
    """The chain with this fingerprint, if its last step left what it must."""
    chain = _chain(mark)
    if _verdict(cloud, chain) is None:
        return None
    for job in cloud.aiplatform.CustomJob.list(filter=f'labels.training="{mark}"'):
        if job.state == JobState.JOB_STATE_SUCCEEDED:
            chain.jobs.setdefault(job.display_name.rsplit("-", 1)[1], job)
    wanted = STEPS if _verdict(cloud, chain) == "pass" else STEPS[:-1]
    return chain if set(wanted) <= set(chain.jobs) else None


def find_running(cloud: Cloud, mark: str) -> None:
    """None: a chain that was cut off starts again, each step with the same arguments."""


def submit(cloud: Cloud, mark: str) -> Chain:
    """An empty chain; its jobs start one by one in `wait`, each when it has its input."""
    return _chain(mark)


def wait(cloud: Cloud, chain: Chain, say: Callable[[str], None] = print) -> None:
    """Run the steps; approval only if eval's verdict lets the model pass.

    Raises:
        Needed: a job failed (naming the step and its last line), or the time-out passed.
    """
    if chain.jobs:  # found: over already
        return
    bucket = cloud.settings.names.bucket
    steps = arguments(inputs.parameters(cloud), f"/gcs/{bucket}/{chain.prefix}")
    for step, given in steps.items():
        if step == "approve" and _verdict(cloud, chain) != "pass":
            say("  approve: not triggered")
            break
        chain.jobs[step] = _start(cloud, chain, step, given)
        _finish(cloud, step, chain.jobs[step])
        say(f"  {step}: succeeded")


def name(chain: Chain) -> str:
    """Resource name of the train job."""
    return chain.jobs["train"].resource_name


def states(chain: Chain) -> dict[str, str]:
    """Step -> state of its job."""
    found = {step: JobState(job.state).name.removeprefix("JOB_STATE_")
             for step, job in chain.jobs.items()}
    return {step: found.get(step, "NOT_TRIGGERED") for step in STEPS}


def artifacts(cloud: Cloud, chain: Chain) -> dict[str, str]:
    """Step and output -> gs:// address, as `lib.training.pipeline_job.artifacts` gives them."""
    folder = f"gs://{cloud.settings.names.bucket}/{chain.prefix}"
    found = {
        "data_load.output_dataset": f"{folder}/dataset", "train.output_model": f"{folder}/model",
        "eval.output_metrics": f"{folder}/metrics.json",
        "eval.output_curves": f"{folder}/curves.json"}
    if "approve" in chain.jobs:
        found["approve.output_model"] = f"{folder}/approved"
    return found


def _chain(mark: str) -> Chain:
    return Chain(mark, f"custom_jobs/{mark}")


def _verdict(cloud: Cloud, chain: Chain) -> str | None:
    bucket = cloud.storage.bucket(cloud.settings.names.bucket)
    blob = storage.Blob(f"{chain.prefix}/verdict", bucket)
    return blob.download_as_text().strip() if blob.exists(client=cloud.storage) else None


def _start(cloud: Cloud, chain: Chain, step: str, given: dict):
    settings = cloud.settings
    image = images.reference(settings, "eval" if step == "approve" else step,
                             required=settings.target_settings.pinned_images)
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    job = cloud.aiplatform.CustomJob(
        display_name=f"{settings.app}-{settings.env}-{step}",
        labels={**settings.labels, "training": chain.mark},
        worker_pool_specs=[{
            "machine_spec": {"machine_type": settings.train.machine_type}, "replica_count": 1,
            "container_spec": {
                "image_uri": image, "args": ["approve", *words] if step == "approve" else words},
        }])
    job.submit(service_account=settings.train.service_account)
    return job


def _finish(cloud: Cloud, step: str, job) -> None:
    waiting.until(
        cloud.settings, step, lambda: job.state, ENDED.__contains__,
        cloud.settings.waits.training_seconds, lambda state: JobState(state).name,
        job._dashboard_uri())
    if job.state != JobState.JOB_STATE_SUCCEEDED:
        last = (job.error.message if job.error else "no message").strip().splitlines()[-1]
        raise Needed(f"step {step} ({job.resource_name}) failed: {last}",
                     "a step that succeeds", cloud.settings.rerun_command("05"))
