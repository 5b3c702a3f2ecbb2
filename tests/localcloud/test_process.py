"""The local cloud's process: requests past a proxy, and one that is alive but does not answer."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from lib import localcloud
from lib.cloud import LocalSession
from lib.config import ROOT
from lib.errors import Needed
from lib.localcloud import loopback, process

PROJECT = "local-demo"
NO_PROXY = ("NO_PROXY", "no_proxy", "no_grpc_proxy")
# Nothing listens on port 9: a request that goes to this proxy fails.
PROXIES = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all", "grpc")}
PROXIES |= {name.upper(): value for name, value in PROXIES.items()}
# Requests by each kind of client; then one to a local cloud that was suspended.
CLIENTS = """
import os, signal
from google.api_core.exceptions import NotFound
from lib import config, localcloud
from lib.cloud import connect
from lib.errors import Needed
from lib.localcloud import process
cloud = connect(config.load(target="local", overrides={"source": "."}))
print(cloud.started_local)
print([row[0] for row in cloud.bigquery.query("select 1").result()])
print(len(list(cloud.models.list_models(parent=cloud.parent))))
print(len(list(cloud.storage.list_buckets())))
print(cloud.aiplatform.Model.list())
cloud.bigquery.create_dataset("d", exists_ok=True)
cloud.bigquery.query("create or replace table d.t as select 7 as seven").result()
print(cloud.bigquery.list_rows("local-demo.d.t").to_arrow(
    bqstorage_client=cloud.bigquery_read).to_pylist())
try:
    cloud.online.fetch_feature_values({"feature_view": cloud.parent, "data_key": {"key": "1"}})
except NotFound as error:
    print(error.message)
process.PING_SECONDS = 0.5
os.kill(cloud.local_pid, signal.SIGSTOP)
try:
    cloud.bigquery.get_dataset("d", timeout=1)
except Needed as error:
    print(error)
os.kill(cloud.local_pid, signal.SIGCONT)
"""
COMMAND = """
import sys
from lib.localcloud import __main__, process
process.PING_SECONDS = 0.5
sys.exit(__main__.main())
"""


def program(code, state, *arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in NO_PROXY}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, capture_output=True,
        timeout=100, env={**environment, "LOCALCLOUD_STATE": str(state), **variables})


def command(name, state):
    return program(COMMAND, state, name)


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """The folder of a local cloud that a program of clients has started past a proxy, and that
    program when it has ended. Where mTLS is asked for, BigQuery's and Cloud Storage's clients
    would call Google instead."""
    state = tmp_path_factory.mktemp("process")
    yield state, program(CLIENTS, state, **PROXIES, no_grpc_proxy="corp.example",
                         GOOGLE_API_USE_MTLS_ENDPOINT="always",
                         GOOGLE_CLOUD_UNIVERSE_DOMAIN="example.com")
    process.stop(state)


@pytest.fixture
def stopped(clients, monkeypatch):
    """The state's folder and pid of that local cloud, whose process is stopped by SIGSTOP."""
    state, _ = clients
    running, _ = process.start(PROJECT, None, {}, state=state)
    os.kill(running["pid"], signal.SIGSTOP)
    monkeypatch.setattr(process, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(process, "PING_SECONDS", 0.5)
    yield state, running["pid"]
    if not process.ended(running["pid"]):
        os.kill(running["pid"], signal.SIGCONT)


# Proxies


@pytest.mark.parametrize(("given", "expected"), [
    ({}, "127.0.0.1,localhost"),
    ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost"),
    ({"no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost"),
    ({"no_proxy": "localhost, 127.0.0.1"}, "localhost, 127.0.0.1"),
    ({"NO_PROXY": "*"}, "*"),
])
def test_loopback_is_added_to_what_goes_past_the_proxy(given, expected):
    assert loopback.no_proxy(given) == {"NO_PROXY": expected, "no_proxy": expected}


def test_grpc_has_a_list_of_its_own():
    assert loopback.no_proxy({"no_grpc_proxy": "x"})["no_grpc_proxy"] == "x,127.0.0.1,localhost"


def test_every_client_reaches_the_local_cloud_past_a_proxy(clients):
    """Start, health check, REST by three clients, the Storage Read API and a fetch by gRPC."""
    state, done = clients
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:7] == [
        "True", "[1]", "0", "0", "[]", "[{'seven': 7}]", "Requested entity was not found."]
    assert process.status(state)


# Alive, but not answering


def test_one_that_does_not_answer_is_reported_as_running(stopped):
    state, pid = stopped
    assert process.status(state) is None and process.owner(state) == pid
    done = command("status", state)
    assert done.returncode == 1
    assert done.stdout.startswith(f"running, pid {pid}, not answering")


def test_a_start_beside_it_names_it_and_does_not_advise_reset(stopped, monkeypatch):
    state, pid = stopped
    with pytest.raises(process.LocalCloudError) as caught:
        process.start(PROJECT, None, {}, state=state)
    assert f"running, pid {pid}, but does not answer" in str(caught.value)
    assert caught.value.command == ".venv/bin/python -m lib.localcloud stop"
    assert "reset" not in str(caught.value) + caught.value.need
    assert process.owner(state) == pid
    monkeypatch.setattr(process, "ANSWER_SECONDS", 30)
    os.kill(pid, signal.SIGCONT)  # only slow: its data are whole, and it is found again
    assert process.start(PROJECT, None, {}, state=state)[1] is False


def test_a_client_of_one_that_stops_answering_says_so_and_does_not_retry(clients):
    said = clients[1].stdout.splitlines()[7:]
    assert "but does not answer" in said[0], clients[1].stderr
    assert "localcloud stop" in said[-1] and "reset" not in "".join(said)


def test_one_that_was_just_killed_has_stopped_though_it_still_holds_its_lock(
        settings, monkeypatch):
    owners = iter([7, None])
    monkeypatch.setattr(localcloud, "status", lambda: None)
    monkeypatch.setattr(localcloud, "owner", lambda: next(owners))
    with pytest.raises(Needed, match="the local cloud has stopped"):
        LocalSession(settings).get("http://127.0.0.1:9")


def test_a_start_waits_for_one_that_is_slow(stopped, monkeypatch):
    state, pid = stopped
    monkeypatch.setattr(process, "ANSWER_SECONDS", 30)
    threading.Timer(1, os.kill, (pid, signal.SIGCONT)).start()
    running, started = process.start(PROJECT, None, {}, state=state)
    assert (running["pid"], started) == (pid, False)


def test_reset_deletes_nothing_under_a_process_that_cannot_be_stopped(stopped, monkeypatch):
    state, pid = stopped
    with monkeypatch.context() as patch:
        patch.setattr(process, "STOP_SECONDS", 0.2)
        patch.setattr(process, "KILL_SECONDS", 0.2)
        patch.setattr(os, "kill", lambda *_: None)
        with pytest.raises(process.LocalCloudError, match=f"pid {pid}, cannot be stopped"):
            process.reset(state)
    assert (state / "bigquery").exists()


def test_a_second_server_on_the_same_folder_says_which_process_has_it(stopped):
    """A server started past `start`, or by a start that was killed."""
    state, pid = stopped
    arguments = {"state": str(state), "project": PROJECT, "thelook": None, "images": {},
                 "runner": "process", "module": "lib.localcloud"}
    done = subprocess.run(
        [sys.executable, "-m", "lib.localcloud", "serve", json.dumps(arguments)], cwd=ROOT,
        text=True, capture_output=True, timeout=60)
    assert done.returncode == 1 and f"pid {pid}" in done.stderr
    assert "Traceback" not in done.stderr


# These end it; the second finds it started again.


def test_stop_ends_it_by_its_pid_and_the_data_can_be_opened(stopped, wait_for):
    state, pid = stopped
    assert command("stop", state).stdout == "stopped\n"
    assert process.owner(state) is None and wait_for(lambda: process.ended(pid))
    assert process.start(PROJECT, None, {}, state=state)[1] is True


def test_reset_stops_it_before_it_deletes_its_data(stopped, wait_for):
    state, pid = stopped
    (state / "iam.json").write_text("{}")
    assert command("reset", state).returncode == 0
    assert wait_for(lambda: process.ended(pid)) and not (state / "bigquery").exists()
    assert not (state / "iam.json").exists()


def test_another_process_with_the_recorded_pid_is_left_alone(tmp_path):
    """After a crash the pid of running.json may belong to any program."""
    other = subprocess.Popen(["sleep", "60"])
    try:
        facts = {"pid": other.pid, "project": PROJECT, "vertex": "http://127.0.0.1:9"}
        (tmp_path / "running.json").write_text(json.dumps(facts))
        (tmp_path / "server.lock").write_text(str(other.pid))
        assert process.owner(tmp_path) is None
        assert process.stop(tmp_path) is False
        assert command("status", tmp_path).stdout == "not running\n"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_ends_at_start_shows_its_log_and_reset_is_the_last_resort(tmp_path):
    (tmp_path / "bigquery").mkdir()
    (tmp_path / "bigquery" / "bqemulator.duckdb").write_text("no database")
    with pytest.raises(process.LocalCloudError, match="ended at start") as caught:
        process.start(PROJECT, None, {}, state=tmp_path)
    assert "duckdb" in str(caught.value).lower()
    assert max(map(len, str(caught.value).splitlines())) <= 300
    assert "Only if its data are damaged" in caught.value.need
    assert not caught.value.command  # that is: try again


def test_one_that_older_code_has_started_is_replaced(tmp_path, monkeypatch):
    """It serves no fetch by gRPC: clients would find no address."""
    older = {"pid": 7, "project": PROJECT, "thelook": None, "vertex": "http://127.0.0.1:9"}
    newer, done = {**older, "pid": 8, "vertex_grpc": "127.0.0.1:9"}, []
    monkeypatch.setattr(process, "status", lambda state: older)
    monkeypatch.setattr(process, "_stop", lambda pid, state: done.append(pid))
    monkeypatch.setattr(process, "_launch", lambda *_: newer)
    assert process.start(PROJECT, None, state=tmp_path) == (newer, True) and done == [7]
    monkeypatch.setattr(process, "status", lambda state: newer)
    assert process.start(PROJECT, None, state=tmp_path) == (newer, False) and done == [7]
