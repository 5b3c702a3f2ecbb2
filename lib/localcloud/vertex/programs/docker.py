"""The Docker engine at DOCKER_HOST, by its command line: runs tasks in containers."""

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path

from lib.localcloud.errors import precondition

SECONDS = 30


class Engine:
    """Containers of one local cloud, and of no other one on the same engine."""

    def __init__(self, data_dir: Path):
        self._label = f"localcloud={_hash(data_dir)[:16]}"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            # Left behind by a local cloud that was killed.
            found = _docker("ps", "--all", "--quiet", "--filter", f"label={self._label}")
            for container in found.stdout.split():
                _docker("rm", "--force", container)

    def check(self) -> None:
        """Raise FAILED_PRECONDITION, saying what to do, unless the engine answers."""
        why = "there is no docker command"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = _docker("version", "--format", "{{.Server.Version}}")
            if done.returncode == 0:
                return
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        host = os.environ.get("DOCKER_HOST", "the default socket")
        raise precondition(
            "divergence.docker", f"The local cloud runs tasks in containers, but no Docker engine "
            f"answers at {host}: {why}. Start one (DOCKER_HOST says where), or "
            "start the local cloud with --runner process.")

    def command(
        self, image: str, command: tuple[str, ...], args: tuple[str, ...],
        environment: dict[str, str], folder: Path,
    ) -> list[str]:
        """`docker run` of an image, with `folder` in it under the same path."""
        words = ["docker", "run", "--rm", "--name", _name(folder), "--label", self._label,
                 "--network", "host",  # the local cloud listens on loopback only
                 "--mount", f"type=bind,source={folder},target={folder}"]
        # As root, we can let the image's own user write into the folder and delete its files
        # afterwards; any other user could not, so the container then runs as that user.
        if os.getuid() == 0:
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o777 if path.is_dir() else 0o666)
        else:
            words += ["--user", f"{os.getuid()}:{os.getgid()}"]
        for key, value in environment.items():
            words += ["--env", f"{key}={value}"]
        if command:
            words += ["--entrypoint", command[0]]
        return [*words, image, *command[1:], *args]

    def kill(self, folder: Path) -> None:
        _docker("rm", "--force", _name(folder))


def _name(folder: Path) -> str:
    return f"localcloud-{_hash(folder)[:24]}"


def _hash(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()


def _docker(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=SECONDS)
