"""config.yaml -> validated Settings: the one place for names, URIs, regions and thresholds.

`load()` reads the file (lib/config_file.py), merges the block of the chosen environment into it,
fills in the naming rule, and checks everything before any service is called: each key by its type
here, what more than one key says by lib/config_rules.py.

Upper limits: above any sensible use, and low enough that a slip of the keyboard is found here and
not by a service, a bill or an endless wait.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic needs it instead of typing's before Python 3.12

from lib import config_file, config_rules
from lib.config_file import ConfigError
from lib.config_rules import ENTITY, PROJECT_ID, TIMESTAMP

TARGETS, ENVIRONMENTS = ("local", "gcp"), ("dev", "prod")
ROOT = Path(__file__).resolve().parents[1]
CONFIG_VARIABLE = "CHURN_DEMO_CONFIG"  # path of another file than config.yaml
SETTINGS_VARIABLE = "CHURN_DEMO_SET"  # JSON merged into the file: of run_all.sh: --source, --lang
GIVEN = (CONFIG_VARIABLE, SETTINGS_VARIABLE)
RUN_VARIABLE = "CHURN_DEMO_RUN_ID"  # how run_all.sh passes the id of its run to the notebooks

# $CHURN_DEMO_RUNS: another folder, so that a test leaves runs/latest as it was.
RUNS = Path(os.environ.get("CHURN_DEMO_RUNS") or ROOT / "runs")
# In a run's folder: its --config, --source and --lang; notebooks opened by hand go on with them.
OPTIONS_FILE = "options.json"

__all__ = ["ENTITY", "TIMESTAMP", "ConfigError"]  # defined below, for the modules that ask here


def relative(path: Path) -> str:
    """A path as messages show it: from the project's folder on, if it is in there."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def between(low: float, high: float) -> object:
    """The type's limits, both inclusive."""
    return Field(ge=low, le=high)


Share = Annotated[float, between(0, 1)]
Band = Annotated[tuple[Share, Share], Field(strict=False)]  # YAML has lists
PartOfAll = Annotated[float, Field(gt=0, lt=1)]
Days = Annotated[int, between(1, 3650)]
Count = Annotated[int, between(1, 1_000_000)]
Nodes = Annotated[int, between(1, 100)]
# Of numpy and scikit-learn: 32 bits.
Seed = Annotated[int, between(0, 2**32 - 1)]
Wait = Annotated[int, between(1, 86_400)]  # seconds, at most a day
Seconds = Annotated[float, Field(gt=0, le=3600)]
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]
MachineType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*-[a-z0-9-]{1,60}$")]
Region = Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]{1,2}$")]
# BigQuery datasets and tables: letters, digits, "_". Buckets: 3-63 of lower case, digits, "-".
BigQueryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,1024}$")]
BucketId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
# Feature Store ids: lower case, digits and "_", at most 60 characters (feature online stores and
# views; groups may be longer). aiplatform_v1/types/feature_online_store_admin_service.py
FeatureStoreId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
# Service accounts: google/cloud/iam_admin_v1/types/iam.py, CreateServiceAccountRequest.account_id.
AccountId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
ANY_RATE = (0.0, 1.0)  # instead of a positive_rate_band that is not known
ARCHIVES = ("zip", "gz", "tgz", "tar", "7z", "rar")  # not the dataset of `source: name.zip`


class Block(BaseModel):
    """A block of config.yaml: unknown keys are refused, values cannot change later, and a value of
    another type ("60", yes, 60.5, .inf for a number) is refused, not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Target(Block):
    project: Annotated[str, Field(pattern=rf"^{PROJECT_ID.pattern}$")]
    region: Text
    location: Text
    pinned_images: bool
    own_account: bool
    billed: bool
    planted_faults: bool
    freshness: bool
    served_log: bool


class TheLook(Block):
    users: Annotated[int, between(1000, 5_000_000)]
    seed: Seed
    # The first customers sign up in 2019: from 2020 on there is a year of orders.
    as_of: Annotated[AwareDatetime, between(
        datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))]


class TheLookOnly(Block):
    """What is known of theLook, and of no other data."""

    sources: list[Text]
    positive_rate_band: Band
    max_honest_roc_auc: Share


class Names(Block):
    dataset: BigQueryId
    source_dataset: BigQueryId
    bucket: BucketId
    feature_group: FeatureStoreId
    online_store: FeatureStoreId
    feature_view: FeatureStoreId
    model: FeatureStoreId
    endpoint: FeatureStoreId
    service_account: AccountId


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
    served: BigQueryId


class Snapshots(Block):
    step_days: Annotated[int, Field(ge=1, le=31)]
    history_days: Annotated[int, Field(ge=28, le=1460)]
    sample_percent: Annotated[int, Field(ge=1, le=100)]


class Label(Block):
    horizon_days: Literal[60, 90]
    active_days: Days
    positive_rate_band: Band | None

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
    max_honest_roc_auc: Share | None
    parity_customers: Annotated[int, between(1, 100_000)]
    parity_tolerance: Share
    planted_customers: Annotated[int, Field(ge=20, le=1000)]
    freshness_customers: Annotated[int, Field(ge=5, le=1000)]
    leakage_groups: Annotated[int, between(2, 50)]
    future_days: Annotated[list[Days], Field(min_length=1, max_length=12)]
    most_rows: Annotated[int, between(1_000, 10_000_000)]
    ladder_rows: Annotated[int, between(1_000, 10_000_000)]
    late_percent: Annotated[int, between(1, 100)]
    late_days: Days
    latency_callers: Annotated[int, Field(ge=2, le=64)]
    latency_sql_requests: Annotated[int, between(1, 1000)]


class Campaign(Block):
    """Assumptions that turn a ranking of customers into money."""

    contacted_share: PartOfAll
    usd_per_contact: Annotated[float, between(0, 1_000_000)]
    usd_per_order: Annotated[float, between(0, 1_000_000)]


class Decision(Block):
    """What the last core slide asks for; None: the slide says that it is to be filled in."""

    pilot: Text | None
    budget_cap_usd: Annotated[float, between(0, 1_000_000_000)] | None
    data: Text | None
    team: Text | None
    decide_by: date | None


class Feature(Block):
    name: FeatureStoreId
    type: Literal["INT64", "FLOAT64", "STRING", "BOOL"]
    unit: Text
    description: Text
    nullable: bool = False


class OnlineStore(Block):
    min_node_count: Nodes
    max_node_count: Nodes
    cpu_utilization_target: Annotated[int, Field(ge=10, le=80)]

    @model_validator(mode="after")
    def _nodes(self) -> "OnlineStore":
        # Bigtable autoscaling: max is at least min and at most ten times it.
        if not self.min_node_count <= self.max_node_count <= 10 * self.min_node_count:
            raise ValueError("max_node_count must lie between min_node_count and ten times it")
        return self


class FeatureView(Block):
    sync_cron: Annotated[str, AfterValidator(config_rules.check_cron)]
    refresh_cron: Annotated[str, AfterValidator(config_rules.check_cron)]
    dense: bool
    service_agent: Literal["project", "view"]


_AsGiven = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RandomForest(TypedDict, total=False):
    """Parameters of scikit-learn's RandomForestClassifier that have an effect here, each within
    what it accepts; a key that is not given has scikit-learn's default. Tested against its
    `_parameter_constraints`. The seed and the cores are set by the train component."""

    __pydantic_config__ = _AsGiven

    n_estimators: Annotated[int, between(1, 5000)]
    criterion: Literal["gini", "entropy", "log_loss"]
    max_depth: Annotated[int, between(1, 1000)]
    min_samples_split: Annotated[int, between(2, 1_000_000)]
    min_samples_leaf: Count
    min_weight_fraction_leaf: Annotated[float, between(0, 0.5)]
    max_features: Literal["sqrt", "log2"]
    max_leaf_nodes: Annotated[int, between(2, 1_000_000)]
    min_impurity_decrease: Annotated[float, between(0, 1)]
    max_samples: Count  # needs bootstrap, so that is no parameter here
    class_weight: Literal["balanced", "balanced_subsample"]
    ccp_alpha: Annotated[float, between(0, 1)]


class LogisticRegression(TypedDict, total=False):
    """The same for scikit-learn's LogisticRegression."""

    __pydantic_config__ = _AsGiven

    C: Annotated[float, Field(gt=0, le=1e9)]
    max_iter: Annotated[int, between(1, 1_000_000)]
    tol: Annotated[float, Field(gt=0, le=1)]
    fit_intercept: bool
    class_weight: Literal["balanced"]
    solver: Literal["lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"]


class ModelParameters(TypedDict, total=False):
    """A block for each model type."""

    __pydantic_config__ = _AsGiven

    random_forest: RandomForest
    logistic_regression: LogisticRegression


class Train(Block):
    model_type: Literal["random_forest", "logistic_regression"]
    params: ModelParameters
    split_ratios: Annotated[tuple[PartOfAll, PartOfAll, PartOfAll], Field(strict=False)]
    seed: Seed
    runner: Literal["pipeline", "custom_job"]
    max_rows: Annotated[int, between(10_000, 100_000_000)]
    min_roc_auc: Share
    machine_type: MachineType
    service_account: Annotated[str, Field(pattern=r"^[\w.-]+@[\w.-]+\.[a-z]+$")] | None


class Serve(Block):
    image: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    image_repository: Annotated[
        str, Field(pattern=r"^[a-z0-9.-]{1,100}(/[a-z0-9._-]{1,100}){1,5}$")]
    machine_type: MachineType
    min_replica_count: Nodes
    max_replica_count: Nodes


class Predict(Block):
    customers: Annotated[int, between(10, 1000)]
    latency_requests: Annotated[int, between(1, 100_000)]
    fetch_timeout_seconds: Seconds


class Waits(Block):
    """Seconds, all of them."""

    visible_seconds: Wait
    online_store_seconds: Wait
    operation_seconds: Wait
    sync_seconds: Wait
    training_seconds: Wait
    deploy_seconds: Wait
    image_build_seconds: Wait
    iam_seconds: Annotated[int, between(0, 86_400)]
    first_pause_seconds: Seconds
    longest_pause_seconds: Seconds
    progress_seconds: Seconds


class Retries(Block):
    attempts: Annotated[int, between(1, 20)]
    first_pause_seconds: Seconds
    longest_pause_seconds: Seconds


class PlannedStep(Block):
    """A step of a run on Google, as planned: see `plan` in config.yaml, and lib/report/plan.py.

    after: steps above it in the list that it waits for, besides the one before it.
    background: once started it runs beside the steps below it, until one names it in `after`.
    every_run: repeated in each run; the result of any other step is reused.
    """

    name: Text
    stage: Annotated[str, Field(pattern=r"^0[0-7]_[a-z_]+$")]
    minutes: Annotated[float, Field(gt=0, le=1440)]
    basis: Literal["documented", "assumed", "measured"]
    after: list[str] = []
    background: bool = False
    every_run: bool = False


class Conformance(Block):
    app: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")]
    model_image: str


class Retention(Block):
    table_expiration_days: Days | None


class Costs(Block):
    usd_per_tib_scanned: Annotated[float, between(0, 1000)]
    max_bytes_billed: Annotated[int, between(10_000_000, 10**15)]
    # Not in config.yaml: Google publishes no copy of these prices that could be read.
    usd_per_bigtable_node_hour: Annotated[float, between(0, 1000)] | None = None
    usd_per_serving_node_hour: Annotated[float, between(0, 1000)] | None = None


class Settings(Block):
    """Everything a run needs to know. Made by `load`."""

    app: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")]
    owner: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
    target: Literal["local", "gcp"]
    env: Literal["dev", "prod"]
    language: Literal["en", "ko"]
    source: Text
    targets: dict[Literal["local", "gcp"], Target]
    feature_store_regions: Annotated[list[Region], Field(min_length=1)]
    nearest_regions: dict[Region, Region]
    apis: list[Annotated[str, Field(pattern=r"^[a-z]{1,50}\.googleapis\.com$")]]
    thelook: TheLook
    thelook_only: TheLookOnly
    names: Names
    tables: Tables
    snapshots: Snapshots
    label: Label
    checks: Checks
    campaign: Campaign
    decision: Decision
    features: Annotated[list[Feature], Field(min_length=1)]
    online_store: OnlineStore
    feature_view: FeatureView
    train: Train
    serve: Serve
    predict: Predict
    waits: Waits
    retries: Retries
    plan: Annotated[list[PlannedStep], Field(min_length=1)]
    conformance: Conformance
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
    def service_account(self) -> str | None:
        """E-mail of the account that training and serving run as; None: Google's default ones."""
        if self.train.service_account or not self.target_settings.own_account:
            return self.train.service_account
        return f"{self.names.service_account}@{self.project}.iam.gserviceaccount.com"

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
        words = {"--target": self.target, "--env": self.env, **_given(), "--from": notebook}
        return f"./run_all.sh {_words(words)}"

    def command(self, module: str, *more: str) -> str:
        """The command `python -m module` with these settings, and `more` arguments."""
        return " ".join([f".venv/bin/python -m {module} {self.options}", *more])

    @property
    def options(self) -> str:
        """The command-line options that load these settings again."""
        return _words({"--target": self.target, "--env": self.env, **_given(), "--lang": None})

    @property
    def build_options(self) -> str:
        """The same for scripts/build_push_all.sh, which needs no source."""
        return _words({"--target": self.target, "--env": self.env, **_given(), "--source": None,
                       "--lang": None})

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
        """The export's folder."""
        return self.folder(self.source)

    @staticmethod
    def folder(source: str) -> Path:
        """The path of a `source`; a relative one is relative to the repository."""
        return (ROOT / Path(source).expanduser()).resolve()

    @property
    def is_thelook(self) -> bool:
        """Is the source theLook, so that what is known of it applies?"""
        return self.source_folder in map(self.folder, self.thelook_only.sources)

    @property
    def source_title(self) -> str:
        """What pages call the data: "theLook eCommerce", or the folder's or dataset's name."""
        return "theLook eCommerce" if self.is_thelook else self.source_folder.name

    @property
    def positive_rate_band(self) -> tuple[float, float] | None:
        """Lowest and highest accepted share of label 1; None: none is known for the source."""
        known = self.thelook_only.positive_rate_band if self.is_thelook else None
        return self.label.positive_rate_band or known

    @property
    def max_honest_roc_auc(self) -> float | None:
        """A higher test ROC-AUC means a leak; None: no limit is known for the source."""
        given = self.checks.max_honest_roc_auc
        known = self.thelook_only.max_honest_roc_auc if self.is_thelook else None
        return known if given is None else given

    @property
    def source_dataset(self) -> str:
        """project.dataset that the SQL reads the orders from."""
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


# Every name of a key, for a hint at a misspelled one.
KEYS = sorted({name for block in Block.__subclasses__() for name in block.model_fields})


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
            --config, --source and --lang of the last run, unless one of the two variables is set.

    Raises:
        ConfigError: naming each bad key, its value, and what is allowed.
    """
    if run_dir == "" and path is None and overrides is None:
        _follow_last_run()
    path = Path(path or os.environ.get(CONFIG_VARIABLE) or ROOT / "config.yaml")
    tree = config_file.read(path)
    key = f"{path.name}: environments"
    environments = config_file.require_block(tree.pop("environments", None) or {}, key)
    environments = {name: config_file.require_block(block or {}, f"{key}.{name}")
                    for name, block in environments.items()}
    given = {"target": target or tree.get("target"), "env": env or tree.get("env"),
             "run_id": os.environ.get(RUN_VARIABLE) or "interactive"}
    if overrides is None:
        overrides = given_overrides()
    settings = _settings(path.name, tree, environments.get(str(given["env"]), {}), given, overrides)
    for name, block in environments.items():  # the other one's too, so that a slip is found today
        if name not in ENVIRONMENTS or {"target", "env"} & set(block):
            raise ConfigError(f"{key}.{name}: allowed are the blocks {' and '.join(ENVIRONMENTS)}, "
                              "without the keys target and env")
        _settings(f"{key}.{name}", tree, block, {**given, "env": name}, overrides)
    problems = [problem for rule in config_rules.RULES for problem in rule(settings)]
    if problems:
        raise ConfigError("\n".join(
            f"{path.name}: {key} = {config_file.show(value)}: {allowed}"
            for key, value, allowed in problems))
    return settings


def _settings(file: str, tree: dict, block: dict, given: dict, overrides: dict) -> Settings:
    """The settings of one environment, of which `block` is the block; each key by its type."""
    tree = config_file.merge(config_file.merge({**tree, **given}, block), {**given, **overrides})
    targets, target = tree.get("targets"), str(tree.get("target"))
    place = targets.get(target) if isinstance(targets, dict) else None
    if isinstance(targets, dict) and target in TARGETS and target not in targets:
        raise ConfigError(f"{file}: targets.{target}: missing")
    place = place if isinstance(place, dict) else {}  # else pydantic's problem below
    known = {"app": tree.get("app"), "env": tree.get("env"),
             "project": place.get("project"), "region": place.get("region")}
    try:
        return Settings.model_validate(config_file.fill(file, tree, known))
    except ValidationError as error:
        raise ConfigError(config_file.explain(file, error, KEYS)) from None


def given_overrides() -> dict:
    """The overrides in $CHURN_DEMO_SET."""
    try:
        overrides = json.loads(os.environ.get(SETTINGS_VARIABLE) or "{}")
    except ValueError:
        overrides = None
    return config_file.require_block(overrides, f"${SETTINGS_VARIABLE}", "must be a JSON object")


def save_options(folder: Path) -> None:
    """Keep a run's --config, --source and --lang in its folder, if it has any."""
    names = [name for name in GIVEN if os.environ.get(name)]
    if names:
        (folder / OPTIONS_FILE).write_text(json.dumps({n: os.environ[n] for n in names}))


def _follow_last_run() -> None:
    """Use --config, --source and --lang of the last run, and say so."""
    if CONFIG_VARIABLE in os.environ or SETTINGS_VARIABLE in os.environ:
        return
    try:
        found = json.loads((RUNS / "latest" / OPTIONS_FILE).read_text())
        os.environ.update({name: found[name] for name in found if name in GIVEN})
    except (OSError, ValueError, TypeError):  # none, or not what `save_options` wrote
        return
    if given := _words(_given()):
        print(f"as in the last run: {given} (./run_all.sh without them, or "
              f"{SETTINGS_VARIABLE}={{}} in the environment, uses config.yaml as it is)")


def _given() -> dict[str, str | None]:
    """--config, --source and --lang as they were given."""
    given = json.loads(os.environ.get(SETTINGS_VARIABLE) or "{}")
    return {"--config": os.environ.get(CONFIG_VARIABLE), "--source": given.get("source"),
            "--lang": given.get("language")}


def _words(options: dict[str, str | None]) -> str:
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items() if value)
