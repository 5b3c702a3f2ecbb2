"""Model servers: serving containers run as processes, with Vertex AI's environment.

The contract: GEAP/machine-learning/predictions/custom-container-requirements.
"""

import re
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3

from lib.localcloud.errors import ApiError, refused
from lib.localcloud.vertex.programs.forks import Program
from lib.localcloud.vertex.programs.images import Images, host_environment, log_end

START_SECONDS = 60
PREDICT_SECONDS = 60  # of a shared endpoint, including the wait for a server that restarts
STOP_SECONDS = 5


@dataclass(frozen=True)
class Spec:
    """What to run, from the model's containerSpec."""

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

    def __init__(self, spec: Spec, process: subprocess.Popen | Program, port: int, log: Path):
        self.spec = spec
        self.process = process
        self.log = log
        self.healthy = False  # until its first answer on the health route
        self._http = urllib3.HTTPConnectionPool(
            "127.0.0.1", port, maxsize=32, retries=False,
            timeout=PREDICT_SECONDS)

    def predict(self, body: bytes, seconds: float = PREDICT_SECONDS) -> tuple[int, bytes]:
        """HTTP status and body of the container's answer, which may take so many seconds."""
        answer = self._http.request(
            "POST", self.spec.predict_route, body=body, timeout=max(seconds, 0.1),
            headers={"Content-Type": "application/json"})
        return answer.status, answer.data

    def wait_until_healthy(self) -> None:
        """Raise INTERNAL, with the end of the log, if it ends first or is not healthy in time."""
        seconds = self.spec.start_seconds
        deadline = time.monotonic() + seconds
        while not self._healthy():
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                what = (
                    f"ended with status {code}" if code is not None
                    else f"did not answer 200 on {self.spec.health_route} within {seconds:.0f} s")
                raise refused(
                    "endpoints.unhealthy", "INTERNAL", f"Model server {what}. The end of its log:\n"
                    f"{log_end(self.log, lines=15)}")
            time.sleep(0.05)
        self.healthy = True

    def ended(self, seconds: float) -> bool:
        """Whether the process ends within that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        self._http.close()
        if self.process.poll() is None:
            self.process.terminate()
        if not self.ended(STOP_SECONDS):
            self.process.kill()
            self.process.wait()

    def _healthy(self) -> bool:
        try:
            return self._http.request("GET", self.spec.health_route, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False


class Servers:
    """All running model servers, by deployed model id."""

    def __init__(self, images: Images, logs: Path):
        self._images = images
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._servers: dict[str, Server] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._closed = False

    def start(self, spec: Spec, patience: float = -1) -> Server:
        """The healthy server of that spec; started, if it does not run.

        patience: seconds to wait for a start that another caller has begun; -1 is for ever.

        Raises:
            ApiError: NOT_FOUND for an unknown image; INTERNAL if it does not get healthy;
                UNAVAILABLE if the start of another caller takes too long.
        """
        lock = self._locks.setdefault(spec.deployed_model_id, threading.Lock())
        if not lock.acquire(timeout=patience):
            raise refused("endpoints.unreachable", "UNAVAILABLE",
                          "The model server is still starting.")
        try:
            if server := self.running(spec.deployed_model_id):
                return server
            if self._closed:
                raise refused(
                    "divergence.interrupted", "UNAVAILABLE", "The local cloud is stopping.")
            server = self._servers[spec.deployed_model_id] = self._launch(spec)
            try:
                server.wait_until_healthy()
            except ApiError:
                self.stop(spec.deployed_model_id)
                raise
            return server
        finally:
            lock.release()

    def running(self, deployed_model_id: str) -> Server | None:
        """The server of that deployed model, if it runs and can answer."""
        server = self._servers.get(deployed_model_id)
        return server if server and server.healthy and server.process.poll() is None else None

    def processes(self) -> dict[str, subprocess.Popen | Program]:
        """Deployed model id -> process, also of servers that have ended by themselves."""
        return {key: server.process for key, server in self._servers.items()}

    def stop(self, deployed_model_id: str) -> None:
        if server := self._servers.pop(deployed_model_id, None):
            server.stop()

    def close(self) -> None:
        self._closed = True
        for deployed_model_id in list(self._servers):
            self.stop(deployed_model_id)

    def _launch(self, spec: Spec) -> Server:
        words = self._images.command(spec.image_uri, spec.command, spec.args)
        command = [_expand(word, spec.environment) for word in words]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = host_environment() | {
            "PYTHONUNBUFFERED": "1", **spec.environment, "AIP_HTTP_PORT": str(port)}
        log = self._logs / f"{spec.deployed_model_id}.log"
        with log.open("wb") as output:
            process = self._images.start(
                command, self._images.folder(spec.image_uri), environment, output)
        return Server(spec, process, port, log)


def _expand(text: str, environment: dict[str, str]) -> str:
    """$(NAME) as Kubernetes expands it in commands and args; an unknown name stays."""
    return re.sub(r"\$\((\w+)\)", lambda m: environment.get(m[1], m[0]), text)
