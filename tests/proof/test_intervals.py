"""The figures against rows counted by hand, and what the intervals hold."""

import numpy as np
import pandas as pd
import pytest

from lib.proof import intervals

LABELS = np.array([0, 1, 1, 1, 0, 0, 1, 1, 1, 0])
WEEKS = np.array([1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
GOOD = np.array([0.1, 0.9, 0.8, 0.7, 0.2, 0.3, 0.6, 0.9, 0.8, 0.1])


@pytest.mark.parametrize(("share", "orders"), [
    (0.2, 500),  # one of each week: one who stayed and one who left
    (0.3, 1000 / 3)])  # and half of the next one, who left
def test_of_each_week_the_lowest_probabilities_are_chosen(share, orders):
    scores = {"a": np.array([0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.01, 0.02, 0.9, 0.9])}
    found = intervals.measure(LABELS, WEEKS, scores, share)
    assert found["orders"] == {"a": pytest.approx(orders), "chance": pytest.approx(400)}


def test_a_perfect_ranking_and_a_tie():
    found = intervals.measure(LABELS, WEEKS, {"good": GOOD, "same": np.ones(10)}, 0.2)
    assert found["roc_auc"] == {"good": 1, "same": 0.5}
    assert found["orders"]["good"] == 1000


def test_the_interval_is_that_of_the_mean_of_independent_groups():
    """Of 400 sets of groups around 300, about 95 % of the intervals hold 300."""
    random, inside = np.random.default_rng(1), 0
    for _ in range(400):
        groups = [{"roc_auc": {"a": 0.5}, "orders": {"a": value}}
                  for value in random.normal(300, 40, 8)]
        mean = float(np.mean([group["orders"]["a"] for group in groups]))
        found = intervals.summarise({"roc_auc": {"a": 0.5}, "orders": {"a": mean}}, groups)
        inside += found["orders"]["a"]["low"] <= 300 <= found["orders"]["a"]["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_differences_are_paired_and_those_of_the_values_shown():
    # Both models move by 90 from group to group, and together.
    groups = [{"roc_auc": {"a": x, "b": x - 0.1}, "orders": {"a": 1000 * x, "b": 1000 * x - 100}}
              for x in (0.60, 0.69)]
    found = intervals.summarise(
        {"roc_auc": {"a": 0.6504, "b": 0.5496}, "orders": {"a": 650.4, "b": 549.6}}, groups)
    assert found["orders"]["a - b"] == {"value": 100, "low": 100, "high": 100}
    assert found["roc_auc"]["a - b"]["value"] == 0.1
    assert found["orders"]["a"]["high"] - found["orders"]["a"]["low"] > 500


def test_an_end_that_is_rounded_to_zero_has_no_minus():
    groups = [{"roc_auc": {"a": x}, "orders": {"a": x}} for x in (-0.00001, 0.00001)]
    found = intervals.summarise({"roc_auc": {"a": 0.0}, "orders": {"a": 0.0}}, groups)
    assert f"{found['roc_auc']['a']['low']:.3f} {found['orders']['a']['low']:.0f}" == "0.000 0"


def test_a_customer_is_always_in_the_same_group_and_groups_are_of_equal_size():
    customers = pd.Series([str(n) for n in range(4000)] * 2)
    group = intervals.assign(customers, 8)
    assert (group[:4000] == group[4000:]).all()
    assert set(group) == set(range(8)) and np.bincount(group).min() > 800
