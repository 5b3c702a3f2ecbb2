"""The split rule of data_load against brute force, and its sampling, without BigQuery."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

DAY = 86_400_000_000
RATIOS = (0.6, 0.2, 0.2)


def awkward_times(seed: int) -> list[int]:
    """Distinct ascending times: weekly, daily, ragged, with holes, with odd hours."""
    rng = random.Random(seed)
    count = rng.choice([1, 2, 3, 5, 12, 25, 40])
    step = rng.choice([1, 7, 30])
    start = rng.randrange(20_000) * DAY
    times = {start + i * step * DAY for i in range(count)}
    if seed % 3 == 1:
        times = {t + rng.randrange(-3 * DAY, 3 * DAY) for t in times}
    if seed % 3 == 2:
        hole = start + rng.randrange(count) * step * DAY
        times = {t if t < hole else t + rng.choice([1, 59, 200]) * DAY for t in times}
    return sorted(times)


def brute_cut(times: list[int], gap: int, ratios: tuple) -> tuple[int, int] | None:
    """The documented rule, by trying every pair."""
    options = []
    for valid_from, test_from in itertools.combinations(times, 2):
        train = [t for t in times if t < valid_from and t + gap <= valid_from]
        valid = [t for t in times if valid_from <= t < test_from and t + gap <= test_from]
        test = [t for t in times if t >= test_from]
        if train and valid:
            options.append(((valid_from, test_from), [len(train), len(valid), len(test)]))
    if not options:
        return None
    most = max(sum(counts) for _, counts in options)

    def rank(option):
        cuts, counts = option
        miss = sum(abs(n - r * most) for n, r in zip(counts, ratios, strict=True))
        return round(miss, 9), cuts

    return min(options, key=rank)[0]


@pytest.mark.parametrize("seed", range(60))
def test_split_never_overlaps_and_follows_the_rule(data_load, seed):
    times = awkward_times(seed)
    gap = random.Random(seed).choice([0, 1, 7, 60, 61]) * DAY
    ratios = random.Random(seed).choice([RATIOS, (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3)])
    expected = brute_cut(times, gap, ratios)
    if expected is None:
        with pytest.raises(data_load.InputError, match="too few"):
            data_load.cut_by_ratios(np.array(times), gap, ratios)
        return

    cuts = data_load.cut_by_ratios(np.array(times), gap, ratios)
    assert cuts == expected
    codes = data_load.assign(np.array(times), gap, *cuts).tolist()
    parts = [[t for t, code in zip(times, codes, strict=True) if code == k] for k in range(3)]
    assert all(parts)
    for earlier, later in itertools.combinations(parts, 2):
        for one, other in itertools.product(earlier, later):
            assert one + gap <= other and one < other
    # Only what had to go is gone.
    for t, code in zip(times, codes, strict=True):
        if code == data_load.GAP:
            following = min(first for first in cuts if first > t)
            assert t + gap > following


def test_ratios_apply_to_the_dates_left_after_the_gaps(data_load):
    times = np.arange(53) * 7 * DAY
    codes = data_load.assign(times, 60 * DAY, *data_load.cut_by_ratios(times, 60 * DAY, RATIOS))
    counts = [int((codes == k).sum()) for k in range(3)]
    assert sum(counts) == 53 - 2 * 8  # nine weeks are the first step of at least 60 days
    assert counts == [22, 7, 8]


def test_too_few_dates_says_how_many_are_needed(data_load):
    for count in range(1, 19):
        with pytest.raises(data_load.InputError, match="at least 19" if count > 1 else "at least"):
            data_load.cut_by_ratios(np.arange(count) * 7 * DAY, 60 * DAY, RATIOS)
    data_load.cut_by_ratios(np.arange(19) * 7 * DAY, 60 * DAY, RATIOS)


def test_times_that_are_no_snapshots_are_refused(data_load):
    with pytest.raises(data_load.InputError, match="2001 distinct times"):
        data_load.cut_by_ratios(np.arange(2001), 0, RATIOS)


def test_sample_is_by_customer_stable_and_nested(data_load):
    ids = pa.array([str(i % 5000) for i in range(15000)])
    kept = {percent: data_load.sampled(ids, percent, 7) for percent in (1, 20, 60, 100)}
    assert kept[100].all()
    assert (kept[20] <= kept[60]).all() and (kept[1] <= kept[20]).all()
    assert (kept[20].reshape(3, 5000) == kept[20][:5000]).all()  # all of a customer or none
    assert abs(kept[20].mean() - 0.2) < 0.02
    shuffled = data_load.sampled(pa.array(ids.to_pylist()[::-1]), 20, 7)
    assert (shuffled[::-1] == kept[20]).all()
    assert (data_load.sampled(ids, 20, 8) != kept[20]).any()
    # One draw written down: a change of the hash would change every sample ever taken.
    first = [i for i in range(60) if data_load.sampled(pa.array([str(i)]), 10, 7)[0]]
    assert first == [2, 27, 28, 34, 43, 50, 52, 58]


@pytest.fixture
def table():
    """60 customers at each of 30 weekly times; one feature, half of it NULL."""
    rows = [(f"c{c}", week * 7 * DAY, (c + week) % 3 > 0, None if c % 2 else 1.5, c)
            for c in range(60) for week in range(30)]
    ids, times, labels, values, counts = zip(*rows, strict=True)
    return pa.table({
        "id": pa.array(ids), "t": pa.array(times, pa.timestamp("us", tz="UTC")),
        "y": pa.array(labels).cast(pa.float64()), "f": pa.array(values, pa.float64()),
        "g": pa.array(counts, pa.int64())})


def options(**changes):
    return SimpleNamespace(build="", **{
        "table": "p.d.t", "id_col": "id", "time_col": "t", "label_col": "y",
        "feature_cols": ["f", "g"], "gap_days": 60, "split_ratios": RATIOS,
        "sample_percent": 100.0, "seed": 7, **changes})


def test_same_table_in_any_order_gives_the_same_bytes(data_load, table, tmp_path):
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    for folder, rows in (("a", table), ("b", shuffled)):
        splits, report = data_load.split_table(rows, options())
        data_load.write(splits, report, tmp_path / folder)
    for name in ("train.parquet", "valid.parquet", "test.parquet", "split.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == [
        "split.json", "test.parquet", "train.parquet", "valid.parquet"]
    assert pq.read_schema(tmp_path / "a" / "train.parquet").names == ["id", "t", "y", "f", "g"]


def sample(data_load, table, percent):
    """The rows of a sample, and of all rows their number and times, as read_table returns them."""
    kept = data_load.sampled(table["id"].combine_chunks(), percent, 7)
    times = np.unique(data_load.microseconds(table["t"]))
    return table.filter(pa.array(kept)), (len(table), times)


def test_every_row_is_kept_or_counted(data_load, table):
    part, half = sample(data_load, table, 50)
    splits, report = data_load.split_table(part, options(feature_cols=["f"]), *half)
    dropped = report["dropped"]
    rows = sum(len(part) for part in splits.values())
    gone = dropped["outside_sample"] + dropped["without_features"] + dropped["in_gap"]
    assert rows + gone == len(table) == report["rows_read"]
    assert dropped["outside_sample"] == len(table) - len(part) > 0
    assert all(part["f"].null_count == 0 for part in splits.values())
    assert dropped["times_in_gap"] == 30 - sum(s["times"] for s in report["splits"].values())


def test_a_sample_is_cut_where_the_whole_is(data_load, table):
    """Also where no customer of the sample has a row at the time of a cut."""
    whole = data_load.split_table(table, options())[1]["splits"]
    cut = pd.Timestamp(whole["valid"]["first"])
    rows, all_rows = sample(data_load, table, 50)
    rows = rows.filter(pc.not_equal(rows["t"], pa.scalar(cut, rows["t"].type)))
    part = data_load.split_table(rows, options(), *all_rows)[1]["splits"]
    assert pd.Timestamp(part["valid"]["first"]) == cut + pd.Timedelta(days=7)
    assert [part[name]["first"] for name in ("train", "test")] == [
        whole[name]["first"] for name in ("train", "test")]


def test_repeated_pair_is_refused(data_load, table):
    with pytest.raises(data_load.InputError, match="1 rows repeat a pair"):
        data_load.split_table(pa.concat_tables([table, table[5:6]]), options())
