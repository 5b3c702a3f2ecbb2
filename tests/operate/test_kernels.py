"""The notebooks' kernels: forks of one process, or each a Python of its own."""

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout

import pytest

from lib.config import ROOT
from lib.errors import StageError
from lib.operate import kernels

# Starts a kernel and prints what a cell prints; then waits to be killed. Python 3.12 starts with
# some hundred frozen objects.
STARTER = """
import os, sys, time
from jupyter_client.utils import run_sync
from lib.operate import kernels

kernels.PACKAGES[:] = ["lib.operate.undisturbed", "ipykernel.kernelapp", "this_package_is_free",
                       "lib.operate.frozen"]
kernels.FORKS = sys.argv[1] == "forks"
kernels.warm()
manager = kernels.Kernels()
run_sync(manager.start_kernel)(env={**os.environ, "GIVEN": "yes"}, cwd=sys.argv[2])
client = manager.client()
client.start_channels()
run_sync(client.wait_for_ready)(timeout=60)
def show(message):
    if message["msg_type"] == "stream":
        print(message["content"]["text"], end="", flush=True)
run_sync(client.execute_interactive)(
    "import gc, os, sys; print(os.getpid(), os.getpgrp(), os.getcwd(), os.environ['GIVEN'], "
    "sys.executable, '__mp_main__' in sys.modules, "
    "gc.isenabled() and gc.get_freeze_count() > 1000, "
    "sys.modules.get('debugpy') is None, sep='|')", output_hook=show, timeout=60)
time.sleep(600)
"""


@pytest.fixture
def started(tmp_path):
    """started("forks" or "starts") -> the process with a kernel, what the kernel printed."""
    processes = []

    def start(how):
        process = subprocess.Popen([sys.executable, "-c", STARTER, how, str(tmp_path)], cwd=ROOT,
                                   stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip().split("|")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only there kernels are forked")
@pytest.mark.parametrize("how", ["forks", "starts"])
def test_a_kernel_has_its_environment_and_folder_and_ends_with_a_killed_run(
        started, tmp_path, how):
    process, (pid, group, folder, variable, python, *forked) = started(how)
    assert (group, folder, variable, python) == (pid, str(tmp_path), "yes", sys.executable)
    assert forked == 3 * [str(how == "forks")]  # also: nothing to search at its end, no debugger
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(int(pid)):
        assert time.monotonic() < deadline, "the kernel outlives its run"
        time.sleep(0.05)


def refuse(printed):
    sys.stdout = printed.open("w")  # with a buffer, as a pipe has
    print("a finding")
    raise StageError("a stage", "a step", "a cause", "a need", "a command", "a resource")


@pytest.mark.skipif(sys.platform != "linux", reason="only there work is forked")
def test_work_in_a_fork_returns_and_raises_as_here_and_ends_with_ctrl_c(tmp_path):
    assert kernels.forked(os.getpid) != os.getpid()
    with pytest.raises(StageError) as raised:
        kernels.forked(refuse, tmp_path / "printed")
    assert (tmp_path / "printed").read_text() == "a finding\n"
    with pytest.raises(StageError) as here, redirect_stdout(None):
        refuse(tmp_path / "here")
    assert vars(raised.value) == vars(here.value) and str(raised.value) == str(here.value)
    with pytest.raises(BrokenProcessPool):
        kernels.forked(os._exit, 1)
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        kernels.forked(time.sleep, 600)
    assert multiprocessing.active_children() == []


def test_ctrl_c_during_the_imports_prints_nothing():
    code = ("import os, signal, lib.operate.undisturbed; os.kill(os.getpid(), signal.SIGINT)\n"
            "print('goes on')\nimport lib.operate.frozen; os.kill(os.getpid(), signal.SIGINT)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "goes on\n" and "KeyboardInterrupt" in done.stderr


def test_every_package_exists():
    """The process that imports them skips a name that it does not find."""
    assert [name for name in kernels.PACKAGES if importlib.util.find_spec(name) is None] == []
