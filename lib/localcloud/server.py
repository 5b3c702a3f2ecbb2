"""The local cloud's one process: BigQuery, Cloud Storage and Vertex AI on free loopback ports."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from datetime import datetime
from pathlib import Path

import uvicorn
from starlette.responses import JSONResponse
from starlette.routing import Route

from lib.localcloud import platform
from lib.localcloud.bigquery import BigQueryServer, load_thelook_async
from lib.localcloud.gateway import Gateway
from lib.localcloud.storage import StorageServer
from lib.localcloud.vertex import PROJECT_NUMBER, create_app
from lib.localcloud.vertex.app import Cloud


def run(
    state: Path, project: str, thelook: dict | None, images: dict[str, Path],
    runner: str = "process", admin: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; then stop the model processes and close the files.

    Args:
        state: folder for everything that must survive a restart.
        project: the project that requests without one belong to.
        thelook: users, seed and as_of of the public dataset; None leaves it out.
        images: container image name -> folder with its Dockerfile.
        runner: how the tasks of pipelines and custom jobs run: "process" or "container".
        admin: for tests: put the gateway, with its admin routes, in front of the services.
    """
    asyncio.run(_serve(state, project, thelook, images, runner, admin))


async def _serve(
    state: Path, project: str, thelook: dict | None, images: dict[str, Path], runner: str,
    admin: bool,
) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    async with contextlib.AsyncExitStack() as running:
        bigquery = BigQueryServer(state / "bigquery", project)
        await bigquery.start()
        running.push_async_callback(bigquery.stop)

        storage = StorageServer(state / "storage", _free_port(), PROJECT_NUMBER)
        storage.start()
        running.callback(storage.stop)

        app = create_app(
            data_dir=state / "vertex", project=project, bigquery_rest=bigquery.rest,
            bigquery_grpc=bigquery.grpc, storage=storage.url, images=images,
            runner=runner,
        )
        running.callback(app.state.close)
        app.router.routes[0:0] = [
            Route("/healthz", _health),
            *platform.routes(project, PROJECT_NUMBER, app.state.cloud.faults,
                             state / "artifactregistry.json")]
        vertex = _listen()
        config = uvicorn.Config(app, log_level="warning", lifespan="off", loop="none")
        server = uvicorn.Server(config)
        # Its own handlers would take the signals away from `stop`.
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(server.serve(sockets=[vertex]))

        if thelook:
            as_of = datetime.fromisoformat(thelook["as_of"])
            await load_thelook_async(
                bigquery.rest, project, thelook["users"], thelook["seed"], as_of)
        facts = {
            "pid": os.getpid(),
            "project": project,
            "project_number": PROJECT_NUMBER,
            "thelook": thelook,
            "runner": runner,
            "vertex": f"http://127.0.0.1:{vertex.getsockname()[1]}",
            "bigquery": bigquery.rest,
            "bigquery_grpc": bigquery.grpc,
            "storage": storage.url,
            "platform": f"http://127.0.0.1:{vertex.getsockname()[1]}",
        }
        if admin:
            gateway = Gateway(app.state.cloud.faults, facts, _listen)
            facts |= await gateway.start()
            running.push_async_callback(gateway.stop)
            _send_programs_to(facts, app.state.cloud)
        _announce(state, facts)
        await stop.wait()
        (state / "running.json").unlink(missing_ok=True)
        server.should_exit = True
        await serving


def _send_programs_to(facts: dict, cloud: Cloud) -> None:
    """Tasks, jobs and model servers are clients too: they use the announced addresses.

    Vertex AI's own reads have clients of their own by now, which stay as they are.
    """
    cloud.storage = facts["storage"]
    cloud.bigquery_rest = facts["bigquery"]
    cloud.bigquery_grpc = facts["bigquery_grpc"]


async def _health(_request: object) -> JSONResponse:
    """Lets `status` tell this process from a stranger on the same port."""
    return JSONResponse({"pid": os.getpid()})


def _free_port() -> int:
    with _listen() as probe:
        return probe.getsockname()[1]


def _listen() -> socket.socket:
    # asyncio turns Nagle's delay off only where the protocol is named: 40 ms a request otherwise.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def _announce(state: Path, facts: dict) -> None:
    """Write running.json in one step: whoever reads it finds all services up."""
    draft = state / "running.json.new"
    draft.write_text(json.dumps(facts, indent=2))
    draft.replace(state / "running.json")
