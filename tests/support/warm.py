"""Local clouds of the tests, forked from a process that has imported their packages.

`process.start` spends two seconds of CPU on imports, and the tests start many local clouds. Each is
a process of its own still, with a log and an end as `python -m MODULE serve ARGUMENTS` has them.

    python -m tests.support.warm SOCKET MODULE...

is the process that forks, and imports these modules first; and what the images import, so that the
processes that its local clouds fork for programs need not. It ends with the process that started
it, even one that was killed, and kills what its tests have left: each local cloud, forked or not.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from lib.localcloud import process
from lib.localcloud.vertex.programs import forks

VARIABLE = "TESTS_FORKER"  # the path of its socket, for commands that the tests start
MARK = "TESTS_OF"  # the same path, in the environment of each process that belongs to these tests
IMPORTED = ("lib.localcloud.server", "tests.support.faults", "tests.support.gateway")
MOST_BYTES = 1 << 20


@functools.cache
def start() -> None:
    """Start the process that forks, if no process above this one has."""
    if VARIABLE in os.environ or not forks.FORKS:
        return
    folder = tempfile.mkdtemp(prefix="forker-")
    path = os.environ[MARK] = f"{folder}/socket"
    forker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm", path, *IMPORTED], cwd=process.ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    forker.stdout.readline()  # it listens; packages that print when they are imported come later
    atexit.register(_end, forker, Path(path))
    os.environ[VARIABLE] = path


def _end(forker: subprocess.Popen, path: Path) -> None:
    forker.communicate()
    path.unlink(missing_ok=True)
    path.parent.rmdir()


class Forked:
    """Instead of `process.spawn`."""

    def __init__(self, words: list[str], log: IO):
        start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as forker:
            forker.connect(os.environ[VARIABLE])
            socket.send_fds(
                forker, [json.dumps([words, dict(os.environ)]).encode()], [log.fileno()])
            self.pid = int(forker.recv(MOST_BYTES))

    def poll(self) -> int | None:
        return 1 if process.ended(self.pid) else None


def use() -> None:
    """Have `process.start` fork."""
    if forks.FORKS:
        process.spawn = Forked


def _fork_on_request(path: str, *imported: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(16)
    print("listens", flush=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    gc.disable()
    sys.modules["tqdm"] = None  # as in lib/localcloud/__main__.py
    for name in imported:
        importlib.import_module(name)
    for folder in process.local_images().values() if imported else ():
        forks.import_packages(folder)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what has ended is collected
    while 0 not in select.select([0, listener], [], [])[0]:
        client, _ = listener.accept()
        # ValueError: there is no request, since the client was killed.
        with client, contextlib.suppress(ConnectionError, ValueError):
            request, (log,), *_ = socket.recv_fds(client, MOST_BYTES, 1)
            child = forks.FORK.Process(target=_become, args=(*json.loads(request), log))
            child.start()
            os.close(log)
            client.send(b"%d" % child.pid)
    _kill_marked(path)
    os._exit(0)  # it would wait for those that still run


def _kill_marked(path: str) -> None:
    """Kill all processes but this one that belong to these tests. A fork has this one's mark."""
    mark, killed = f"{MARK}={path}".encode(), True
    while killed:  # until there is none: one of them may have started another
        killed = False
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if mark in marks and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
                    killed = True


def _become(words: list[str], environment: dict[str, str], log: int) -> None:
    """Be `python -m WORDS`. Its end is that of a process of multiprocessing: the threads of the
    imported packages are not there to be ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(descriptor, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv[1:] = words[1:]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _fork_on_request(*sys.argv[1:])
