"""Runs the image of a task or custom job to its end: as a process here, or in a container.

Processes do as containers.py describes. Containers need a Docker engine and its command line.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lib.localcloud.vertex.containers import HOST_VARIABLES, LAUNCHER, Containers, Spec
from lib.localcloud.vertex.errors import ApiError
from lib.localcloud.vertex.mount import Mount

RUNNERS = ("process", "container")
STOP_SECONDS = 5
CLOSE_SECONDS = 15
LOG_LINES = 10
LOG_BYTES = 16_384
DOCKER_SECONDS = 30


@dataclass(frozen=True)
class Task:
    """What is to run; `folder` is its own, and is there for a container under the same path."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    log: Path
    seconds: float | None = None


class Runner:
    """Starts tasks and waits for them; one for the whole local cloud."""

    def __init__(self, containers: Containers, kind: str, data_dir: Path):
        if kind not in RUNNERS:
            raise ValueError(f"runner must be one of {', '.join(RUNNERS)}, not {kind!r}")
        self.kind = kind
        self._containers = containers
        # Containers of this local cloud, and of no other one on the same engine.
        self._label = "localcloud=" + hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        # Linux ends a process with the *thread* that started it: see containers.py.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="runner")
        if kind == "container":
            self._remove_leftovers()

    def code(self, image: str) -> str:
        """Changes when the code that an image reference stands for changes, as far as is known.

        A process runs what is in the folder, whatever tag or digest is asked for. An engine
        runs what the reference names: as on Vertex AI, a tag that has moved goes unnoticed.
        """
        if self.kind == "container":
            return "container"
        _, folder = self._containers.command(Spec("", image, "", "", {}))
        return hash_folder(folder)

    def run(self, task: Task, stop: threading.Event) -> None:
        """Run to the end.

        Raises:
            ApiError: CANCELLED if `stop` was set; DEADLINE_EXCEEDED; NOT_FOUND for an image that
                is not known; else FAILED_PRECONDITION with the status and the end of the log.
        """
        start = self._in_container if self.kind == "container" else self._as_process
        command, folder, environment, kill = start(task)
        task.log.parent.mkdir(parents=True, exist_ok=True)
        # Docker's two streams come in no certain order: the errors are put last.
        errors = task.log.with_suffix(".stderr")
        with task.log.open("wb") as output, errors.open("w+b") as error:
            process = self._starter.submit(
                subprocess.Popen, [sys.executable, "-S", str(LAUNCHER), str(os.getpid()), *command],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=error if self.kind == "container" else subprocess.STDOUT,
                start_new_session=True).result()
            try:
                _wait(process, task, stop, kill)
            finally:
                error.seek(0)
                output.seek(0, os.SEEK_END)
                shutil.copyfileobj(error, output)
                errors.unlink()
        if process.returncode:
            raise ApiError("FAILED_PRECONDITION", (
                f"{task.name} ended with status {process.returncode}. The end of its log:\n"
                f"{log_end(task.log)}"))

    def close(self) -> None:
        self._starter.shutdown(wait=False)

    def _as_process(self, task: Task) -> tuple[list[str], Path, dict, Callable[[], None]]:
        # $(NAME) in arguments is not expanded: nothing says that Vertex AI does so for jobs.
        spec = Spec(task.name, task.image, "", "", {}, task.command, task.args)
        command, folder = self._containers.command(spec)
        environment = {k: os.environ[k] for k in HOST_VARIABLES if k in os.environ}
        return command, folder, environment | task.environment, lambda: None

    def _in_container(self, task: Task) -> tuple[list[str], Path, dict, Callable[[], None]]:
        self._check_engine()
        name = f"localcloud-{hashlib.sha256(str(task.folder).encode()).hexdigest()[:24]}"
        words = ["docker", "run", "--rm", "--name", name, "--label", self._label,
                 "--network", "host",  # the local cloud listens on loopback only
                 "--mount", f"type=bind,source={task.folder},target={task.folder}"]
        # The image's own user, if we may give it the folder and delete what it writes there;
        # otherwise ours: files of a stranger would stay behind for ever.
        if os.getuid() == 0:
            _open_up(task.folder)
        else:
            words += ["--user", f"{os.getuid()}:{os.getgid()}"]
        for key, value in task.environment.items():
            words += ["--env", f"{key}={value}"]
        command, args = list(task.command), list(task.args)
        if command:
            words += ["--entrypoint", command.pop(0)]
        return ([*words, task.image, *command, *args], task.folder, dict(os.environ),
                lambda: _docker("rm", "--force", name))

    def _check_engine(self) -> None:
        """Raise FAILED_PRECONDITION, saying what to do, unless a Docker engine answers."""
        why = "there is no docker command"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = _docker("version", "--format", "{{.Server.Version}}")
            if done.returncode == 0:
                return
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        host = os.environ.get("DOCKER_HOST", "the default socket")
        raise ApiError("FAILED_PRECONDITION", f"The local cloud runs tasks in containers, but no "
                       f"Docker engine answers at {host}: {why}. Start one (DOCKER_HOST says "
                       "where), or start the local cloud with --runner process.")

    def _remove_leftovers(self) -> None:
        """Containers of a local cloud that was killed."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            found = _docker("ps", "--all", "--quiet", "--filter", f"label={self._label}")
            for container in found.stdout.split():
                _docker("rm", "--force", container)


class Background:
    """The running jobs: a thread for each, which can be told to stop."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self.closing = False

    def start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
        self._jobs[name] = thread, stop
        thread.start()

    def stop(self, name: str) -> None:
        if name in self._jobs:
            self._jobs[name][1].set()

    def close(self) -> None:
        """End all; the next start of the local cloud says so in their state."""
        self.closing = True
        for name in list(self._jobs):
            self.stop(name)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread, _ in list(self._jobs.values()):
            thread.join(max(0, deadline - time.monotonic()))


@contextlib.contextmanager
def workplace(cloud, folder: Path) -> Iterator[Mount]:
    """An empty folder for one run of a task, with Cloud Storage in it; deleted afterwards."""
    folder.mkdir(parents=True)
    try:
        yield Mount(folder / "gcs", cloud.objects)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_mounted(cloud, task: Task, mount: Mount, stop: threading.Event) -> None:
    """Run a task whose command and variables may name /gcs/bucket/... .

    Raises:
        ApiError: as `Runner.run`, and for storage that cannot be read or written. What a failed
            task has written is kept in Cloud Storage, as a real mount would.
    """
    here = mount.localize
    task = replace(
        task, command=tuple(map(here, task.command)), args=tuple(map(here, task.args)),
        environment=clients_environment(cloud) | {k: here(v) for k, v in task.environment.items()})
    try:
        cloud.runner.run(task, stop)
    finally:
        if not cloud.background.closing:
            mount.store()


def clients_environment(cloud) -> dict[str, str]:
    """The variables by which Google's clients in a task find this local cloud."""
    return {
        "PYTHONUNBUFFERED": "1", "STORAGE_EMULATOR_HOST": cloud.storage,
        "BIGQUERY_EMULATOR_HOST": cloud.bigquery_rest,
        "BIGQUERY_STORAGE_GRPC_ENDPOINT": cloud.bigquery_grpc}


def log_end(log: Path) -> str:
    """The last lines that are not empty."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if line.strip()][-LOG_LINES:]) or "(no output)"


def hash_folder(folder: Path) -> str:
    """A hash of the names and contents of its files, but not of what Python leaves there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(repr((file.relative_to(folder).as_posix(), file.stat().st_size)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _docker(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=DOCKER_SECONDS)


def _open_up(folder: Path) -> None:
    """Whatever user the image has can read and write it all."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def _wait(
    process: subprocess.Popen, task: Task, stop: threading.Event, kill: Callable[[], None]
) -> None:
    """Until it is over; if told to stop, or too late, end it and raise CANCELLED or so."""
    deadline = time.monotonic() + task.seconds if task.seconds else None
    while process.poll() is None:
        late = deadline is not None and time.monotonic() > deadline
        if stop.is_set() or late:
            kill()
            _end(process)
            if stop.is_set():
                raise ApiError("CANCELLED", f"{task.name} was cancelled.")
            raise ApiError("DEADLINE_EXCEEDED", f"{task.name} ran for over {task.seconds} s.")
        time.sleep(0.02)


def _end(process: subprocess.Popen) -> None:
    """End the process and those that it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
