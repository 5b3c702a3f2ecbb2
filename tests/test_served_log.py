"""The log of what was served: no line is lost or torn by callers, kills, or a full disk."""

import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from lib import served_log
from lib.config import ROOT

AT = datetime(2026, 7, 10, 12, tzinfo=UTC)


@pytest.fixture
def logging(settings, tmp_path, monkeypatch):
    """Settings whose log is an empty folder's."""
    monkeypatch.setattr(served_log, "RUNS", tmp_path)
    return settings


def test_a_row_has_all_that_was_served(logging):
    features = {"orders_30d": 2, "revenue_30d": 84.49, "avg_order_value_90d": None}
    served_log.append(logging, AT, 7, features, AT, 0.25)
    served_log.append(logging, AT, "8")
    first, second = served_log.read(served_log.path(logging))[0]
    assert first.pop("request_id") != second.pop("request_id")
    time = "2026-07-10T12:00:00+00:00"
    assert first == {
        "served_at": time, "customer_id": "7", "feature_timestamp": time,
        "features": '{"orders_30d": 2, "revenue_30d": 84.49, "avg_order_value_90d": null}',
        "churn_probability": 0.25}
    assert second == {
        "served_at": time, "customer_id": "8", "feature_timestamp": None, "features": None,
        "churn_probability": None}
    assert served_log.path(logging).stat().st_mode & 0o077 == 0  # ids and features of customers


def test_many_threads_lose_and_tear_no_line(logging):
    def serve(caller):
        for number in range(200):
            served_log.append(logging, AT, f"{caller}-{number}", {"text": "x" * 5000})

    threads = [threading.Thread(target=serve, args=[caller]) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, _ = served_log.read(served_log.path(logging))
    assert sorted(row["customer_id"] for row in rows) == sorted(
        f"{caller}-{number}" for caller in range(8) for number in range(200))


def test_a_killed_process_loses_nothing_that_it_logged(logging, tmp_path):
    code = ("from datetime import UTC, datetime\n"
            "from lib import config, served_log\n"
            "settings = config.load(target='local', env='dev')\n"
            "for number in range(10**9):\n"
            "    served_log.append(settings, datetime.now(UTC), number)\n"
            "    print(number, flush=True)\n")
    with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={"CHURN_DEMO_RUNS": str(tmp_path)}) as process:
        said = [process.stdout.readline() for _ in range(50)]
        process.kill()
        said += process.stdout.readlines()
    rows, _ = served_log.read(served_log.path(logging))
    assert [row["customer_id"] for row in rows][:len(said)] == [line.strip() for line in said]
    assert len(rows) - len(said) in (0, 1)  # killed between the line and its print


def test_a_torn_line_costs_one_row(logging):
    served_log.append(logging, AT, "1", {"orders_30d": 1})
    file = served_log.path(logging)
    whole = file.read_bytes()
    for cut in range(2, len(whole)):
        file.write_bytes(whole + whole[:cut])
        served_log.append(logging, AT, "2", {"orders_30d": 2})
        rows, end = served_log.read(file)
        assert [row["customer_id"] for row in rows] == ["1", "2"]
        assert end == file.stat().st_size
    file.write_bytes(whole + b'\n{"other": 1}\n[1]\nnull\n\xff\n')
    assert len(served_log.read(file)[0]) == 1


def test_a_line_that_is_still_being_written_is_read_the_next_time(logging):
    for customer in ("1", "2"):
        served_log.append(logging, AT, customer)
    file = served_log.path(logging)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    rows, end = served_log.read(file)
    assert [row["customer_id"] for row in rows] == ["1"]
    file.write_bytes(whole)
    rows, end = served_log.read(file, end)
    assert [row["customer_id"] for row in rows] == ["2"] and end == len(whole)


def test_off_writes_nothing(logging):
    target = logging.target_settings.model_copy(update={"served_log": False})
    off = logging.model_copy(update={"targets": {**logging.targets, "local": target}})
    served_log.append(off, AT, "1", {"orders_30d": 1})
    assert not served_log.path(off).exists()


def test_a_disk_that_refuses_the_line_does_not_refuse_the_answer(logging):
    served_log.path(logging).mkdir(parents=True)
    with pytest.warns(UserWarning, match="what was served is not logged: .*directory"):
        served_log.append(logging, AT, "1", {"orders_30d": 1})
