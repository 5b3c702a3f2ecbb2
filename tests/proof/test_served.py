"""Parity from the log: each request is compared with the row of its time, and every planted fault,
served through the log, shows in exactly its features."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from lib import endpoint, feature_store, lookups, served_log
from lib.errors import Needed
from lib.predict import Predictor
from lib.proof import parity, planted, served
from tests.proof.conftest import switched_off
from tests.proof.test_planted import WINDOWED

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
CUT = 0.9
NEVER = "a customer that neither side knows"


@pytest.fixture
def service(deployed, tmp_path, monkeypatch):
    """The endpoint; the log is an empty one."""
    monkeypatch.setattr(served_log, "RUNS", tmp_path)
    deployed.bigquery.delete_table(deployed.settings.table("served"), not_found_ok=True)
    return endpoint.connect(deployed)


def ask(cloud, customers):
    """Predict each; what the callers of `served` need to know of it."""
    began, predictor = datetime.now(UTC), Predictor(cloud)
    for customer in customers:
        with contextlib.suppress(feature_store.EntityNotServed):
            predictor.predict(customer)
    return began


def wrong(compared):
    return {(row.customer_id, row.feature, row.outcome)
            for row in parity.differences(compared).itertuples()}


ALL = {"days_since_last_order", "tenure_days", "orders_30d", "orders_90d", "revenue_30d",
       "revenue_90d", "avg_order_value_90d", "distinct_products_90d", "distinct_categories_90d",
       "return_rate_90d", "orders_lifetime"}


@pytest.mark.parametrize(("fault", "features"), [
    ("no dense", {"avg_order_value_90d", "return_rate_90d"}), ("60 days as 90d", WINDOWED),
    ("midnight in Seoul", ALL), ("never synced", ALL)])
def test_each_planted_fault_shows_in_exactly_its_features(deployed, service, fault, features):
    customers = planted.choose(deployed, deployed.settings.checks.planted_customers)
    try:
        copied = planted.copy(deployed, planted.NAME, customers)
        planted.FAULTS[fault](copied)
        began = ask(copied, [*customers, NEVER])
        expected = parity.compare(copied, customers, lookups.newest_rows(deployed, customers))
        offline = lookups.newest_rows(deployed, customers)
    finally:
        planted.remove(deployed, planted.NAME)
    # What the copy served, beside the healthy rows.
    served_log.load(deployed, served_log.path(copied.settings))
    found = served.compare(deployed, service, began, CUT)

    assert wrong(found.compared) == wrong(expected) != set()
    table = served.table(found).set_index("feature")
    assert (table[["equal", "differs", "missing"]].sum(axis=1) == len(customers)).all()
    shown = set(table.index[table["differs"] + table["missing"] > 0])
    assert shown <= features and shown == {feature for _, feature, _ in wrong(expected)}
    assert (fault == "no dense") <= (shown == features)
    missing = {customer for customer, _, outcome in wrong(expected) if outcome == "missing"}
    assert (table["missing"] == len(missing)).all()
    largest = expected[expected["outcome"] == "different"].groupby("feature")["diff"].max()
    assert table["largest difference"].to_dict() == {
        feature: pytest.approx(largest.get(feature, 0.0)) for feature in table.index}

    decided = dict(zip(found.compared["customer_id"].unique(), found.decided, strict=True))
    for customer, values in expected.groupby("customer_id"):
        online = dict(zip(values["feature"], values["online"], strict=True))
        vectors = [lookups.instance(deployed, offline.loc[customer])]
        if customer not in missing:
            vectors.append({name: lookups.instance(deployed, {**offline.loc[customer], **online})[
                name] for name in vectors[0]})
        after, *before = endpoint.predict(deployed, service, vectors)
        assert decided[customer] == (bool(before) and before[0] <= CUT, after <= CUT)


def test_a_request_is_compared_with_the_newest_snapshot_at_or_before_it(deployed, service):
    customer = lookups.served_customers(deployed, 1)[0]
    rows = lookups.customer_rows(deployed, "features", customer).sort_values("feature_timestamp")
    old, new = rows.iloc[-2], rows.iloc[-1]
    assert old["tenure_days"] != new["tenure_days"]
    times = {"old": [old["feature_timestamp"], new["feature_timestamp"] - SECOND],
             "new": [new["feature_timestamp"], new["feature_timestamp"] + 100 * DAY],
             "none": [rows["feature_timestamp"].iloc[0] - SECOND]}
    values = lookups.instance(deployed, new)
    expected = {}
    for which, moments in times.items():
        for moment in moments:
            served_log.append(deployed.settings, moment.to_pydatetime(), customer, values,
                              new["feature_timestamp"].to_pydatetime(), 0.5)
            expected[moment] = which
    served_log.load(deployed)
    found = served.compare(deployed, service, datetime(2019, 1, 1, tzinfo=UTC), CUT)
    assert sorted(found.at) == sorted(expected)
    tenure = found.compared[found.compared["feature"] == "tenure_days"]
    outcomes = dict(zip(found.at, tenure["outcome"], strict=True))
    assert {at: {"different": "old", "equal": "new", "missing": "none"}[outcome]
            for at, outcome in outcomes.items()} == expected
    by_time = dict(zip(found.at, found.decided, strict=True))
    assert all((by_time[at][1] is None) == (which == "none") for at, which in expected.items())
    later = found.since(new["feature_timestamp"])
    assert len(later.at) == 2 and parity.differences(later.compared).empty
    assert len(found.until(new["feature_timestamp"]).at) == 3


def test_nothing_differs_in_the_healthy_store_and_a_row_loaded_twice_counts_once(
        deployed, service):
    customers = planted.choose(deployed, 20)  # with and without orders, with NULLs
    began = ask(deployed, [*customers, customers[0], NEVER])
    outcome = served.check(Predictor(deployed), began, CUT)
    assert outcome.figures == {
        "requests": 21, "values": 21 * 11, "mismatches": 0, "decisions_changed": 0}
    assert {"differs": 0, "missing": 0, "equal": 21}.items() <= served.table(
        outcome.value).iloc[0].to_dict().items()

    assert served_log.load(deployed).figures == {"rows": 0}
    table = deployed.settings.table("served")
    assert deployed.bigquery.get_table(table).num_rows == 22
    served_log.path(deployed.settings).with_suffix(".loaded").unlink()  # killed before it
    assert served_log.load(deployed).figures == {"rows": 22}
    assert deployed.bigquery.get_table(table).num_rows == 44
    again = served.compare(deployed, service, began, CUT)
    assert served.figures(again) == outcome.figures


def test_without_a_log_nothing_is_compared_and_an_empty_one_is_an_error(deployed, service):
    off = switched_off(deployed, "served_log")
    began = ask(off, planted.choose(deployed, 20)[:2])
    assert not served_log.path(off.settings).exists()
    outcome = served.check(Predictor(off), began, CUT)
    assert outcome.value is None and served.table(None) is None and served.figures(None) == {}
    assert outcome.figures == {"left out by": "targets.local.served_log: false"}
    with pytest.raises(Needed, match="no answer of the predictor was logged since"):
        served.check(Predictor(deployed), began, CUT)


def test_the_campaigns_share_of_the_active_customers_is_contacted(deployed, service, monkeypatch):
    active = lookups.active_features(deployed)
    found = [endpoint.predict(deployed, service, [lookups.instance(deployed, row)])[0]
             for _, row in active.head(40).iterrows()]
    outcome = served.threshold(deployed, service, active.head(40))
    assert sorted(found)[3] == outcome.value  # a tenth: four of forty
    assert outcome.figures["scored"] == 40 and outcome.figures["contacted of these"] == 4

    # Of more than SCORED customers only so many: the same ones, whatever the order of the rows.
    monkeypatch.setattr(served, "SCORED", 20)
    asked = []
    monkeypatch.setattr(served, "_score", lambda _cloud, _service, vectors: asked.append(
        [list(vector.values()) for vector in vectors]) or [0.5] * len(vectors))
    for seed in range(2):
        served.threshold(deployed, service, active.sample(frac=1, random_state=seed))
    assert asked[0] == asked[1] and len(asked[0]) == 20
