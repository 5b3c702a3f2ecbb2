"""What the training is given: its steps and parameters, a bucket, and a fingerprint of all that
it depends on.
"""

import json

from google.cloud import storage

from lib import images, warehouse
from lib.cloud import Cloud
from lib.config import ANY_RATE, ENTITY, ROOT
from lib.errors import Needed, wrong_location

COMPONENTS = ROOT / "lib" / "components"
STEPS = ("data_load", "train", "eval", "approve")  # in their order


def parameters(cloud: Cloud) -> dict[str, object]:
    """The pipeline's parameters, all from config.yaml and the table's build.

    Raises:
        Needed: train_dataset is not built.
    """
    settings = cloud.settings
    low, high = settings.positive_rate_band or ANY_RATE
    build = _build(cloud)
    return {
        "table": settings.table("train"), "label_col": settings.label.column,
        "time_col": "label_timestamp", "id_col": ENTITY,
        "feature_cols": ",".join(settings.feature_names),
        "gap_days": settings.label.horizon_days,
        "split_ratios": ",".join(map(str, settings.train.split_ratios)),
        "sample_percent": sample_percent(cloud), "model_type": settings.train.model_type,
        "params": json.dumps(settings.train.params[settings.train.model_type]),
        "seed": settings.train.seed, "min_roc_auc": settings.train.min_roc_auc,
        "max_roc_auc": 1.0 if settings.max_honest_roc_auc is None else settings.max_honest_roc_auc,
        "positive_rate_low": low, "positive_rate_high": high, "build": build,
    }


def sample_percent(cloud: Cloud) -> float:
    """The share of the customers whose label rows are about train.max_rows, 100 if there are no
    more."""
    rows = warehouse.find_table(cloud, "train").num_rows
    return min(100.0, round(100 * cloud.settings.train.max_rows / max(rows, 1), 2))


def fingerprint(cloud: Cloud) -> str:
    """Changes with the table's build, the settings of training, the components' files, and their
    images: a change may be run before it is in them.

    Raises:
        Needed: train_dataset is not built.
    """
    settings = cloud.settings
    code = [path.read_text() for pattern in ("*/src/*.py", "*/*.yaml", "*/requirements.txt")
            for path in sorted(COMPONENTS.glob(pattern))]
    built = [images.reference(settings, name, required=False) for name in images.TRAINING]
    return settings.fingerprint(
        _build(cloud), built, settings.train.model_dump(), settings.label.model_dump(),
        settings.feature_names, settings.positive_rate_band, settings.max_honest_roc_auc, code)


def _build(cloud: Cloud) -> str:
    """Identifies the contents of train_dataset."""
    built = warehouse.built_at(cloud, "train")
    if built is None:
        raise Needed(f"{cloud.settings.table('train')} is not built", "notebook 03",
                     cloud.settings.rerun_command("01"))
    return built


def require_current(cloud: Cloud) -> None:
    """Raise Needed if a table that train_dataset is made of, or itself, was built by other SQL or
    settings than those of now, as when a run starts after the notebook that builds it."""
    for key, file in (("features", "02_build_features"), ("labels", "03_build_labels_churn"),
                      ("train", "04_build_train")):
        table = warehouse.find_table(cloud, key)
        if table and table.labels.get("fingerprint") != warehouse.fingerprint(cloud.settings, file):
            raise Needed(
                f"{cloud.settings.table(key)} was built by another sql/{file}.sql or other "
                "settings", "the tables built anew", cloud.settings.rerun_command("02"))


def make_bucket(cloud: Cloud) -> storage.Bucket:
    """The app's bucket, created if it is missing: in Vertex AI's region, since a model is refused
    whose files are in a multi-region ("It must be in the same regional location as the service
    location": google/cloud/aiplatform/utils/gcs_utils.py), and with uniform access, which new
    organisations enforce (constraints/storage.uniformBucketLevelAccess).

    Raises:
        Needed: it exists in another location.
    """
    settings, wanted = cloud.settings, cloud.settings.region
    bucket = cloud.storage.lookup_bucket(settings.names.bucket)
    if bucket is None:
        bucket = cloud.storage.bucket(settings.names.bucket)
        bucket.labels = settings.labels
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket = cloud.storage.create_bucket(bucket, location=wanted)
    elif bucket.location.upper() != wanted.upper():
        raise wrong_location("bucket", f"gs://{bucket.name}", bucket.location, wanted)
    return bucket
