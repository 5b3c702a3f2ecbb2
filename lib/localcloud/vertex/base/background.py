"""Threads of running jobs, which can be stopped."""

import threading
import time
from collections.abc import Callable

CLOSE_SECONDS = 15


class Background:
    """One thread for each running job, by the job's name."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self.closing = False

    def start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """Run `work(stop)` in a thread; it should end soon after `stop` is set."""
        stop = threading.Event()
        thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
        self._jobs[name] = thread, stop
        thread.start()

    def stop(self, name: str) -> None:
        if name in self._jobs:
            self._jobs[name][1].set()

    def close(self) -> None:
        """Stop all; the next start of the local cloud marks their jobs as failed."""
        self.closing = True
        for name in list(self._jobs):
            self.stop(name)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread, _ in list(self._jobs.values()):
            thread.join(max(0, deadline - time.monotonic()))
