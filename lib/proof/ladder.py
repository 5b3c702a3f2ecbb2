"""A ladder of leaks: what five common mistakes promise and keep, and the check that names each.

Two of them are in the join and in the split, three in the features' own SQL: these are planted as
wrong words of sql/02_build_features.sql, in a copy of the raw tables that is removed at the end.
Taxonomy: Kapoor and Narayanan, "Leakage and the reproducibility crisis in machine-learning-based
science", Patterns 4 (2023). L2: features that are not legitimate; L3.1: a test set that is not
later than the training set; L3.2: training and test rows that depend on each other.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from lib import lookups, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, TIMESTAMP
from lib.language import mark, tr
from lib.proof import intervals, leakage, planted
from lib.proof.naive_join import TIME
from lib.stages import Outcome
from lib.training import inputs

NAME = "ladder"  # ending of the copy's names
TREES, GROUP_TREES = 25, 10  # of a forest, and of one within a group: lib/README.md
KEYS = [ENTITY, TIMESTAMP]
KNOWN = "items.returned_at <= spine.feature_timestamp"
# What a cut takes out of the raw tables: the statements of sql/checks/cut_at.sql that do it.
CUTS = {"changed later": slice(0, 1), "arrived later": slice(1, 3),
        "happened later": slice(3, None)}


@dataclasses.dataclass(frozen=True)
class Leak:
    """One mistake: its title, its kind (see above), the check that names it, a sentence with what
    the check counts. If it is made in sql/02_build_features.sql: the wrong words there, and the
    features that are leaky by it where no order arrives late."""

    title: str
    kind: str
    check: str
    counts: str
    mistakes: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()


LEAKS = {
    "latest": Leak(
        mark("latest features, whatever the label's time"), "L2", "times",
        mark("{leak} of {of} label rows have features from after their time; {sound} of the sound "
             "ones")),
    "split": Leak(
        mark("random split"), "L3.1, L3.2", "windows",
        mark("{leak} of {of} test rows have a label window that overlaps one of the same customer "
             "in training; {sound} of the split by time")),
    "status": Leak(
        mark("final status: returned, also if later"), "L2", "changed later",
        mark("{leak} of {of} customers have other features without what was changed later; {sound} "
             "by the sound SQL"),
        ((KNOWN, "items.returned_at is not null"),), ("return_rate_90d",)),
    "window": Leak(
        mark("windows of orders that end a week later"), "L2", "happened later",
        mark("{leak} of {of} customers have other features without what happened later; {sound} by "
             "the sound SQL"),
        tuple((f" orders.{column} <= spine.feature_timestamp", f" orders.{column} <= "
               "timestamp_add(spine.feature_timestamp, interval 7 day)")
              for column in ("ordered_at", "known_at")),
        ("orders_30d", "orders_90d", "avg_order_value_90d")),
    "late": Leak(
        mark("orders that arrive late (planted), used at once"), "L2", "arrived later",
        mark("{leak} of {of} customers have other features without what arrived later; {sound} by "
             "the sound SQL"),
        (("known_at", "ordered_at"),)),  # each "known at" of the file becomes "ordered at"
}
# All at once: each statement takes the local BigQuery a third of a second to translate. Each has
# columns of its own, and without late orders the last one changes nothing. It comes last, because
# it changes words of another.
MISTAKES = [mistake for leak in LEAKS.values() for mistake in leak.mistakes]
TITLES = {name: leak.title for name, leak in LEAKS.items()}
CODE = [Path(__file__), *leakage.CODE]


def measure(cloud: Cloud, leak: Mapping) -> Outcome:
    """Measure every leak on the same later rows, and run its check on it and on the sound data.

    leak: of `leakage.measure`; the first rung is taken from it. The others are measured on a
    sample of the customers (checks.ladder_rows). Left out if targets.<target>.planted_faults is
    false.

    Returns:
        Outcome whose value is None if it is left out. Else it has "rows" and "customers" (of the
        sample's test), "one_in" (of the customers) and "leaks": name -> "orders" and "roc_auc" as
        in `leakage.measure`, and "found": what the check counts with the leak and in the sound
        data, and of how many: {"leak", "sound", "of", "features"};
        "features" are the columns that the check names.
    """
    settings, checks = cloud.settings, cloud.settings.checks
    if not settings.target_settings.planted_faults:
        return planted.left_out(cloud, "planted_faults")
    fingerprint = settings.fingerprint(
        *(warehouse.built_at(cloud, key) for key in (*leakage.TABLES, "features")),
        settings.train.model_dump(), settings.label.model_dump(), settings.feature_names,
        checks.leakage_groups, checks.ladder_rows, checks.late_percent, checks.late_days,
        settings.campaign.contacted_share, [path.read_text() for path in CODE],
        *(warehouse.render(f"checks/{file}", settings) for file in (
            "copy_raw_tables", "plant_late_orders", "cut_at")))
    blob = inputs.make_bucket(cloud).blob(f"ladder/{fingerprint}.json")
    if blob.exists():
        value, status = json.loads(blob.download_as_bytes()), "reused"
    else:
        value, status = _measure(cloud), "created"
        blob.upload_from_string(json.dumps(value))
    first = {kind: leak[kind] for kind in ("orders", "roc_auc")}
    value["leaks"] = {"latest": first | value["leaks"]["latest"], **{
        name: found for name, found in value["leaks"].items() if name != "latest"}}
    return Outcome(status, figures={
        "leaks": len(LEAKS), "with effect": len(effective(value)),
        "caught": sum(one["found"]["leak"] > 0 for one in value["leaks"].values())}, value=value)


def effective(value: Mapping) -> list[str]:
    """The leaks that promise more orders than production will see: the interval is above 0."""
    return [name for name, found in value["leaks"].items()
            if found["orders"]["promised - kept"]["low"] > 0]


def _measure(cloud: Cloud) -> dict:
    """The value of `measure`, without the figures of the first leak."""
    settings = cloud.settings
    one_in = lookups.one_in(cloud, settings.checks.ladder_rows)
    rows = lookups.label_rows(cloud, "train", one_in)
    times, naive = (lookups.label_times(cloud, key) for key in leakage.TABLES)
    leaky, late, cut = compute(cloud, sorted(rows[ENTITY].unique()), times["newest_features"])
    for name, features in (("leaky", leaky), ("late", late)):
        rows = rows.merge(features[[*KEYS, *settings.feature_names]], on=KEYS,
                          suffixes=("", f" {name}"), validate="many_to_one")
    splits = leakage.split(cloud, rows)
    full, *groups = leakage.side_by_side(
        lambda part: _figures(cloud, part, TREES if part is splits else GROUP_TREES),
        [splits, *leakage.divide(cloud, splits)])
    leaks = {name: intervals.summarise(full[name], [group[name] for group in groups])
             for name in full}
    random, by_time = at_random(splits, settings.train.seed), (splits["train"], splits["test"])
    found = {"latest": _found(int(naive["from_after"]), int(times["from_after"]),
                             int(times["label_rows"])),
             "split": _found(*(check_windows(*parts, settings.label.horizon_days)
                               for parts in (random, by_time)), len(random[1]))}
    found |= {name: _found_by_cut(cut, name) for name in LEAKS if LEAKS[name].mistakes}
    return {"one_in": one_in, "rows": len(splits["test"]),
            "customers": splits["test"][ENTITY].nunique(),
            "leaks": {name: {**leaks.get(name, {}), "found": found[name]} for name in LEAKS}}


def _found(leak: int, sound: int, of: int, features: list[str] | None = None) -> dict:
    return {"leak": leak, "sound": sound, "of": of, "features": features or []}


# -- the figures -------------------------------------------------------------------------------


def _figures(cloud: Cloud, splits: Mapping[str, pd.DataFrame], trees: int) -> dict[str, dict]:
    """Leak -> the figures of `intervals.measure`, for all but the first, by forests of `trees`."""
    settings, label = cloud.settings, cloud.settings.label.column
    train, test = splits["train"], splits["test"]

    def features(rows: pd.DataFrame, name: str = "") -> pd.DataFrame:
        wrong = LEAKS[name].columns if name in ("status", "window") else ()
        columns = [f"{feature} late" if name == "late" else f"{feature} leaky" * (feature in wrong)
                   or feature for feature in settings.feature_names]
        return rows[columns].set_axis(settings.feature_names, axis=1).astype("float64")

    def model(rows: pd.DataFrame, name: str = ""):
        return leakage.fit(cloud, features(rows, name), rows[label], trees)

    def figures(rows: pd.DataFrame, **scores: np.ndarray) -> dict:
        return intervals.measure(rows[label].to_numpy(), rows[TIME], scores,
                                 settings.campaign.contacted_share)

    known, known_late = leakage.predict(model(train), features(test), features(test, "late"))
    some, rest = at_random(splits, settings.train.seed)
    of_rest, of_test = leakage.predict(model(some), features(rest), features(test))
    promised, found = figures(rest, promised=of_rest), {}
    kept = figures(test, kept=of_test, honest=known)
    found["split"] = {kind: {**promised[kind], **kept[kind]} for kind in kept}
    for name in ("status", "window"):
        leaky, sound = leakage.predict(model(train, name), features(test, name), features(test))
        found[name] = figures(test, promised=leaky, kept=sound, honest=known)
    # Where orders arrive late, the columns of train use them at once: they are the leaky ones.
    (honest,) = leakage.predict(model(train, "late"), features(test, "late"))
    found["late"] = figures(test, promised=known, kept=known_late, honest=honest)
    return found


def at_random(splits: Mapping[str, pd.DataFrame], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(train, test) of a random split of all label rows from before the test weeks.

    As many to learn from as the split by time has; the test weeks are the production of both.
    """
    past = pd.concat([splits["train"], splits["valid"]], ignore_index=True)
    order = np.random.default_rng(seed).permutation(len(past))
    some, rest = np.split(order, [len(splits["train"])])
    return past.loc[some], past.loc[rest]


# -- the checks --------------------------------------------------------------------------------


def check_windows(train: pd.DataFrame, test: pd.DataFrame, horizon_days: int) -> int:
    """Test rows whose label window overlaps one of the same customer in training."""
    keys = [frame[[ENTITY, TIME]].sort_values(TIME) for frame in (test, train)]
    near = pd.merge_asof(
        keys[0], keys[1].assign(near=True), on=TIME, by=ENTITY, direction="nearest",
        tolerance=pd.Timedelta(days=horizon_days) - pd.Timedelta(microseconds=1))
    return int(near["near"].notna().sum())


def compute(
    cloud: Cloud, customers: list[str], at: datetime
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Features of these customers with all mistakes, without late orders; the sound ones, where
    orders arrive late; and what `recompute` finds of both at the snapshot `at`."""
    checks = cloud.settings.checks
    try:
        copied = planted.copy(cloud, NAME, customers)
        leaky = build(copied, MISTAKES)
        planted.run_sql(copied, "checks/plant_late_orders", late_percent=checks.late_percent,
                        late_days=checks.late_days)
        late = build(copied)
        return leaky, late, recompute(copied, at, {"sound": (late, ()), "leaky": (leaky, MISTAKES)})
    finally:
        planted.remove(cloud, NAME)


def build(copied: Cloud, mistakes: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """The features of a copy, with these mistakes in their SQL."""
    planted.build_features(copied, *mistakes)
    return warehouse.read_table(copied, "features")


def recompute(copied: Cloud, at: datetime, suspects: Mapping[str, tuple]) -> pd.DataFrame:
    """Do features of the snapshot `at` change when what was not known then is taken away?

    Args:
        copied: a copy of the raw tables (see planted.copy); its rows are cut.
        at: a snapshot that is at least the label's horizon older than the newest.
        suspects: name -> (features of the whole copy, the mistakes that they were built with).

    Returns:
        One row per suspect, cut and feature: suspect, cut, feature, customers (set of those with
        another value), of (number of customers with features at `at`). Without mistakes there is
        only the last cut, with what any of them changed.
    """
    settings, rows = copied.settings, []

    def known(features: pd.DataFrame) -> pd.DataFrame:
        return features[features[TIMESTAMP] == at].set_index(ENTITY)[settings.feature_names]

    before = {name: known(features) for name, (features, _) in suspects.items()}
    of = {name: len(found) for name, found in before.items()}
    newest = max(features[TIMESTAMP].max() for features, _ in suspects.values())
    # Only the two snapshots are built again: `at`, and the newest, from which it counts back.
    short = settings.snapshots.model_copy(
        update={"step_days": (newest - at).days, "history_days": 0})
    few = dataclasses.replace(
        copied, settings=settings.model_copy(update={"snapshots": short}))
    for cut, part in CUTS.items():
        for statement in warehouse.render("checks/cut_at", settings)[part]:
            warehouse.query(copied, statement, at=at)
        for name, (_, mistakes) in suspects.items():
            if not mistakes and cut != [*CUTS][-1]:
                continue  # nothing may change it: one build shows that of all cuts
            after = known(build(few, mistakes))
            old, new = before[name].align(after)  # a customer may be in one of them only
            differs = ~((old == new) | (old.isna() & new.isna()))
            rows += [(name, cut, feature, set(old.index[differs[feature]]), of[name])
                     for feature in settings.feature_names]
            before[name] = after
    return pd.DataFrame(rows, columns=["suspect", "cut", "feature", "customers", "of"])


def _found_by_cut(cut: pd.DataFrame, name: str) -> dict:
    """What the check of a leak found, of `recompute`."""
    sound = cut[cut["suspect"] == "sound"]
    leaky = cut[(cut["suspect"] == "leaky") & (cut["cut"] == LEAKS[name].check)]
    leak, fine = (len(set().union(*part["customers"])) for part in (leaky, sound))
    changed = leaky.loc[leaky["customers"].map(bool), "feature"]
    return _found(leak, fine, int(leaky["of"].iloc[0]), list(changed))


# -- for the notebook --------------------------------------------------------------------------


def table(value: Mapping | None) -> pd.DataFrame | None:
    """One row per leak: its kind, what it promises and keeps, and what its check found."""
    if value is None:
        return None
    rows = []
    for name, leak in LEAKS.items():
        one = value["leaks"][name]
        orders, areas, found = one["orders"], one["roc_auc"], one["found"]
        rows.append((
            tr(leak.title), leak.kind,
            *(f"{orders[key]['value']:,.0f}" for key in ("promised", "kept", "honest")),
            leakage.interval(orders["promised - kept"], ",.0f", True),
            " / ".join(f"{areas[key]['value']:.3f}" for key in ("promised", "kept", "honest")),
            leakage.interval(areas["promised - kept"], ".3f", True),
            tr(leak.counts, **{key: f"{found[key]:,}" for key in ("leak", "of", "sound")})))
    return pd.DataFrame(rows, columns=[
        "leak", "kind", "orders promised", "in production", "point-in-time",
        "promised - in production", "ROC-AUC: the same three", "ROC-AUC: promised - in production",
        "found by its check"])
