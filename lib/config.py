"""config.yaml -> validated Settings: the one place for names, URIs, regions and thresholds.

`load()` reads the file, lays the block of the chosen environment over it, expands the naming
rule, and checks everything before any service is asked for anything.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[1]
CONFIG_VARIABLE = "CHURN_DEMO_CONFIG"  # a path: another file than config.yaml
SETTINGS_VARIABLE = "CHURN_DEMO_SET"  # JSON laid over the file: how run_all.sh passes --source
RUN_VARIABLE = "CHURN_DEMO_RUN_ID"  # how run_all.sh tells the notebooks which run they are

# Columns of features_customer; the files in sql/ name them literally. A feature group calls them
# the entity id column and the time series' timestamp column.
ENTITY, TIMESTAMP = "customer_id", "feature_timestamp"

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

# Feature Store ids: lower case, digits and "_", at most 60 characters (feature online stores and
# views; groups may be longer). aiplatform_v1/types/feature_online_store_admin_service.py
FEATURE_STORE_ID = re.compile(r"[a-z][a-z0-9_]{0,59}")
# BigQuery datasets: letters, digits, "_". Buckets: 3-63 of lower case, digits, "-".
DATASET_ID = re.compile(r"[A-Za-z0-9_]{1,1024}")
BUCKET_ID = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")


class ConfigError(ValueError):
    """config.yaml cannot be used; the message names the key, the value and what is allowed."""


class Block(BaseModel):
    """A block of config.yaml: unknown keys are refused, values cannot change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(Block):
    project: str
    region: str
    location: str
    pinned_images: bool
    billed: bool
    planted_faults: bool
    freshness: bool


class TheLook(Block):
    users: Annotated[int, Field(ge=1000)]
    seed: int
    as_of: datetime


class Names(Block):
    dataset: str
    source_dataset: str
    bucket: str
    feature_group: str
    online_store: str
    feature_view: str
    model: str
    endpoint: str


class Tables(Block):
    raw_users: str
    raw_orders: str
    raw_order_items: str
    raw_products: str
    source_counts: str
    features: str
    labels: str
    train: str
    train_naive: str


class Snapshots(Block):
    step_days: Annotated[int, Field(ge=1, le=31)]
    history_days: Annotated[int, Field(ge=28, le=1460)]
    sample_percent: Annotated[int, Field(ge=1, le=100)]


class Label(Block):
    horizon_days: Literal[60, 90]
    active_days: Days
    positive_rate_band: tuple[Share, Share]

    @property
    def column(self) -> str:
        """Name of the label column: label_churn_60d or label_churn_90d."""
        return f"label_churn_{self.horizon_days}d"


class Checks(Block):
    min_join_coverage: Share
    max_null_rate: Share
    max_honest_roc_auc: Share
    parity_customers: Count
    parity_tolerance: Annotated[float, Field(ge=0)]
    planted_customers: Annotated[int, Field(ge=20, le=1000)]
    freshness_customers: Annotated[int, Field(ge=5, le=1000)]
    leakage_seeds: Annotated[int, Field(ge=1, le=20)]
    leakage_sample_percent: Annotated[int, Field(ge=1, le=100)]
    latency_callers: Annotated[int, Field(ge=2, le=64)]
    latency_sql_requests: Count


class Feature(Block):
    name: str
    type: Literal["INT64", "FLOAT64", "STRING", "BOOL"]
    unit: str
    description: str
    nullable: bool = False


class OnlineStore(Block):
    min_node_count: Count
    max_node_count: Count
    cpu_utilization_target: Annotated[int, Field(ge=10, le=80)]

    @model_validator(mode="after")
    def _nodes(self) -> "OnlineStore":
        # Bigtable autoscaling: max is at least min and at most ten times it.
        if not self.min_node_count <= self.max_node_count <= 10 * self.min_node_count:
            raise ValueError("max_node_count must lie between min_node_count and ten times it")
        return self


class FeatureView(Block):
    sync_cron: str
    dense: bool
    service_agent: Literal["project", "view"]


class Train(Block):
    model_type: Literal["random_forest", "logistic_regression"]
    params: dict[Literal["random_forest", "logistic_regression"], dict]
    split_ratios: tuple[Share, Share, Share]
    seed: int
    runner: Literal["pipeline", "custom_job"]
    min_roc_auc: Share
    machine_type: str
    service_account: str | None


class Serve(Block):
    image: str
    image_repository: str
    machine_type: str
    min_replica_count: Count
    max_replica_count: Count


class Predict(Block):
    customers: Annotated[int, Field(ge=10)]
    latency_requests: Count
    fetch_timeout_seconds: Annotated[float, Field(gt=0)]


class Waits(Block):
    """Seconds, all of them."""

    online_store_seconds: Count
    operation_seconds: Count
    sync_seconds: Count
    training_seconds: Count
    deploy_seconds: Count
    image_build_seconds: Count
    iam_seconds: Annotated[int, Field(ge=0)]
    first_pause_seconds: Seconds
    longest_pause_seconds: Seconds
    progress_seconds: Seconds


class Retries(Block):
    attempts: Annotated[int, Field(ge=1, le=20)]
    first_pause_seconds: Seconds
    longest_pause_seconds: Seconds


class PlannedStep(Block):
    """A step of a run on Google, as planned: see `plan` in config.yaml, and critical_path.py.

    after: steps above it in the list that it waits for, besides the one before it.
    background: once started it runs beside the steps below it, until one names it in `after`.
    every_run: done again in each run; all else is reused while it stands.
    """

    name: str
    stage: Annotated[str, Field(pattern=r"^0[0-7]_[a-z_]+$")]
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    basis: Literal["documented", "assumed", "measured"]
    after: list[str] = []
    background: bool = False
    every_run: bool = False


class Retention(Block):
    table_expiration_days: Annotated[int, Field(ge=1)] | None


class Costs(Block):
    usd_per_tib_scanned: Annotated[float, Field(ge=0)]
    max_bytes_billed: Annotated[int, Field(ge=10_000_000)]
    # Not in config.yaml: Google publishes no copy of these prices that could be read.
    usd_per_bigtable_node_hour: Annotated[float, Field(ge=0)] | None = None
    usd_per_serving_node_hour: Annotated[float, Field(ge=0)] | None = None


class Settings(Block):
    """Everything a run needs to know. Built by `load`, never by hand."""

    app: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")]
    owner: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
    target: Literal["local", "gcp"]
    env: Literal["dev", "prod"]
    source: str
    targets: dict[Literal["local", "gcp"], Target]
    feature_store_regions: list[str]
    apis: list[str]
    thelook: TheLook
    names: Names
    tables: Tables
    snapshots: Snapshots
    label: Label
    checks: Checks
    features: Annotated[list[Feature], Field(min_length=1)]
    online_store: OnlineStore
    feature_view: FeatureView
    train: Train
    serve: Serve
    predict: Predict
    waits: Waits
    retries: Retries
    plan: Annotated[list[PlannedStep], Field(min_length=1)]
    retention: Retention
    costs: Costs
    run_id: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")] = "interactive"

    @property
    def target_settings(self) -> Target:
        """Project, region and location of the chosen target."""
        return self.targets[self.target]

    @property
    def project(self) -> str:
        return self.target_settings.project

    @property
    def region(self) -> str:
        return self.target_settings.region

    @property
    def feature_names(self) -> list[str]:
        """The features in their one order."""
        return [feature.name for feature in self.features]

    @property
    def labels(self) -> dict[str, str]:
        """Labels for every job and resource: whose it is, and which run made it."""
        return {"app": self.app, "env": self.env, "owner": self.owner, "run_id": self.run_id}

    def owns(self, labels: Mapping[str, str] | None) -> bool:
        """Do the labels of a resource say that this app made it in this environment?"""
        given = labels or {}
        return (given.get("app"), given.get("env")) == (self.app, self.env)

    def list_filter(self, display_name: str) -> str:
        """List filter for models and endpoints: a display name (not unique) and our labels."""
        return (f'display_name="{display_name}" AND labels.app="{self.app}" '
                f'AND labels.env="{self.env}"')

    def rerun_command(self, notebook: str = "") -> str:
        """The command that runs this target and env, from a notebook ("04") or from the start."""
        start = f" --from {notebook}" if notebook else ""
        return f"./run_all.sh --target {self.target} --env {self.env}{start}"

    @property
    def dataset(self) -> str:
        """project.dataset of this app and environment."""
        return f"{self.project}.{self.names.dataset}"

    @property
    def source_is_folder(self) -> bool:
        """True when `source` is an export on disk rather than a BigQuery dataset."""
        return not re.fullmatch(r"[a-z][a-z0-9-]+\.[A-Za-z0-9_]+", self.source)

    @property
    def source_folder(self) -> Path:
        """The export's folder; a relative path starts at the repository's root."""
        return (ROOT / Path(self.source).expanduser()).resolve()

    @property
    def source_dataset(self) -> str:
        """project.dataset that the SQL reads theLook from."""
        if self.source_is_folder:
            return f"{self.project}.{self.names.source_dataset}"
        return self.source

    def table(self, key: str) -> str:
        """Full name, project.dataset.table, of one of `tables`."""
        return f"{self.dataset}.{getattr(self.tables, key)}"

    def fingerprint(self, *parts: object) -> str:
        """Sixteen hex digits that change whenever one of `parts` does (for create-or-reuse)."""
        text = json.dumps(parts, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(
    path: Path | str | None = None,
    target: str | None = None,
    env: str | None = None,
    overrides: dict | None = None,
) -> Settings:
    """Read, merge, expand and check the configuration.

    Args:
        path: the YAML file; by default $CHURN_DEMO_CONFIG, else config.yaml at the root.
        target, env: instead of the file's own.
        overrides: nested keys laid over the file last; by default the JSON in $CHURN_DEMO_SET.

    Raises:
        ConfigError: naming each bad key, its value, and what is allowed.
    """
    path = Path(path or os.environ.get(CONFIG_VARIABLE) or ROOT / "config.yaml")
    tree = _read(path)
    target, env = target or tree.get("target"), env or tree.get("env")
    environments = tree.pop("environments", None) or {}
    if not isinstance(environments, dict) or set(environments) - {"dev", "prod"}:
        raise ConfigError(f"{path.name}: environments: allowed are the blocks dev and prod")
    tree = _merge(tree, environments.get(env) or {})
    run_id = os.environ.get(RUN_VARIABLE) or "interactive"
    tree = _merge(tree, {"target": target, "env": env, "run_id": run_id})
    if overrides is None:
        overrides = json.loads(os.environ.get(SETTINGS_VARIABLE) or "{}")
    tree = _merge(tree, overrides)
    _expand(tree)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(path.name, error)) from None
    _check(path.name, settings)
    return settings


def _read(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold keys and values")
    return tree


def _merge(base: dict, over: dict) -> dict:
    """`over` laid on `base`, block by block; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _expand(tree: dict) -> None:
    """Fill {app}, {env}, {project} and {region} into the names, in place."""
    place = (tree.get("targets") or {}).get(tree.get("target")) or {}
    known = {"app": tree.get("app"), "env": tree.get("env"), **place}

    def fill(key: str, text: object) -> object:
        try:
            return text.format(**known) if isinstance(text, str) else text
        except (KeyError, ValueError, IndexError):
            raise ConfigError(
                f"{key} = {text!r}: only {{app}}, {{env}}, {{project}} and {{region}} are known"
            ) from None

    if isinstance(tree.get("names"), dict):
        tree["names"] = {k: fill(f"names.{k}", v) for k, v in tree["names"].items()}
    if isinstance(tree.get("serve"), dict) and "image_repository" in tree["serve"]:
        repository = fill("serve.image_repository", tree["serve"]["image_repository"])
        tree["serve"] = {**tree["serve"], "image_repository": repository}


def _explain(file: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{file}: {key}: unknown key")
        elif problem["type"] == "missing":
            lines.append(f"{file}: {key}: missing")
        else:
            lines.append(f"{file}: {key} = {problem['input']!r}: {problem['msg']}")
    return "\n".join(lines)


# For each region of Vertex AI without the Feature Store: the nearest that has it, as the crow flies
# between the cities of Google's "locations" page. Osaka and Milan are passed over: there the API
# alone offers it, not the console.
NEAREST = {
    "asia-east1": "asia-northeast1",            # Taiwan -> Tokyo
    "asia-east2": "asia-southeast1",            # Hong Kong -> Singapore
    "asia-northeast3": "asia-northeast1",       # Seoul -> Tokyo
    "asia-south1": "me-central1",               # Mumbai -> Doha
    "asia-south2": "me-central1",               # Delhi -> Doha
    "asia-southeast2": "asia-southeast1",       # Jakarta -> Singapore
    "australia-southeast1": "asia-southeast1",  # Sydney -> Singapore
    "australia-southeast2": "asia-southeast1",  # Melbourne -> Singapore
    "europe-central2": "europe-west3",          # Warsaw -> Frankfurt
    "europe-north1": "europe-west4",            # Finland -> Netherlands
    "europe-north2": "europe-west4",            # Stockholm -> Netherlands
    "europe-west1": "europe-west2",             # Belgium -> London
    "europe-west6": "europe-west12",            # Zurich -> Turin
    "europe-west9": "europe-west2",             # Paris -> London
    "me-west1": "me-central2",                  # Tel Aviv -> Dammam
    "northamerica-northeast1": "us-east4",      # Montreal -> Virginia
    "northamerica-northeast2": "us-east5",      # Toronto -> Ohio
    "southamerica-east1": "us-east1",           # Sao Paulo -> South Carolina
    "southamerica-west1": "us-east1",           # Santiago -> South Carolina
    "us-west4": "us-west2",                     # Las Vegas -> Los Angeles
}


def _nearest(region: str, offered: list[str]) -> str:
    """Where to go instead. A region that is not in the table: the same continent, with which
    the region's name begins."""
    near = (NEAREST.get(region), *(name for name in offered
                                   if name.split("-")[0] == region.split("-")[0]))
    return next((name for name in near if name in offered), offered[0])


def _check(file: str, settings: Settings) -> None:
    """Rules that span keys, or that need a list of what is allowed."""
    problems = []

    def want(good: bool, key: str, value: object, allowed: str) -> None:
        if not good:
            problems.append(f"{file}: {key} = {value!r}: {allowed}")

    names, place = settings.names, settings.target_settings
    prefix = f"{settings.app}_{settings.env}"
    for key, name in names.model_dump().items():
        if key == "bucket":
            good = bool(BUCKET_ID.fullmatch(name)) and f"{settings.app}-{settings.env}" in name
            want(good, "names.bucket", name,
                 f"3 to 63 of a-z, 0-9 and '-', holding {settings.app}-{settings.env}")
            continue
        pattern = DATASET_ID if key.endswith("dataset") else FEATURE_STORE_ID
        good = bool(pattern.fullmatch(name)) and (name + "_").startswith(prefix + "_")
        want(good, f"names.{key}", name,
             f"must start with {prefix} and hold only a-z, 0-9 and '_' (60 characters at most)")
    for key, name in settings.tables.model_dump().items():
        want(bool(DATASET_ID.fullmatch(name)), f"tables.{key}", name, "letters, digits and '_'")
    want(bool(PROJECT_ID.fullmatch(place.project)) and place.project != "your-project-id",
         f"targets.{settings.target}.project", place.project,
         "your Google Cloud project id: 6 to 30 of a-z, 0-9 and '-'")
    want(place.region in settings.feature_store_regions,
         f"targets.{settings.target}.region", place.region,
         f"the Feature Store is not offered there; the nearest region that has it is "
         f"{_nearest(place.region, settings.feature_store_regions)}, all are "
         + ", ".join(settings.feature_store_regions))
    want(place.location in ("US", "EU", place.region), f"targets.{settings.target}.location",
         place.location, f"the region itself ({place.region}) or the multi-region that holds it")
    seen = settings.feature_names
    for feature in settings.features:
        want(bool(FEATURE_STORE_ID.fullmatch(feature.name)), "features.name", feature.name,
             "a-z, 0-9 and '_', first a letter, 60 characters at most")
        want(seen.count(feature.name) == 1, "features.name", feature.name, "given more than once")
    low, high = settings.label.positive_rate_band
    want(low < high, "label.positive_rate_band", [low, high], "the lower bound comes first")
    want(abs(sum(settings.train.split_ratios) - 1) < 1e-9, "train.split_ratios",
         list(settings.train.split_ratios), "must add up to 1")
    want(settings.train.model_type in settings.train.params, "train.params",
         sorted(settings.train.params), f"needs a block {settings.train.model_type}")
    planned = [step.name for step in settings.plan]
    for row, step in enumerate(settings.plan):
        want(planned.count(step.name) == 1, "plan.name", step.name, "given more than once")
        for name in step.after:
            want(name in planned, f"plan.{step.name}.after", name, "no step has that name")
            # Steps above it only: so no step can wait for itself, on whatever detour.
            want(name not in planned[row:], f"plan.{step.name}.after", name,
                 "must stand above it in the list, or steps wait for each other in a cycle")
    if problems:
        raise ConfigError("\n".join(problems))
