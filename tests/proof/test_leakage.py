"""Leakage: the figures against the components' own programs, and the columns by hand."""

import dataclasses
import json

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lib import warehouse
from lib.errors import Needed
from lib.proof import leakage


@pytest.fixture(scope="module")
def frames(proof):
    return warehouse.read_table(proof, "train"), warehouse.read_table(proof, "train_naive")


def program(name, **arguments):
    """A component's main with a command line, in this process: starting one is slow."""
    words = [str(word) for key, value in arguments.items() for word in (f"--{key}", value)]
    assert leakage.load_component(name).main(words) == 0


def test_the_scores_are_those_of_the_components_programs(proof, tmp_path):
    outcome = leakage.measure(proof)
    value, settings = outcome.value, proof.settings
    assert outcome.status == "created" and len(value["runs"]) == 2
    label, features = settings.label.column, ",".join(settings.feature_names)
    for table, name in (("train_naive", "naive"), ("train", "honest")):
        program("data_load", table=settings.table(table), label_col=label, id_col="customer_id",
                time_col="label_timestamp", feature_cols=features, gap_days=60,
                sample_percent=settings.checks.leakage_sample_percent, seed=settings.train.seed,
                output_dataset=tmp_path / name)
        program("train", input_dataset=tmp_path / name, output_model=tmp_path / f"{name}_model",
                model_type=settings.train.model_type, label_col=label, feature_cols=features,
                params=json.dumps(settings.train.params[settings.train.model_type]),
                seed=settings.train.seed)
    for key, model, tested_on in (
        ("naive_roc_auc", "naive", "naive"),
        ("naive_model_on_honest_roc_auc", "naive", "honest"),
        ("point_in_time_roc_auc", "honest", "honest"),
    ):
        program("eval", input_dataset=tmp_path / tested_on, label_col=label,
                input_model=tmp_path / f"{model}_model", output_metrics=tmp_path / "metrics.json")
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert value["runs"][0][key] == pytest.approx(metrics["roc_auc"], abs=1e-6), key
    assert value["runs"][0] != value["runs"][1]
    assert value["naive_roc_auc"] > value["naive_model_on_honest_roc_auc"] + 0.1

    again = leakage.measure(proof)
    assert (again.status, again.value) == ("reused", value)


def test_mean_and_spread_are_over_the_runs():
    runs = [{"naive_roc_auc": score, "point_in_time_roc_auc": 0.7} for score in (0.7, 0.8, 0.9)]
    value = leakage.summarise(runs)
    assert value == {
        "naive_roc_auc": 0.8, "point_in_time_roc_auc": 0.7, "naive_roc_auc_spread": 0.1,
        "point_in_time_roc_auc_spread": 0.0, "runs": runs}
    assert leakage.summarise(runs[:1])["naive_roc_auc_spread"] == 0


def test_the_table_reads_the_same():
    value = leakage.summarise([{
        "naive_roc_auc": 0.8, "naive_model_on_honest_roc_auc": 0.6, "point_in_time_roc_auc": 0.7}])
    assert leakage.table(value)["ROC-AUC"].tolist() == [0.8, 0.6, 0.7, 0.5]


def test_a_sample_with_one_class_is_refused(proof):
    settings = proof.settings
    checks = settings.checks.model_copy(update={"leakage_sample_percent": 1})
    there = dataclasses.replace(proof, settings=settings.model_copy(update={"checks": checks}))
    with pytest.raises(Needed, match="leakage_sample_percent"):
        leakage.measure(there)


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
    assert leakage.separation(values, few[label]) == pytest.approx(max(area, 1 - area))
    known = few["avg_order_value_90d"].astype(float).fillna(-1.0)  # below every real value
    area = roc_auc_score(few[label], known)
    got = leakage.separation(few["avg_order_value_90d"].astype(float), few[label])
    assert got == pytest.approx(max(area, 1 - area))


def test_the_columns_that_count_later_orders_leak(proof, frames):
    columns = leakage.columns(
        leakage.pair(*frames), proof.settings.feature_names, "label_churn_60d")
    assert sorted(columns["feature"]) == sorted(proof.settings.feature_names)
    table = columns.set_index("feature")
    assert table.loc["orders_lifetime", "gain"] > 0.15
    assert abs(table.loc["tenure_days", "gain"]) < 0.1  # knows no order
    assert columns["gain"].is_monotonic_decreasing
    same = leakage.columns(leakage.pair(frames[0], frames[0]), proof.settings.feature_names,
                           "label_churn_60d")
    assert (same["gain"] == 0).all() and (same["differs"] == 0).all()


def test_the_timeline_shows_the_order_that_only_the_naive_row_knows(proof, frames):
    example = leakage.timeline(proof, leakage.pair(*frames))
    label, honest, naive = example["label_timestamp"], example["honest"], example["naive"]
    until = label + pd.Timedelta(days=60)
    inside = [t for t in example["orders"] if label < t <= until]
    assert example["label"] == 0 and example["window_orders"] == len(inside) >= 1
    assert honest["feature_timestamp"] <= label < naive["feature_timestamp"]
    for row in (honest, naive):
        known = sum(t <= row["feature_timestamp"] for t in example["orders"])
        assert row["orders_lifetime"] == known
    table = leakage.timeline_table(example)
    assert list(table.columns) == ["known at the time", "naive join"]
    assert table.loc["orders_lifetime"].tolist() == [
        f"{honest['orders_lifetime']:g}", f"{naive['orders_lifetime']:g}"]
