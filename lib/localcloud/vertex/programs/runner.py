"""Runs the container of a task or custom job to its end: as a process, or on a Docker engine."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lib.localcloud.errors import precondition, refused
from lib.localcloud.vertex.programs.docker import Engine
from lib.localcloud.vertex.programs.forks import Program
from lib.localcloud.vertex.programs.images import Images, host_environment, log_end

RUNNERS = ("process", "container")
STOP_SECONDS = 5


@dataclass(frozen=True)
class Task:
    """What to run. `folder` is its own; a container sees it under the same path."""

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

    def __init__(self, images: Images, kind: str, data_dir: Path):
        if kind not in RUNNERS:
            raise ValueError(f"runner must be one of {', '.join(RUNNERS)}, not {kind!r}")
        self._images = images
        self._engine = Engine(data_dir) if kind == "container" else None

    def code(self, image: str) -> str:
        """Changes when the code that an image reference stands for changes, as far as known.

        A process runs what is in the folder, whatever the tag or digest. An engine runs what the
        reference names: as on Vertex AI, a tag that has moved goes unnoticed.
        """
        return "container" if self._engine else _hash_folder(self._images.folder(image))

    def run(self, task: Task, stop: threading.Event) -> None:
        """Run to the end.

        Raises:
            ApiError: CANCELLED if `stop` was set; DEADLINE_EXCEEDED; NOT_FOUND for an unknown
                image; else FAILED_PRECONDITION with the status and the end of the log.
        """
        if self._engine:
            self._engine.check()
            command = self._engine.command(
                task.image, task.command, task.args, task.environment, task.folder)
            folder, environment = task.folder, dict(os.environ)
        else:
            # $(NAME) in arguments is not expanded: no source says that Vertex AI does so for jobs.
            command = self._images.command(task.image, task.command, task.args)
            folder = self._images.folder(task.image)
            environment = host_environment() | task.environment
        status = self._run(task, command, folder, environment, stop)
        if status:
            raise precondition(
                "jobs.exit-status", f"{task.name} ended with status {status}. The end of its log:\n"
                f"{log_end(task.log)}")

    def _run(
        self, task: Task, command: list[str], folder: Path, environment: dict[str, str],
        stop: threading.Event,
    ) -> int:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        # Docker keeps no order between the two streams: errors are put last in the log.
        errors = task.log.with_suffix(".stderr")
        with task.log.open("wb") as output, errors.open("w+b") as error:
            process = self._images.start(
                command, folder, environment, output,
                error if self._engine else None)
            try:
                self._wait(process, task, stop)
            finally:
                error.seek(0)
                output.seek(0, os.SEEK_END)
                shutil.copyfileobj(error, output)
                errors.unlink()
        return process.returncode

    def _wait(self, process: subprocess.Popen | Program, task: Task, stop: threading.Event) -> None:
        """Wait for the process; end it if stopped or too late, and raise."""
        deadline = time.monotonic() + task.seconds if task.seconds else None
        while process.poll() is None:
            late = deadline is not None and time.monotonic() > deadline
            if stop.is_set() or late:
                if self._engine:
                    self._engine.kill(task.folder)
                _end(process)
                if stop.is_set():
                    raise refused("jobs.cancel-running", "CANCELLED", f"{task.name} was cancelled.")
                raise refused(
                    "jobs.timeout",
                    "DEADLINE_EXCEEDED", f"{task.name} ran for over {task.seconds} s.")
            time.sleep(0.02)


def _end(process: subprocess.Popen | Program) -> None:
    """End the process and those that it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _hash_folder(folder: Path) -> str:
    """A hash of the names and contents of its files, except what Python itself leaves there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(repr((file.relative_to(folder).as_posix(), file.stat().st_size)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
