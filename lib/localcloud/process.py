"""Start, find and stop the local cloud's process.

Everything is kept in one folder, `state`: running.json while it runs, server.log, and the data
of each service, which survives a restart.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# $LOCALCLOUD_STATE: another folder, so that tests never touch the data of a run.
STATE = Path(os.environ.get("LOCALCLOUD_STATE") or ROOT / ".localcloud")
START_SECONDS = 120
STOP_SECONDS = 20
SERVER = "lib.localcloud"  # the module that `start` launches


class LocalCloudError(RuntimeError):
    """The local cloud did not start or stop; the message holds the end of its log."""


def start(
    project: str, thelook: dict | None, images: dict[str, Path] | None = None,
    state: Path = STATE, runner: str | None = None, module: str | None = None,
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

    Returns:
        What running.json holds (pid and the URL of each service), and whether it was started
        now.

    Raises:
        LocalCloudError: with the last lines of its log.
    """
    state = state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    with _locked(state):
        running = status(state)
        same = running and (running["project"], running["thelook"]) == (project, thelook)
        same = same and runner in (None, running.get("runner"))
        if same and module in (None, running.get("module")):
            return running, False
        if running:
            _stop(running["pid"])
        return _launch(state, {
            "state": str(state), "project": project, "thelook": thelook,
            "images": {k: str(v) for k, v in (images or local_images()).items()},
            "runner": runner or "process", "module": module or SERVER,
        }), True


def local_images() -> dict[str, Path]:
    """Every folder below `lib/` with a Dockerfile, by the folder's name."""
    return {f.parent.name: f.parent for f in sorted((ROOT / "lib").glob("**/Dockerfile"))}


def status(state: Path = STATE) -> dict | None:
    """What running.json holds if that process answers, else None."""
    try:
        running = json.loads((state / "running.json").read_text())
        with urllib.request.urlopen(running["vertex"] + "/healthz", timeout=5) as answer:
            same = json.loads(answer.read()).get("pid") == running["pid"]
        return running if same else None
    except (OSError, ValueError, KeyError):
        return None


def stop(state: Path = STATE) -> bool:
    """Stop the local cloud; its data are kept. False if none was running."""
    state.mkdir(parents=True, exist_ok=True)
    with _locked(state):
        running = status(state)
        if running:
            _stop(running["pid"])
        return bool(running)


def reset(state: Path = STATE) -> None:
    """Stop the local cloud and delete everything that it holds."""
    stop(state)
    for part in ("bigquery", "storage", "vertex", "running.json", "server.log"):
        path = state / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _launch(state: Path, arguments: dict) -> dict:
    (state / "running.json").unlink(missing_ok=True)
    with (state / "server.log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", arguments["module"], "serve", json.dumps(arguments)],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a notebook must not reach it
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        running = status(state)
        if running:
            return running
        if child.poll() is not None:
            raise LocalCloudError(f"the local cloud ended at start\n{_log_end(state)}")
        time.sleep(0.1)
    _stop(child.pid)
    raise LocalCloudError(f"the local cloud was not up in {START_SECONDS} s\n{_log_end(state)}")


def _stop(pid: int) -> None:
    """Ask the process to end, and wait; it closes its files and ends its own processes."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if ended(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


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
    return False


def _log_end(state: Path, lines: int = 12) -> str:
    try:
        return "\n".join((state / "server.log").read_text().splitlines()[-lines:])
    except OSError:
        return "(no log)"


@contextmanager
def _locked(state: Path):
    """Only one start or stop at a time, also across processes."""
    with (state / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
