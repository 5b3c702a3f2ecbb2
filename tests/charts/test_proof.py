"""The proof's charts: the title is the finding, same input same bytes, nothing is refused."""

import re

import pandas as pd
import pytest

from lib.charts import proof as charts
from tests.charts.conftest import check_texts

LEAKAGE = {"rows": 900, "customers": 300, "groups": 8, **{
    kind: {key: {"value": value, "low": 0.95 * value, "high": 1.05 * value}
           for key, value in values.items()}
    for kind, values in {
        "orders": {"promised": 404, "kept": 171, "honest": 299, "chance": 123},
        "roc_auc": {"promised": 0.78, "kept": 0.62, "honest": 0.73}}.items()}}
LOST = {"value": 233, "low": 210, "high": 256}
LADDER = {"leaks": {
    "latest": {"orders": {**LEAKAGE["orders"], "promised - kept": LOST}},
    "split": {"orders": {**LEAKAGE["orders"], "promised - kept": {**LOST, "low": -20}}}}}
COLUMNS = pd.DataFrame({
    "feature": ["orders_lifetime", "tenure_days"], "differs": [0.3, 1.0],
    "honest_roc_auc": [0.51, 0.70], "naive_roc_auc": [0.79, 0.71], "gain": [0.28, 0.01]})
ROW = {"orders_90d": 1, "orders_lifetime": 1, "days_since_last_order": 3}
TIMELINE = {
    "customer_id": "7", "label": 0, "horizon_days": 60, "window_orders": 1,
    "orders": [pd.Timestamp("2026-04-20", tz="UTC"), pd.Timestamp("2026-05-20", tz="UTC")],
    "label_timestamp": pd.Timestamp("2026-05-04", tz="UTC"),
    "honest": {**ROW, "feature_timestamp": pd.Timestamp("2026-05-01", tz="UTC")},
    "naive": {**ROW, "feature_timestamp": pd.Timestamp("2026-07-03", tz="UTC")}}
OUTCOMES = ["equal", "different", "null_online", "null_offline", "missing", "equal"]
BROKEN = pd.DataFrame({
    "customer_id": ["1", "1", "2", "2", "3", "3"], "feature": ["a", "b"] * 3,
    "outcome": OUTCOMES})
HEALTHY = BROKEN.assign(outcome="equal")

CASES = {
    "leakage_promise": (
        lambda: charts.leakage_promise(LEAKAGE),
        "Of 1,000 contacted customers, the naive join promises 404 orders; production would "
        "see 171 (point-in-time model: 299; at random: 123)"),
    "future_let_in": (
        lambda: charts.future_let_in(
            {"days": [0, 7, 60], "promised": [299, 340, 1000], "kept": [299, 229, 148]}),
        "With 60 days of future in the features the test promises 1,000 orders of 1,000 "
        "customers, and production would see 148; without any, both are 299"),
    "leak_ladder": (
        lambda: charts.leak_ladder(LADDER, {
            "latest": "latest features, whatever the label's time", "split": "random split"}),
        "1 of 2 leaks promise orders that production will not see"),
    "leaking_columns": (
        lambda: charts.leaking_columns(COLUMNS),
        "1 of 2 columns leak; alone, orders_lifetime scores 0.79 with the future and 0.51 "
        "without"),
    "naive_timeline": (
        lambda: charts.naive_timeline(TIMELINE),
        "Customer 7: the naive row has already counted the order that the label asks about"),
    "parity_healthy": (
        lambda: charts.parity_grid(HEALTHY), "All 6 values are equal online and offline"),
    "parity_panels": (
        lambda: charts.parity_grid({"before the sync": BROKEN, "after the sync": HEALTHY}),
        "Before the sync: 4 of 6 values, of 3 customers, are not what training would see; after "
        "the sync: 6 values are equal online and offline"),
    "faults_caught": (
        lambda: charts.faults_caught({"healthy": HEALTHY, "no dense": BROKEN}),
        "The parity check catches 1 of 1 planted faults, and names the columns; the healthy "
        "store has none"),
    "prediction_change": (
        lambda: charts.prediction_change({"1": (0.9, 0.7), "2": (0.8, 0.85)}),
        "Customer 1: 90.0% on old features, 70.0% after the sync"),
    "latency_percentiles": (
        lambda: charts.latency_percentiles({
            charts.call_name("fetch", 1): [2.0, 2.0],
            charts.call_name("features by SQL", 1): [40.0, 40.0]}),
        "Fetching features takes 2 ms; computing the same ones by SQL 40 ms: 20 times as long"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_title_is_the_finding_the_bytes_repeat_and_text_keeps_its_place(name):
    draw, title = CASES[name]
    chart = draw()
    assert repr(chart) == f"<Figure: {title}>"
    assert chart._repr_png_() == draw()._repr_png_()
    check_texts(chart)


@pytest.mark.parametrize("draw", [
    charts.parity_grid, charts.faults_caught, charts.prediction_change,
    lambda nothing: charts.leak_ladder(nothing, {})])
def test_what_was_left_out_of_a_run_is_a_sentence(draw):
    assert "left out" in repr(draw(None))


@pytest.mark.parametrize("draw", [
    lambda: charts.leakage_promise({**LEAKAGE, "orders": {}}),
    lambda: charts.leaking_columns(COLUMNS[:0]),
    lambda: charts.naive_timeline({**TIMELINE, "orders": []}),
    lambda: charts.parity_grid(HEALTHY[:0]), lambda: charts.parity_grid({}),
    lambda: charts.faults_caught({}), lambda: charts.prediction_change({}),
    lambda: charts.latency_percentiles({}), lambda: charts.latency_percentiles({"fetch": []}),
])
def test_nothing_to_draw_is_refused(draw):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw()


def test_as_svg_a_chart_is_cut_below_its_title():
    chart = CASES["leakage_promise"][0]()
    width, height = map(float, re.search(
        r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart.svg()).groups())
    assert width == 72 * chart.get_figwidth()
    assert 72 * (chart.get_figheight() - 1) < height < 72 * (chart.get_figheight() - 0.5)
