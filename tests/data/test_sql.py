"""sql/01 to 05 against a brute force in plain Python, on a small set with the hard cases.

The oracle below is written from the data model's text, row by row, with no SQL and no pandas
grouping; the tables go in as an export and through the same load and build as a real run.
"""

import dataclasses
import random
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from lib import config, warehouse
from lib.errors import Needed
from lib.proof import sanity

DAY = timedelta(days=1)
# Money is rounded to the cent, which may go either way at half a cent (abs=0.0051 below).
LAST = datetime(2026, 3, 10, 17, 30, tzinfo=UTC)  # the newest order: no midnight
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)  # the newest snapshot
LABELLED = MIDNIGHT - 60 * DAY  # the newest label time
OVERRIDES = {
    "app": "sqltest",
    "snapshots": {"history_days": 42},
    "label": {"positive_rate_band": [0.0, 1.0]},
    "checks": {"min_join_coverage": 0.0, "max_null_rate": 1.0},
}


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
        joined = MIDNIGHT - rng.uniform(150, 900) * DAY
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
    products = [{"id": n, "category": f"category {n % 5}"} for n in range(1, 13)]
    return {"users": users, "orders": orders, "order_items": items, "products": products}


def snapshots(last: datetime, days: int) -> list[datetime]:
    """Midnights every 7 days back from `last`, over `days` days."""
    return [last - n * DAY for n in range(0, days + 1, 7)]


def oracle_features(source: dict, at: datetime) -> dict[str, dict]:
    """What features_customer must hold at snapshot `at`, by customer_id."""
    category = {p["id"]: p["category"] for p in source["products"]}
    rows = {}
    for user in source["users"]:
        known = [o for o in source["orders"]
                 if o["user_id"] == user["id"] and o["created_at"] <= at]
        if not known:
            continue
        recent = [o for o in known if o["created_at"] > at - 90 * DAY]
        month = {o["order_id"] for o in known if o["created_at"] > at - 30 * DAY}
        ids = {o["order_id"] for o in recent}
        items = [i for i in source["order_items"] if i["order_id"] in ids]
        revenue = sum(i["sale_price"] for i in items)
        returned = [i for i in items if i["returned_at"] and i["returned_at"] <= at]
        seconds = [int(t.timestamp() // 1) for t in
                   (at, max(o["created_at"] for o in known), user["created_at"])]
        rows[str(user["id"])] = {
            "orders_30d": len(month), "orders_90d": len(recent),
            "revenue_30d": sum(i["sale_price"] for i in items if i["order_id"] in month),
            "revenue_90d": revenue,
            "avg_order_value_90d": revenue / len(recent) if items else None,
            "days_since_last_order": (seconds[0] - seconds[1]) // 86400,
            "distinct_products_90d": len({i["product_id"] for i in items}),
            "distinct_categories_90d": len(
                {category[i["product_id"]] for i in items if i["product_id"] in category}),
            "return_rate_90d": len(returned) / len(items) if items else None,
            "tenure_days": (seconds[0] - seconds[2]) // 86400, "orders_lifetime": len(known),
        }
    return rows


def oracle_labels(source: dict, at: datetime, horizon: int) -> dict[str, int]:
    """Who was active at `at`, and whether they then stayed silent."""
    labels = {}
    for user in source["users"]:
        times = [o["created_at"] for o in source["orders"] if o["user_id"] == user["id"]]
        if any(at - 90 * DAY < t <= at for t in times):
            labels[str(user["id"])] = int(not any(at < t <= at + horizon * DAY for t in times))
    return labels


@pytest.fixture(scope="module")
def source():
    return make_source()


@pytest.fixture(scope="module")
def built(cloud, source, tmp_path_factory):
    """The four tables made by a real load and build; returns them as frames by key."""
    return build(cloud, source, tmp_path_factory.mktemp("export"), 60)[1]


def build(cloud, source, folder, horizon):
    """Write `source` as an export; load and build everything in a fresh dataset."""
    for name, rows in source.items():
        frame = pd.DataFrame(rows)
        for column in frame.columns.intersection(["created_at", "returned_at"]):
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
        frame.to_parquet(folder / f"{name}.parquet")
    overrides = {**OVERRIDES, "source": str(folder), "label": {
        **OVERRIDES["label"], "horizon_days": horizon}}
    settings = config.load(target="local", env="dev", overrides=overrides)
    there = dataclasses.replace(cloud, settings=settings)
    for dataset in (settings.dataset, settings.source_dataset):
        there.bigquery.delete_dataset(dataset, delete_contents=True, not_found_ok=True)
    warehouse.create_dataset(there)
    warehouse.load_source(there)
    for file in warehouse.BUILDS:
        assert warehouse.build(there, file).status == "created"
    return there, {key: warehouse.read_table(there, key) for key in ("features", "labels", "train")}


def test_features_equal_the_brute_force(source, built, settings):
    expected = {(customer, at): row for at in snapshots(MIDNIGHT, 42 + 60 + 7)
                for customer, row in oracle_features(source, at).items()}
    found = {(r["customer_id"], r["feature_timestamp"].to_pydatetime()): r
             for r in built["features"].to_dict("records")}
    assert set(found) == set(expected)
    for key, row in expected.items():
        for name in settings.feature_names:
            value = None if pd.isna(found[key][name]) else found[key][name]
            near = row[name] if row[name] is None else pytest.approx(row[name], abs=0.0051)
            assert value == near, (key, name)
    counts = [n for n in settings.feature_names if "revenue" not in n and "avg" not in n]
    assert all(found[k][n] == r[n] for k, r in expected.items() for n in counts
               if r[n] is not None)


@pytest.mark.parametrize("horizon", [60, 90])
def test_labels_equal_the_brute_force(cloud, source, built, tmp_path, horizon):
    frame = built["labels"] if horizon == 60 else build(cloud, source, tmp_path, 90)[1]["labels"]
    expected = {(customer, at): label for at in snapshots(MIDNIGHT - horizon * DAY, 42)
                for customer, label in oracle_labels(source, at, horizon).items()}
    found = {(r["customer_id"], r["label_timestamp"].to_pydatetime()):
             r[f"label_churn_{horizon}d"] for r in frame.to_dict("records")}
    assert found == expected
    assert set(found.values()) == {0, 1}
    assert len(frame) == len(expected)


def test_point_in_time_join_equals_the_brute_force(source, built, settings):
    times = sorted({t.to_pydatetime() for t in built["features"]["feature_timestamp"]})
    rows = {at: oracle_features(source, at) for at in times}
    train = built["train"].to_dict("records")
    assert len(train) == len(built["labels"])
    lonely = 0
    for row in train:
        customer, at = row["customer_id"], row["label_timestamp"].to_pydatetime()
        known = [t for t in times if t <= at and customer in rows[t]]
        if not known:
            assert all(pd.isna(row[n]) for n in [*settings.feature_names, "feature_timestamp"])
            lonely += 1
            continue
        assert row["feature_timestamp"].to_pydatetime() == max(known)
        for name in settings.feature_names:
            want = rows[max(known)][customer][name]
            got = None if pd.isna(row[name]) else row[name]
            assert got == (want if want is None else pytest.approx(want, abs=0.0051)), (row, name)
    assert lonely  # customer 75: the join keeps a label that has no snapshot yet


def test_a_snapshot_at_the_very_label_time_is_used(cloud, tmp_path):
    """Inclusive `<=`: with a horizon of 63 days' multiple the two spines would meet; make one."""
    settings = config.load(target="local", overrides={**OVERRIDES, "app": "ties"})
    there = dataclasses.replace(cloud, settings=settings)
    warehouse.create_dataset(there)
    (join,) = warehouse.render("04_build_train", settings)
    columns = ", ".join(f"{i} as {n}" for i, n in enumerate(settings.feature_names))
    stamps = ["2026-01-01 00:00:00", "2026-01-08 00:00:00", "2026-01-08 00:00:00.000001"]
    for key, rows in {
        "features": [f"select 'a' as customer_id, timestamp '{s}' as feature_timestamp, {columns}"
                     for s in stamps],
        "labels": [f"select 'a' as customer_id, 1 as {settings.label.column}, "
                   f"timestamp '{s}' as label_timestamp" for s in
                   ("2025-12-31 23:59:59", "2026-01-01 00:00:00", "2026-01-08 00:00:00",
                    "2026-01-09 00:00:00")],
    }.items():
        table = settings.table(key)
        cloud.bigquery.query(
            f"create or replace table `{table}` as {' union all '.join(rows)}").result()
    cloud.bigquery.query(join).result()
    train = warehouse.read_table(there, "train").sort_values("label_timestamp")
    picked = [None if pd.isna(t) else t.isoformat() for t in train["feature_timestamp"]]
    assert picked == [None, "2026-01-01T00:00:00+00:00", "2026-01-08T00:00:00+00:00",
                      "2026-01-08T00:00:00.000001+00:00"]


def test_a_second_build_makes_nothing(cloud, source, tmp_path):
    there, _ = build(cloud, source, tmp_path, 60)
    before = {k: warehouse.built_at(there, k) for k in ("raw_orders", "features", "train")}
    assert all(warehouse.build(there, file).status == "reused" for file in warehouse.BUILDS)
    assert before == {k: warehouse.built_at(there, k) for k in before}


def test_a_new_horizon_rebuilds_labels_but_not_the_source(cloud, source, tmp_path):
    there, _ = build(cloud, source, tmp_path, 60)
    settings = there.settings.model_copy(
        update={"label": there.settings.label.model_copy(update={"horizon_days": 90})})
    there = dataclasses.replace(there, settings=settings)
    assert warehouse.build(there, "01_prepare_bq").status == "reused"
    assert warehouse.build(there, "03_build_labels_churn").status == "created"


def test_checks_pass_on_good_tables_and_name_what_is_broken(cloud, source, tmp_path):
    there, _ = build(cloud, source, tmp_path, 60)
    checks = sanity.check(there).value
    assert list(checks.columns) == ["check", "value", "low", "high", "status"]
    assert set(checks["status"]) == {"pass"}
    for damage, broken in [
        ("insert into `{train}` select * from `{train}` limit 1", "label_rows_added_by_join"),
        ("update `{train}` set feature_timestamp = timestamp_add(label_timestamp, interval 1 day) "
         "where true", "features_from_the_future"),
        ("delete from `{train}` where customer_id = '68'", "label_rows_lost_by_join"),
        ("insert into `{features}` select * from `{features}` limit 1", "feature_keys_doubled"),
        ("update `{features}` set tenure_days = null where customer_id = '68'",
         "null_rate_tenure_days"),
    ]:
        names = {k: there.settings.table(k) for k in ("train", "features")}
        there.bigquery.query(damage.format(**names)).result()
        with pytest.raises(Needed, match=broken):
            sanity.check(there)
        for file in ("02_build_features", "04_build_train"):
            for statement in warehouse.render(file, there.settings):
                warehouse._run(there, statement)


def test_a_lopsided_label_warns_and_a_single_class_stops(cloud, source, tmp_path):
    there, _ = build(cloud, source, tmp_path, 60)
    narrow = there.settings.label.model_copy(update={"positive_rate_band": (0.97, 0.99)})
    odd = dataclasses.replace(
        there, settings=there.settings.model_copy(update={"label": narrow}))
    with pytest.warns(sanity.LabelWarning, match="positive_rate = "):
        sanity.check(odd)
    labels = there.settings.table("labels")
    there.bigquery.query(f"update `{labels}` set label_churn_60d = 1 where true").result()
    with pytest.raises(Needed, match="positive_rate = 1"):
        sanity.check(there)
