"""Container images as folders: what to run for an image, and how to start it as a process.

An image is known by the last part of its URI; its folder's Dockerfile says what to run. What the
image installs, copies or sets with ENV has no effect here.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from lib.localcloud.errors import defect, refused
from lib.localcloud.vertex.programs.forks import Forks, Program

WRAPPER = Path(__file__).with_name("end_with_parent.py")
# A container sees none of the host's environment; a process needs these.
HOST_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class Images:
    """The known images, and what starts all processes: `forks`, or else a thread."""

    def __init__(self, folders: dict[str, Path], forks: Forks | None = None):
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._forks = forks
        # Linux sends a parent's death signal when the *thread* that started the child ends: all
        # are started by this one, which lives as long as the local cloud.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")

    def close(self) -> None:
        self._starter.shutdown(wait=False)

    def folder(self, uri: str) -> Path:
        """The folder of an image.

        Raises:
            ApiError: NOT_FOUND.
        """
        name = image_name(uri)
        if name not in self._folders:
            known = ", ".join(sorted(self._folders)) or "none"
            raise refused(
                "every.image-missing",
                "NOT_FOUND", f"Image {uri!r} was not found (known here: {known}).")
        return self._folders[name]

    def command(
        self, uri: str, command: tuple[str, ...] = (), args: tuple[str, ...] = ()
    ) -> list[str]:
        """What to run in the image's folder; `command` and `args` replace those of the image.

        Raises:
            ApiError: NOT_FOUND for the image; INTERNAL if its Dockerfile does not say what to run.
        """
        folder = self.folder(uri)
        entrypoint, arguments = read_dockerfile(folder / "Dockerfile")
        # As Docker and Kubernetes combine them: a command of its own drops the image's CMD.
        if command:
            entrypoint, arguments = list(command), []
        words = entrypoint + (list(args) or arguments)
        if not words:
            raise defect(f"{folder}/Dockerfile has no ENTRYPOINT or CMD.")
        if re.fullmatch(r"(.*/)?python(3(\.\d+)?)?", words[0]):
            words[0] = sys.executable
        return words

    def start(
        self, command: list[str], folder: Path, environment: dict[str, str], output: IO,
        error: IO | None = None,
    ) -> subprocess.Popen | Program:
        """Start a process that ends with this one (on Linux); without `error`, its errors go to
        `output`."""
        if self._forks and (
                program := self._forks.start(command, folder, environment, output, error)):
            return program
        return self._starter.submit(
            subprocess.Popen, [sys.executable, "-S", str(WRAPPER), str(os.getpid()), *command],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=error or subprocess.STDOUT, start_new_session=True).result()


def host_environment() -> dict[str, str]:
    """The variables of this process that another one needs."""
    return {name: os.environ[name] for name in HOST_VARIABLES if name in os.environ}


def image_name(uri: str) -> str:
    """`host/project/repo/serving:tag` or `.../serving@sha256:..` -> `serving`."""
    return re.split(r"[:@]", uri.rsplit("/", 1)[-1])[0]


def read_dockerfile(file: Path) -> tuple[list[str], list[str]]:
    """(ENTRYPOINT, CMD) of a Dockerfile's last stage; nothing else in it matters here."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        instruction = instruction.upper()
        if instruction == "FROM":
            found = {}
        elif instruction in ("ENTRYPOINT", "CMD"):
            rest = rest.strip()
            found[instruction] = (
                json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest])
    return found.get("ENTRYPOINT", []), found.get("CMD", [])


def log_end(log: Path, lines: int = 10, most_bytes: int = 16_384) -> str:
    """The last lines of a program's log, without empty ones."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most_bytes))
        found = file.read().decode(errors="replace").splitlines()
    return "\n".join([line for line in found if line.strip()][-lines:]) or "(no output)"
