"""What the naive join promises and what it keeps, in customers and as a score; and a limit on it.

Naive join: each label with its customer's latest features (sql/04_build_train_naive.sql).
Label rows, split and model are those of the training; only the join differs.
"""

import importlib.util
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
from google.cloud import storage

from lib import lookups, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, Campaign, Settings
from lib.errors import Needed
from lib.language import mark, tr
from lib.proof import intervals
from lib.proof.naive_join import NAIVE, TIME, read_pairs
from lib.stages import Outcome
from lib.training import inputs
from lib.training.training import Training

TABLES = ("train", "train_naive")
CORES = 2  # models that are trained at a time
GROUP_TREES = 15  # of a forest within a group; with 10, verdicts change: lib/README.md
CODE = [Path(__file__), Path(intervals.__file__), *sorted(inputs.COMPONENTS.glob("*/src/*.py"))]
MODELS = {"promised": mark("naive join, its own test"), "honest": mark("point-in-time join"),
          "kept": mark("naive join, in production")}
MEANINGS = {"promised": mark("what the naive notebook promises"),
            "honest": mark("promised by its test, and seen in production"),
            "kept": mark("what production would see of the naive model"),
            "chance": mark("customers chosen at random")}
ROWS = {**MODELS, "chance": mark("chance"),
        "promised - kept": mark("promised - kept in production"),
        "promised - honest": mark("promised - point-in-time"),
        "honest - kept": mark("point-in-time - naive in production")}


def check_honest(cloud: Cloud, metrics: dict) -> Outcome:
    """Refuse a score that is impossible on these data, if it is known which one is.

    Raises:
        Needed: roc_auc above `Settings.max_honest_roc_auc`.
    """
    limit, found = cloud.settings.max_honest_roc_auc, metrics["roc_auc"]
    if limit is None:
        return Outcome("done", figures={"roc_auc": found, "open": (
            "checks.max_honest_roc_auc (the best possible score is not known for this source)")})
    if found > limit:
        raise Needed(
            f"test ROC-AUC {found:.3f} is above {limit}, which these data cannot give: a feature "
            "sees the future", "features that use nothing after feature_timestamp",
            cloud.settings.command("lib.proof.sanity"))
    return Outcome("done", figures={"roc_auc": found, "no more than": limit})


# -- the result that the naive join promises, and the one it keeps -----------------------------


def measure(cloud: Cloud, trained: Training) -> Outcome:
    """Train the same model on the naive join, and compare it with the trained one.

    Both learn from the same label rows, with the same parameters and seed; both are tested on the
    same later rows. Only the features differ. With more than checks.most_rows label rows, they are
    those of a sample of the customers, and the honest model is trained again on it.

    Args:
        trained: the result of the training on the point-in-time join: the honest model.

    Returns:
        Outcome whose value has "roc_auc" and "orders" (orders per 1,000 customers: in each test
        week, those that the model ranks as likeliest to order again, campaign.contacted_share of
        all). For each: "promised" (the naive model on the naive join, as its own test measures
        it), "honest" (the trained model), "kept" (the naive model on features as they were
        known) and their differences, each {"value", "low", "high"}, see lib.proof.intervals.
        "usd" and "campaign": see `money`. Also "rows" and "customers" of the test, "groups", and
        "one_in": the rows are those of one in so many customers.

    Raises:
        Needed: the label rows cannot be split, or divided into checks.leakage_groups groups.
    """
    built = warehouse.build(cloud, "04_build_train_naive")
    settings = cloud.settings
    fingerprint = settings.fingerprint(
        trained.meta["sha256"], *(warehouse.built_at(cloud, key) for key in TABLES),
        settings.train.model_dump(), settings.label.model_dump(), settings.feature_names,
        settings.checks.leakage_groups, settings.checks.most_rows,
        settings.campaign.contacted_share, [path.read_text() for path in CODE])
    blob = inputs.make_bucket(cloud).blob(f"leakage/{fingerprint}.json")
    if blob.exists():
        value, status = json.loads(blob.download_as_bytes()), "reused"
    else:
        value, status = _compare(cloud, trained), "created"
        blob.upload_from_string(json.dumps(value))
    shown = {f"{name} {kind}": value[kind][name]["value"]
             for kind in ("roc_auc", "orders") for name in MODELS}
    if value["one_in"] > 1:
        shown["customers"] = f"one in {value['one_in']}, by hash"
    return Outcome(status, built.resource, shown, value | money(value["orders"], settings.campaign))


def money(orders: dict[str, dict[str, float]], campaign: Campaign) -> dict:
    """The campaign's assumptions, and "usd": its result per 1,000 contacts for each key of
    `orders` (for "a - b", by how much a's is higher)."""
    cost = 1000 * campaign.usd_per_contact
    return {"campaign": campaign.model_dump(), "usd": {
        key: found["value"] * campaign.usd_per_order - (0 if " - " in key else cost)
        for key, found in orders.items()}}


def _compare(cloud: Cloud, trained: Training) -> dict:
    """The value of `measure`, without money."""
    part = lookups.one_in(cloud, cloud.settings.checks.most_rows)
    splits = split(cloud, read_pairs(cloud))
    # Only the join may differ: of a sample, the honest model is trained on the same rows.
    honest = None if part > 1 else pickle.loads(storage.Blob.from_uri(
        f"{trained.model_uri}/model.pkl", client=cloud.storage).download_as_bytes())
    full, *groups = side_by_side(
        lambda part: _figures(cloud, part, honest=honest) if part is splits
        else _figures(cloud, part, trees=GROUP_TREES), [splits, *divide(cloud, splits)])
    test = splits["test"]
    return {**intervals.summarise(full, groups), "groups": len(groups), "rows": len(test),
            "customers": test[ENTITY].nunique(), "one_in": part}


def side_by_side(work: Callable, parts: Iterable) -> list:
    """The result of `work` for each part, in their order, two at a time: scikit-learn releases the
    interpreter's lock for most of a fit. They equal those of one after another."""
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(work, parts))


def divide(cloud: Cloud, splits: dict[str, pd.DataFrame]) -> Iterator[dict[str, pd.DataFrame]]:
    """The splits of each of checks.leakage_groups groups of the customers.

    Raises:
        Needed: a group has label rows of one class only.
    """
    settings, count = cloud.settings, cloud.settings.checks.leakage_groups
    assigned = {name: intervals.assign(rows[ENTITY], count) for name, rows in splits.items()}
    for group in range(count):
        parts = {name: rows[assigned[name] == group] for name, rows in splits.items()}
        if any(parts[name][settings.label.column].nunique() < 2 for name in ("train", "test")):
            raise Needed(f"one of {count} groups of the customers has label rows of one class only",
                         "a lower checks.leakage_groups, or more customers",
                         f"edit config.yaml, then {settings.rerun_command('05')}")
        yield parts


def _figures(cloud: Cloud, splits: dict[str, pd.DataFrame], honest=None,
             trees: int | None = None) -> dict[str, dict[str, float]]:
    """The figures of both joins, of `intervals.measure`. honest: the model, if it is trained."""
    settings, label = cloud.settings, cloud.settings.label.column
    train, test = splits["train"], splits["test"]
    known, leaked = (_features(test, settings, suffix) for suffix in ("", NAIVE))
    naive = fit(cloud, _features(train, settings, NAIVE), train[label], trees)
    honest = honest or fit(cloud, _features(train, settings, ""), train[label], trees)
    promised, kept = predict(naive, leaked, known)
    return intervals.measure(
        test[label].to_numpy(), test[TIME],
        {"promised": promised, "honest": honest.predict_proba(known)[:, 1], "kept": kept},
        settings.campaign.contacted_share)


def split(cloud: Cloud, pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The splits of the data_load component, from label rows (of `pair`): name -> rows.

    Raises:
        Needed: the label rows cannot be split.
    """
    settings, data_load = cloud.settings, load_component("data_load")
    options = data_load.parse_arguments([
        "--table", "in memory", "--output_dataset", "nowhere", "--time_col", TIME,
        "--id_col", ENTITY, "--label_col", settings.label.column,
        "--feature_cols", ",".join(settings.feature_names),
        "--gap_days", str(settings.label.horizon_days),
        "--split_ratios", ",".join(map(str, settings.train.split_ratios))])
    columns = [ENTITY, TIME, settings.label.column, *settings.feature_names]
    table = pa.Table.from_pandas(pairs[columns].assign(place=range(len(pairs))),
                                 preserve_index=False)
    try:
        splits, _ = data_load.split_table(table, options)
    except data_load.InputError as error:
        raise Needed(f"the leakage check cannot split its label rows: {error}",
                     "a longer snapshots.history_days, or more customers",
                     f"edit config.yaml, then {settings.rerun_command('02')}") from error
    return {name: pairs.iloc[part["place"].to_numpy()] for name, part in splits.items()}


def fit(cloud: Cloud, rows: pd.DataFrame, labels: pd.Series, trees: int | None = None):
    """The train component's model, fitted on these features; a forest of `trees` if given.

    It is called in this process: as a program it would read its input from files.
    """
    train, chosen = load_component("train"), cloud.settings.train
    params = {**train.MODELS[chosen.model_type], **chosen.params[chosen.model_type]}
    if trees and "n_estimators" in params:
        params["n_estimators"] = min(trees, params["n_estimators"])
    pipeline = train.build_pipeline(
        chosen.model_type, cloud.settings.feature_names, params, chosen.seed, n_jobs=1)
    train.fit(pipeline, rows, labels)
    return pipeline


def predict(model, *parts: pd.DataFrame) -> list[np.ndarray]:
    """The churn probabilities of each part, by one prediction of all: each has a fixed cost."""
    found = model.predict_proba(pd.concat(parts))[:, 1]
    return np.split(found, np.cumsum([len(part) for part in parts])[:-1])


def _features(rows: pd.DataFrame, settings: Settings, suffix: str) -> pd.DataFrame:
    """The features of one join, under their own names."""
    columns = rows[[f"{name}{suffix}" for name in settings.feature_names]]
    return columns.set_axis(settings.feature_names, axis=1).astype("float64")


def load_component(name: str) -> ModuleType:
    """lib/components/<name>/src/main.py as a module."""
    path = inputs.COMPONENTS / name / "src" / "main.py"
    spec = importlib.util.spec_from_file_location(f"component_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(value: dict) -> pd.DataFrame:
    """The comparison in rows: each model and each difference of two, with 95 % intervals, and
    the result of the campaign in USD."""
    rows = []
    for key, name in ROWS.items():
        difference = " - " in key
        area, orders = value["roc_auc"].get(key), value["orders"][key]
        rows.append((
            name, interval(area, ".3f", difference) if area else "0.500",
            interval(orders, ",.0f", difference), f"{value['usd'][key]:+,.0f}",
            verdict(orders, area) if difference else MEANINGS[key]))
    return pd.DataFrame(rows, columns=[
        "", "ROC-AUC", "orders per 1,000 contacts", "USD per 1,000 contacts", "meaning"])


def interval(found: dict[str, float], digits: str, sign: bool) -> str:
    """A value with its interval, such as "171 (154 to 188)"."""
    low, high = (f"{found[end]:{digits}}" for end in ("low", "high"))
    between = tr("{low} to {high}", low=low, high=high)
    return f"{found['value']:{'+' * sign}{digits}} ({between})"


def verdict(orders: dict[str, float], area: dict[str, float]) -> str:
    """What the intervals of a difference allow to say."""
    names = (
        (orders, mark("orders higher"), mark("orders lower"), mark("orders not decided")),
        (area, mark("ROC-AUC higher"), mark("ROC-AUC lower"), mark("ROC-AUC not decided")))
    words = [higher if found["low"] > 0 else lower if found["high"] < 0 else neither
             for found, higher, lower, neither in names]
    return ", ".join(map(tr, words))
