"""`python -m MODULE ARGUMENTS`, forked from a process that has imported the packages.

A user starts a Python for each command, which spends seconds on imports. Here one process of the
tests imports the packages, and each command is a fork of it: a process of its own that imports
`lib` itself, with exit status, stdout and stderr as a user has them. A local cloud that it starts
is a fork too (warm.py), unless that process's variable is empty.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lib.operate import kernels
from tests.support import warm

ROOT = Path(__file__).resolve().parents[2]


def run(
    module: str, *arguments: str, timeout: float = 120, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`VARIABLES python -m MODULE ARGUMENTS`, in `folder`.

    Raises:
        subprocess.TimeoutExpired: it ran longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="forked-") as outputs:
        files = [Path(outputs) / name for name in ("stdout", "stderr")]
        process = start(module, *arguments, files=files, folder=folder, **variables)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(module, timeout)
        out, err = (file.read_text() for file in files)
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)


def start(
    module: str, *arguments: str, files: Sequence[Path], folder: Path = ROOT, **variables: str
) -> multiprocessing.Process:
    """The same, while it runs. `files`: for stdout and stderr, which may be one."""
    warm.start()  # first: it marks what the other one forks
    kernels.warm()
    process = multiprocessing.get_context("forkserver" if kernels.FORKS else "spawn").Process(
        target=_become,
        args=(module, arguments, str(folder), {**os.environ, **variables}, *map(str, files)))
    process.start()
    return process


def _become(
    module: str, arguments: tuple[str, ...], folder: str, environment: dict[str, str], stdout: str,
    stderr: str
) -> None:
    gc.freeze()  # a search for garbage would copy the memory that it shares
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in ((1, stdout), (2, stderr)):
        # O_APPEND: its own child processes write to the same file.
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lib", "tests")]:
        del sys.modules[name]  # `folder` may be that of a copy of the project
    sys.path.insert(0, folder)
    sys.argv[1:] = arguments
    if folder == str(ROOT) and environment.get(warm.VARIABLE):
        from tests.support import warm as its_own

        its_own.use()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
