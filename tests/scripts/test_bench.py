"""scripts/bench.py: the table's form, and that no way is timed whose rows are others."""

import sys
from textwrap import dedent

import pytest

from lib.config import ROOT
from scripts import bench, bench_run, bench_sql


def test_ways_take_turns_and_a_way_may_time_itself():
    called, ticks = [], iter(range(100))
    samples = bench.take_turns(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b") or 0.5}, 2,
        clock=lambda: next(ticks))
    assert called == ["a", "b", "a", "b"]
    assert samples == {"a": [1, 1], "b": [0.5, 0.5]}


def test_the_table_has_medians_spreads_and_ratios_within_one_part():
    found = bench.with_ratios([
        bench.Row("join", "floor", [2.0, 1.0, 4.0], base="floor"),
        bench.Row("join", "ours", [3.0, 3.0, 9.0], base="floor", note="equal"),
        bench.Row("build", "floor", [100.0], base="floor"),
        bench.Row("run", "all", [84.0], "s wall"),
        bench.Row("join", "Feast", note="pip install feast"),
    ])
    assert [row["ratio"] for row in found] == [1.0, 1.5, 1.0, None, None]
    assert [line.split() for line in bench.table(found).splitlines()] == [
        list(bench.HEAD),
        "join floor 2 1 to 4 s CPU 1.00 x floor".split(),
        "join ours 3 3 to 9 s CPU 1.50 x floor equal".split(),
        "build floor 100 100 to 100 s CPU 1.00 x floor".split(),
        "run all 84 84 to 84 s wall local".split(),
        "join Feast skipped pip install feast".split(),
    ]


def test_a_way_with_other_rows_ends_the_measurement(tmp_path):
    """The ways take their turn in this order: those before the wrong one gave equal rows."""
    wrong = tmp_path / "wrong" / "sql" / "04_build_train.sql"
    wrong.parent.mkdir(parents=True)
    naive = (ROOT / "sql" / "04_build_train_naive.sql").read_text()
    wrong.write_text(naive.replace("tables.train_naive", "tables.train"))
    with pytest.raises(bench.Different, match=(
            "sql/04 of wrong gives other rows than sql/04: .* equal: DuckDB ASOF, sql/04, "
            "range join, QUALIFY, pandas merge_asof")):
        bench_sql.join(bench.Options(0.01, 1, tmp_path / "wrong", sys.executable), tmp_path)


def test_a_run_counts_its_processes_also_those_that_it_leaves_and_no_others(tmp_path):
    (tmp_path / "run_all.sh").write_text("exec .venv/bin/python -m program\n")
    (tmp_path / "program.py").write_text(dedent("""
        import subprocess, sys, time
        if sys.argv[1:] == []:
            left = subprocess.Popen([sys.executable, "program.py", "start"], stdout=subprocess.PIPE,
                                    start_new_session=True)
            left.stdout.read(1)
        elif sys.argv[1] == "start":  # as the local cloud starts the pipeline's programs
            subprocess.run([sys.executable, "program.py", "work"], env={})
        else:
            while time.process_time() < 1: pass
            print("x", flush=True)
            time.sleep(2)  # it is still there when the run ends
    """))
    cpu, wall = bench_run.measure(tmp_path, tmp_path / "state")
    assert 0.8 < cpu < 2 and wall > 0.8
    assert bench_run.cpu_seconds(tmp_path / "another") == {}
