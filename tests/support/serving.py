"""Serves an ASGI application from a thread of this process."""

import threading

import uvicorn
from starlette.applications import Starlette

from lib.localcloud import rest, server
from lib.localcloud.vertex import app
from lib.localcloud.vertex.base.context import Vertex


class Served:
    """An application at `url`, until `close`."""

    def __init__(self, application: Starlette):
        listener = server.listen()
        listener.listen()  # a call may come before the server runs
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(application, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def serve(vertex: Vertex) -> Served:
    """Vertex AI alone, without the other services of the local cloud."""
    return Served(rest.application([app.api(vertex)], vertex.project, vertex.project_number))
