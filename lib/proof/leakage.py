"""What the naive join is worth, as a number; which columns leak; and a limit on the score.

Naive join: each label with its customer's latest features (sql/04_build_train_naive.sql).
Label rows, split and model are those of train_dataset; only the join differs.
"""

import importlib.util
import json
from types import ModuleType

import numpy as np
import pandas as pd

from lib import lookups, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY
from lib.errors import Needed
from lib.stages import Outcome
from lib.training import inputs

TABLES = {"naive": "train_naive", "honest": "train"}
TIME = "label_timestamp"
CORES = 2  # default of the train component; the model is the same with any number


def check_honest(cloud: Cloud, metrics: dict) -> Outcome:
    """Refuse a score that is impossible on this data: the optimum on theLook is 0.80.

    Raises:
        Needed: roc_auc above checks.max_honest_roc_auc.
    """
    limit, found = cloud.settings.checks.max_honest_roc_auc, metrics["roc_auc"]
    if found > limit:
        raise Needed(
            f"test ROC-AUC {found:.3f} is above {limit}, which theLook cannot give: a feature "
            "sees the future", "features that use nothing after feature_timestamp",
            cloud.settings.command("lib.proof.sanity"))
    return Outcome("done", figures={"roc_auc": found, "no more than": limit})


# -- the score that the naive join promises, and the one it keeps -----------------------------


def measure(cloud: Cloud) -> Outcome:
    """Train on both joins over several samples of customers; score each on later label rows.

    Returns:
        Outcome whose value has the means over checks.leakage_seeds of naive_roc_auc (what the
        naive offline test promises), naive_model_on_honest_roc_auc (what that model scores on
        features as they were known) and point_in_time_roc_auc (the honest model); for each a
        `..._spread` (standard deviation); "runs" has the scores of each seed.
    """
    built = warehouse.build(cloud, "04_build_train_naive")
    settings = cloud.settings
    checks = settings.checks
    fingerprint = settings.fingerprint(
        *(warehouse.built_at(cloud, table) for table in TABLES.values()),
        settings.train.model_dump(), settings.label.model_dump(), settings.feature_names,
        checks.leakage_seeds, checks.leakage_sample_percent,
        [path.read_text() for path in sorted(inputs.COMPONENTS.glob("*/src/*.py"))])
    blob = inputs.make_bucket(cloud).blob(f"leakage/{fingerprint}.json")
    if blob.exists():
        value, status = json.loads(blob.download_as_bytes()), "reused"
    else:
        value, status = summarise(_runs(cloud)), "created"
        blob.upload_from_string(json.dumps(value))
    shown = {key: score for key, score in value.items() if key.endswith("roc_auc")}
    return Outcome(status, built.resource, {**shown, "seeds": checks.leakage_seeds}, value)


def summarise(runs: list[dict[str, float]]) -> dict:
    """Mean and standard deviation of each score over the runs, rounded; and the runs."""
    frame = pd.DataFrame(runs)
    means, spreads = frame.mean(), frame.std(ddof=1).fillna(0)
    value = {name: round(float(means[name]), 4) for name in frame}
    value |= {f"{name}_spread": round(float(spreads[name]), 4) for name in frame}
    return {**value, "runs": runs}


def _runs(cloud: Cloud) -> list[dict[str, float]]:
    """The three scores of each seed.

    Calls the components' functions in this process: as programs they would read both tables
    again for each training.
    """
    settings, checks = cloud.settings, cloud.settings.checks
    data_load = load_component("data_load")
    columns = [settings.label.column, *settings.feature_names]
    try:
        tables = {
            join: data_load.read_table(
                settings.table(table), ENTITY, TIME, columns)
            for join, table in TABLES.items()}
        return [_score(cloud, tables, checks.leakage_sample_percent, settings.train.seed + n)
                for n in range(checks.leakage_seeds)]
    except ValueError as error:  # a component's InputError: a split with one class, and so on
        raise Needed(f"the leakage check cannot use its sample of customers: {error}",
                     "a higher checks.leakage_sample_percent", "edit config.yaml") from error


def _score(cloud: Cloud, tables: dict, percent: int, seed: int) -> dict[str, float]:
    """The scores of one seed, which samples the customers and seeds the trees."""
    data = {join: _splits(cloud, table, percent, seed) for join, table in tables.items()}
    models = {join: _train(cloud, *splits["train"], seed) for join, splits in data.items()}
    evaluation = load_component("eval")

    def roc_auc(model: str, tested_on: str) -> float:
        rows, labels = data[tested_on]["test"]
        probabilities = models[model].predict_proba(rows)[:, 1]
        return evaluation.measure(labels, probabilities)["roc_auc"]

    return {
        "naive_roc_auc": roc_auc("naive", "naive"),
        "naive_model_on_honest_roc_auc": roc_auc("naive", "honest"),
        "point_in_time_roc_auc": roc_auc("honest", "honest"),
    }


def _splits(cloud: Cloud, table, percent: int, seed: int) -> dict[str, tuple]:
    """data_load's splits of a sample of the customers: name -> (features, labels)."""
    settings, data_load = cloud.settings, load_component("data_load")
    options = data_load.parse_arguments([
        "--table", "in memory", "--output_dataset", "nowhere", "--time_col", TIME,
        "--id_col", ENTITY, "--label_col", settings.label.column,
        "--feature_cols", ",".join(settings.feature_names),
        "--gap_days", str(settings.label.horizon_days),
        "--split_ratios", ",".join(map(str, settings.train.split_ratios))])
    ids = table[ENTITY].combine_chunks()
    sample = table.filter(data_load.sampled(ids, percent, seed))  # before the slow sort
    splits, _ = data_load.split_table(sample, options)
    return {name: (part.select(settings.feature_names).to_pandas().astype("float64"),
                   part[settings.label.column].to_numpy().astype("int64"))
            for name, part in splits.items()}


def _train(cloud: Cloud, rows: pd.DataFrame, labels: np.ndarray, seed: int):
    """The train component's model, fitted."""
    train, chosen = load_component("train"), cloud.settings.train
    params = {**train.MODELS[chosen.model_type], **chosen.params[chosen.model_type]}
    pipeline = train.build_pipeline(
        chosen.model_type, cloud.settings.feature_names, params, seed, CORES)
    train.fit(pipeline, rows, labels)
    return pipeline


def load_component(name: str) -> ModuleType:
    """lib/components/<name>/src/main.py as a module."""
    path = inputs.COMPONENTS / name / "src" / "main.py"
    spec = importlib.util.spec_from_file_location(f"component_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(value: dict) -> pd.DataFrame:
    """The comparison as a table: trained on, tested on, ROC-AUC, its spread, and what it is."""
    rows = [
        ("naive join", "naive join", "naive_roc_auc", "what its own test promises"),
        ("naive join", "as known at the time", "naive_model_on_honest_roc_auc",
         "what production would see"),
        ("point-in-time join", "as known at the time", "point_in_time_roc_auc",
         "what its own test promises and production would see"),
    ]
    return pd.DataFrame(
        [(trained, tested, value[key], value.get(f"{key}_spread", 0.0), meaning)
         for trained, tested, key, meaning in rows]
        + [("nothing: guessing", "", 0.5, 0.0, "the baseline")],
        columns=["trained on", "tested on", "ROC-AUC", "spread", "meaning"])


# -- where it comes from ------------------------------------------------------------------------


def read_pairs(cloud: Cloud) -> pd.DataFrame:
    """Every label row with its features by both joins; see `pair`."""
    return pair(*(warehouse.read_table(cloud, table) for table in ("train", "train_naive")))


def pair(train: pd.DataFrame, naive: pd.DataFrame) -> pd.DataFrame:
    """train_dataset and train_dataset_naive side by side: the columns of train, and each again
    with " naive" after its name."""
    return train.merge(naive, on=["customer_id", TIME], suffixes=("", " naive"),
                       validate="one_to_one")


def columns(pairs: pd.DataFrame, features: list[str], label_column: str) -> pd.DataFrame:
    """How much of the future each column holds, over the same label rows.

    Returns:
        One row per feature, worst first: feature; differs (share of label rows with another
        value in the naive join); honest_roc_auc and naive_roc_auc (of the column alone, in the
        better direction; 0.5 is no information); gain (naive - honest).
    """
    labels, rows = pairs[label_column], []
    for name in features:
        honest, leaked = (pairs[n].astype("float64") for n in (name, f"{name} naive"))
        same = (honest == leaked) | (honest.isna() & leaked.isna())
        scores = separation(honest, labels), separation(leaked, labels)
        rows.append((name, 1 - float(same.mean()), *scores, scores[1] - scores[0]))
    frame = pd.DataFrame(
        rows, columns=["feature", "differs", "honest_roc_auc", "naive_roc_auc", "gain"])
    return frame.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def separation(values: pd.Series, labels: pd.Series) -> float:
    """ROC-AUC of one column alone, in the better direction; a NULL counts as the lowest value."""
    ranks, churned = values.rank(na_option="top"), labels == 1
    ones, zeros = int(churned.sum()), int((~churned).sum())
    area = (ranks[churned].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    return float(max(area, 1 - area))


def timeline(cloud: Cloud, pairs: pd.DataFrame) -> dict:
    """One customer whose naive row has already counted the order that the label asks about.

    Of the customers with, at the newest label time, one order in the 90 days before and one in
    the label window: the one with the fewest orders ever, then the first by customer_id.

    Returns:
        customer_id, orders (their times), label_timestamp, label, horizon_days;
        honest and naive: {"feature_timestamp", and each feature} of the two rows;
        window_orders: orders in the label window, all counted by the naive row.

    Raises:
        Needed: no customer fits (a very small theLook).
    """
    settings, newest = cloud.settings, pairs[TIME].max()
    both = pairs[(pairs[TIME] == newest) & (pairs[settings.label.column] == 0)
                 & (pairs["orders_90d"] == 1)
                 & (pairs["orders_lifetime naive"] == pairs["orders_lifetime"] + 1)]
    if both.empty:
        raise Needed("no customer with one order before and one after the newest label time",
                     "more users (thelook.users, or a larger export)", "edit config.yaml")
    row = both.sort_values(["orders_lifetime", "customer_id"]).iloc[0]
    keys = ["feature_timestamp", *settings.feature_names]
    orders = lookups.customer_rows(cloud, "raw_orders", row["customer_id"])["ordered_at"]
    until = newest + pd.Timedelta(days=settings.label.horizon_days)
    return {
        "customer_id": row["customer_id"], "orders": sorted(orders),
        "label_timestamp": newest, "label": int(row[settings.label.column]),
        "horizon_days": settings.label.horizon_days,
        "honest": {key: row[key] for key in keys},
        "naive": {key: row[f"{key} naive"] for key in keys},
        "window_orders": int(((orders > newest) & (orders <= until)).sum()),
    }


def timeline_table(example: dict) -> pd.DataFrame:
    """Both rows of `timeline` side by side: one row per value."""
    frame = pd.DataFrame({"known at the time": example["honest"], "naive join": example["naive"]})
    return frame.map(lambda v: f"{v:%d %b %Y}" if isinstance(v, pd.Timestamp)
                     else "NULL" if pd.isna(v) else f"{float(v):g}")
