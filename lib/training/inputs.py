"""What the training is given: its parameters, the bucket for its artifacts, and a fingerprint of
all that it depends on.
"""

import json

from google.cloud import storage

from lib import warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, ROOT
from lib.errors import Needed

COMPONENTS = ROOT / "lib" / "components"


def parameters(cloud: Cloud) -> dict:
    """The pipeline's parameters, all from config.yaml and the table's build.

    Raises:
        Needed: train_dataset is not built.
    """
    settings = cloud.settings
    built = warehouse.built_at(cloud, "train")
    if built is None:
        raise Needed(f"{settings.table('train')} is not built", "notebook 03",
                     settings.rerun_command("01"))
    low, high = settings.label.positive_rate_band
    return {
        "table": settings.table("train"), "label_col": settings.label.column,
        "time_col": "label_timestamp", "id_col": ENTITY,
        "feature_cols": ",".join(settings.feature_names),
        "gap_days": settings.label.horizon_days,
        "split_ratios": ",".join(map(str, settings.train.split_ratios)),
        "sample_percent": 100.0, "model_type": settings.train.model_type,
        "params": json.dumps(settings.train.params[settings.train.model_type]),
        "seed": settings.train.seed, "min_roc_auc": settings.train.min_roc_auc,
        "max_roc_auc": settings.checks.max_honest_roc_auc, "positive_rate_low": low,
        "positive_rate_high": high, "build": built,
    }


def fingerprint(cloud: Cloud) -> str:
    """Changes with the table's build, the settings of training, and the components' files."""
    settings = cloud.settings
    built = warehouse.built_at(cloud, "train")
    if built is None:
        raise Needed(f"{settings.table('train')} is not built", "notebook 03",
                     settings.rerun_command("01"))
    code = [path.read_text() for pattern in ("*/src/*.py", "*/*.yaml", "*/requirements.txt")
            for path in sorted(COMPONENTS.glob(pattern))]
    return settings.fingerprint(
        built, settings.train.model_dump(), settings.label.model_dump(), settings.feature_names,
        settings.checks.max_honest_roc_auc, code)


def make_bucket(cloud: Cloud) -> storage.Bucket:
    """The app's bucket, made if it is missing.

    Raises:
        Needed: it stands in another location than the data.
    """
    settings = cloud.settings
    bucket = cloud.storage.lookup_bucket(settings.names.bucket)
    if bucket is None:
        bucket = cloud.storage.bucket(settings.names.bucket)
        bucket.labels = settings.labels
        bucket = cloud.storage.create_bucket(bucket, location=settings.target_settings.location)
    elif bucket.location.upper() != settings.target_settings.location.upper():
        raise Needed(
            f"bucket {bucket.name} stands in {bucket.location}",
            f"a bucket in {settings.target_settings.location}, or another name in config.yaml",
            f"gcloud storage rm --recursive gs://{bucket.name}")
    return bucket
