"""New orders arrive: the served values stay old until a sync has run, and parity shows it.

All of it happens in a copy of some customers (see planted.py), made anew each time and removed
at the end: the healthy data do not change.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from lib import feature_store, lookups, predict
from lib.cloud import Cloud
from lib.language import mark
from lib.predict import Prediction
from lib.proof import parity, planted, served
from lib.proof.served import Served
from lib.stages import Outcome

NAME = "freshness"  # ending of the copy's names


@dataclass(frozen=True)
class Copy:
    """A served copy, its customers, and those of them that will order (buyers).

    watched: the buyers whose predictions are shown. They ordered in the last 90 days, like every
    customer that the model was trained on.
    """

    cloud: Cloud
    customers: list[str]
    buyers: list[str]
    watched: list[str]


@dataclass(frozen=True)
class Freshness:
    """What was measured before the sync and after it; every field is None if it was left out.

    compared: "before the sync" and "after the sync" -> comparison of `parity.compare`.
    ages: `parity.ages` of both.
    changes: customer_id -> (probability before, after).
    moved_most: the customer whose probability moved most, see `before_and_after`.
    served: "before" and "after" -> what was served to these predictions, compared afterwards by
    the log; None without a log.
    figures: for summary.json; with "logged", the parts before and after as of `served.figures`.
    """

    compared: dict[str, pd.DataFrame] | None = None
    ages: pd.DataFrame | None = None
    changes: dict[str, tuple[float, float]] | None = None
    moved_most: pd.DataFrame | None = None
    served: dict[str, Served] | None = None
    figures: dict | None = None


def check(cloud: Cloud, cut: float) -> Outcome:
    """Let a day of orders arrive in a copy; compare and predict before its sync and after it.

    cut: of `served.threshold`, for the decisions that the old values change.
    Left out if targets.<target>.freshness is false: it takes minutes on Google Cloud.

    Returns:
        Outcome whose value is a Freshness.
    """
    if not cloud.settings.target_settings.freshness:
        return planted.left_out(cloud, "freshness", Freshness())
    try:
        copy = prepare(cloud)
        new_day(copy)
        began = datetime.now(UTC)
        stale, old_ages, before = _measure(copy)
        feature_store.sync(copy.cloud, force=True)
        synced = datetime.now(UTC)
        fresh, new_ages, after = _measure(copy)
        logged = served.check(predict.Predictor(copy.cloud), began, cut).value
    finally:
        planted.remove(cloud, NAME)
    parts = logged and {"before": logged.until(synced), "after": logged.since(synced)}
    counted = figures(copy, stale, fresh, before, after) | {"logged": parts and {
        name: served.figures(part) for name, part in parts.items()}}
    ages = pd.concat({"before the sync": old_ages, "after the sync": new_ages})
    measured = Freshness(
        {mark("before the sync"): stale, mark("after the sync"): fresh},
        ages.reset_index(0, names="").reset_index(drop=True), _changes(before, after),
        before_and_after(before, after), parts, counted)
    return Outcome("done", figures={
        "customers": len(copy.customers), "with a new order": len(copy.buyers),
        "mismatches before the sync": measured.figures["mismatches_before"],
        "after the sync": measured.figures["mismatches_after"]}, value=measured)


def _measure(copy: Copy) -> tuple[pd.DataFrame, pd.DataFrame, list[Prediction]]:
    compared = parity.measure(copy.cloud, copy.customers).value
    return compared, parity.ages(copy.cloud, compared), predictions(copy)


def prepare(cloud: Cloud) -> Copy:
    """Copy checks.freshness_customers customers, build their features, serve them.

    Buyers are every second one of those who ordered in the last 90 days, and of the others.
    """
    customers = planted.choose(cloud, cloud.settings.checks.freshness_customers)
    rows = lookups.newest_rows(cloud, customers)
    active = rows["orders_90d"] > 0
    watched, returning = [*rows.index[active]][::2], [*rows.index[~active]][::2]
    copied = planted.copy(cloud, NAME, customers)
    planted.build_features(copied)
    planted.serve(copied)
    return Copy(copied, customers, [*watched, *returning], watched)


def new_day(copy: Copy) -> None:
    """Each buyer orders once more, and the features are built again; nothing is synced."""
    planted.run_sql(copy.cloud, "checks/new_day_of_orders", customers=copy.buyers)
    planted.build_features(copy.cloud)


def predictions(copy: Copy) -> list[Prediction]:
    """Predictions of the watched customers, from what the copy's view serves now."""
    return predict.many(predict.Predictor(copy.cloud), copy.watched).value


def before_and_after(before: list[Prediction], after: list[Prediction]) -> pd.DataFrame:
    """The customer whose probability moved most: the served values that changed by the sync."""
    old, new = _moved_most(before, after)

    def column(answer: Prediction) -> dict[str, str]:
        values = {k: "NULL" if v is None else f"{v:g}" for k, v in answer.features.items()}
        taken = answer.feature_timestamp
        return {"churn probability": f"{answer.churn_probability:.3f}",
                "snapshot": f"{taken:%Y-%m-%d}" if taken else "", **values}

    frame = pd.DataFrame({"before the sync": column(old), "after the sync": column(new)})
    frame = frame[frame["before the sync"] != frame["after the sync"]]
    return frame.rename_axis(f"customer {old.customer_id}")


def figures(
    copy: Copy, stale: pd.DataFrame, fresh: pd.DataFrame, before: list[Prediction],
    after: list[Prediction],
) -> dict:
    """For summary.json: served values, and how many differ before and after the sync; customers
    with a new order, and the probability that moved most (0 to 1)."""
    old, new = _moved_most(before, after)
    return {
        "served": len(stale),
        "mismatches_before": len(parity.differences(stale)),
        "mismatches_after": len(parity.differences(fresh)),
        "customers": len(copy.buyers),
        "customer_id": old.customer_id,
        "probability_before": round(old.churn_probability, 6),
        "probability_after": round(new.churn_probability, 6),
    }


def _changes(before: list[Prediction], after: list[Prediction]) -> dict[str, tuple[float, float]]:
    return {old.customer_id: (old.churn_probability, new.churn_probability)
            for old, new in zip(before, after, strict=True)}


def _moved_most(before: list[Prediction], after: list[Prediction]) -> tuple:
    return max(zip(before, after, strict=True), key=lambda pair: abs(
        pair[0].churn_probability - pair[1].churn_probability))
