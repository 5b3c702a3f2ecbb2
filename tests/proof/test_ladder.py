"""The ladder of leaks: each is caught by its own check, in the rows that plain Python expects."""

from datetime import timedelta

import pandas as pd
import pytest
from google.api_core.exceptions import NotFound

from lib import warehouse
from lib.config import ENTITY, TIMESTAMP
from lib.proof import ladder, leakage, planted
from lib.training import training

DAY = timedelta(days=1)
OWN = {name: leak.check for name, leak in ladder.LEAKS.items() if leak.mistakes}


@pytest.fixture(scope="module")
def at(proof):
    return warehouse.read_table(proof, "train")[TIMESTAMP].max()


@pytest.fixture(scope="module")
def world(proof, at):
    """(the table of `recompute`; orders and items of the copy, with the planted late ones)."""
    customers = sorted(warehouse.read_table(proof, "labels")[ENTITY].unique())
    copied = planted.copy(proof, "cut", customers)
    try:
        checks = proof.settings.checks
        planted.run_sql(copied, "checks/plant_late_orders", late_percent=checks.late_percent,
                        late_days=checks.late_days)
        raw = [warehouse.read_table(copied, key) for key in ("raw_orders", "raw_order_items")]
        suspects = {"sound": (), **{name: ladder.LEAKS[name].mistakes for name in OWN}}
        return ladder.recompute(copied, at, {
            name: (ladder.build(copied, mistakes), mistakes)
            for name, mistakes in suspects.items()}), *raw
    finally:
        planted.remove(proof, "cut")


def named(found, suspect):
    """cut -> the customers whose features it changed."""
    own = found[(found["suspect"] == suspect) & found["customers"].map(bool)]
    return {cut: set().union(*rows["customers"]) for cut, rows in own.groupby("cut")}


def test_the_sound_features_use_nothing_that_was_not_known(world):
    assert named(world[0], "sound") == {}


@pytest.mark.parametrize("leak", OWN)
def test_a_leak_in_the_features_is_named_by_its_own_check_only(world, leak):
    found = set(named(world[0], leak))
    # A window that ends later also lets in what arrives until then.
    assert found == {OWN[leak]} | ({"arrived later"} if leak == "window" else set())


def test_the_final_status_shows_in_what_was_returned_later(world, at):
    found, _, items = world
    used = items[(items["ordered_at"] > at - 90 * DAY) & (items["ordered_at"] <= at)
                 & (items["known_at"] <= at)]
    assert named(found, "status")["changed later"] == set(
        used.loc[used["returned_at"] > at, ENTITY])
    changed = found[(found["suspect"] == "status") & found["customers"].map(bool)]
    assert set(changed["feature"]) == {"return_rate_90d"}


def test_a_window_that_crosses_shows_in_who_orders_in_it(world, at):
    found, orders, _ = world
    there = set(orders.loc[orders["known_at"] <= at, ENTITY])  # with features at all
    week = orders[(orders["ordered_at"] > at) & (orders["known_at"] <= at + 7 * DAY)]
    assert named(found, "window")["happened later"] == set(week[ENTITY]) & there


def test_late_orders_show_in_who_had_one_on_the_way(world, at):
    found, orders, _ = world
    late = orders[(orders["ordered_at"] <= at) & (orders["known_at"] > at)]
    assert named(found, "late")["arrived later"] == set(late[ENTITY])
    days = (orders["known_at"] - orders["ordered_at"]).dt.days
    assert set(days) == set(range(15)) and 0.15 < (days > 0).mean() < 0.25


def labels(*rows):
    return pd.DataFrame([(customer, pd.Timestamp(day, tz="UTC")) for customer, day in rows],
                        columns=[ENTITY, "label_timestamp"])


@pytest.mark.parametrize(("train", "test", "found"), [
    (("a", "2026-01-01"), ("a", "2026-03-01"), 1),  # 59 days: one day is in both windows
    (("a", "2026-01-01"), ("a", "2026-03-02"), 0),  # 60 days: none is
    (("a", "2026-03-01"), ("a", "2026-01-01"), 1),  # training may also be the later one
    (("a", "2026-01-01"), ("a", "2026-01-01"), 1),
    (("a", "2026-01-01"), ("b", "2026-01-02"), 0)])
def test_overlapping_label_windows_of_one_customer_are_counted(train, test, found):
    assert ladder.check_windows(labels(train), labels(test), 60) == found


def test_a_random_split_learns_from_as_many_rows_and_only_from_the_past(proof):
    splits = leakage.split(proof, warehouse.read_table(proof, "train"))
    some, rest = ladder.at_random(splits, 7)
    assert len(some) == len(splits["train"]) and len(rest) == len(splits["valid"])
    horizon = timedelta(days=proof.settings.label.horizon_days)
    both = pd.concat([some, rest])
    assert both["label_timestamp"].max() + horizon <= splits["test"]["label_timestamp"].min()
    assert not both.duplicated([ENTITY, "label_timestamp"]).any()


def test_every_leak_has_its_figures_and_is_caught(proof):
    leak = leakage.measure(proof, training.train(proof).value).value
    outcome = ladder.measure(proof, leak)
    value = outcome.value
    assert list(value["leaks"]) == list(ladder.LEAKS) and outcome.status == "created"
    assert value["leaks"]["latest"]["orders"] == leak["orders"]
    for name, one in value["leaks"].items():
        assert one["found"]["leak"] > 0 == one["found"]["sound"], name
        for kind in ("orders", "roc_auc"):
            promised, kept, lost = (one[kind][key]["value"] for key in (
                "promised", "kept", "promised - kept"))
            assert lost == pytest.approx(promised - kept, abs=1e-9), (name, kind)
    # Where a leak is in the features or the data, the test rows are the same ones.
    assert len({value["leaks"][name]["orders"]["chance"]["value"] for name in OWN}) == 1
    assert outcome.figures["caught"] == len(ladder.LEAKS)
    table = ladder.table(value)
    assert len(table) == len(ladder.LEAKS) and not table.isna().any(axis=None)

    again = ladder.measure(proof, leak)
    assert (again.status, again.value) == ("reused", value)
    there = planted.beside(proof, ladder.NAME)
    with pytest.raises(NotFound):
        there.bigquery.get_dataset(there.settings.dataset)
