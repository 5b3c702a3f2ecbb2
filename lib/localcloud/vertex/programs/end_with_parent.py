"""Run a command that ends with its parent: `python end_with_parent.py PARENT_PID COMMAND...`.

A model server must not outlive the local cloud, even one that was killed. Linux can guarantee
that (PR_SET_PDEATHSIG); the call is made here, in a small process of its own, since code between
fork and exec is unsafe in a process with threads. Elsewhere only an orderly stop ends it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process killed (on Linux) when its parent, which has that pid, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            sys.exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
