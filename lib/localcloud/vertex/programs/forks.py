"""Programs as forks of one process that has imported their packages.

A Python of its own spends one or two seconds on imports, for each task of a pipeline and each start
of a model server. The local cloud has most of these packages itself. So, before it opens any file,
it forks a process that waits. That one imports what the code of an image imports, then forks a
watcher, which forks the program and reports its exit status. A fork that is unlike the Python of
its own is not made: see `Forks.start`. One difference stays: a fork ends by os._exit, so what its
packages registered with `atexit` is not called. A normal end of Python would free a million
objects, in 0.2 s of CPU.
"""

import ast
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import IO, NoReturn

from lib.localcloud import process
from lib.localcloud.vertex.programs import end_with_parent

FORK = multiprocessing.get_context("fork")
FORKS = sys.platform == "linux"  # macOS ends a forked process that uses some of its own libraries
# What Python and the native libraries read when they are loaded, which is over in a fork.
READ_WHEN_LOADED = re.compile(
    r"PYTHON(?!UNBUFFERED$|DONTWRITEBYTECODE$)|LD_|LANG|LC_|TZ$|OMP_|GOMP_|MKL_|GOTO_|"
    r"OPENBLAS_|NPY_|NUMPY_|SCIPY_|SKLEARN_|JOBLIB_|LOKY_|PANDAS_|ARROW_|GRPC_(?!DEFAULT_SSL)|"
    r"PROTOCOL_BUFFERS_|PYDANTIC_|MALLOC_")
MOST_BYTES = 1 << 20  # of a message: Linux sends up to 0.2 MB


class Program:
    """A forked program, with what its callers use of a subprocess.Popen."""

    def __init__(self, answers: socket.socket, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._receive_status, args=(answers,), daemon=True).start()

    def _receive_status(self, answers: socket.socket) -> None:
        with answers:
            answer = answers.recv(MOST_BYTES)
        # No answer: its watcher was killed, and it with it.
        self.returncode = int(answer.removeprefix(b"status ") or -signal.SIGKILL)
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status; -N if signal N ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("the program", timeout)
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Forks:
    """The process that forks programs; it ends with this one."""

    def __init__(self):
        """Fork it. Call this before there are threads or open files: it would have a copy."""
        self._read = _read_when_loaded(dict(os.environ))
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with requests:
            if os.fork() == 0:
                self._requests.close()
                end_with_parent.end_with(parent)
                _fork_programs(requests)

    def prepare(self, folder: Path) -> None:
        """Let it import what the code in that folder imports, before the first program starts."""
        with contextlib.suppress(OSError):
            self._requests.send(json.dumps([None, str(folder), None]).encode())

    def close(self) -> None:
        """End it; programs that still run are killed."""
        self._requests.close()

    def start(
        self, command: list[str], folder: Path, environment: dict[str, str], output: IO,
        error: IO | None,
    ) -> Program | None:
        """Fork a program `python FILE ...`; error None: its errors go to `output`.

        None: a new Python must run it. It is not our Python, or no file; or its environment differs
        from this process's in what is read only when a package is loaded; or its code names
        `atexit`, which a fork does not serve; or the fork failed.
        """
        python, *words = command
        if python != sys.executable or not words or words[0].startswith("-"):
            return None
        if _read_when_loaded(environment) != self._read or _names_atexit(folder):
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.suppress(OSError):
            socket.send_fds(
                self._requests, [json.dumps([words, str(folder), environment]).encode()],
                [theirs.fileno(), output.fileno(), (error or output).fileno()])
        kind, _, pid = ours.recv(MOST_BYTES).partition(b" ")
        if kind == b"pid":
            return Program(ours, int(pid))
        ours.close()
        return None


def _read_when_loaded(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if READ_WHEN_LOADED.match(k)}


def _names_atexit(folder: Path) -> bool:
    return any(b"atexit" in file.read_bytes() for file in folder.rglob("*.py"))


def _fork_programs(requests: socket.socket) -> NoReturn:
    """What the waiting process does, until the local cloud ends."""
    os.setsid()  # Ctrl-C in the terminal must not reach it
    project = {path.stem for path in process.ROOT.iterdir()
               if path.is_dir() or path.suffix == ".py"}
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] in project:
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != process.ROOT]
    imported = set()
    while True:
        request, descriptors, *_ = socket.recv_fds(requests, MOST_BYTES, 3)
        if not request:
            os._exit(0)
        words, folder, environment = json.loads(request)
        if folder not in imported:
            imported.add(folder)
            import_packages(Path(folder))
            gc.freeze()  # a search for garbage would copy the memory that the programs share
        if not words:  # only to be prepared
            continue
        with contextlib.suppress(OSError):  # no memory or process is left: `start` gets no answer
            FORK.Process(target=_watch, args=(words, folder, environment, descriptors)).start()
        for descriptor in descriptors:
            os.close(descriptor)


def import_packages(folder: Path) -> None:
    """Import what the Python files in the folder import, except each other."""
    for file in sorted(folder.rglob("*.py")):
        names = []
        # What is wrong with a file or a package, the program will say.
        with contextlib.suppress(Exception):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Import):
                    names += [each.name for each in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names += [f"{node.module}.{each.name}" for each in node.names]
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name.rpartition(".")[0] or name)
                importlib.import_module(name)


def _watch(
    words: list[str], folder: str, environment: dict[str, str], descriptors: list[int]
) -> None:
    """Fork the program, wait for its end, and report its exit status."""
    end_with_parent.end_with(multiprocessing.parent_process().pid)
    program = FORK.Process(
        target=_become, name=words[0], args=(words, folder, environment, descriptors))
    program.start()
    program.join()
    os.write(descriptors[0], b"status %d" % program.exitcode)


def _become(
    words: list[str], folder: str, environment: dict[str, str], descriptors: list[int]
) -> None:
    """Be `python WORDS`, in that folder."""
    end_with_parent.end_with(multiprocessing.parent_process().pid)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, *descriptors[1:])):
        os.dup2(descriptor, number)
    os.write(descriptors[0], b"pid %d" % os.getpid())
    # Not the limit of descriptors: it may be a billion, or have been lowered.
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout.reconfigure(line_buffering=True)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all forks would draw the same
    file = Path(words[0]).resolve()
    sys.argv[:] = words
    sys.path.insert(0, str(file.parent))
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    main.__file__ = str(file)
    exec(compile(file.read_bytes(), file, "exec"), vars(main))
