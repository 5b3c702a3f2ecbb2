"""Train and evaluate: submit the pipeline (or CustomJobs), read its results.

The three components pass files. A training is identified by a fingerprint of all it depends on
(data, code, settings); one that succeeded before is reused.
"""

import json
from dataclasses import dataclass

import pandas as pd
from google.cloud import storage

from lib.cloud import Cloud
from lib.stages import Outcome
from lib.training import custom_jobs, inputs, pipeline_job


@dataclass(frozen=True)
class Training:
    """The results of a training.

    artifact_uri: gs:// folder of the approved model; None if it did not pass the gate.
    job: resource name of the pipeline job (of the train job, for CustomJobs).
    states: step -> state, as the service reports it.
    split, meta, metrics, curves: contents of the components' JSON files.
    model_uri: gs:// folder of the trained model, approved or not.
    """

    artifact_uri: str | None
    job: str
    states: dict[str, str]
    split: dict
    meta: dict
    metrics: dict
    curves: dict
    model_uri: str


def start(cloud: Cloud) -> Outcome:
    """Submit the training without waiting, unless the same one has succeeded or is running.

    On Google its containers take minutes, in which the online store is made. CustomJobs are not
    started early: each needs the output of the one before.

    Raises:
        Needed: train_dataset is not built, or by other SQL or settings than those of now.
    """
    inputs.require_current(cloud)
    inputs.make_bucket(cloud)
    if cloud.settings.train.runner == "custom_job":
        return Outcome("done", figures={"runner": "custom_job, in notebook 05"})
    job, status = pipeline_job.find_or_submit(cloud, inputs.fingerprint(cloud))
    return Outcome(status, job.name)


def train(cloud: Cloud) -> Outcome:
    """Run the training, or reuse the one that succeeded with this data, code and settings; wait
    for one that is running.

    Returns:
        Outcome whose value is a Training.

    Raises:
        Needed: as `start`; or a step failed: it is named, with its last line.
    """
    inputs.require_current(cloud)
    runner = custom_jobs if cloud.settings.train.runner == "custom_job" else pipeline_job
    fingerprint = inputs.fingerprint(cloud)
    inputs.make_bucket(cloud)
    job, status = runner.find_or_submit(cloud, fingerprint)
    job = runner.wait(cloud, job)  # of one that has ended: only lists its steps
    training = _read(cloud, runner.name(job), runner.states(job), runner.artifacts(cloud, job))
    keys = ("roc_auc", "pr_auc", "accuracy", "positive_rate")
    figures = {k: training.metrics[k] for k in keys}
    return Outcome("reused" if status == "reused" else "created", training.job, figures, training)


def _read(cloud: Cloud, job: str, states: dict[str, str], uris: dict[str, str]) -> Training:
    def content(uri: str) -> dict:
        return json.loads(storage.Blob.from_uri(uri, client=cloud.storage).download_as_bytes())

    return Training(
        uris.get("approve.output_model"), job, states,
        split=content(uris["data_load.output_dataset"] + "/split.json"),
        meta=content(uris["train.output_model"] + "/model_meta.json"),
        metrics=content(uris["eval.output_metrics"]),
        curves=content(uris["eval.output_curves"]),
        model_uri=uris["train.output_model"])


def splits(training: Training) -> pd.DataFrame:
    """One row per part of the split: split, first, last (dates), rows, positive_rate."""
    parts = training.split["splits"]
    frame = pd.DataFrame([{"split": name, **part} for name, part in parts.items()])
    return frame.assign(first=pd.to_datetime(frame["first"]), last=pd.to_datetime(frame["last"]))


def metrics_table(training: Training) -> pd.DataFrame:
    """Each metric of the test rows, what guessing would score, and the valid rows."""
    metrics = training.metrics
    names = [n for n in ("roc_auc", "pr_auc", "accuracy") if n in metrics]
    return pd.DataFrame({
        "test": {n: metrics[n] for n in names},
        "guessing": {n: metrics["baseline"][n] for n in names},
        "valid": {n: metrics["valid"][n] for n in names},
    })
