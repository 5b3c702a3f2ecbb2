"""Whatever is written into config.yaml: it loads as it is written, or is refused by its key."""

import copy
import math
from datetime import UTC, date, datetime

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlglot.dialects.bigquery import BigQuery

from lib import config, config_file, config_rules
from lib.localcloud.vertex.online.rules import check_cron
from lib.proof.leakage import load_component

TEXT = (config.ROOT / "config.yaml").read_text(encoding="utf-8")
TREE = yaml.safe_load(TEXT)
# The same examples in each run, and no time limit for one of them.
FIXED = settings(derandomize=True, deadline=None, database=None, max_examples=500,
                 suppress_health_check=list(HealthCheck))


def refused(tmp_path, text, **options):
    """The message with which a file is refused."""
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(config.ConfigError) as caught:
        config.load(path, overrides={}, **options)
    return str(caught.value)


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "parts"), [
    (b"app: \xff\xfe", ["not UTF-8", "byte 6"]),
    (TEXT.replace("seed: 7", "seed: 7\n  seed: 8", 1), ["the key seed is given twice", "line"]),
    (TEXT + "\napp: other\n", ["the key app is given twice"]),
    (TEXT.replace("unit: USD,", "unit: USD, unit: EUR,", 1), ["the key unit is given twice"]),
    ("a: &x [1]\nb: *x\n", ["*x: aliases are not allowed"]),
    ("a: &x [*x]\n", ["aliases are not allowed"]),
    ("a: b: c\n", ["not valid YAML", "a: b: c\n", "^"]),  # the line, and where
    ("a: 2026-13-45\n", ["not valid YAML"]),
    ("a: " + "9" * 5000, ["not valid YAML"]),
    ("[" * 5000, ["not valid YAML"]),
    ("a: \0\n", ["not valid YAML"]),
    ("a: !!python/object:os.system 1\n", ["not valid YAML"]),
    ("- a\n", ["must be a YAML mapping"]), ("", ["must be a YAML mapping"]),
    ("7: x\n", ["the key 7 is no text"]),
])
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, parts):
    message = refused(tmp_path, text)
    assert all(part in message for part in [*parts, "config.yaml"]), message


@pytest.mark.parametrize("value", [None, 7, "aws", ["gcp"], {"gcp": 1}, True])
def test_a_wrong_target_or_env_is_reported_as_itself_and_alone(tmp_path, value):
    for key in ("target", "env"):
        message = refused(tmp_path, yaml.safe_dump({**TREE, key: value}))
        assert message.startswith(f"config.yaml: {key} = ") and "\n" not in message, message


@pytest.mark.parametrize(("block", "key"), [
    ([1], "environments = [1]"), ({"dev": [1]}, "environments.dev = [1]"),
    ({"dev": "x"}, "environments.dev = 'x'"), ({"test": {}}, "environments.test: allowed"),
    ({3: {}}, "environments: the key 3"), ({"dev": {"env": "prod"}}, "environments.dev: allowed"),
    ({"prod": {"lable": 1}}, "environments.prod: lable: unknown key"),
    ({"prod": {"serve": {"max_replica_count": 0}}},
     "environments.prod: serve.max_replica_count = 0"),
    ({"dev": {"label": [1]}}, "label = [1]"),
])
def test_a_wrong_block_of_an_environment_is_refused_in_every_environment(tmp_path, block, key):
    assert key in refused(tmp_path, yaml.safe_dump({**TREE, "environments": block}), env="dev")


@pytest.mark.parametrize("text", ["{", "7", "[1]", "null", '{"source": 7}'])
def test_overrides_in_the_environment_are_checked_too(monkeypatch, text):
    monkeypatch.setenv(config.SETTINGS_VARIABLE, text)
    with pytest.raises(config.ConfigError, match=r"CHURN_DEMO_SET|source = 7"):
        config.load()


# --- one value ------------------------------------------------------------------------------------


GONE = object()  # as a value: the key is deleted


def changed(key, value):
    """config.yaml's tree with another value at a key such as train.params or features.0.name."""
    tree = copy.deepcopy(TREE)
    *way, last = (int(part) if part.isdecimal() else part for part in key.split("."))
    block = tree
    for part in way:
        block = block[part]
    block[last] = value
    if value is GONE:
        del block[last]
    return tree


def load(monkeypatch, tree, **options):
    monkeypatch.setattr(config_file, "read", lambda path: copy.deepcopy(tree))
    return config.load(overrides={}, **options)


REFUSED = [
    ("targets", [1], "targets = [1]"), ("targets", {}, "targets"),
    ("targets", {"gcp": TREE["targets"]["gcp"]}, "targets.local: missing"),
    ("targets.local", "x", "targets.local = 'x'"), ("targets.local", None, "targets.local"),
    ("targets.local.project", 7, "targets.local.project = 7"),
    ("targets.local.location", "EU", "the region itself (us-central1), or the multi-region"),
    ("targets.local", {**TREE["targets"]["local"], "region": "europe-west2", "location": "EU"},
     "the region itself (europe-west2)"),
    ("targets.gcp.location", "Mars", "targets.gcp.location = 'Mars'"),
    ("targets.gcp.region", "us-moon1", "targets.gcp.region = 'us-moon1'"),
    ("targets.local.billed", "no", "targets.local.billed = 'no'"),
    ("feature_store_regions", ["everywhere"], "feature_store_regions.0 = 'everywhere'"),
    ("feature_store_regions", [], "feature_store_regions = []"),
    ("apis", ["https://x"], "apis.0"),
    ("source", "", "source = ''"), ("source", "a\0b", "source = 'a\\x00b'"),
    ("source", "~nobody-has-this-name/x", "source = '~nobody"), ("source", "x" * 2000, "source"),
    ("train.split_ratios", [0.8, 0.2, 0.0], "train.split_ratios.2 = 0.0"),
    ("train.split_ratios", [1.0, 0, 0], "train.split_ratios.0 = 1.0"),
    ("train.split_ratios", [0.5, 0.5], "train.split_ratios"),
    ("train.seed", -1, "train.seed = -1"), ("train.seed", 2**32, "train.seed = 4294967296"),
    ("thelook.seed", -1, "thelook.seed"), ("thelook.users", 10**9, "thelook.users = 1000000000"),
    ("decision.budget_cap_usd", "12000", "decision.budget_cap_usd = '12000'"),
    ("decision.budget_cap_usd", -1, "decision.budget_cap_usd = -1"),
    ("decision.pilot", "", "decision.pilot = ''"), ("decision.team", ["a"], "decision.team"),
    ("decision.decide_by", "soon", "decision.decide_by = 'soon'"),
    ("decision.budget", 7, "decision.budget: unknown key"), ("decision.data", GONE, "missing"),
    ("checks.future_days", [], "checks.future_days = []"),
    ("checks.future_days", [0], "checks.future_days.0 = 0"),
    ("thelook.as_of", datetime(2500, 1, 1, tzinfo=UTC), "thelook.as_of"),
    ("thelook.as_of", datetime(2018, 1, 1, tzinfo=UTC), "thelook.as_of"),
    ("thelook.as_of", datetime(2026, 1, 1), "timezone"),
    ("thelook.as_of", date(2026, 1, 1), "thelook.as_of"),
    ("snapshots.history_days", 28, "at least 126"),
    ("label.active_days", 10**9, "label.active_days = 1000000000"),
    ("online_store.max_node_count", 10**6, "online_store.max_node_count"),
    ("serve.min_replica_count", 3, "serve.max_replica_count = 1: at least"),
    ("serve.image", "nothing", "serve.image = 'nothing': a folder in lib/"),
    ("serve.machine_type", "big machine", "serve.machine_type"),
    ("waits.sync_seconds", math.inf, "waits.sync_seconds"),
    ("waits.sync_seconds", 10**12, "waits.sync_seconds = 1000000000000"),
    ("waits.first_pause_seconds", math.nan, "waits.first_pause_seconds = nan"),
    ("waits.longest_pause_seconds", 0.04, "waits.longest_pause_seconds = 0.04: at least"),
    ("predict.fetch_timeout_seconds", math.inf, "predict.fetch_timeout_seconds = inf"),
    ("retries.longest_pause_seconds", math.inf, "retries.longest_pause_seconds = inf"),
    ("costs.usd_per_tib_scanned", math.nan, "costs.usd_per_tib_scanned = nan"),
    ("costs.max_bytes_billed", 2**70, "costs.max_bytes_billed"),
    ("checks.parity_tolerance", math.inf, "checks.parity_tolerance = inf"),
    ("checks.min_customers", True, "checks.min_customers = True"),
    ("checks.min_customers", "50", "checks.min_customers = '50'"),
    ("checks.min_customers", 1 << 20000, "checks.min_customers = a number of more than"),
    ("plan.0.minutes", math.inf, "plan.0.minutes = inf"),
    ("features.0.name", "customer_id", "features.0.name = 'customer_id': names the customer"),
    ("features.0.name", "feature_timestamp", "the time of a row"),
    ("features.0.name", "label_timestamp", "the time of a label"),
    ("features.0.name", "label_churn_60d", "the label"),
    ("features.0.name", "label_churn_90d", "a label of another horizon"),
    ("features.0.name", "select", "reserved word"), ("features.0.name", "Orders", "'Orders'"),
    ("features.1.name", "orders_30d", "features.1.name = 'orders_30d': given more than once"),
    ("features", {"a": 1}, "features"), ("features.0", "orders_30d", "features.0"),
    ("tables.labels", "train_dataset", "tables.train = 'train_dataset': another name than"),
    ("tables.labels", "TRAIN_DATASET", "tables.train = 'train_dataset': another name than"),
    ("names.source_dataset", "{app}_{env}", "another name than names.dataset"),
    ("names.dataset", "{app.x}_{env}", "known are only {app}"),
    ("names.dataset", "{app:>99999999999}", "known are only {app}"),
    ("names.dataset", "{app}_{env}}", "known are only {app}"),
    ("names.dataset", 7, "names.dataset = 7"), ("names", [1], "names = [1]"),
    ("train.service_account", "me", "train.service_account = 'me'"),
    ("train.params", [1], "train.params"), ("train.params.xgboost", {}, "train.params.xgboost"),
    ("train.params", {"logistic_regression": {}}, "train.params.random_forest = None: a block"),
    ("train.params.random_forest.n_estimators", 0, "random_forest.n_estimators = 0"),
    ("train.params.random_forest.max_depth", "deep", "random_forest.max_depth = 'deep'"),
    ("train.params.random_forest.trees", 7, "train.params.random_forest.trees: unknown key"),
    ("train.params.random_forest.random_state", 7, "random_forest.random_state: unknown key"),
    ("train.params.logistic_regression.C", -1, "logistic_regression.C = -1"),
    ("train.params.logistic_regression.solver", "magic", "logistic_regression.solver = 'magic'"),
    ("feature_view.sync_cron", "every Monday", "feature_view.sync_cron = 'every Monday'"),
    ("feature_view.sync_cron", "61 3 * * 1", "'61' is no minute, 0 to 59"),
    ("feature_view.sync_cron", "TZ=Mars/Olympus 0 3 * * 1", "no time zone 'Mars/Olympus'"),
    ("feature_view.sync_cron", "0 3 * *", "five fields"),
]


@pytest.mark.parametrize(("key", "value", "part"), REFUSED,
                         ids=[f"{key} {n}" for n, (key, *_) in enumerate(REFUSED)])
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(monkeypatch, key, value, part):
    with pytest.raises(config.ConfigError) as caught:
        load(monkeypatch, changed(key, value))
    assert part in str(caught.value)


def test_a_misspelled_key_is_refused_with_the_nearest_one(monkeypatch):
    with pytest.raises(config.ConfigError, match=r"label\.horizn_days: unknown key.*horizon_days"):
        load(monkeypatch, changed("label.horizn_days", 60))


def test_a_region_with_its_own_location_or_its_multi_region_loads(monkeypatch):
    for region, location in (("europe-west4", "EU"), ("us-east1", "US"), ("us-east1", "us-east1")):
        tree = changed("targets.local", {
            **TREE["targets"]["local"], "region": region, "location": location})
        assert load(monkeypatch, tree, target="local").target_settings.location == location


# --- any value at any key -------------------------------------------------------------------------


def keys(tree, way=()):
    """Every key of a tree, as a tuple: blocks and leaves, and the first of a list's rows."""
    if way:
        yield way
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from keys(value, (*way, name))
    elif isinstance(tree, list) and tree:
        yield from keys(tree[0], (*way, "0"))


# The key in the message, where it is not the key that was changed but one compared with it.
COMPARED = {"app": "names.", "waits.first_pause": "waits.longest_pause",
            "retries.first_pause": "retries.longest_pause",
            "serve.min_replica": "serve.max_replica", "online_store.": "online_store",
            "label.horizon_days": "snapshots.history_days",
            "snapshots.step_days": "snapshots.history_days", "feature_store_regions": "targets.",
            "train.model_type": "train.params", "tables.": "tables.", "plan.": "plan.",
            "thelook_only.positive_rate_band.": "thelook_only.positive_rate_band",
            "train.split_ratios.": "train.split_ratios"}
OPTIONAL = ("train.params.", "nearest_regions.", "plan.0.every_run", "targets.gcp")
ALL_KEYS = [".".join(way) for way in keys({k: v for k, v in TREE.items() if k != "environments"})]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 200), st.floats(),
    st.sampled_from([0.5, 1.0, 60, 2**63, -1e300, "", " ", "US", "{app}", "{app}_{env}_x", "{x",
                     "local", "gcp", "* * * * *", "random_forest", "churn_dev", "NaN"]),
    st.text(max_size=12), st.datetimes(), st.dates(), st.binary(max_size=4))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8) | st.integers(), inner,
                                                 max_size=3)), max_leaves=6)


def dumped(found, key):
    for part in key.split("."):
        found = found[int(part)] if part.isdecimal() else found[part]
    return found


def plain(value):
    """Lists for tuples, and for a block the keys that were given."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@FIXED
@given(key=st.sampled_from(ALL_KEYS), value=VALUES | st.just(GONE))
@example(key="label", value={})
@example(key="train.params.random_forest", value={"n_estimators": 1 << 20000})
def test_any_value_at_any_key_loads_as_it_is_or_is_refused_by_its_key(patched, trials, key, value):
    trials()
    tree = {**changed(key, value), "environments": {}}  # whose blocks would hide the value
    try:
        loaded = load(patched, tree)
    except config.ConfigError as error:
        named = str(error)
        words = [key, *(other for name, other in COMPARED.items() if key.startswith(name))]
        assert any(f"config.yaml: {word}" in named for word in words), named
        assert len(named) < 20_000
        return
    if value is GONE:
        assert key.endswith(".0") or key.startswith(OPTIONAL)
        return
    found = plain(dumped(loaded.model_dump(exclude_unset=True), key))
    wanted = plain(value)
    filled = isinstance(wanted, str) and key.split(".")[0] in config_file.FILLED
    assert filled or key == "env" or found == wanted
    assert config.Settings.model_validate(loaded.model_dump()) == loaded


# --- the lists in lib/config_rules.py and the types in lib/config.py are those of their sources ---


def test_the_reserved_words_are_sqlglots():
    generator = BigQuery.Generator if hasattr(BigQuery, "Generator") else BigQuery.generator_class
    assert set(generator.RESERVED_KEYWORDS) == config_rules.RESERVED


CRON = st.lists(st.sampled_from(
    "* 0 1 7 8 12 13 23 24 31 32 59 60 1-5 5-1 */5 */0 1-5/2 mon JAN fri-sun sun-fri 1,2 1,,2 , - /"
    " 1- 1/2 x TZ=Etc/UTC CRON_TZ=Asia/Seoul TZ= TZ=../x tz=UTC".split()), min_size=1,
    max_size=7).map(" ".join)


@settings(FIXED, max_examples=1000)
@given(line=CRON)
@example("TZ=Etc/UTC 0 3 * * 1")
@example("0 3 * jan-dec sun,mon")
def test_every_schedule_that_is_accepted_is_one_for_the_feature_view(trials, line):
    trials()
    try:
        config_rules.check_cron(line)
    except ValueError:
        return
    check_cron(line)


def limits(annotation):
    """Values at both ends of a parameter's type, or all of a Literal."""
    if annotation is bool:
        return [True, False]
    if not hasattr(annotation, "__metadata__"):
        return annotation.__args__
    rules = {type(rule).__name__: rule for rule in annotation.__metadata__[0].metadata}
    low = rules["Ge"].ge if "Ge" in rules else rules["Gt"].gt + 1e-9
    return [annotation.__origin__(end) for end in (low, rules["Le"].le)]


@pytest.mark.parametrize("model_type", ["random_forest", "logistic_regression"])
def test_scikit_learn_accepts_every_parameter_that_is_accepted(model_type):
    train = load_component("train")
    kinds = {"random_forest": config.RandomForest, "logistic_regression": config.LogisticRegression}
    tried = 0
    for name, annotation in kinds[model_type].__annotations__.items():
        for value in limits(annotation):
            pipeline = train.build_pipeline(model_type, ["f"], {name: value}, 7, 1)
            pipeline["model"]._validate_params()  # against its _parameter_constraints
            tried += 1
    assert tried > 10
