"""Leakage: the figures against the components' own programs."""

import dataclasses
import json

import pandas as pd
import pytest

from lib import warehouse
from lib.config import Campaign
from lib.errors import Needed
from lib.proof import leakage, naive_join
from lib.training import training


def program(name, **arguments):
    """A component's main with a command line, in this process: starting one is slow."""
    words = [str(word) for key, value in arguments.items() for word in (f"--{key}", value)]
    assert leakage.load_component(name).main(words) == 0


def test_the_scores_are_those_of_the_components_programs(proof, tmp_path):
    trained = training.train(proof).value
    value, settings = leakage.measure(proof, trained).value, proof.settings
    label, features = settings.label.column, settings.feature_names
    program("data_load", table=settings.table("train"), label_col=label, id_col="customer_id",
            time_col="label_timestamp", feature_cols=",".join(features), gap_days=60,
            output_dataset=tmp_path / "honest")
    # The same rows with the other features: the naive join has more, for customers without a
    # snapshot at the time of the label.
    naive = warehouse.read_table(proof, "train_naive").drop(columns=label)
    (tmp_path / "naive").mkdir()
    for name in ("train", "valid", "test"):
        rows = pd.read_parquet(tmp_path / "honest" / f"{name}.parquet").drop(columns=features)
        rows.merge(naive).to_parquet(tmp_path / "naive" / f"{name}.parquet")
    program("train", input_dataset=tmp_path / "naive", output_model=tmp_path / "model",
            model_type=settings.train.model_type, label_col=label,
            feature_cols=",".join(features), seed=settings.train.seed,
            params=json.dumps(settings.train.params[settings.train.model_type]))
    for key, tested_on in (("promised", "naive"), ("kept", "honest")):
        program("eval", input_dataset=tmp_path / tested_on, label_col=label,
                input_model=tmp_path / "model", output_metrics=tmp_path / "metrics.json")
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert value["roc_auc"][key]["value"] == pytest.approx(metrics["roc_auc"], abs=6e-4), key
    assert value["rows"] == metrics["rows"] == trained.metrics["rows"]
    honest = value["roc_auc"]["honest"]["value"]
    assert honest == pytest.approx(trained.metrics["roc_auc"], abs=6e-4)
    assert value["roc_auc"]["promised - kept"]["value"] > 0
    chance = 1000 * (1 - trained.metrics["positive_rate"])
    assert value["orders"]["chance"]["value"] == pytest.approx(chance, abs=0.6)

    again = leakage.measure(proof, trained)
    assert (again.status, again.value) == ("reused", value)


def test_label_rows_of_one_class_are_refused(proof):
    pairs = naive_join.read_pairs(proof)
    with pytest.raises(Needed, match="both classes are needed") as refused:
        leakage.split(proof, pairs.assign(**{proof.settings.label.column: 1}))
    assert "snapshots.history_days" in str(refused.value)


def test_two_at_a_time_give_what_one_after_another_gives(proof):
    splits = leakage.split(proof, naive_join.read_pairs(proof))
    parts = list(leakage.divide(proof, splits))

    def promised(part):
        rows, labels = part["train"][proof.settings.feature_names], part["train"]["label_churn_60d"]
        return leakage.fit(proof, rows, labels, 5).predict_proba(rows)[:, 1].tolist()

    assert leakage.side_by_side(promised, parts) == [promised(part) for part in parts]
    with pytest.raises(KeyError, match="absent"):
        leakage.side_by_side(lambda part: part["absent"], parts)


def test_groups_without_both_classes_are_refused(proof):
    checks = proof.settings.checks.model_copy(update={"leakage_groups": 50})
    there = dataclasses.replace(proof, settings=proof.settings.model_copy(
        update={"checks": checks}))
    with pytest.raises(Needed, match="a lower checks.leakage_groups"):
        leakage.measure(there, training.train(there).value)


def found(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_money_is_that_of_the_orders_shown():
    orders = {"promised": found(404, 383, 425), "kept": found(171, 154, 188),
              "promised - kept": found(233, 212, 254)}
    campaign = Campaign(contacted_share=0.1, usd_per_contact=5, usd_per_order=40)
    assert leakage.money(orders, campaign)["usd"] == {
        "promised": 11160, "kept": 1840, "promised - kept": 9320}


@pytest.mark.parametrize(("low", "high", "said"), [
    (1, 9, "orders higher"), (-9, -1, "orders lower"), (-3, 9, "orders not decided"),
    (0, 9, "orders not decided")])
def test_a_difference_is_called_one_only_if_its_interval_allows(low, high, said):
    area = found(0.02, 0.01, 0.03)
    assert leakage.verdict(found(4, low, high), area) == f"{said}, ROC-AUC higher"


def test_the_table_has_every_model_and_every_difference_with_its_interval():
    keys = leakage.ROWS
    value = {"roc_auc": {key: found(0.7, 0.6, 0.8) for key in keys if key != "chance"},
             "orders": {key: found(300, 280, 320) for key in keys},
             "usd": dict.fromkeys(keys, -1840.0)}
    table = leakage.table(value).set_index("")
    assert len(table) == 7 and table.loc["chance", "ROC-AUC"] == "0.500"
    row = table.loc["promised - kept in production"].tolist()
    assert row[:3] == ["+0.700 (0.600 to 0.800)", "+300 (280 to 320)", "-1,840"]
