"""New orders: parity red until the sync has run, green after; the healthy data do not move."""

import pandas as pd
import pytest
from google.api_core.exceptions import NotFound

from lib import feature_store, lookups, predict, warehouse
from lib.proof import freshness, parity, planted
from tests.proof.conftest import switched_off

TABLES = ("raw_orders", "raw_order_items", "features")


def counts(cloud):
    return {key: (cloud.bigquery.get_table(cloud.settings.table(key)).num_rows,
                  warehouse.built_at(cloud, key)) for key in TABLES}


def keys(compared):
    return {(row.customer_id, row.feature, row.online, row.offline)
            for row in compared.fillna(-1).itertuples()}


def found_probabilities(cloud):
    """The lowest and the highest churn probability among some active customers."""
    answers = predict.many(predict.Predictor(cloud), lookups.served_customers(cloud, 20)).value
    found = [answer.churn_probability for answer in answers]
    return min(found), max(found)


def test_red_before_the_sync_and_green_after(deployed):
    before = counts(deployed)
    copy = freshness.prepare(deployed)
    there, now = copy.cloud, lookups.newest_snapshot(copy.cloud)
    try:
        assert len(copy.customers) == 50 and 20 <= len(copy.buyers) <= 26
        assert set(copy.watched) <= set(copy.buyers) <= set(copy.customers)
        first = parity.measure(there, copy.customers).value
        assert parity.figures(first)["mismatches"] == 0
        held = lookups.newest_rows(there, copy.customers)
        pd.testing.assert_frame_equal(held, lookups.newest_rows(deployed, copy.customers))

        freshness.new_day(copy)
        newer = lookups.newest_snapshot(there)
        assert newer == now + pd.Timedelta(days=1)
        stale = parity.measure(there, copy.customers).value
        bad = parity.differences(stale)
        moved = set(bad.loc[bad["feature"] == "orders_lifetime", "customer_id"])
        assert moved == set(copy.buyers)
        lifetime = bad[bad["feature"] == "orders_lifetime"]
        assert (lifetime["offline"] - lifetime["online"] == 1).all()
        assert set(bad.loc[bad["feature"] == "tenure_days", "customer_id"]) == set(copy.customers)
        (age,) = parity.ages(there, stale).to_dict("records")
        assert age["days behind snapshot"] == 1.0 and age["days behind order"] > 1.0
        old = freshness.predictions(copy)

        feature_store.sync(copy.cloud, force=True)
        fresh = parity.measure(there, copy.customers).value
        assert parity.figures(fresh)["mismatches"] == 0
        assert set(fresh["served_at"]) == {newer}
        new = freshness.predictions(copy)
        assert [a.customer_id for a in old] == [a.customer_id for a in new] == copy.watched
        assert [a.churn_probability for a in old] != [a.churn_probability for a in new]
        assert all(a.features["orders_90d"] >= 2 for a in new)
        moved = freshness.before_and_after(old, new)
        assert {"churn probability", "snapshot", "orders_lifetime"} <= set(moved.index)
    finally:
        planted.remove(deployed, freshness.NAME)
    assert counts(deployed) == before
    with pytest.raises(NotFound):
        deployed.bigquery.get_dataset(there.settings.dataset)
    customers = planted.choose(deployed, 40)
    assert parity.figures(parity.check(deployed, customers).value)["mismatches"] == 0


def test_a_new_day_is_the_same_each_time_and_each_buyer_orders_the_same_again(deployed):
    orders = []
    for _ in range(2):
        copy = freshness.prepare(deployed)
        last = copy.cloud.bigquery.get_table(copy.cloud.settings.table("raw_orders")).num_rows
        freshness.new_day(copy)
        orders.append(warehouse.read_table(copy.cloud, "raw_orders").sort_values("order_id"))
        assert len(orders[-1]) == last + len(copy.buyers) + 1  # one begins the next day
        items = warehouse.read_table(copy.cloud, "raw_order_items")
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in orders))
    new = orders[-1][-(len(copy.buyers) + 1):]
    assert set(new["customer_id"]) == set(copy.buyers)
    assert orders[-1]["order_id"].is_unique and items["order_item_id"].is_unique
    healthy = warehouse.read_table(deployed, "raw_order_items")
    for order in new.itertuples():
        own = healthy[healthy["customer_id"] == order.customer_id]
        newest = own[own["ordered_at"] == own["ordered_at"].max()]
        bought = items.loc[items["order_id"] == order.order_id, ["product_id", "sale_price"]]
        assert sorted(map(tuple, bought.to_numpy())) == sorted(
            map(tuple, newest[["product_id", "sale_price"]].to_numpy()))
    planted.remove(deployed, freshness.NAME)


def test_check_measures_both_sides_of_the_sync_unless_config_leaves_it_out(deployed):
    cut = sum(found_probabilities(deployed)) / 2  # between the lowest and the highest
    outcome = freshness.check(deployed, cut)
    found = outcome.value
    wrong = {name: len(parity.differences(frame)) for name, frame in found.compared.items()}
    assert wrong["before the sync"] > 0 == wrong["after the sync"]
    assert outcome.figures["mismatches before the sync"] == wrong["before the sync"]
    assert found.ages["days behind snapshot"].tolist() == [1.0, 0.0]
    most = found.figures["customer_id"]
    assert found.changes[most] == pytest.approx(
        (found.figures["probability_before"], found.figures["probability_after"]), abs=1e-6)
    with pytest.raises(NotFound):  # the copy is gone
        deployed.bigquery.get_dataset(
            planted.beside(deployed, freshness.NAME).settings.dataset)

    before, after = (found.served[name] for name in ("before", "after"))
    assert len(before.at) == len(after.at) == len(found.changes)
    assert parity.figures(after.compared)["mismatches"] == 0
    stale = parity.differences(found.compared["before the sync"])
    stale = stale[stale["customer_id"].isin(found.changes)]
    assert len(stale) and keys(stale) == keys(parity.differences(before.compared))
    assert before.decided == [
        (old <= cut, new <= cut) for old, new in found.changes.values()]
    assert after.decided == [(new <= cut, new <= cut) for _, new in found.changes.values()]

    outcome = freshness.check(switched_off(deployed, "freshness"), cut)
    assert outcome.value == freshness.Freshness()
    assert outcome.figures == {"left out by": "targets.local.freshness: false"}
