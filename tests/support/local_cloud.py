"""A local cloud behind the gateway: it records requests and fails on demand. See README.md here.

    python -m tests.support.local_cloud serve ARGUMENTS

is what `start` launches.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from lib.localcloud import process
from lib.localcloud.platform import Platform
from lib.localcloud.vertex.base.context import Vertex

MODULE = "tests.support.local_cloud"


def start(
    project: str, thelook: dict | None, images: dict[str, Path] | None = None, *, state: Path,
    answers: str | None = None,
) -> dict:
    """Start it, or find it running; what running.json holds, with "admin" among the addresses.

    `process.stop(state)` stops it; `process.start` finds it too.
    """
    running, _ = process.start(project, thelook, images, state=state, module=MODULE,
                               answers=answers)
    return running


@contextlib.asynccontextmanager
async def front(
    vertex: Vertex, platform: Platform, addresses: dict[str, str]
) -> AsyncIterator[dict[str, str]]:
    """server.Front: the gateway's addresses instead of the services' own."""
    from tests.support.faults import Faults
    from tests.support.gateway import Gateway

    faults = Faults(vertex, platform)
    gateway = Gateway(faults, addresses, platform)
    try:
        yield addresses | await gateway.start()
    finally:
        faults.close()  # first: what hangs because of a fault must go on
        await gateway.stop()


if __name__ == "__main__":
    from lib.localcloud import server

    server.run(sys.argv[2], front)
