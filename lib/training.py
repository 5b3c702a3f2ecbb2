"""Train and evaluate: the three components, run as the programs they are.

data_load -> train -> eval pass files, as they will as containers in a pipeline. The artifacts
go to Cloud Storage under a fingerprint of all they depend on; the same training is reused.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from google.cloud import storage

from lib import warehouse
from lib.cloud import Cloud
from lib.config import ROOT
from lib.stages import Needed, Outcome

COMPONENTS = ROOT / "lib" / "components"


@dataclass(frozen=True)
class Training:
    """What a training left: gs:// folder of the model, and the JSON files' contents."""

    artifact_uri: str
    split: dict
    meta: dict
    metrics: dict
    curves: dict


def component(name: str, **arguments: object) -> list[str]:
    """Run lib/components/<name> with --key value for each argument; its output lines.

    Raises:
        Needed: it exited with a status other than 0; the cause is its last line.
    """
    words = [str(word) for key, value in arguments.items() for word in (f"--{key}", value)]
    done = subprocess.run(
        [sys.executable, "src/main.py", *words], cwd=COMPONENTS / name, text=True,
        capture_output=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Needed(f"component {name} ended with status {done.returncode}: {last}",
                     f"arguments that {name} accepts",
                     f"python lib/components/{name}/src/main.py --help")
    return done.stdout.splitlines()


def load_data(cloud: Cloud, folder: Path, table: str = "train", sample_percent: int = 100) -> None:
    """Write train, valid and test.parquet of one of our tables into `folder`."""
    settings = cloud.settings
    component(
        "data_load", table=settings.table(table), label_col=settings.label.column,
        time_col="label_timestamp", id_col=settings.entity.column,
        feature_cols=",".join(settings.feature_names), gap_days=settings.label.horizon_days,
        split_ratios=",".join(map(str, settings.train.split_ratios)),
        sample_percent=sample_percent, seed=settings.train.seed, output_dataset=folder)


def fit(cloud: Cloud, dataset: Path, model: Path, seed: int | None = None) -> None:
    """Train the configured model on `dataset`; writes model.pkl and model_meta.json."""
    settings = cloud.settings
    component(
        "train", input_dataset=dataset, output_model=model,
        model_type=settings.train.model_type, label_col=settings.label.column,
        feature_cols=",".join(settings.feature_names),
        params=json.dumps(settings.train.params[settings.train.model_type]),
        seed=settings.train.seed if seed is None else seed)


def evaluate(
    cloud: Cloud, dataset: Path, model: Path, folder: Path, curves: bool = False
) -> dict:
    """Score `model` on the test rows of `dataset`; writes metrics.json (and curves.json)."""
    extra = {"output_curves": folder / "curves.json"} if curves else {}
    component(
        "eval", input_dataset=dataset, input_model=model,
        label_col=cloud.settings.label.column, output_metrics=folder / "metrics.json", **extra)
    return json.loads((folder / "metrics.json").read_text())


def run(cloud: Cloud) -> Outcome:
    """Train, evaluate and store, or reuse the training of the same data, code and settings.

    Returns:
        Outcome whose value is a Training.

    Raises:
        Needed: train_dataset is not built, or a component failed.
    """
    settings = cloud.settings
    built = warehouse.built_at(cloud, "train")
    if built is None:
        raise Needed(f"{settings.table('train')} is not built", "notebook 03",
                     "./run_all.sh --from 01")
    code = [p.read_text() for p in sorted(COMPONENTS.glob("*/src/*.py"))]
    fingerprint = settings.fingerprint(
        built, settings.train.model_dump(), settings.label.column, settings.feature_names, code)
    bucket = make_bucket(cloud)
    prefix = f"training/{fingerprint}"
    if not bucket.blob(f"{prefix}/metrics.json").exists():
        with tempfile.TemporaryDirectory() as scratch:
            _train_in(cloud, Path(scratch))
            _upload(bucket, prefix, Path(scratch))
        return _outcome("created", bucket, prefix)
    return _outcome("reused", bucket, prefix)


def make_bucket(cloud: Cloud) -> storage.Bucket:
    """The app's bucket, made if it is missing."""
    settings = cloud.settings
    bucket = cloud.storage.lookup_bucket(settings.names.bucket)
    if bucket is None:
        bucket = cloud.storage.bucket(settings.names.bucket)
        bucket.labels = settings.labels
        bucket = cloud.storage.create_bucket(bucket, location=settings.place.location)
    return bucket


def _train_in(cloud: Cloud, folder: Path) -> None:
    load_data(cloud, folder / "dataset")
    fit(cloud, folder / "dataset", folder / "model")
    evaluate(cloud, folder / "dataset", folder / "model", folder, curves=True)


def _upload(bucket: storage.Bucket, prefix: str, folder: Path) -> None:
    """Everything but the rows; metrics.json last, since it marks a complete training."""
    names = ["dataset/split.json", "model/model.pkl", "model/model_meta.json", "curves.json",
             "metrics.json"]
    for name in names:
        bucket.blob(f"{prefix}/{name}").upload_from_filename(folder / name)


def _outcome(status: str, bucket: storage.Bucket, prefix: str) -> Outcome:
    def read(name: str) -> dict:
        return json.loads(bucket.blob(f"{prefix}/{name}").download_as_bytes())

    training = Training(
        f"gs://{bucket.name}/{prefix}/model", read("dataset/split.json"),
        read("model/model_meta.json"), read("metrics.json"), read("curves.json"))
    keys = ("roc_auc", "pr_auc", "accuracy", "positive_rate")
    return Outcome(status, training.artifact_uri, {k: training.metrics[k] for k in keys}, training)


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
