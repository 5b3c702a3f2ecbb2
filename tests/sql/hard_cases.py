"""A small theLook with the cases that a window or a join gets wrong, and its tables built."""

import dataclasses
import random
from datetime import UTC, datetime, timedelta

import pandas as pd

from lib import config, source_load, warehouse

DAY = timedelta(days=1)
# Money is rounded to the cent, which may go either way at half a cent (abs=0.0051 below).
LAST = datetime(2026, 3, 10, 17, 30, tzinfo=UTC)  # the newest order: no midnight
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)  # the newest snapshot
LABELLED = MIDNIGHT - 60 * DAY  # the newest label time
OVERRIDES = {
    "app": "sqltest",
    "label": {"positive_rate_band": [0.0, 1.0]},
    "checks": {"min_join_coverage": 0.0, "max_null_rate": 1.0, "min_customers": 1,
               "max_unusable_rate": 1.0},
}


def short(settings: config.Settings) -> config.Settings:
    """Settings with 6 weeks of labels: too few for training, which is not tested here."""
    weeks = settings.snapshots.model_copy(update={"history_days": 42})
    return settings.model_copy(update={"snapshots": weeks})


def make_source() -> dict[str, list[dict]]:
    """Random customers, and by hand the cases that a window or a join gets wrong."""
    rng = random.Random(11)
    users, orders, items = [], [], []

    def order(user, at, *lines):
        orders.append({"order_id": len(orders) + 1, "user_id": user, "created_at": at})
        for product, price, returned in lines:
            items.append({"id": len(items) + 1, "order_id": len(orders), "user_id": user,
                          "product_id": product, "sale_price": price, "returned_at": returned})

    for user in range(1, 81):
        joined = MIDNIGHT - rng.uniform(410, 900) * DAY
        users.append({"id": user, "created_at": joined.replace(second=0, microsecond=0)})
    for user in range(1, 61):  # 61 to 80: hand-made below, or never ordered
        for _ in range(rng.choice([0, 1, 2, 3, 6])):
            at = MIDNIGHT - rng.uniform(0, 220) * DAY
            lines = [(rng.randint(1, 12), round(rng.uniform(5, 90), 2),
                      at + rng.uniform(1, 20) * DAY if rng.random() < 0.4 else None)
                     for _ in range(rng.choice([1, 1, 2, 4]))]
            order(user, at, *lines)
    second, micro = timedelta(seconds=1), timedelta(microseconds=1)
    order(61, MIDNIGHT, (1, 10.0, None))  # exactly at a snapshot: inside (T - W, T]
    order(62, MIDNIGHT - 90 * DAY, (1, 10.0, None))  # exactly at T - 90: outside
    order(63, MIDNIGHT - 90 * DAY + micro, (1, 10.0, None))  # just inside
    order(64, MIDNIGHT - 30 * DAY, (1, 10.0, None))  # outside 30, inside 90
    order(65, MIDNIGHT + second, (1, 10.0, None))  # after the newest snapshot: no row at all
    order(66, MIDNIGHT - 40 * DAY, (1, 10.0, MIDNIGHT))  # came back exactly at T: counts
    order(67, MIDNIGHT - 40 * DAY, (1, 10.0, MIDNIGHT + micro))  # just later: does not
    order(68, LABELLED - 10 * DAY, (1, 10.0, None))  # two orders in the same second,
    order(68, LABELLED - 10 * DAY, (1, 20.0, None))  # and the same product twice
    order(69, LABELLED - 20 * DAY)  # no items: counts as an order, earns nothing
    order(70, LABELLED - 20 * DAY, (999, 10.0, None))  # product not in the catalogue
    order(71, LABELLED - 5 * DAY, (2, 10.0, None))  # next order exactly at t + N: retained
    order(71, LABELLED + 60 * DAY, (2, 10.0, None))
    order(72, LABELLED - 5 * DAY, (2, 10.0, None))  # just after t + N: churned
    order(72, LABELLED + 60 * DAY + micro, (2, 10.0, None))
    order(73, LABELLED - 90 * DAY, (2, 10.0, None))  # exactly t - 90: not active
    order(74, LABELLED, (2, 10.0, None))  # exactly t: active, not its own next order
    order(75, LABELLED - 1 * DAY, (2, 10.0, None))  # first order after the newest snapshot <= t
    order(76, MIDNIGHT - 400 * DAY, (3, 10.0, None))  # silent for a year: zeros and NULLs
    order(77, LAST, (3, 10.0, None))  # the newest order of all
    order(78, users[77]["created_at"] - micro, (3, 10.0, None))  # before the sign-up: left out
    order(79, users[78]["created_at"], (3, 10.0, None))  # exactly at it
    order(80, LABELLED - 20 * DAY, (1, 10.0, None), (2, -5.0, None))  # a price below 0: left out
    order(999, LABELLED - 10 * DAY, (1, 10.0, None))  # nobody's: left out
    products = [{"id": n, "category": f"category {n % 5}"} for n in range(1, 13)]
    return {"users": users, "orders": orders, "order_items": items, "products": products}


def write(source, folder):
    """Write `source` as an export."""
    for name, rows in source.items():
        frame = pd.DataFrame(rows)
        for column in frame.columns.intersection(["created_at", "returned_at"]):
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
        frame.to_parquet(folder / f"{name}.parquet")


def build(cloud, source, folder):
    """Write `source` as an export; load and build everything in a fresh dataset."""
    write(source, folder)
    overrides = {**OVERRIDES, "source": str(folder)}
    settings = short(config.load(target="local", env="dev", overrides=overrides))
    there = dataclasses.replace(cloud, settings=settings)
    for dataset in (settings.dataset, settings.source_dataset):
        there.bigquery.delete_dataset(dataset, delete_contents=True, not_found_ok=True)
    warehouse.create_dataset(there)
    source_load.load(there)
    for file in warehouse.BUILDS:
        assert warehouse.build(there, file).status == "created"
    return there, {key: warehouse.read_table(there, key) for key in ("features", "labels", "train")}
