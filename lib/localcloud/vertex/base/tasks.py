"""One run of a container of a job, with Cloud Storage as files."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lib.localcloud import loopback
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.programs.mount import Mount
from lib.localcloud.vertex.programs.runner import Task


@contextlib.contextmanager
def workplace(vertex: Vertex, name: str) -> Iterator[tuple[Path, Mount]]:
    """An empty folder for one run, and Cloud Storage in it; deleted afterwards."""
    folder = scratch(vertex) / name
    folder.mkdir(parents=True)
    try:
        yield folder, Mount(folder / "gcs", vertex.objects)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch(vertex: Vertex) -> Path:
    """Where all workplaces are; after a restart nothing in it is needed."""
    return vertex.data_dir / "scratch"


def run(vertex: Vertex, task: Task, mount: Mount, stop: threading.Event) -> None:
    """Run a task whose command and variables may name /gcs/bucket/... .

    Raises:
        ApiError: as `Runner.run`, and for storage that cannot be read or written. What a failed
            task has written is kept in Cloud Storage, as on a real mount.
    """
    localize = mount.localize
    task = replace(
        task, command=tuple(map(localize, task.command)), args=tuple(map(localize, task.args)),
        environment=_environment(
            vertex, {key: localize(value) for key, value in task.environment.items()}))
    try:
        vertex.runner.run(task, stop)
    finally:
        if not vertex.background.closing:
            mount.store()


def _environment(vertex: Vertex, own: dict[str, str]) -> dict[str, str]:
    """A task's own variables, and those by which Google's clients in it find this local cloud, past
    any proxy."""
    variables = {
        "PYTHONUNBUFFERED": "1",
        "STORAGE_EMULATOR_HOST": vertex.addresses["storage"],
        "BIGQUERY_EMULATOR_HOST": vertex.addresses["bigquery"],
        "BIGQUERY_STORAGE_GRPC_ENDPOINT": vertex.addresses["bigquery_grpc"], **own}
    return variables | loopback.no_proxy(variables)
