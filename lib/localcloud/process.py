"""Start, find and stop the local cloud's process.

Everything is kept in one folder, `state`: running.json while it runs, server.lock, server.log, and
the data of each service, which survives a restart. The process locks server.lock, with its pid in
it, until it ends: a held lock means that it is alive, also when it is too slow to answer.
"""

import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lib.localcloud import loopback

ROOT = Path(__file__).resolve().parents[2]
# $LOCALCLOUD_STATE: another folder, so that tests never touch the data of a run.
STATE = Path(os.environ.get("LOCALCLOUD_STATE") or ROOT / ".localcloud")
START_SECONDS = 120
USERS_PER_SECOND = 10_000  # of theLook, drawn and loaded at the start: a slow machine's
ANSWER_SECONDS = 20  # how long `start` waits for one that is running and does not answer
PING_SECONDS = 5
STOP_SECONDS = 20
WATCH_SECONDS = 0.5  # from one look at the process to the next
FREE_BYTES = 50_000_000  # of its disk, at start: DuckDB and SQLite do not say that a disk is full
SILENT_SECONDS = 60  # without an answer: then a process that is alive is taken for suspended
KILL_SECONDS = 5
SERVER = "lib.localcloud"  # the module that `start` launches
STOP = ".venv/bin/python -m lib.localcloud stop"


class LocalCloudError(RuntimeError):
    """The local cloud did not start or stop.

    need, command: what helps, and the command for it ("" means: try again).
    """

    def __init__(self, cause: str, need: str, command: str = ""):
        super().__init__(cause)
        self.need, self.command = need, command


def start(
    project: str, thelook: dict | None, images: dict[str, Path] | None = None,
    state: Path = STATE, runner: str | None = None, module: str | None = None,
    answers: str | None = None, meanwhile: Callable[[], object] = lambda: None,
) -> tuple[dict, bool]:
    """Start the local cloud, or find one that runs with the same arguments.

    One that runs with other arguments is stopped first (its data are kept).

    Args:
        project: project id.
        thelook: {"users": int, "seed": int, "as_of": ISO time} of the public dataset, or None.
        images: container image name -> folder with its Dockerfile; by default `local_images()`.
        state: folder for its state.
        runner: how the tasks of pipelines and custom jobs run: "process", or "container" on the
            Docker engine at DOCKER_HOST; None accepts any that runs, and starts "process".
        module: what `python -m MODULE serve ARGUMENTS` runs, such as one that adds a
            `server.Front`; None accepts any that runs, and starts this package.
        answers: "usual", "strange" or "random:SEED" (vertex/base/answers.py); None accepts any that
            runs, and starts "usual".
        meanwhile: called while a new one starts: the caller's work that need not wait for it.

    Returns:
        What running.json holds (pid and the URL of each service), and whether it was started
        now.

    Raises:
        LocalCloudError: it did not start, with the last lines of its log; or it is running and
            does not answer; or `state` cannot be written.
    """
    state = state.resolve()
    with _locked(state):
        running = status(state) or _wait_for_answer(state)
        same = running and (running["project"], running["thelook"]) == (project, thelook)
        same = same and runner in (None, running.get("runner"))
        same = same and answers in (None, running.get("answers"))
        same = same and "vertex_grpc" in running  # not in one that older code has started
        if same and module in (None, running.get("module")):
            return running, False
        if running:
            _stop(running["pid"], state)
        return _launch(state, {
            "state": str(state), "project": project, "thelook": thelook,
            "images": {k: str(v) for k, v in (images or local_images()).items()},
            "runner": runner or "process", "module": module or SERVER,
            "answers": answers or "usual",
        }, meanwhile), True


def local_images() -> dict[str, Path]:
    """Every folder below `lib/` with a Dockerfile, by the folder's name."""
    return {f.parent.name: f.parent for f in sorted((ROOT / "lib").glob("**/Dockerfile"))}


def status(state: Path = STATE) -> dict | None:
    """What running.json holds if that process answers, else None."""
    try:
        running = json.loads((state / "running.json").read_text())
        address = running["vertex"] + "/healthz"
        with loopback.OPENER.open(address, timeout=PING_SECONDS) as answer:
            same = json.loads(answer.read()).get("pid") == running["pid"]
        return running if same else None
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None


def owner(state: Path = STATE) -> int | None:
    """The pid of the process that serves this folder, whether or not it answers; None if none."""
    try:
        with (state / "server.lock").open() as file:
            try:
                # Shared: two that ask do not take each other for the process.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):
        return None


def own(state: Path) -> None:
    """Become the process that serves this folder, until this process ends.

    Raises:
        LocalCloudError: another process serves it.
    """
    state.mkdir(parents=True, exist_ok=True)
    # A bare descriptor: it stays open, and locked, to the very end.
    lock = os.open(state / "server.lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + 2  # `owner` locks the file for a moment
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise not_answering(owner(state)) from None
            time.sleep(0.05)
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def stop(state: Path = STATE) -> bool:
    """Stop the local cloud, also one that does not answer; its data are kept. False if none ran.

    Raises:
        LocalCloudError: it cannot be stopped.
    """
    with _locked(state):
        return _stop_any(state)


def reset(state: Path = STATE) -> None:
    """Stop the local cloud and delete everything that it holds.

    Raises:
        LocalCloudError: it cannot be stopped; then nothing is deleted.
    """
    with _locked(state):
        _stop_any(state)
        for part in ("bigquery", "storage", "vertex", "iam.json", "running.json", "server.log"):
            path = state / part
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _stop_any(state: Path) -> bool:
    running = status(state)
    pid = running["pid"] if running else owner(state)
    if pid:
        _stop(pid, state)
        (state / "running.json").unlink(missing_ok=True)
    return bool(pid)


def _wait_for_answer(state: Path) -> dict | None:
    """What running.json holds, once the process that serves this folder answers; None if none
    does. One that is still starting has no running.json yet."""
    deadline = time.monotonic() + (
        ANSWER_SECONDS if (state / "running.json").exists() else START_SECONDS)
    while pid := owner(state):
        if running := status(state):
            return running
        if time.monotonic() > deadline:
            raise not_answering(pid)
        time.sleep(0.1)
    return None


def wait_for_loss(
    pid: int, over: threading.Event, state: Path = STATE
) -> LocalCloudError | None:
    """Wait until that process has ended, or has not answered for SILENT_SECONDS; the error for it.

    None: `over` was set first.
    """
    answered = asked = time.monotonic()
    while not over.wait(WATCH_SECONDS):
        if owner(state) != pid:
            return LocalCloudError(
                "the local cloud has stopped",
                "the local cloud: the next start keeps its data, and reuses what was made")
        now = time.monotonic()
        if now - asked >= PING_SECONDS:
            asked = now
            if status(state):
                answered = now
            elif now - answered > SILENT_SECONDS:
                return not_answering(pid)
    return None


def not_answering(pid: int | None) -> LocalCloudError:
    """The error for a local cloud that is alive, but too slow or suspended."""
    return LocalCloudError(
        f"the local cloud is running, pid {pid}, but does not answer",
        "a local cloud that answers: try again if this machine is busy, or stop it (its data are "
        "kept)", STOP)


def spawn(words: list[str], log: IO) -> subprocess.Popen:
    """`python -m WORDS`, as a process that survives this one."""
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True)  # Ctrl-C in a notebook must not reach it


def _launch(state: Path, arguments: dict, meanwhile: Callable[[], object]) -> dict:
    if (free := shutil.disk_usage(state).free) < FREE_BYTES:
        raise LocalCloudError(
            f"the disk of {state} is full: {free // 1_000_000} MB are free",
            f"at least {FREE_BYTES // 1_000_000} MB; what is in {state} is kept", f"df -h {state}")
    (state / "running.json").unlink(missing_ok=True)
    with (state / "server.log").open("w") as log:
        child = spawn([arguments["module"], "serve", json.dumps(arguments)], log)
    meanwhile()
    users = (arguments["thelook"] or {}).get("users", 0)
    seconds = START_SECONDS + users // USERS_PER_SECOND
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        running = status(state)
        if running:
            return running
        if child.poll() is not None:
            raise LocalCloudError(
                f"the local cloud ended at start\n{_log_end(state)}",
                f"a local cloud that starts: {state / 'server.log'} says why it did not. Only if "
                "its data are damaged: `.venv/bin/python -m lib.localcloud reset` deletes them")
        time.sleep(0.02)
    _stop(child.pid, state)
    raise LocalCloudError(
        f"the local cloud was not up in {seconds} s\n{_log_end(state)}",
        "more time: what was loaded so far is kept")


def _stop(pid: int, state: Path) -> None:
    """Ask the process to end, and wait; it closes its files and ends its own processes.

    Raises:
        LocalCloudError: it has not ended, or belongs to another user.
    """
    # Where another process started it and did not collect it, its pid outlives it; its lock does
    # not.
    locked = owner(state) == pid

    def over(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (ended(pid) or (locked and owner(state) != pid)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    try:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a suspended process would not see it
        if over(STOP_SECONDS):
            return
        os.kill(pid, signal.SIGKILL)
        if over(KILL_SECONDS):
            return
        why = ""
    except ProcessLookupError:
        return
    except PermissionError:
        why = ": it belongs to another user"
    raise LocalCloudError(f"the local cloud, pid {pid}, cannot be stopped{why}",
                          "that process ended, by the user who started it")


def ended(pid: int) -> bool:
    """Whether that process has ended; collects it if it is a child of this one."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        pass
    return False


def _log_end(state: Path, lines: int = 12) -> str:
    try:
        found = (state / "server.log").read_text().splitlines()[-lines:]
        return "\n".join(line[:300] for line in found)
    except OSError:
        return "(no log)"


@contextmanager
def _locked(state: Path):
    """Only one start or stop at a time, also across processes.

    Raises:
        LocalCloudError: the folder cannot be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / "lock").open("w")
    except OSError as error:
        raise LocalCloudError(
            f"the local cloud cannot write its folder: {error}",
            f"a folder {state} that this user can write, or another one in $LOCALCLOUD_STATE",
            f"ls -ld {state}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
