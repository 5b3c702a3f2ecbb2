"""sql/01 to 05 against a brute force in plain Python, on a small set with the hard cases.

The oracle below is written from the data model's text, row by row, with no SQL and no pandas
grouping; the tables go in as an export and through the same load and build as a real run.
"""

import dataclasses
from datetime import datetime

import pandas as pd
import pytest

from lib import config, source_load, warehouse
from lib.errors import Needed
from lib.proof import planted, sanity
from tests.sql.hard_cases import DAY, MIDNIGHT, OVERRIDES, build, make_source, short


def snapshots(last: datetime, days: int) -> list[datetime]:
    """Midnights every 7 days back from `last`, over `days` days."""
    return [last - n * DAY for n in range(0, days + 1, 7)]


def oracle_features(source: dict, at: datetime, known_at: dict | None = None) -> dict[str, dict]:
    """What features_customer must hold at snapshot `at`, by customer_id.

    known_at: order_id -> when it arrived; if not given, orders arrive at once.
    """
    category = {p["id"]: p["category"] for p in source["products"]}
    rows = {}
    for user in source["users"]:
        known = [o for o in source["orders"]
                 if o["user_id"] == user["id"] and user["created_at"] <= o["created_at"] <= at
                 and (known_at is None or known_at[o["order_id"]] <= at)]
        if not known:
            continue
        recent = [o for o in known if o["created_at"] > at - 90 * DAY]
        month = {o["order_id"] for o in known if o["created_at"] > at - 30 * DAY}
        ids = {o["order_id"] for o in recent}
        items = [i for i in source["order_items"]
                 if i["order_id"] in ids and i["sale_price"] >= 0]
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
        times = [o["created_at"] for o in source["orders"]
                 if o["user_id"] == user["id"] and o["created_at"] >= user["created_at"]]
        if any(at - 90 * DAY < t <= at for t in times):
            labels[str(user["id"])] = int(not any(at < t <= at + horizon * DAY for t in times))
    return labels


@pytest.fixture(scope="module")
def source():
    return make_source()


@pytest.fixture(scope="module")
def loaded(cloud, source, tmp_path_factory):
    """A real load and build, and the tables as frames by key."""
    return build(cloud, source, tmp_path_factory.mktemp("export"))


@pytest.fixture
def built(loaded):
    return loaded[1]


@pytest.fixture
def there(loaded):
    """The same tables in BigQuery, for a test that changes them so that a build repairs them."""
    for file in warehouse.BUILDS:
        warehouse.build(loaded[0], file)
    return loaded[0]


def test_features_equal_the_brute_force(source, built, settings):
    check_features(built["features"], source, settings)


def check_features(features, source, settings, known_at=None):
    expected = {(customer, at): row for at in snapshots(MIDNIGHT, 42 + 60 + 7)
                for customer, row in oracle_features(source, at, known_at).items()}
    found = {(r["customer_id"], r["feature_timestamp"].to_pydatetime()): r
             for r in features.to_dict("records")}
    assert set(found) == set(expected)
    for key, row in expected.items():
        for name in settings.feature_names:
            value = None if pd.isna(found[key][name]) else found[key][name]
            near = row[name] if row[name] is None else pytest.approx(row[name], abs=0.0051)
            assert value == near, (key, name)
    counts = [n for n in settings.feature_names if "revenue" not in n and "avg" not in n]
    assert all(found[k][n] == r[n] for k, r in expected.items() for n in counts
               if r[n] is not None)


def check_labels(frame, source, horizon):
    expected = {(customer, at): label for at in snapshots(MIDNIGHT - horizon * DAY, 42)
                for customer, label in oracle_labels(source, at, horizon).items()}
    found = {(r["customer_id"], r["label_timestamp"].to_pydatetime()):
             r[f"label_churn_{horizon}d"] for r in frame.to_dict("records")}
    assert found == expected
    assert set(found.values()) == {0, 1}
    assert len(frame) == len(expected)


def test_labels_equal_the_brute_force(source, built):
    check_labels(built["labels"], source, 60)


def test_a_new_horizon_rebuilds_labels_but_not_the_source(there, source):
    label = there.settings.label.model_copy(update={"horizon_days": 90})
    there = dataclasses.replace(
        there, settings=there.settings.model_copy(update={"label": label}))
    assert warehouse.build(there, "01_prepare_bq").status == "reused"
    assert warehouse.build(there, "03_build_labels_churn").status == "created"
    check_labels(warehouse.read_table(there, "labels"), source, 90)


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
    settings = short(config.load(target="local", overrides={**OVERRIDES, "app": "ties"}))
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


def test_a_second_build_makes_nothing(there):
    before = {k: warehouse.built_at(there, k) for k in ("raw_orders", "features", "train")}
    assert all(warehouse.build(there, file).status == "reused" for file in warehouse.BUILDS)
    assert before == {k: warehouse.built_at(there, k) for k in before}


def test_checks_pass_on_good_tables_and_name_what_is_broken(there):
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
                warehouse.query(there, statement)


def test_a_lopsided_label_warns_and_a_single_class_stops(there):
    narrow = there.settings.label.model_copy(update={"positive_rate_band": (0.97, 0.99)})
    odd = dataclasses.replace(
        there, settings=there.settings.model_copy(update={"label": narrow}))
    with pytest.warns(sanity.LabelWarning, match="positive_rate = "):
        sanity.check(odd)
    labels = there.settings.table("labels")
    there.bigquery.query(f"update `{labels}` set label_churn_60d = 1 where true").result()
    with pytest.raises(Needed, match="positive_rate = 1"):
        sanity.check(there)


def test_only_the_files_that_are_read_decide_whether_to_load_again(there):
    folder = there.settings.source_folder
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "events.csv").write_text("id\n")
    assert source_load.load(there).status == "reused"
    assert warehouse.build(there, "01_prepare_bq").status == "reused"
    users = pd.read_parquet(folder / "users.parquet")
    users.to_parquet(folder / "users.parquet", compression="gzip")
    assert source_load.load(there).status == "created"
    assert warehouse.build(there, "01_prepare_bq").status == "created"


def test_an_order_counts_from_when_it_is_known(there, source, settings):
    warehouse.forget(there, "01_prepare_bq")  # no build notices what changes here
    planted.run_sql(there, "checks/plant_late_orders", late_percent=50, late_days=40)
    planted.build_features(there)
    orders, features = (warehouse.read_table(there, key) for key in ("raw_orders", "features"))
    late = dict(zip(orders["order_id"], orders["known_at"], strict=True))
    known = {o["order_id"]: late.get(o["order_id"], o["created_at"]) for o in source["orders"]}
    check_features(features, source, settings, known)
    # The same by request_time_features.sql, for customers with an order on the way.
    (statement,) = warehouse.render("request_time_features", there.settings)
    away = orders[(orders["ordered_at"] <= MIDNIGHT) & (orders["known_at"] > MIDNIGHT)]
    stored = features[features["feature_timestamp"] == MIDNIGHT].set_index("customer_id")
    customers = [customer for customer in away["customer_id"] if customer in stored.index]
    assert customers
    for customer in customers:
        row = warehouse.query(
            there, statement, customer_id=customer, feature_timestamp=MIDNIGHT).iloc[0]
        same = row[settings.feature_names].isna() | (
            row[settings.feature_names] == stored.loc[customer, settings.feature_names])
        assert same.all(), customer
