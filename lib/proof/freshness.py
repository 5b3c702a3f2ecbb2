"""New orders arrive: what is served is old until the sync has run, and parity shows it.

All of it happens in a copy of some customers (see planted.py), which is made anew each time and
removed at the end: the healthy data stay as they are.
"""

from dataclasses import dataclass

import pandas as pd

from lib import feature_store, lookups
from lib import predict as predict_lib
from lib.cloud import Cloud
from lib.predict import Prediction
from lib.proof import parity, planted
from lib.stages import Outcome

NAME = "freshness"


@dataclass(frozen=True)
class Copy:
    """A served copy: the cloud to ask, its customers, and those of them that will order.

    watched: the buyers whose predictions are shown. They ordered in the last 90 days, as every
    customer did that the model was trained on.
    """

    cloud: Cloud
    customers: list[str]
    buyers: list[str]
    watched: list[str]


def prepare(cloud: Cloud) -> Outcome:
    """Copy checks.freshness_customers customers, build, serve; the Outcome's value is a Copy.

    Buyers are every second of those who ordered in the last 90 days, and of the others.
    """
    customers = planted.choose(cloud, cloud.settings.checks.freshness_customers)
    rows = lookups.newest_rows(cloud, customers)
    active = rows["orders_90d"] > 0
    watched, returning = [*rows.index[active]][::2], [*rows.index[~active]][::2]
    there = planted.copy(cloud, NAME, customers)
    planted.build_features(there)
    synced = planted.serve(there)
    made = Copy(there, customers, [*watched, *returning], watched)
    return Outcome("done", figures={
        "dataset": there.settings.names.dataset, "customers": len(customers),
        "rows synced": synced.figures["rows"],
        "newest snapshot": f"{lookups.newest_snapshot(there):%Y-%m-%d}"}, value=made)


def new_day(copy: Copy) -> Outcome:
    """Each buyer orders once more, and the features are built again; nothing is synced."""
    planted.run_sql(copy.cloud, "checks/new_day_of_orders", customers=copy.buyers)
    planted.build_features(copy.cloud)
    return Outcome("done", figures={
        "customers with a new order": len(copy.buyers),
        "newest snapshot": f"{lookups.newest_snapshot(copy.cloud):%Y-%m-%d}"})


def sync(copy: Copy) -> Outcome:
    """The sync that makes the served values new."""
    done = feature_store.sync(copy.cloud, force=True)
    return Outcome("done", figures=done.figures)


def predict(copy: Copy) -> Outcome:
    """Predictions of the watched customers, from what the copy's view serves now."""
    answers = predict_lib.many(predict_lib.Predictor(copy.cloud), copy.watched)
    return Outcome("done", figures=answers.figures, value=answers.value)


def remove(cloud: Cloud) -> Outcome:
    """Delete the copy."""
    planted.remove(cloud, NAME)
    return Outcome("done", figures={"removed": planted.beside(cloud, NAME).settings.names.dataset})


def probabilities(answers: list[Prediction]) -> dict[str, float]:
    """customer_id -> churn probability."""
    return {answer.customer_id: answer.churn_probability for answer in answers}


def before_and_after(before: list[Prediction], after: list[Prediction]) -> pd.DataFrame:
    """The customer whose probability moved most: what was served before the sync and after it.

    Only the values that changed.
    """
    old, new = _moved_most(before, after)

    def column(answer: Prediction) -> dict[str, str]:
        values = {k: "NULL" if v is None else f"{v:g}" for k, v in answer.features.items()}
        taken = answer.feature_timestamp
        return {"churn probability": f"{answer.churn_probability:.3f}",
                "snapshot": f"{taken:%Y-%m-%d}" if taken else "", **values}

    frame = pd.DataFrame({"before the sync": column(old), "after": column(new)})
    frame = frame[frame["before the sync"] != frame["after"]]
    return frame.rename_axis(f"customer {old.customer_id}")


def figures(
    copy: Copy, stale: pd.DataFrame, fresh: pd.DataFrame, before: list[Prediction],
    after: list[Prediction],
) -> dict:
    """What happened, for summary.json: values that differ before and after the sync, customers
    with a new order, and the probability that moved most (0 to 1)."""
    old, new = _moved_most(before, after)
    return {
        "mismatches_before": len(parity.differences(stale)),
        "mismatches_after": len(parity.differences(fresh)),
        "customers": len(copy.buyers),
        "customer_id": old.customer_id,
        "probability_before": round(old.churn_probability, 6),
        "probability_after": round(new.churn_probability, 6),
    }


def _moved_most(before: list[Prediction], after: list[Prediction]) -> tuple:
    return max(zip(before, after, strict=True), key=lambda pair: abs(
        pair[0].churn_probability - pair[1].churn_probability))
