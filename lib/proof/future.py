"""How much each day of future adds to what a test promises, and takes from what production sees.

The naive join (lib/proof/leakage.py) gives each label today's features. A table of features that is
rebuilt once a month does the same with up to 30 days. Here the same model is trained on the
features as they are some days after the label's time: once for each of checks.future_days.
"""

import json
from pathlib import Path

import pandas as pd

from lib import lookups, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY
from lib.proof import intervals, leakage
from lib.proof.naive_join import TIME
from lib.stages import Outcome
from lib.training import inputs
from lib.training.training import Training

# Instead of 100: on theLook, with two seeds, it moves the naive join's orders by 11 and 26, and its
# orders in production by 0 and 4. Their intervals are 61 and 26 to each side.
TREES = 50
KEYS = [ENTITY, TIME]
SHOWN = ("orders_90d", "orders_lifetime", "days_since_last_order")  # of one customer


def measure(cloud: Cloud, trained: Training, leak: dict) -> Outcome:
    """Train and test on features from some days after each label's time.

    Args:
        trained: the point-in-time model. leak: what `leakage.measure` found.

    Returns:
        Outcome whose value has a list with one item per step: "days", the first is 0, "promised"
        and "kept": orders of 1,000 contacted customers, by the test and seen in production. Both
        are the honest model's for 0 days. "customer": of `one_customer`.

    Raises:
        Needed: the label rows cannot be split.
    """
    settings = cloud.settings
    fingerprint = settings.fingerprint(
        leak["orders"], trained.meta["sha256"], settings.checks.future_days,
        warehouse.render("checks/features_after", settings), TREES, Path(__file__).read_text(),
        [warehouse.built_at(cloud, key) for key in ("train", "features")])
    blob = inputs.make_bucket(cloud).blob(f"future/{fingerprint}.json")
    if blob.exists():
        return Outcome("reused", value=json.loads(blob.download_as_bytes()))
    honest = round(leak["orders"]["honest"]["value"])
    value = {"days": [0, *settings.checks.future_days], "promised": [honest], "kept": [honest]}
    part = leak["one_in"]
    train = lookups.label_rows(cloud, "train", part)
    splits, known = leakage.split(cloud, train.assign(row=range(len(train)))), {0: train}
    for days in settings.checks.future_days:
        known[days] = train[KEYS].merge(
            features_after(cloud, days, part), how="left", on=KEYS, validate="one_to_one")
        orders = _orders(cloud, splits, known[days])
        for name in ("promised", "kept"):
            value[name].append(round(orders[name]))
    value["customer"] = one_customer(cloud, known)
    blob.upload_from_string(json.dumps(value))
    return Outcome("created", figures=dict(zip(
        (f"promised with {days} days" for days in value["days"]), value["promised"], strict=True)),
        value=value)


def features_after(cloud: Cloud, days: int, part: int = 1) -> pd.DataFrame:
    """Label rows with their customer's features as they are `days` days after them: those of one
    in `part` customers."""
    (sql,) = warehouse.render("checks/features_after", cloud.settings)
    return warehouse.query(cloud, sql, large=True, days=days, one_in=part)


def _orders(cloud: Cloud, splits: dict[str, pd.DataFrame], later: pd.DataFrame) -> dict:
    """Orders of 1,000 customers: of a model trained on `later`, by its own test and on the
    features that were known. The splits' "row" is the place of their row in `later`."""
    settings, label = cloud.settings, cloud.settings.label.column
    names = settings.feature_names
    seen = {name: later[names].iloc[splits[name]["row"]].astype(float)
            for name in ("train", "test")}
    test = splits["test"]
    model = leakage.fit(cloud, seen["train"], splits["train"][label], trees=TREES)
    return intervals.measure(
        test[label].to_numpy(), test[TIME],
        {"promised": model.predict_proba(seen["test"])[:, 1],
         "kept": model.predict_proba(test[names].astype(float))[:, 1]},
        settings.campaign.contacted_share)["orders"]


def one_customer(cloud: Cloud, known: dict[int, pd.DataFrame]) -> dict | None:
    """A customer whose next order the features begin to count at one of the steps.

    known: days -> the label rows with features of so many days later.

    Of the customers with, at the newest label time, one order in the 90 days before and one in the
    label window: one whose second order the last step but one has counted and the first has not,
    if there is one; of these the first by orders ever and customer_id.

    Returns:
        customer_id; label_date and horizon_days; orders (days after the label's time, negative
        before it); rows (the customer's SHOWN features at each step). None: there is no such
        customer.
    """
    settings, newest = cloud.settings, known[0][TIME].max()
    steps = [rows[rows[TIME] == newest].set_index(ENTITY) for rows in known.values()]
    counted = pd.DataFrame({n: step["orders_lifetime"] for n, step in enumerate(steps)})
    fits = ((steps[0][settings.label.column] == 0) & (steps[0]["orders_90d"] == 1)
            & (counted.iloc[:, -1] == counted[0] + 1))
    better = fits & (counted.iloc[:, -2] > counted[0]) & (counted[1] == counted[0])
    found = counted[0][better if better.any() else fits]
    if found.empty:
        return None
    customer = min(found.index, key=lambda name: (found[name], int(name)))
    orders = lookups.customer_rows(cloud, "raw_orders", customer)["ordered_at"]
    return {
        "customer_id": customer, "label_date": f"{newest:%Y-%m-%d}",
        "horizon_days": settings.label.horizon_days,
        "orders": [round((order - newest) / pd.Timedelta(days=1), 1) for order in sorted(orders)],
        "rows": [{name: int(step.loc[customer, name]) for name in SHOWN} for step in steps]}
