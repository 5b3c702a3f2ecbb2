"""Days of future let in: the SQL's ends are the two joins, and what is measured of a step."""

import numpy as np
import pandas as pd

from lib import warehouse
from lib.proof import future, leakage
from lib.training import training

KEYS = ["customer_id", "label_timestamp"]


def test_no_future_is_the_point_in_time_join_and_all_of_it_the_naive_one(proof):
    rows = warehouse.read_table(proof, "train")
    rows = rows[rows["label_timestamp"] < rows["label_timestamp"].max()].sample(frac=1)
    found = future.features_after(proof, rows, [0, 4000])
    for days, table in ((0, "train"), (4000, "train_naive")):
        expected = rows[KEYS].merge(warehouse.read_table(proof, table), on=KEYS)
        expected = expected.drop(columns=proof.settings.label.column)
        assert len(expected) == len(rows) > 1000
        pd.testing.assert_frame_equal(
            found[days][expected.columns].reset_index(drop=True), expected, check_dtype=False)


def test_between_them_no_features_are_older_than_those_known_nor_newer_than_asked(proof):
    found = future.features_after(proof, warehouse.read_table(proof, "train"), [30])[30]
    age = found["feature_timestamp"] - found["label_timestamp"]
    assert age.max() <= pd.Timedelta(days=30) and age.min() > pd.Timedelta(days=23)


def test_each_step_is_measured_and_a_customer_shows_it(proof):
    trained = training.train(proof).value
    leak = leakage.measure(proof, trained).value
    outcome = future.measure(proof, trained, leak)
    value, settings = outcome.value, proof.settings
    assert outcome.status == "created"
    assert value["days"] == [0, *settings.checks.future_days]
    assert value["promised"][0] == value["kept"][0] == leak["orders"]["honest"]["value"]
    # After the whole horizon the features hold the label itself.
    assert value["promised"][-1] > 900 > 500 > value["kept"][-1]
    assert np.diff([value["promised"][0], *value["promised"][2:]]).min() > 0
    customer, horizon = value["customer"], settings.label.horizon_days
    counts = [row["orders_lifetime"] for row in customer["rows"]]
    assert (counts[0], counts[-1]) == (min(counts), counts[0] + 1) and horizon == 60
    for days, count in zip(value["days"], counts, strict=True):  # of a weekly snapshot
        oldest, newest = (sum(order <= limit for order in customer["orders"])
                          for limit in (days - 7, days))
        assert oldest <= count <= newest
    again = future.measure(proof, trained, leak)
    assert (again.status, again.value) == ("reused", value)
