"""Serving containers, run as processes: the image's command with Vertex AI's environment.

An image is known by the last part of its URI; its folder's Dockerfile says what to run. The
contract: GEAP/machine-learning/predictions/custom-container-requirements.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import urllib3

from lib.localcloud.vertex.errors import ApiError

START_SECONDS = 60
PREDICT_SECONDS = 60  # of a shared endpoint
STOP_SECONDS = 5
LOG_LINES = 15
LAUNCHER = Path(__file__).with_name("launch.py")
# A container sees none of the host's environment; a process needs these.
HOST_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Spec:
    """What is to run, from the model's containerSpec."""

    deployed_model_id: str
    image_uri: str
    health_route: str
    predict_route: str
    environment: dict[str, str]
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    start_seconds: float = START_SECONDS


class Server:
    """One running model server."""

    def __init__(self, spec: Spec, process: subprocess.Popen, port: int, log: Path):
        self.spec = spec
        self.process = process
        self.log = log
        self.http = urllib3.HTTPConnectionPool(
            "127.0.0.1", port, maxsize=32, retries=False,
            timeout=urllib3.Timeout(connect=5, read=PREDICT_SECONDS))

    def healthy(self) -> bool:
        try:
            return self.http.request("GET", self.spec.health_route, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """HTTP status and body of the container's answer."""
        answer = self.http.request(
            "POST", self.spec.predict_route, body=body,
            headers={"Content-Type": "application/json"})
        return answer.status, answer.data

    def ended(self, seconds: float) -> bool:
        """Whether the process is over, or will be within that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        if not self.ended(STOP_SECONDS):
            self.process.kill()
            self.process.wait()

    def log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


class Containers:
    """All running model servers, by deployed model id."""

    def __init__(self, images: dict[str, Path], logs: Path):
        self._images = images
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._servers: dict[str, Server] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._closed = False
        # Linux sends a parent's death signal when the *thread* that started the child ends: all
        # are started by this one, which lives as long as the local cloud.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="containers")

    def start(self, spec: Spec) -> Server:
        """The running server of that spec, started and healthy.

        Raises:
            ApiError: NOT_FOUND for an image that is not known here; INTERNAL, with the end of the
                log, if it dies or is not healthy in time.
        """
        with self._locks.setdefault(spec.deployed_model_id, threading.Lock()):
            if server := self.running(spec.deployed_model_id):
                return server
            if self._closed:
                raise ApiError("UNAVAILABLE", "The local cloud is stopping.")
            server = self._starter.submit(self._launch, spec).result()
            self._servers[spec.deployed_model_id] = server
            try:
                _wait_until_healthy(server)
            except ApiError:
                self.stop(spec.deployed_model_id)
                raise
            return server

    def running(self, deployed_model_id: str) -> Server | None:
        """The server of that deployed model, if it runs."""
        server = self._servers.get(deployed_model_id)
        return server if server and server.process.poll() is None else None

    def stop(self, deployed_model_id: str) -> None:
        if server := self._servers.pop(deployed_model_id, None):
            server.stop()

    def close(self) -> None:
        self._closed = True
        for deployed_model_id in list(self._servers):
            self.stop(deployed_model_id)
        self._starter.shutdown(wait=False)

    def command(self, spec: Spec) -> tuple[list[str], Path]:
        """What to run and where; NOT_FOUND for an image that is not known here."""
        name = image_name(spec.image_uri)
        if name not in self._images:
            known = ", ".join(sorted(self._images)) or "none"
            raise ApiError(
                "NOT_FOUND", f"Image {spec.image_uri!r} was not found (known here: {known}).")
        folder = Path(self._images[name])
        entrypoint, arguments = read_dockerfile(folder / "Dockerfile")
        # As Docker and Kubernetes combine them: a command of one's own drops the image's CMD.
        if spec.command:
            entrypoint, arguments = list(spec.command), []
        command = entrypoint + (list(spec.args) or arguments)
        command = [_expand(part, spec.environment) for part in command]
        if not command:
            raise ApiError("INTERNAL", f"{folder}/Dockerfile has no ENTRYPOINT or CMD.")
        if re.fullmatch(r"(.*/)?python(3(\.\d+)?)?", command[0]):
            command[0] = sys.executable
        return command, folder

    def _launch(self, spec: Spec) -> Server:
        command, folder = self.command(spec)
        port = _free_port()
        environment = {k: os.environ[k] for k in HOST_VARIABLES if k in os.environ}
        environment |= {"PYTHONUNBUFFERED": "1", **spec.environment, "AIP_HTTP_PORT": str(port)}
        log = self._logs / f"{spec.deployed_model_id}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-S", str(LAUNCHER), str(os.getpid()), *command],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        return Server(spec, process, port, log)


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


def _expand(text: str, environment: dict[str, str]) -> str:
    """$(NAME) as Kubernetes expands it in commands and args; an unknown name stays."""
    return re.sub(r"\$\((\w+)\)", lambda m: environment.get(m[1], m[0]), text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(server: Server) -> None:
    seconds = server.spec.start_seconds
    deadline = time.monotonic() + seconds
    while not server.healthy():
        code = server.process.poll()
        if code is not None or time.monotonic() > deadline:
            what = (
                f"ended with status {code}" if code is not None
                else f"did not answer 200 on {server.spec.health_route} within {seconds:.0f} s")
            raise ApiError(
                "INTERNAL", f"Model server {what}. The end of its log:\n{server.log_end()}")
        time.sleep(0.05)
