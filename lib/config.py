"""config.yaml -> validated Settings: the one place for names, URIs, regions and thresholds.

`load()` reads the file, merges the block of the chosen environment into it, fills in the naming
rule, and checks everything before any service is called.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[1]
CONFIG_VARIABLE = "CHURN_DEMO_CONFIG"  # path of another file than config.yaml
SETTINGS_VARIABLE = "CHURN_DEMO_SET"  # JSON merged into the file: how run_all.sh passes --source
RUN_VARIABLE = "CHURN_DEMO_RUN_ID"  # how run_all.sh passes the id of its run to the notebooks

# $CHURN_DEMO_RUNS: another folder, so that a test leaves runs/latest as it was.
RUNS = Path(os.environ.get("CHURN_DEMO_RUNS") or ROOT / "runs")
# In a run's folder: its --config and --source, which notebooks opened by hand go on with.
OPTIONS_FILE = "options.json"

# Columns of features_customer; the files in sql/ name them literally.
ENTITY, TIMESTAMP = "customer_id", "feature_timestamp"

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
# BigQuery datasets and tables: letters, digits, "_". Buckets: 3-63 of lower case, digits, "-".
BigQueryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,1024}$")]
BucketId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
# Feature Store ids: lower case, digits and "_", at most 60 characters (feature online stores and
# views; groups may be longer). aiplatform_v1/types/feature_online_store_admin_service.py
FeatureStoreId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
ARCHIVES = ("zip", "gz", "tgz", "tar", "7z", "rar")  # not the dataset of `source: name.zip`


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
    dataset: BigQueryId
    source_dataset: BigQueryId
    bucket: BucketId
    feature_group: FeatureStoreId
    online_store: FeatureStoreId
    feature_view: FeatureStoreId
    model: FeatureStoreId
    endpoint: FeatureStoreId


class Tables(Block):
    raw_users: BigQueryId
    raw_orders: BigQueryId
    raw_order_items: BigQueryId
    raw_products: BigQueryId
    source_counts: BigQueryId
    features: BigQueryId
    labels: BigQueryId
    train: BigQueryId
    train_naive: BigQueryId


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
    max_unusable_rate: Share
    min_week_of_orders: Share
    min_customers: Count
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
    name: FeatureStoreId
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
    """A step of a run on Google, as planned: see `plan` in config.yaml, and lib/report/plan.py.

    after: steps above it in the list that it waits for, besides the one before it.
    background: once started it runs beside the steps below it, until one names it in `after`.
    every_run: repeated in each run; the result of any other step is reused.
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
    """Everything a run needs to know. Made by `load`."""

    app: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")]
    owner: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
    target: Literal["local", "gcp"]
    env: Literal["dev", "prod"]
    source: str
    targets: dict[Literal["local", "gcp"], Target]
    feature_store_regions: list[str]
    nearest_regions: dict[str, str]
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
        """Labels of every job and resource: its owner, and the run that made it."""
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
        """The command that runs with these settings, from a notebook ("04") or from the start."""
        return f"./run_all.sh {self.options}" + (f" --from {notebook}" if notebook else "")

    def command(self, module: str, *more: str) -> str:
        """The command `python -m module` with these settings, and `more` arguments."""
        return " ".join([f".venv/bin/python -m {module} {self.options}", *more])

    @property
    def options(self) -> str:
        """The command-line options that load these settings again."""
        return _words({"--target": self.target, "--env": self.env, **_given()})

    @property
    def build_options(self) -> str:
        """The same for scripts/build_push_all.sh, which needs no source."""
        return _words({"--target": self.target, "--env": self.env, **_given(), "--source": None})

    @property
    def dataset(self) -> str:
        """project.dataset of this app and environment."""
        return f"{self.project}.{self.names.dataset}"

    @property
    def source_is_folder(self) -> bool:
        """Is `source` an export on disk, not a BigQuery dataset?"""
        project, dot, dataset = self.source.partition(".")
        named = dot and PROJECT_ID.fullmatch(project) and re.fullmatch(r"\w+", dataset, re.ASCII)
        return not named or dataset in ARCHIVES or self.source_folder.exists()

    @property
    def source_folder(self) -> Path:
        """The export's folder; a relative path is relative to the repository."""
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
        """Sixteen hex digits that change when one of `parts` does (for create-or-reuse)."""
        text = json.dumps(parts, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(
    path: Path | str | None = None,
    target: str | None = None,
    env: str | None = None,
    overrides: dict | None = None,
    run_dir: str | None = None,
) -> Settings:
    """Read, merge, expand and check the configuration.

    Args:
        path: the YAML file; by default $CHURN_DEMO_CONFIG, else the repository's config.yaml.
        target, env: instead of the file's own.
        overrides: nested keys, merged last; by default the JSON in $CHURN_DEMO_SET.
        run_dir: a notebook's parameter. "" means that it was opened by hand: it then goes on with
            --config and --source of the last run, unless one of the two variables is set.

    Raises:
        ConfigError: naming each bad key, its value, and what is allowed.
    """
    if run_dir == "" and path is None and overrides is None:
        _follow_last_run()
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
    problems = [problem for rule in RULES for problem in rule(settings)]
    if problems:
        raise ConfigError("\n".join(
            f"{path.name}: {key} = {value!r}: {allowed}" for key, value, allowed in problems))
    return settings


def save_options(folder: Path) -> None:
    """Keep a run's --config and --source in its folder, if it has any."""
    names = [name for name in (CONFIG_VARIABLE, SETTINGS_VARIABLE) if os.environ.get(name)]
    if names:
        (folder / OPTIONS_FILE).write_text(json.dumps({n: os.environ[n] for n in names}))


def _follow_last_run() -> None:
    """Use --config and --source of the last run, and say so."""
    if CONFIG_VARIABLE in os.environ or SETTINGS_VARIABLE in os.environ:
        return
    try:
        found = json.loads((RUNS / "latest" / OPTIONS_FILE).read_text())
    except (OSError, ValueError):
        return
    os.environ.update(found)
    if given := _words(_given()):
        print(f"as in the last run: {given} (./run_all.sh without them, or "
              f"{SETTINGS_VARIABLE}={{}} in the environment, uses config.yaml as it is)")


def _given() -> dict[str, str | None]:
    """--config and --source as they were given."""
    source = json.loads(os.environ.get(SETTINGS_VARIABLE) or "{}").get("source")
    return {"--config": os.environ.get(CONFIG_VARIABLE), "--source": source}


def _words(options: dict[str, str | None]) -> str:
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items() if value)


def _read(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a YAML mapping of keys to values")
    return tree


def _merge(base: dict, over: dict) -> dict:
    """A copy of `base` with the keys of `over`, block by block."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _expand(tree: dict) -> None:
    """Fill {app}, {env}, {project} and {region} into `names` and `serve`, in place."""
    target = (tree.get("targets") or {}).get(tree.get("target")) or {}
    known = {"app": tree.get("app"), "env": tree.get("env"), **target}

    def fill(key: str, text: object) -> object:
        try:
            return text.format(**known) if isinstance(text, str) else text
        except (KeyError, ValueError, IndexError):
            raise ConfigError(
                f"{key} = {text!r}: only {{app}}, {{env}}, {{project}} and {{region}} are known"
            ) from None

    for block in ("names", "serve"):
        if isinstance(tree.get(block), dict):
            tree[block] = {key: fill(f"{block}.{key}", text) for key, text in tree[block].items()}


def _explain(file: str, error: ValidationError) -> str:
    """One line for each problem that pydantic found."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        short = {"extra_forbidden": "unknown key", "missing": "missing"}.get(problem["type"])
        lines.append(f"{file}: {key}: {short}" if short else
                     f"{file}: {key} = {problem['input']!r}: {problem['msg']}")
    return "\n".join(lines)


# --- rules over more than one key: each yields (key, value, what is allowed) per violation -------

Problems = Iterator[tuple[str, object, str]]


def _names(settings: Settings) -> Problems:
    for key, name in settings.names.model_dump().items():
        if key == "bucket":
            wanted = f"{settings.app}-{settings.env}"
            if wanted not in name:
                yield "names.bucket", name, f"must contain {wanted}"
        else:
            wanted = f"{settings.app}_{settings.env}"
            if not f"{name}_".startswith(f"{wanted}_"):
                yield f"names.{key}", name, f"must start with {wanted}"


def _target(settings: Settings) -> Problems:
    key, target = f"targets.{settings.target}", settings.target_settings
    if not PROJECT_ID.fullmatch(target.project) or target.project == "your-project-id":
        yield (f"{key}.project", target.project,
               "your Google Cloud project id: 6 to 30 of a-z, 0-9 and '-'")
    offered = settings.feature_store_regions
    if target.region not in offered:
        yield (f"{key}.region", target.region,
               "the Feature Store is not offered there; the nearest region that has it is "
               f"{_nearest(settings)}, all are {', '.join(offered)}")
    if target.location not in ("US", "EU", target.region):
        yield (f"{key}.location", target.location,
               f"the region itself ({target.region}) or the multi-region that contains it")


def _nearest(settings: Settings) -> str:
    """The nearest region with a Feature Store; for a region that is not in the table, one of the
    same continent, with which the region's name begins."""
    region, offered = settings.region, settings.feature_store_regions
    continent = [name for name in offered if name.split("-")[0] == region.split("-")[0]]
    near = [settings.nearest_regions.get(region), *continent]
    return next((name for name in near if name in offered), offered[0])


def _features(settings: Settings) -> Problems:
    names = settings.feature_names
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "features.name", name, "given more than once"
    for name in (ENTITY, TIMESTAMP):
        if name in names:
            yield "features.name", name, "names the customer or the time of a row, not a feature"


def _training(settings: Settings) -> Problems:
    band, train = settings.label.positive_rate_band, settings.train
    if not band[0] < band[1]:
        yield "label.positive_rate_band", list(band), "the lower bound comes first"
    if abs(sum(train.split_ratios) - 1) > 1e-9:
        yield "train.split_ratios", list(train.split_ratios), "must add up to 1"
    if train.model_type not in train.params:
        yield "train.params", sorted(train.params), f"needs a block {train.model_type}"


def _plan(settings: Settings) -> Problems:
    planned = [step.name for step in settings.plan]
    for row, step in enumerate(settings.plan):
        if planned.count(step.name) > 1:
            yield "plan.name", step.name, "given more than once"
        for name in step.after:
            if name not in planned:
                yield f"plan.{step.name}.after", name, "no step has that name"
            elif name in planned[row:]:
                yield (f"plan.{step.name}.after", name,
                       "must be above it in the list, or steps wait for each other in a cycle")


RULES = (_names, _target, _features, _training, _plan)
