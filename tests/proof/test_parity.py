"""Parity: the judge, the healthy store, many callers, ages, and the command."""

import math

import pandas as pd
import pytest

from lib import feature_store, lookups
from lib.errors import Needed
from lib.proof import parity, planted

NOTHING = float("nan")


@pytest.mark.parametrize(("online", "offline", "served", "outcome", "diff"), [
    (3.0, 3.0, True, "equal", 0.0),
    (3.0, 3.0 + 5e-7, True, "equal", 5e-7),
    (3.0, 3.0 + 5e-6, True, "different", 5e-6),
    (-2.0, 2.0, True, "different", 4.0),
    (0.0, None, True, "null_offline", NOTHING),
    (None, 0.0, True, "null_online", NOTHING),
    (None, None, True, "equal", NOTHING),
    (None, 3.0, False, "missing", NOTHING),
    (None, None, False, "missing", NOTHING),
    ("gold", "gold", True, "equal", NOTHING),
    ("gold", "blue", True, "different", NOTHING),
])
def test_judge(online, offline, served, outcome, diff):
    found, difference = parity.judge(online, offline, served, 1e-6)
    assert found == outcome
    assert math.isnan(difference) if math.isnan(diff) else difference == pytest.approx(diff)


def test_no_difference_in_the_healthy_store(proof):
    customers = [*lookups.newest_features(proof)["customer_id"]][:1000]
    assert len(customers) == 1000  # silent ones too, with their NULLs
    compared = parity.check(proof, customers).value
    assert parity.figures(compared) == {
        "customers": 1000, "features": 11, "mismatches": 0, "max_abs_diff": 0.0}
    assert compared["online"].isna().any()
    assert (compared["served_at"] == compared["offline_at"]).all()
    (age,) = parity.ages(proof, compared).to_dict("records")
    assert (age["customers"], age["days behind snapshot"]) == (1000, 0.0)
    assert age["days behind order"] == 0.03  # the data end 40 minutes after the newest snapshot


def test_many_callers_get_what_one_gets(proof):
    customers = [*lookups.served_customers(proof, 60), "no-such-customer"]
    together = parity.fetch_all(proof, customers)
    assert list(together) == customers
    assert together == parity.fetch_all(proof, customers, callers=1)
    assert together["no-such-customer"] is None
    assert together[customers[0]] == feature_store.fetch(proof, customers[0])


def test_the_command_says_equal_and_names_each_difference(proof, monkeypatch, capsys):
    monkeypatch.setattr(parity, "connect", lambda settings: proof)
    assert parity.main(["--customers", "20"]) == 0
    shown = capsys.readouterr()
    assert "orders_90d" in shown.out and "days behind snapshot" in shown.out and shown.err == ""

    customers = planted.choose(proof, 40)
    there = planted.copy(proof, "command", customers)
    try:
        planted.build_features(there)
        planted.serve(there)
        changed = lookups.served_customers(there, 20)[0]
        old = lookups.newest_row(there, changed)["orders_90d"]
        there.bigquery.query(
            f"update `{there.settings.table('features')}` set orders_90d = orders_90d + 5, "
            f"revenue_90d = null where customer_id = '{changed}'").result()
        monkeypatch.setattr(parity, "connect", lambda settings: there)
        assert parity.main(["--customers", "20"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == (f"customer {changed}, orders_90d: online {old}, "
                           f"offline {old + 5} (different)")
        assert lines[1].startswith(f"customer {changed}, revenue_90d: online ")
        assert lines[1].endswith("offline NULL (null_offline)")
        assert lines[2].startswith("online and offline differ in 2 of ")
        with pytest.raises(Needed, match=f"customer {changed}, orders_90d"):
            parity.check(there, [changed])
        assert parity.measure(there, [changed]).value["outcome"].value_counts()["equal"] == 9
    finally:
        planted.remove(proof, "command")


def test_bad_command_lines_are_refused(capsys):
    for bad in (["--customers", "0"], ["--customers", "many"], ["--nothing"]):
        with pytest.raises(SystemExit) as ended:
            parity.main(bad)
        assert ended.value.code == 2
    capsys.readouterr()


def test_tables_count_by_feature_and_outcome():
    frame = pd.DataFrame(
        [("1", "b", 1.0, 1.0, "equal", 0.0), ("1", "a", 1.0, 3.0, "different", 2.0),
         ("2", "b", None, 1.0, "null_online", NOTHING), ("2", "a", 1.0, 1.0, "equal", 0.0)],
        columns=parity.COLUMNS[:6])
    table = parity.overview(frame)
    assert list(table.index) == ["b", "a"]
    assert list(table.columns) == ["equal", "different", "null_online", "largest difference"]
    assert table.loc["a"].tolist() == [1, 1, 0, 2.0]
    assert parity.describe(parity.differences(frame)) == (
        "customer 1, a: online 1, offline 3 (different); "
        "customer 2, b: online NULL, offline 1 (null_online)")
