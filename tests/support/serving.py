"""Serves an ASGI application, or Vertex AI alone, from threads of this process."""

import threading

import uvicorn
from starlette.applications import Starlette

from lib.localcloud import rest, rpc, server
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


class ServedVertex(Served):
    """Vertex AI, without the other services of the local cloud, at `url` and by gRPC at `grpc`."""

    def __init__(self, vertex: Vertex):
        api, project = app.api(vertex), (vertex.project, vertex.project_number)
        super().__init__(rest.application([api], *project))
        self._over_grpc, self.grpc = rpc.start(api, app.GRPC_SERVICE, *project)

    def close(self) -> None:
        self._over_grpc.stop(None).wait()
        super().close()
