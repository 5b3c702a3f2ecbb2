"""The kernels of a run's notebooks, forked from one process that has imported their packages.

A kernel of its own spends about three seconds on imports, seven times a run. Here one process
imports the packages while the run connects, and each kernel is a fork of it, with the environment
and the folder that the run gives it. So are preflight and the report: they need the same packages.
"""

import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import LocalProvisioner

# What the notebooks import, the slow ones first; not what is needed for a new training only
# (kfp, scikit-learn). A name that does not exist is skipped. The first and the last say why.
PACKAGES = [
    "lib.operate.undisturbed", "ipykernel.kernelapp", "ipykernel.ipkernel", "matplotlib.figure",
    "matplotlib.style", "matplotlib_inline.backend_inline", "pandas", "google.cloud.bigquery",
    "google.cloud.bigquery_storage_v1", "google.cloud.aiplatform_v1", "google.cloud.storage",
    "pydantic.types", "pydantic.main", "jinja2", "pyarrow.parquet", "yaml", "requests", "nbformat",
    "tenacity", "ipywidgets",
    "lib.operate.kernels", "lib.cloud", "lib.charts.walk", "lib.charts.proof", "lib.show",
    "lib.endpoint", "lib.cli", "lib.prose", "concurrent.futures.process", "lib.operate.frozen",
]
# macOS ends a forked process that uses some of its own libraries: there, each kernel is a new one.
FORKS = sys.platform == "linux"


def warm() -> None:
    """Start the process that imports the packages; returns at once."""
    if FORKS:
        multiprocessing.set_forkserver_preload(PACKAGES)
        forkserver.ensure_running()


def forked(work: Callable, *arguments: object) -> object:
    """What `work(*arguments)` returns or raises, in a fork that ends with this call."""
    if not FORKS:
        return work(*arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"),
                             initializer=_follow_run) as pool:
        try:
            return pool.submit(_flushed, work, *arguments).result()
        except BaseException:
            end()  # else the pool waits for the work, also after Ctrl-C
            raise


def _flushed(work: Callable, *arguments: object) -> object:
    """What it printed must be out before `end` kills this process."""
    try:
        return work(*arguments)
    finally:
        sys.stdout.flush()


def end() -> None:
    """Kill the kernels that still run: nbclient leaves one that it was starting when the run was
    interrupted, and a process does not end before the processes that it has forked."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


class Client(AsyncKernelClient):
    """Takes a kernel for ready as soon as it answers. jupyter_client waits another fifth of a
    second for messages of its start, which nbclient would skip."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Raises RuntimeError if the kernel has died, or does not answer for `timeout` seconds."""
        deadline = time.monotonic() + (timeout or math.inf)
        while True:
            self.kernel_info()
            with suppress(queue.Empty):
                await self.get_shell_msg(timeout=1)
                await self.get_iopub_msg(timeout=0.2)  # else this channel is not connected yet
                return
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kernel didn't respond in {timeout} seconds")


class Kernels(AsyncKernelManager):
    """A KernelManager that starts this Python: the first kernel named python3 in Jupyter's path
    may be any other."""

    kernel_spec = KernelSpec(**get_kernel_dict())
    client_class = f"{__name__}.Client"
    client_factory = Client

    def __init__(self, **options):
        super().__init__(**options)
        if FORKS:
            self.provisioner = _Forked(
                parent=self, kernel_spec=self.kernel_spec, kernel_id=str(uuid.uuid4()))


class _Forked(LocalProvisioner):
    """Forks the kernel instead of starting a Python."""

    async def launch_kernel(self, cmd: list[str], **options) -> dict:
        """Fork a kernel with the arguments of `python -m ipykernel_launcher ARGUMENTS`."""
        arguments = cmd[cmd.index("ipykernel_launcher") + 1:]
        self.cwd = options.get("cwd") or os.getcwd()
        process = multiprocessing.get_context("forkserver").Process(
            target=_become_kernel, args=(arguments, options["env"], self.cwd))
        process.start()
        self.process, self.pid = _Process(process), process.pid
        self.pgid = process.pid  # by setsid
        return self.connection_info

    async def kill(self, restart: bool = False) -> None:
        """Wait for its end too: the manager asks again only after a tenth of a second."""
        await super().kill(restart)
        if self.process:
            self.process.wait()


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What the forked process does until the kernel is shut down."""
    _follow_run()
    sys.modules["debugpy"] = None  # as if it were not installed: each kernel would import it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    from ipykernel.kernelapp import IPKernelApp

    # jupyter_client names the parent in a variable, which was read at the import.
    IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _follow_run() -> None:
    """End with the run, also with a killed one; Ctrl-C in the terminal reaches the run only."""
    os.setsid()
    threading.Thread(target=_end_with_run, daemon=True).start()


def _end_with_run() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _Process:
    """What LocalProvisioner uses of a subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.Process):
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
