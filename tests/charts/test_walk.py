"""The figures: each says in its title what is in the data, keeps its text apart, and repeats."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib.charts import walk as charts
from lib.charts.style import DARK_ORANGE
from tests.charts.conftest import check_texts, finding, plain

ROOT = Path(__file__).resolve().parents[2]
DAY = timedelta(days=1)
END = date(2026, 7, 3)
LABELS = [END - (60 + 7 * week) * DAY for week in range(52, -1, -1)]
FEATURES = [
    {"name": "orders_90d", "unit": "orders"}, {"name": "revenue_90d", "unit": "USD"},
    {"name": "avg_order_value_90d", "unit": "USD"}, {"name": "return_rate_90d", "unit": "share"},
    {"name": "distinct_categories_90d", "unit": "categories"},
    {"name": "tenure_days", "unit": "days"},
]


def daily_orders(burst=4):
    days = [END - n * DAY for n in range(900, -1, -1)]
    counts = [200 + (7 * n) % 31 for n in range(894)] + [200 * burst] * 6 + [3]
    return pd.DataFrame({"order_date": days, "orders": counts})


def label_rates():
    at = pd.to_datetime(LABELS, utc=True)
    return pd.DataFrame({"label_timestamp": at, "rows": 5000 + 90 * np.arange(53),
                         "positive_rate": np.linspace(0.936, 0.855, 53)})


def feature_sample(rows=400):
    rng = np.random.default_rng(1)
    orders = rng.choice([0, 1, 2], rows, p=[0.7, 0.2, 0.1])
    revenue = np.where(orders > 0, rng.lognormal(4, 1, rows), 0)
    known = orders > 0
    return pd.DataFrame({
        "orders_90d": orders, "revenue_90d": revenue,
        "avg_order_value_90d": np.where(known, revenue / np.maximum(orders, 1), np.nan),
        "return_rate_90d": np.where(known, rng.choice([0, 0.5, 1], rows), np.nan),
        "distinct_categories_90d": orders, "tenure_days": rng.integers(1, 2700, rows)})


def one_customer(**changed):
    at = [datetime(2026, 7, 3, tzinfo=UTC) - 7 * week * DAY for week in range(61, -1, -1)]
    return {
        "orders": [datetime(2026, 3, 20, 9, tzinfo=UTC), datetime(2026, 5, 20, 8, tzinfo=UTC),
                   datetime(2026, 7, 3, 0, 20, tzinfo=UTC)],
        "snapshots": pd.DataFrame({"feature_timestamp": at, "orders_90d": 1, "revenue_90d": 99.5}),
        "label_timestamp": datetime(2026, 5, 4, tzinfo=UTC),
        "chosen_timestamp": datetime(2026, 5, 1, tzinfo=UTC),
        "horizon_days": 60, "customer_id": "4711", **changed}


def splits(valid_from=date(2025, 12, 1)):
    return pd.DataFrame([
        ("train", date(2025, 5, 5), date(2025, 9, 29), 165_526, 0.934),
        ("valid", valid_from, date(2026, 1, 12), 25_925, 0.904),
        ("test", date(2026, 3, 16), date(2026, 5, 4), 36_071, 0.872),
    ], columns=["split", "first", "last", "rows", "positive_rate"])


def curves():
    x = np.linspace(0, 1, 50)
    churned, stayed = np.zeros(50, int), np.zeros(50, int)
    churned[40:] = [100, 100, 200, 300, 400, 600, 900, 1200, 800, 400]
    stayed[38:48] = [50, 60, 80, 90, 100, 90, 60, 30, 20, 20]
    return {
        "roc": {"fpr": list(x), "tpr": list(x ** 0.4)},
        "pr": {"recall": list(x), "precision": list(1 - 0.13 * x)},
        "calibration": {"mean_predicted": [0.80, 0.90, 0.95], "observed": [0.70, 0.91, 0.96],
                        "count": [100, 200, 200]},
        "histogram": {"edges": list(np.linspace(0, 1, 51)), "label_0": list(stayed),
                      "label_1": list(churned)},
        "importance": {"feature": ["orders_30d", "tenure_days", "orders_lifetime", "revenue_30d"],
                       "mean": [-0.0002, 0.214, 0.04, 0.001], "std": [0.001, 0.005, 0.009, 0.002]},
    }


METRICS = {"roc_auc": 0.7382, "pr_auc": 0.9494, "accuracy": 0.8724, "positive_rate": 0.8724,
           "rows": 36_071, "baseline": {"roc_auc": 0.5, "pr_auc": 0.8724, "accuracy": 0.8724}}
PREDICTIONS = pd.DataFrame({"customer_id": [str(n) for n in range(101, 113)],
                            "churn_probability": np.linspace(0.7, 0.97, 12)})


def checks():
    rates = [(f"positive_rate_at_{day}", rate, 0.8, 0.97, "pass")
             for day, rate in zip(LABELS, label_rates()["positive_rate"], strict=True)]
    others = [("feature_rows", 3_104_220, 1, 1e12, "pass"), ("label_keys_doubled", 0, 0, 0, "pass"),
              ("join_coverage", 0.98, 0.95, 1, "pass"), ("days_of_history", 364, 358, 365, "pass")]
    return pd.DataFrame(rates + others, columns=["check", "value", "low", "high", "status"])


def served(probability=0.9312, features=None, customer_id="4711"):
    return {"customer_id": customer_id, "probability": probability,
            "features": {"orders_90d": 2, "revenue_90d": 125.03, "avg_order_value_90d": None}
            if features is None else features,
            "percentiles": {"orders_90d": 0.9, "revenue_90d": 0.7, "avg_order_value_90d": np.nan}}


STEPS = {"data_load": "SKIPPED", "train": "SUCCEEDED", "eval": "SUCCEEDED", "approve": "SUCCEEDED"}
CHARTS = {
    "orders_over_time": lambda: charts.orders_over_time(daily_orders(), LABELS, 60),
    "labels_per_snapshot": lambda: charts.labels_per_snapshot(label_rates(), 60, (0.8, 0.97)),
    "label_distribution": lambda: charts.label_distribution(187_149, 169_906, 60),
    "feature_distributions": lambda: charts.feature_distributions(feature_sample(), FEATURES),
    "point_in_time_pick": lambda: charts.point_in_time_pick(**one_customer()),
    "point_in_time_pick, an early label": lambda: charts.point_in_time_pick(**one_customer(
        label_timestamp=datetime(2025, 5, 5, tzinfo=UTC),
        chosen_timestamp=datetime(2025, 5, 2, tzinfo=UTC))),
    "split_timeline": lambda: charts.split_timeline(splits(), 60),
    "roc_and_pr": lambda: charts.roc_and_pr(curves(), METRICS),
    "calibration": lambda: charts.calibration(curves(), METRICS),
    "feature_importance": lambda: charts.feature_importance(curves()),
    "probability_histogram": lambda: charts.probability_histogram(curves()),
    "predicted_probabilities": lambda: charts.predicted_probabilities(PREDICTIONS, 0.872),
    "served_features": lambda: charts.served_features([served()], 0.8714, 90),
    "served_features, two": lambda: charts.served_features(
        [served(0.7), served(customer_id="4712")], 0.8714, 90),
    "checks_overview": lambda: charts.checks_overview(checks()),
    "architecture": charts.architecture,
    "pipeline_graph": lambda: charts.pipeline_graph(STEPS),
}


@cache
def drawn(name):
    """(the chart, its PNG), drawn once for all tests."""
    chart = CHARTS[name]()
    return chart, chart._repr_png_()


# --- every figure -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHARTS)
def test_same_input_gives_the_same_bytes_whatever_the_users_settings(name):
    first = drawn(name)[1]
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "lines.linewidth": 9}):
        assert CHARTS[name]()._repr_png_() == first
    assert first.startswith(b"\x89PNG") and b"Software" not in first


@pytest.mark.parametrize("name", CHARTS)
def test_text_lies_inside_the_figure_is_large_enough_and_does_not_overlap(name):
    check_texts(drawn(name)[0])


@pytest.mark.parametrize("name", CHARTS)
def test_a_log_axis_says_so_and_coloured_text_can_be_read(name):
    chart, _ = drawn(name)
    for axes in chart.axes:
        assert axes.get_xscale() == "linear" or "log scale" in axes.get_xlabel()
    for text in chart.findobj(matplotlib.text.Text):
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
                            for c in matplotlib.colors.to_rgb(text.get_color()))
        contrast = 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)  # WCAG, on white
        assert contrast >= 4.5, text.get_text()


@pytest.mark.parametrize("name", ["orders_over_time", "labels_per_snapshot", "served_features"])
def test_a_figure_shown_twice_is_the_same(name):
    chart, first = drawn(name)
    assert chart._repr_png_() == first


def test_shows_without_pyplot_and_is_described_by_its_finding():
    chart, _ = drawn("label_distribution")
    assert isinstance(chart, Figure)
    assert repr(chart) == f"<Figure: {finding(chart)}>"
    code = ("import sys; from lib.charts import walk as charts;"
            "charts.label_distribution(9, 8, 60)._repr_png_();"
            "sys.exit('matplotlib.pyplot' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("draw, missing", [
    (lambda: charts.orders_over_time(daily_orders().iloc[:0], LABELS, 60), "daily orders"),
    (lambda: charts.orders_over_time(daily_orders()[["orders"]], LABELS, 60), "order_date"),
    (lambda: charts.orders_over_time(daily_orders(), [], 60), "snapshots"),
    (lambda: charts.orders_over_time(daily_orders(), [END], 60), "60 days older"),
    (lambda: charts.labels_per_snapshot(label_rates().iloc[:0], 60, (0, 1)), "per snapshot"),
    (lambda: charts.label_distribution(0, 0, 60), "label rows"),
    (lambda: charts.feature_distributions(feature_sample().iloc[:0], FEATURES), "orders_90d"),
    (lambda: charts.feature_distributions(feature_sample(), []), "features"),
    (lambda: charts.feature_distributions(feature_sample(), [{"name": "age"}]), "age"),
    (lambda: charts.point_in_time_pick(**one_customer(orders=[])), "orders"),
    (lambda: charts.point_in_time_pick(**one_customer(snapshots=pd.DataFrame())), "snapshots"),
    (lambda: charts.split_timeline(splits().iloc[:0], 60), "splits"),
    (lambda: charts.roc_and_pr({}, METRICS), "fpr in roc"),
    (lambda: charts.calibration({"calibration": {}}, METRICS), "mean_predicted in calibration"),
    (lambda: charts.feature_importance({"importance": {"feature": []}}), "feature in importance"),
    (lambda: charts.probability_histogram({**curves(), "histogram": {
        "edges": [0, 0.5, 1], "label_1": [1, 2], "label_0": [0, 0]}}), "one class"),
    (lambda: charts.predicted_probabilities(PREDICTIONS.iloc[:0], 0.9), "predictions"),
    (lambda: charts.served_features([served(features={})], 0.8714, 90), "features"),
    (lambda: charts.served_features([], 0.8714, 90), "customers"),
    (lambda: charts.checks_overview(checks().iloc[:0]), "checks"),
])
def test_empty_input_is_refused_by_name(draw, missing):
    with pytest.raises(ValueError, match=missing):
        draw()


# --- what each one finds ----------------------------------------------------------------------


def test_orders_say_until_when_churn_is_known_and_what_the_last_week_is():
    chart = drawn("orders_over_time")[0]
    assert "up to 4 May 2026" in finding(chart) and "60 days" in finding(chart)
    text = " ".join(plain(t.get_text()) for t in chart.axes[0].texts)
    daily = daily_orders()["orders"]
    usual, burst = daily[-98:-8].median(), daily[-8:-1].mean()
    assert f"{burst:,.0f} orders a day, {burst / usual:.1f} times the usual {usual:,.0f}" in text
    assert "(4 May 2026, 3 Jul 2026]" in text


def test_the_jump_of_the_last_week_does_not_set_the_axis():
    high, daily = drawn("orders_over_time")[0].axes[0].get_ylim()[1], daily_orders()["orders"]
    assert max(daily[:-8]) < high < 2 * max(daily[:-8]) < max(daily)


def test_orders_without_a_jump_speak_of_none():
    chart = charts.orders_over_time(daily_orders(burst=1), LABELS, 60)
    assert not any("full days" in t.get_text() for t in chart.axes[0].texts)


@pytest.mark.parametrize("burst, cut", [(1.75, False), (4, True)])
def test_only_orders_beyond_the_axis_are_said_to_be(burst, cut):
    chart = charts.orders_over_time(daily_orders(burst), LABELS, 60)
    said = " ".join(t.get_text() for t in chart.axes[0].texts)
    assert "full days" in said and ("is beyond the axis" in said) == cut
    assert (daily_orders(burst)["orders"].max() > chart.axes[0].get_ylim()[1]) == cut


def test_orders_ignore_snapshots_that_are_too_late_for_a_label():
    early = [day for day in LABELS if day < date(2026, 4, 1)]
    chart = charts.orders_over_time(daily_orders(), [*early, END - 59 * DAY, END], 60)
    assert f"up to {early[-1].day} {early[-1]:%b %Y}" in finding(chart)


def test_label_rate_is_weighted_by_rows_and_outliers_are_counted():
    frame = label_rates()
    rate = (frame["positive_rate"] * frame["rows"]).sum() / frame["rows"].sum()
    text = finding(charts.labels_per_snapshot(frame, 60, (0.8, 0.97)))
    assert text.startswith(f"{rate:.1%} of active customers place no order in the next 60 days")
    assert "53 of 53 snapshots lie within the accepted 80% to 97%" in text
    inside = sum(0.885 <= r <= 0.97 for r in frame["positive_rate"])
    assert f"{inside} of 53" in finding(charts.labels_per_snapshot(frame, 60, (0.885, 0.97)))


def test_labels_of_a_single_snapshot_can_be_drawn():
    chart = charts.labels_per_snapshot(label_rates().iloc[:1], 60, (0.8, 0.97))
    assert chart._repr_png_() and finding(chart).startswith("93.6%")


@pytest.mark.parametrize("positives, share, same", [(90, "90.0%", "90.0%"), (30, "30.0%", "70.0%")])
def test_label_distribution_names_the_constant_answers_accuracy(positives, share, same):
    text = finding(charts.label_distribution(100, positives, 60))
    assert text.startswith(share) and f"right {same} of the time" in text


def test_features_count_those_that_are_mostly_0_or_null():
    sample = feature_sample()
    empty = sum((sample[f["name"]].isna() | (sample[f["name"]] == 0)).mean() > 0.5
                for f in FEATURES)
    chart = charts.feature_distributions(sample, FEATURES)
    assert finding(chart).startswith(f"{empty} of {len(FEATURES)} features") and empty == 5
    shares = [round(sum(bar.get_height() for bar in axes.patches), 2) for axes in chart.axes[:6]]
    known = sample.notna().mean().round(2)
    positive = (sample["revenue_90d"] > 0).mean()
    assert shares[0] == shares[5] == 1 and shares[3] == known["return_rate_90d"]
    assert shares[1] == pytest.approx(positive, abs=0.02)  # the far tails lie outside the axis
    assert f"NULL {1 - known['return_rate_90d']:.0%}" in chart.axes[3].get_xlabel()


def test_a_feature_that_is_null_everywhere_can_be_drawn():
    sample = feature_sample().assign(return_rate_90d=None, revenue_90d=0.0)
    assert "of 6 features" in finding(charts.feature_distributions(sample, FEATURES))


def test_pick_counts_the_future_and_works_out_the_label():
    chart = drawn("point_in_time_pick")[0]
    assert "label of 4 May 2026 gets the snapshot of 1 May 2026" in finding(chart)
    assert "the 9 later ones" in finding(chart)
    text = " ".join(plain(t.get_text()) for t in chart.axes[0].texts)
    assert "1 order, not churned" in text  # the order on 3 July comes after the window's end
    assert "taken: 1 May 2026" in text and "not taken: 3 Jul 2026" in text
    late = one_customer(orders=[datetime(2026, 5, 4, tzinfo=UTC)])  # at T: not after it
    texts = charts.point_in_time_pick(**late).axes[0].texts
    assert any("0 orders, churned" in t.get_text() for t in texts)


@pytest.mark.parametrize("chosen", [datetime(2026, 5, 8, tzinfo=UTC),
                                    datetime(2026, 4, 24, tzinfo=UTC)])
def test_pick_refuses_a_snapshot_that_is_not_the_newest_known(chosen):
    with pytest.raises(ValueError, match="not the newest snapshot"):
        charts.point_in_time_pick(**one_customer(chosen_timestamp=chosen))


def test_splits_tell_whether_label_windows_overlap():
    least = min((date(2025, 12, 1) - date(2025, 9, 29)).days,
                (date(2026, 3, 16) - date(2026, 1, 12)).days)
    text = finding(drawn("split_timeline")[0])
    assert "36,071 later rows" in text and f"at least {least} days" in text
    assert "no label window reaches" in text
    text = finding(charts.split_timeline(splits(valid_from=date(2025, 11, 3)), 60))
    assert "at least 35 days" in text and "OVERLAP" in text


def test_roc_and_pr_stand_beside_their_baselines():
    text = finding(drawn("roc_and_pr")[0])
    assert "0.738 against 0.50" in text and "0.949 against a base rate of 0.872" in text


def test_calibration_weighs_bins_by_rows():
    off = (0.10 * 100 + 0.01 * 200 + 0.01 * 200) / 500
    lean = (0.10 * 100 - 0.01 * 200 - 0.01 * 200) / 500
    text = finding(drawn("calibration")[0])
    assert f"differ by {100 * off:.1f}" in text and f"{100 * lean:.1f} points too high" in text


def test_calibration_has_equal_axes():
    axes = drawn("calibration")[0].axes[0]
    assert axes.get_xlim() == axes.get_ylim() and axes.get_aspect() == 1


def test_importance_is_sorted_and_counts_the_features_that_do_nothing():
    chart = drawn("feature_importance")[0]
    assert finding(chart).startswith("tenure_days") and "0.214" in finding(chart)
    assert "next: 0.040" in finding(chart) and "2 of 4 do not" in chart.texts[1].get_text()
    assert [t.get_text() for t in chart.axes[0].get_yticklabels()] == [
        "tenure_days", "orders_lifetime", "revenue_30d", "orders_30d"]
    assert chart.axes[0].texts[-1].get_text() == "0.000"  # and not -0.000


def test_histogram_cuts_where_the_classes_are_furthest_apart():
    bins = curves()["histogram"]

    def below(label, cut):
        return sum(bins[label][:cut]) / sum(bins[label])

    best = max(range(1, 51), key=lambda cut: below("label_0", cut) - below("label_1", cut))
    text = finding(drawn("probability_histogram")[0])
    assert f"below {bins['edges'][best]:.2f}" in text
    assert f"{below('label_0', best):.0%} of those who came back" in text
    assert f"only {below('label_1', best):.0%} of those who churned" in text


def test_predictions_are_counted_against_the_base_rate():
    values = PREDICTIONS["churn_probability"]
    base_rate = values[3] + 0.004
    chart = charts.predicted_probabilities(PREDICTIONS, base_rate)
    assert finding(chart) == ("8 of 12 customers are more likely to churn than the base rate of "
                              f"{base_rate:.1%}, 3 less likely, 1 within half a point of it")
    assert chart.axes[0].get_yticklabels()[0].get_text() == "customer 112"
    markers = {line.get_color(): len(line.get_xdata()) for line in chart.axes[0].lines}
    assert markers == {charts.ORANGE: 8, charts.BLUE: 3, charts.GREY: 1}


@pytest.mark.parametrize("probability, text, colour", [
    (0.9312, "6.0 points above the base rate", DARK_ORANGE),
    (0.5, "37.1 points below the base rate", charts.BLUE),
    (0.8764, "at the base rate", charts.GREY), (0.8664, "at the base rate", charts.GREY),
    (0.8654, "0.6 points below the base rate", charts.BLUE),
    # The numbers shown are 87.1% and 87.8%, so the difference shown is theirs: 0.7, not 0.6.
    (0.8775, "0.7 points above the base rate", DARK_ORANGE)])
def test_card_compares_with_the_base_rate_and_shows_null(probability, text, colour):
    chart = charts.served_features([served(probability)], 0.8714, 90)
    assert finding(chart) == f"Customer 4711: churn probability {probability:.1%}, {text}"
    gauge, values = chart.axes
    assert {"2", "125.03", "NULL"} <= {t.get_text() for t in values.texts}
    assert [t.get_color() for t in gauge.texts if t.get_text() == f"{probability:.1%}"] == [colour]


def test_two_customers_are_shown_side_by_side():
    chart = drawn("served_features, two")[0]
    assert finding(chart) == (
        "Customer 4711: churn probability 70.0%, 17.1 points below the base rate; customer 4712: "
        "churn probability 93.1%, 6.0 points above the base rate")
    assert "an order in the last 90 days" in plain(chart.texts[1].get_text())


def test_checks_name_what_fails_first_and_mark_it_by_more_than_colour():
    assert finding(drawn("checks_overview")[0]) == "All 57 checks pass"
    frame = checks()
    frame.loc[3, ["value", "status"]] = [0.79, "warn"]
    frame.loc[55, ["value", "status"]] = [0.91, "fail"]
    frame.loc[53, ["value", "status"]] = [None, "fail"]
    chart = charts.checks_overview(frame)
    chart._repr_png_()
    assert finding(chart) == ("3 of 57 checks do not pass: join_coverage, feature_rows, "
                              f"positive_rate_at_{LABELS[3]}")
    labels = [t.get_text() for t in chart.axes[0].get_yticklabels()]
    assert labels[:5] == ["The join", "join_coverage", "The features", "feature_rows",
                          "days_of_history"]
    assert labels[5:7] == ["The labels", "positive_rate, each snapshot (53)"]
    markers = [(line.get_marker(), line.get_xdata()[0]) for line in chart.axes[0].lines]
    assert sorted(m for m, _ in markers if m != "o") == ["X", "X", "^"]
    assert all((m == "o") == (0 <= x <= 1) for m, x in markers)


def test_architecture_names_every_part():
    text = {plain(t.get_text()) for t in drawn("architecture")[0].axes[0].texts}
    assert {"train_dataset", "Feature Group", "Feature View", "Online Store", "Model Registry",
            "Endpoint", "customer_id", "fetch", "predict", "churn probability"} <= text


def test_pipeline_graph_tells_whether_the_model_passed():
    assert finding(drawn("pipeline_graph")[0]) == "The model passed the gate"
    stopped = charts.pipeline_graph({**STEPS, "approve": "NOT_TRIGGERED"})
    assert finding(stopped) == "The model did not pass: nothing is registered"
    assert "\u2013 not triggered" in {t.get_text() for t in stopped.axes[0].texts}
