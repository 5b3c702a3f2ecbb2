"""Each planted fault is caught, in the customers and features that plain Python expects."""

from datetime import timedelta

import pandas as pd
import pytest
from google.api_core.exceptions import NotFound

from lib import feature_store, lookups, warehouse
from lib.proof import parity, planted
from tests.proof.conftest import switched_off

DAY = timedelta(days=1)
SEOUL = timedelta(hours=9)
WINDOWED = {"orders_90d", "revenue_90d", "avg_order_value_90d", "distinct_products_90d",
            "distinct_categories_90d", "return_rate_90d"}


@pytest.fixture(scope="module")
def checked(proof):
    """Every fault planted, beside the healthy store."""
    return planted.check(proof, parity.check(proof, planted.choose(proof, 40)).value)


@pytest.fixture(scope="module")
def compared(checked):
    """Every fault's comparison, by its function's name."""
    return {fault.__name__: checked.value[name] for name, fault in planted.FAULTS.items()}


@pytest.fixture(scope="module")
def history(proof):
    """customer_id -> its order times, for the customers that the faults are planted in."""
    orders = warehouse.read_table(proof, "raw_orders")
    chosen = planted.choose(proof, proof.settings.checks.planted_customers)
    assert len(chosen) == proof.settings.checks.planted_customers
    return {customer: sorted(orders.loc[orders["customer_id"] == customer, "ordered_at"])
            for customer in chosen}


@pytest.fixture(scope="module")
def now(proof):
    return pd.Timestamp(lookups.newest_snapshot(proof))


def caught(compared, feature=None):
    bad = parity.differences(compared)
    return set(bad["customer_id"] if feature is None
               else bad.loc[bad["feature"] == feature, "customer_id"])


def test_dense_or_default_says_what_each_of_the_two_views_serves(proof, compared):
    for customer, served in compared["without_dense"].groupby("customer_id"):
        rows = lookups.customer_rows(proof, "features", customer).sample(frac=1, random_state=7)
        both = feature_store.dense_or_default(rows, proof.settings.feature_names)
        by_feature = served.set_index("feature")
        for column, seen in (("dense: true", "offline"), ("default", "online")):
            pd.testing.assert_series_equal(
                both[column].astype(float), by_feature[seen].loc[both.index].astype(float),
                check_names=False)


def test_the_silent_customer_of_the_notebooks_differs_between_the_two(proof):
    customer = lookups.silent_customer(proof)
    rows = lookups.customer_rows(proof, "features", customer)
    both = feature_store.dense_or_default(rows, proof.settings.feature_names)
    differ = both[both["dense: true"].isna() & both["default"].notna()]
    assert list(differ.index) == ["avg_order_value_90d", "return_rate_90d"]


def test_without_dense_a_null_is_served_as_an_old_value(proof, compared, history, now):
    compared = compared["without_dense"]
    silent = {c for c, times in history.items()
              if max(t for t in times if t <= now) <= now - 90 * DAY}
    assert len(silent) == 20
    for feature in ("avg_order_value_90d", "return_rate_90d"):
        assert caught(compared, feature) == silent
    bad = parity.differences(compared)
    assert set(bad["feature"]) == {"avg_order_value_90d", "return_rate_90d"}
    assert set(bad["outcome"]) == {"null_offline"}
    one = bad[bad["feature"] == "avg_order_value_90d"].iloc[0]
    rows = lookups.customer_rows(proof, "features", one["customer_id"])
    old = rows.dropna(subset="avg_order_value_90d").sort_values("feature_timestamp").iloc[-1]
    assert one["online"] == old["avg_order_value_90d"]
    assert old["feature_timestamp"] < now - 7 * DAY


def test_another_window_shows_in_those_with_an_order_between(compared, history, now):
    compared = compared["another_window"]
    between = {c for c, times in history.items()
               if any(now - 90 * DAY < t <= now - 60 * DAY for t in times)}
    assert between
    assert caught(compared) == between == caught(compared, "orders_90d")
    assert set(parity.differences(compared)["feature"]) <= WINDOWED
    bad = parity.differences(compared)
    row = bad[bad["feature"] == "orders_90d"].iloc[0]
    times = history[row["customer_id"]]
    assert row["online"] == sum(now - 60 * DAY < t <= now for t in times)
    assert row["offline"] == sum(now - 90 * DAY < t <= now for t in times)


def test_local_midnight_shows_in_whole_days(compared, history, now):
    compared = compared["local_midnight"]
    early = now - SEOUL

    def days(times, at):
        return (at - max(t for t in times if t <= at)) // DAY

    expected = {c for c, times in history.items()
                if times[0] > early or days(times, early) != days(times, now)}
    assert caught(compared, "days_since_last_order") == expected
    assert 5 < len(expected) < 40
    served = compared.dropna(subset="served_at")
    assert set(served["served_at"]) == {early}


def test_a_sync_that_never_ran_is_a_snapshot_behind(compared, history, now):
    compared = compared["never_synced"]
    assert caught(compared) == set(history)  # tenure alone moved for everybody
    before = now - 7 * DAY
    first_orders = {c for c, times in history.items() if times[0] > before}
    missing = compared[compared["outcome"] == "missing"]
    assert set(missing["customer_id"]) == first_orders
    served = compared.dropna(subset="served_at")
    assert set(served["served_at"]) == {before}
    tenure = served[served["feature"] == "tenure_days"]
    assert (tenure["diff"] == 7).all()


def test_the_table_names_a_customer_a_feature_and_both_values(proof, compared):
    healthy = parity.check(proof, lookups.served_customers(proof, 20)).value
    table = planted.table({"healthy": healthy, **compared}).set_index("fault")
    assert table.loc["healthy", ["customers", "values"]].tolist() == [0, 0]
    assert (table.drop("healthy")["customers"] > 0).all()
    example = table.loc["without_dense", "for example"]
    assert example.startswith("customer ") and "offline NULL" in example


def test_nothing_is_left_and_the_healthy_store_is_as_before(proof, compared):
    there = planted.beside(proof, "planted")
    with pytest.raises(NotFound):
        there.bigquery.get_dataset(there.settings.dataset)
    with pytest.raises(NotFound):
        there.registry.get_feature_group(name=feature_store.group_name(there))
    with pytest.raises(NotFound):
        there.online_admin.get_feature_view(name=feature_store.view_name(there))
    customers = planted.choose(proof, 40)
    assert parity.figures(parity.check(proof, customers).value)["mismatches"] == 0


def test_what_an_interrupted_run_left_is_no_obstacle(proof, compared):
    customers = planted.choose(proof, proof.settings.checks.planted_customers)
    there = planted.copy(proof, "planted", customers)  # and never removed
    planted.build_features(there)
    planted.serve(there)
    try:
        again = planted.plant(planted.copy(proof, "planted", customers), planted.without_dense,
                              planted.healthy_rows(proof))
    finally:
        planted.remove(proof, "planted")
    pd.testing.assert_frame_equal(again, compared["without_dense"])


def test_a_copy_without_a_mistake_is_equal(proof):
    customers = planted.choose(proof, 40)
    there = planted.copy(proof, "sound", customers)
    try:
        planted.build_features(there)
        planted.serve(there)
        offline = lookups.newest_rows(proof, customers)
        assert parity.differences(parity.compare(there, customers, offline)).empty
    finally:
        planted.remove(proof, "sound")


def test_a_mistake_that_does_not_fit_the_file_is_refused(proof):
    with pytest.raises(ValueError, match="does not say 'interval 91 day'"):
        planted.build_features(proof, ("interval 91 day", "interval 60 day"))


def test_check_plants_every_fault_unless_config_leaves_them_out(proof, checked):
    assert list(checked.value) == ["healthy", *planted.FAULTS]
    assert checked.figures["planted"] == checked.figures["caught"] == len(planted.FAULTS)
    assert planted.caught(checked.value) == {
        name: len(parity.differences(checked.value[name])) for name in planted.FAULTS}

    outcome = planted.check(switched_off(proof, "planted_faults"), checked.value["healthy"])
    assert outcome.value is None and planted.table(None) is None and planted.caught(None) == {}
    assert outcome.figures == {"left out by": "targets.local.planted_faults: false"}
