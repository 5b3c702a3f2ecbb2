"""The project's commands, one after the other in one process, which imports their packages once.

A user starts each as a process, `python -m MODULE ARGUMENTS`, which spends seconds on imports. What
comes back is the same: exit status, stdout and stderr, also those of the kernels and the other
processes that the command starts.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


class Commands:
    """One process; `environment` replaces the one of the tests."""

    def __init__(self, environment: dict[str, str]):
        self._folder = tempfile.TemporaryDirectory(prefix="commands-")
        self._environment = environment
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin,
            initargs=(self._folder.name, environment))

    def run(
        self, module: str, *arguments: str, timeout: float, **variables: str
    ) -> subprocess.CompletedProcess:
        """`VARIABLES python -m MODULE ARGUMENTS`, for a module with a `main(arguments)`.

        Raises:
            TimeoutError: it runs longer than `timeout` seconds.
        """
        status, out, err = self._pool.submit(
            _run, module, arguments, {**self._environment, **variables}).result(timeout)
        return subprocess.CompletedProcess([module, *arguments], status, out, err)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


_outputs: list[Path] = []


def _begin(folder: str, environment: dict[str, str]) -> None:
    """Before anything imports lib, which reads the environment."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        # O_APPEND: processes that keep the descriptor go on at the end of the emptied file.
        path = Path(folder) / name
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
        _outputs.append(path)


def _run(
    module: str, arguments: tuple[str, ...], environment: dict[str, str]
) -> tuple[int, str, str]:
    os.environ.clear()
    os.environ.update(environment)
    for path in _outputs:
        os.truncate(path, 0)
    try:
        status = importlib.import_module(module).main(list(arguments))
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return (status or 0, *(path.read_text() for path in _outputs))
