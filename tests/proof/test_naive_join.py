"""What the naive join sees: the columns by hand, and one customer's two rows."""

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lib import warehouse
from lib.charts import proof as proof_charts
from lib.proof import naive_join


@pytest.fixture(scope="module")
def frames(proof):
    return warehouse.read_table(proof, "train"), warehouse.read_table(proof, "train_naive")


def test_one_column_alone_against_pairs_counted_one_by_one(frames):
    train, _ = frames
    label = "label_churn_60d"
    # A table comes back in any order; rows without a snapshot have no value to compare.
    rows = train.dropna(subset="tenure_days").sort_values(["customer_id", "label_timestamp"])
    few = rows.sample(400, random_state=3)
    values = few["tenure_days"].astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in values[few[label] == 1]
             for b in values[few[label] == 0]]
    area = sum(pairs) / len(pairs)
    assert naive_join.separation(values, few[label]) == pytest.approx(max(area, 1 - area))
    known = few["avg_order_value_90d"].astype(float).fillna(-1.0)  # below every real value
    area = roc_auc_score(few[label], known)
    got = naive_join.separation(few["avg_order_value_90d"].astype(float), few[label])
    assert got == pytest.approx(max(area, 1 - area))


def test_the_columns_that_count_later_orders_leak(proof, frames):
    columns = naive_join.columns(
        naive_join.pair(*frames), proof.settings.feature_names, "label_churn_60d")
    assert sorted(columns["feature"]) == sorted(proof.settings.feature_names)
    table = columns.set_index("feature")
    assert table.loc["orders_lifetime", "gain"] > 0.15
    assert abs(table.loc["tenure_days", "gain"]) < 0.1  # knows no order
    assert columns["gain"].is_monotonic_decreasing
    same = naive_join.columns(naive_join.pair(frames[0], frames[0]), proof.settings.feature_names,
                           "label_churn_60d")
    assert (same["gain"] == 0).all() and (same["differs"] == 0).all()


def test_the_timeline_shows_the_order_that_only_the_naive_row_knows(proof, frames):
    example = naive_join.timeline(proof, naive_join.pair(*frames))
    label, honest, naive = example["label_timestamp"], example["honest"], example["naive"]
    until = label + pd.Timedelta(days=60)
    inside = [t for t in example["orders"] if label < t <= until]
    assert example["label"] == 0 and example["window_orders"] == len(inside) >= 1
    assert honest["feature_timestamp"] <= label < naive["feature_timestamp"]
    for row in (honest, naive):
        known = sum(t <= row["feature_timestamp"] for t in example["orders"])
        assert row["orders_lifetime"] == known
    table = naive_join.timeline_table(example)
    assert list(table.columns) == ["known at the time", "naive join"]
    assert table.loc["orders_lifetime"].tolist() == [
        f"{honest['orders_lifetime']:g}", f"{naive['orders_lifetime']:g}"]


def test_data_without_such_a_customer_lack_one_picture_and_end_no_run(proof, frames):
    pairs = naive_join.pair(*frames)
    example = naive_join.timeline(proof, pairs[pairs["orders_90d"] != 1])
    assert "a customer with one order" in example["lacks"]
    assert naive_join.timeline_table(example).empty
    shown = repr(proof_charts.naive_timeline(example))
    assert "No chart: these data lack a customer with one order" in shown
