"""The local cloud's one process: BigQuery, Cloud Storage and Vertex AI on free loopback ports."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path

import fastapi  # noqa: F401 - a model server's, too: `Forks` must have it
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lib.localcloud import loopback, process, rest, rpc
from lib.localcloud.platform import Platform
from lib.localcloud.storage import StorageServer
from lib.localcloud.vertex import app
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import State
from lib.localcloud.vertex.endpoints import predicting
from lib.localcloud.vertex.programs.forks import FORKS, Forks
from lib.localcloud.vertex.programs.images import image_name

# front(vertex, platform, addresses): what may be put between clients and the services. It gets the
# addresses under the keys of running.json, and yields those that clients are given instead, maybe
# with more keys. It may also add to vertex.middleware. Tests use it: tests/support/.
Front = Callable[[Vertex, Platform, dict[str, str]], AbstractAsyncContextManager[dict[str, str]]]


def run(arguments: str, front: Front | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then stop all processes and close the files.

    Args:
        arguments: JSON object:
            state: folder for everything that must survive a restart.
            project: the project that requests without one belong to.
            thelook: users, seed and as_of of the public dataset; null leaves it out.
            images: container image name -> folder with its Dockerfile.
            runner: how the tasks of pipelines and custom jobs run: "process" or "container".
            module: what was started, recorded in running.json.
            answers: "usual", "strange" or "random:SEED": see vertex/base/answers.py.
        front: see Front.
    """
    given = json.loads(arguments)
    forks = Forks() if FORKS else None  # before anything is open
    os.environ.update(loopback.direct())  # its services are clients of each other
    try:
        process.own(Path(given["state"]))
    except process.LocalCloudError as error:
        sys.exit(f"{error}; needed: {error.need}")
    database = Path(given["state"]) / "vertex" / "vertex.sqlite"
    if forks and database.exists():
        with contextlib.closing(State(database)) as state:
            deployed = map(image_name, predicting.deployed_images(state))
            for name in given["images"].keys() & deployed:
                forks.prepare(Path(given["images"][name]))
    asyncio.run(_serve(front=front, forks=forks, **given))


async def _serve(
    state: str, project: str, thelook: dict | None, images: dict[str, str], runner: str,
    module: str, answers: str = "usual", front: Front | None = None, forks: Forks | None = None,
) -> None:
    # Half a second, in which `forks` imports what the servers of deployed models need.
    from lib.localcloud.bigquery import BigQueryServer, load_thelook_async

    folder = Path(state)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    async with contextlib.AsyncExitStack() as running:
        bigquery = BigQueryServer(folder / "bigquery", project, folder / "storage")
        bigquery.start()
        running.callback(bigquery.stop)
        storage = StorageServer(folder / "storage", listen(), app.PROJECT_NUMBER)
        storage.start()
        running.callback(storage.stop)

        listener = listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        addresses = {
            "vertex": url, "bigquery": bigquery.rest, "bigquery_grpc": bigquery.grpc,
            "storage": storage.url, "platform": url}
        vertex = app.start(
            folder / "vertex", project, addresses,
            {name: Path(image) for name, image in images.items()}, runner, answers, forks)
        running.callback(app.stop, vertex)
        platform = Platform(project, app.PROJECT_NUMBER, folder / "artifactregistry.json")
        vertex.middleware.append(platform.guard)
        vertex_api = app.api(vertex)
        application = rest.application(
            [platform.api(), vertex_api], project, app.PROJECT_NUMBER)
        application.router.routes.insert(0, Route("/healthz", _health))
        server = uvicorn.Server(uvicorn.Config(
            application, log_level="warning", lifespan="off", loop="none",
            timeout_graceful_shutdown=1))  # seconds; a client may have stopped in the middle
        server.capture_signals = contextlib.nullcontext  # the signals are handled by `stop`
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        over_grpc, addresses["vertex_grpc"] = rpc.start(
            vertex_api, app.GRPC_SERVICE, project, app.PROJECT_NUMBER)
        running.callback(lambda: over_grpc.stop(grace=1).wait())

        if thelook:
            await load_thelook_async(
                bigquery.rest, project, thelook["users"], thelook["seed"],
                datetime.fromisoformat(thelook["as_of"]))
        if front:
            addresses = await running.enter_async_context(front(vertex, platform, addresses))
            # Tasks, jobs and model servers are clients too. Vertex AI's own reads are not.
            vertex.addresses.update(addresses)
        predicting.start_servers(vertex)
        _announce(folder, {
            "pid": os.getpid(), "project": project, "project_number": app.PROJECT_NUMBER,
            "thelook": thelook, "runner": runner, "module": module,
            "answers": answers, **addresses})
        await stop.wait()
        (folder / "running.json").unlink(missing_ok=True)
        server.should_exit = True
        await serving


async def _health(_request: Request) -> JSONResponse:
    """`status` compares the pid, to tell this process from another one on the same port."""
    return JSONResponse({"pid": os.getpid()})


def listen() -> socket.socket:
    """A socket bound to a free loopback port."""
    # asyncio turns Nagle's delay off only where the protocol is named: 40 ms a request otherwise.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def _announce(folder: Path, facts: dict) -> None:
    """Write running.json in one step: its readers find all services up."""
    draft = folder / "running.json.new"
    draft.write_text(json.dumps(facts, indent=2))
    draft.replace(folder / "running.json")
