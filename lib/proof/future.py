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

# Instead of 100: lib/README.md has the orders with both, for three seeds.
TREES = 25
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
    splits = leakage.split(cloud, lookups.label_rows(cloud, "train", part))
    later = features_after(cloud, pd.concat([splits["train"], splits["test"]]),
                           settings.checks.future_days, part)
    for orders in leakage.side_by_side(lambda rows: _orders(cloud, splits, rows), later.values()):
        for name in ("promised", "kept"):
            value[name].append(round(orders[name]))
    value["customer"] = one_customer(cloud, splits["test"], later)
    blob.upload_from_string(json.dumps(value))
    return Outcome("created", figures=dict(zip(
        (f"promised with {days} days" for days in value["days"]), value["promised"], strict=True)),
        value=value)


def features_after(cloud: Cloud, rows: pd.DataFrame, days: list[int],
                   part: int = 1) -> dict[int, pd.DataFrame]:
    """The features of label rows as they are some days after them.

    Args:
        rows: label rows, those of one in `part` customers. days: how many, each number once.

    Returns:
        For each of `days`: the rows of sql/checks/features_after.sql, in the order of `rows`.
    """
    times = [time.to_pydatetime() for time in rows[TIME].unique()]
    found = warehouse.query_file(
        cloud, "checks/features_after", large=True, days=days, times=times, one_in=part)
    places = rows[KEYS].assign(place=range(len(rows)))
    found = found.merge(places, on=KEYS, validate="many_to_one").set_index("place")
    return {n: found[found["days"] == n].reindex(range(len(rows))) for n in days}


def _orders(cloud: Cloud, splits: dict[str, pd.DataFrame], later: pd.DataFrame) -> dict:
    """Orders of 1,000 customers: of a model trained on `later`, the rows of train and test, by its
    own test and on the features that were known."""
    settings, label = cloud.settings, cloud.settings.label.column
    names, (train, test) = settings.feature_names, (splits["train"], splits["test"])
    later = later[names].astype(float)
    model = leakage.fit(cloud, later[:len(train)], train[label], trees=TREES)
    return intervals.measure(
        test[label].to_numpy(), test[TIME],
        {"promised": model.predict_proba(later[len(train):])[:, 1],
         "kept": model.predict_proba(test[names].astype(float))[:, 1]},
        settings.campaign.contacted_share)["orders"]


def one_customer(
    cloud: Cloud, rows: pd.DataFrame, later: dict[int, pd.DataFrame]
) -> dict | None:
    """A customer whose next order the features begin to count at one of the steps.

    rows: of the test. later: of `features_after`.

    Of the customers with, at the newest label time, one order in the 90 days before and one in the
    label window: one whose second order the last step but one has counted and the first has not,
    if there is one; of these the first by orders ever and customer_id.

    Returns:
        customer_id; label_date and horizon_days; orders (days after the label's time, negative
        before it); rows (the customer's SHOWN features at each step). None: there is no such
        customer.
    """
    settings, newest = cloud.settings, rows[TIME].max()
    steps = [step[step[TIME] == newest].set_index(ENTITY) for step in (rows, *later.values())]
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
