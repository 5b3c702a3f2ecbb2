"""Latency: what is counted, many callers, and the request-time SQL gives the same features."""

import pandas as pd
import pytest

from lib import lookups, predict, warehouse
from lib.proof import latency

KEYS = {"fetch_p50", "fetch_p99", "predict_p50", "predict_p99"}


def test_the_same_features_by_sql_at_request_time(proof):
    now = lookups.newest_snapshot(proof)
    (statement,) = warehouse.render("request_time_features", proof.settings)
    rows = lookups.newest_features(proof).set_index("customer_id")
    silent = [*rows.index[rows["avg_order_value_90d"].isna()][:2]]
    returned = [*rows.index[rows["return_rate_90d"].fillna(0) > 0][:2]]
    for customer in [*lookups.served_customers(proof, 4), *silent, *returned]:
        found = warehouse.query(
            proof, statement, customer_id=customer, feature_timestamp=now).iloc[0]
        for name in [*proof.settings.feature_names, "feature_timestamp"]:
            stored = rows.loc[customer, name]
            assert pd.isna(found[name]) == pd.isna(stored), (customer, name)
            assert pd.isna(stored) or found[name] == stored, (customer, name)


def test_many_callers_are_each_counted_once(deployed):
    predictor = predict.Predictor(deployed)
    customers = lookups.served_customers(deployed, 5)
    outcome = latency.measure(predictor, customers, 30, callers=4)
    assert {kind: len(ms) for kind, ms in outcome.value.items()} == dict.fromkeys(
        latency.KINDS, 30)
    assert outcome.figures["callers"] == 4
    for fetch, ask, both in zip(*(outcome.value[kind] for kind in latency.KINDS), strict=True):
        assert 0 < fetch < both and both == pytest.approx(fetch + ask)


def test_compare_measures_what_config_says(deployed):
    settings = deployed.settings
    checks = settings.checks.model_copy(update={"latency_callers": 3, "latency_sql_requests": 2})
    few = settings.predict.model_copy(update={"latency_requests": 10})
    predictor = predict.Predictor(deployed)
    object.__setattr__(predictor.cloud, "settings", settings.model_copy(
        update={"checks": checks, "predict": few}))
    try:
        timings = latency.compare(predictor, lookups.served_customers(deployed, 3)).value
    finally:
        object.__setattr__(predictor.cloud, "settings", settings)
    assert len(timings["sql"]) == 2 and timings["callers"] == 3
    assert list(latency.series(timings)) == [
        "fetch, 1 caller", "predict, 1 caller", "both, 1 caller", "fetch, 3 callers",
        "predict, 3 callers", "both, 3 callers", "features by SQL, 1 caller"]
    assert [len(ms) for ms in latency.series(timings).values()] == [10] * 6 + [2]
    assert set(latency.figures(timings["alone"])) == KEYS
    assert set(latency.figures(timings["alone"], timings["together"], timings["sql"])) == KEYS | {
        "both_p50", "both_p99", "both_concurrent_p50", "both_concurrent_p99",
        "sql_features_p50", "sql_features_p99"}


def test_percentiles_are_those_of_the_samples():
    samples = {"fetch": [1.0, 2.0, 3.0], "predict": [10.0] * 3, "both": [11.0, 12.0, 13.0]}
    assert latency.figures(samples) == {
        "fetch_p50": 2.0, "fetch_p99": 2.98, "predict_p50": 10.0, "predict_p99": 10.0}
