"""What looking into the future is worth, as a number; and a guard against it.

Naive join: each label with its customer's latest features (sql/04_build_train_naive.sql).
The same rows, split and model; only the join differs from train_dataset.
"""

import json
import tempfile
from pathlib import Path

import pandas as pd

from lib import training, warehouse
from lib.cloud import Cloud
from lib.stages import Needed, Outcome

SAMPLE_PERCENT = 40  # of customers: enough for a difference this large, and quick


def check_honest(cloud: Cloud, metrics: dict) -> Outcome:
    """Refuse a score that this data cannot give: theory's optimum on theLook is 0.80.

    Raises:
        Needed: roc_auc above checks.max_honest_roc_auc.
    """
    limit, found = cloud.settings.checks.max_honest_roc_auc, metrics["roc_auc"]
    if found > limit:
        raise Needed(
            f"test ROC-AUC {found:.3f} is above {limit}: more than theLook holds, so a feature "
            "sees the future", "features that use nothing after feature_timestamp",
            "python -m lib.checks.sanity")
    return Outcome("done", figures={"roc_auc": found, "no more than": limit})


def measure(cloud: Cloud, honest: dict) -> Outcome:
    """Train on the naive join; score that model on naive and on honest test rows.

    Args:
        honest: metrics of the model trained on train_dataset.

    Returns:
        Outcome whose value has naive_roc_auc (what the naive offline test promises),
        naive_model_on_honest_roc_auc (what that model then scores on features as they were
        known), point_in_time_roc_auc (the honest model), and sample_percent.
    """
    built = warehouse.build(cloud, "04_build_train_naive")
    settings = cloud.settings
    fingerprint = settings.fingerprint(
        warehouse.built_at(cloud, "train_naive"), warehouse.built_at(cloud, "train"),
        settings.train.model_dump(), SAMPLE_PERCENT, honest["roc_auc"])
    blob = training.make_bucket(cloud).blob(f"leakage/{fingerprint}.json")
    if blob.exists():
        figures = json.loads(blob.download_as_bytes())
        return Outcome("reused", built.resource, figures, figures)
    with tempfile.TemporaryDirectory() as scratch:
        promised, kept = _naive_scores(cloud, Path(scratch))
    figures = {
        "naive_roc_auc": round(promised, 4),
        "naive_model_on_honest_roc_auc": round(kept, 4),
        "point_in_time_roc_auc": round(honest["roc_auc"], 4),
    }
    blob.upload_from_string(json.dumps(figures))
    return Outcome("created", built.resource, figures, figures)


def _naive_scores(cloud: Cloud, folder: Path) -> tuple[float, float]:
    """ROC-AUC of the naive model on naive test rows, and on honest ones."""
    for table, name in (("train_naive", "naive"), ("train", "honest")):
        training.load_data(cloud, folder / name, table, SAMPLE_PERCENT)
    training.fit(cloud, folder / "naive", folder / "model")
    scores = [training.evaluate(cloud, folder / name, folder / "model", folder)["roc_auc"]
              for name in ("naive", "honest")]
    return scores[0], scores[1]


def table(figures: dict) -> pd.DataFrame:
    """The comparison as a table: trained on, tested on, ROC-AUC."""
    rows = [
        ("naive join", "naive join", figures["naive_roc_auc"], "what the notebook promises"),
        ("naive join", "as known at the time", figures["naive_model_on_honest_roc_auc"],
         "what production sees"),
        ("point-in-time join", "as known at the time", figures["point_in_time_roc_auc"],
         "promised and seen"),
        ("nothing: guessing", "", 0.5, "the baseline"),
    ]
    return pd.DataFrame(rows, columns=["trained on", "tested on", "ROC-AUC", ""])
