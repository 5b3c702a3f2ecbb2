"""A gateway in front of the local cloud, for tests: it records every request and applies faults.

Clients get its addresses instead of the services' own, one loopback listener each; another one
has the admin routes. See README.md here.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import uvicorn
from google.protobuf import any_pb2, json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lib.localcloud.errors import HTTP
from lib.localcloud.platform import Platform
from lib.localcloud.server import listen
from tests.support import gcloud
from tests.support.faults import Fault, Faults, http_error
from tests.support.method_names import GRPC, READ, check_methods, json_of, method_of

STOP_SECONDS = 2
# Headers of one connection only: https://www.rfc-editor.org/rfc/rfc9110#name-connection
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
ROUTING = "x-goog-request-params"  # metadata: https://google.aip.dev/client-libraries/4222


class Gateway:
    """The listeners, the record of requests, and the admin routes."""

    def __init__(self, faults: Faults, services: dict[str, str], platform: Platform):
        """
        Args:
            faults: what to apply; the admin routes add to it.
            platform: the project that the admin routes make new, and apply commands to.
            services: "vertex", "platform", "bigquery", "storage" -> URL; "bigquery_grpc" and
                "vertex_grpc" -> host:port.
        """
        self._faults = faults
        self._platform = platform
        self._services = dict(services)
        self._requests: list[dict] = []
        self._closing = asyncio.Event()
        self._servers: list[uvicorn.Server] = []
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> dict[str, str]:
        """Serve; the addresses to give to clients, under the keys of `services` and "admin"."""
        # No connection is kept open: a service may close an idle one just as it is reused.
        self._client = await self._running.enter_async_context(httpx.AsyncClient(
            timeout=None, trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)))
        urls = {service: await self._start_grpc(service)
                for service in ("bigquery_grpc", "vertex_grpc")}
        for service in ("vertex", "platform", "bigquery", "storage"):
            urls[service] = await self._serve(self._proxy(service))
        urls["admin"] = await self._serve(self._admin())
        return urls

    async def stop(self) -> None:
        """End at once what waits because of a fault, then the listeners."""
        self._closing.set()
        for server in self._servers:  # all at once: each takes a moment to end
            server.should_exit = True
        await self._running.aclose()

    async def _serve(self, app: Callable) -> str:
        listener = listen()
        server = uvicorn.Server(uvicorn.Config(
            app, log_level="warning", lifespan="off", loop="none", server_header=False,
            date_header=False, timeout_graceful_shutdown=STOP_SECONDS))
        server.capture_signals = contextlib.nullcontext  # the signals are server.py's
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._servers.append(server)
        self._running.push_async_callback(asyncio.wait, [serving])
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def _record(self, **facts: object) -> dict:
        """Record a request; its status is filled in when it is known."""
        self._requests.append(facts | {"status": None})
        return self._requests[-1]

    async def _delay(self, fault: Fault | None) -> None:
        if fault and fault.seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), fault.seconds)

    # REST

    def _proxy(self, service: str) -> Callable:
        async def app(scope: dict, receive: Callable, send: Callable) -> None:
            response = await self._answer(service, Request(scope, receive))
            await response(scope, receive, send)

        return app

    async def _answer(self, service: str, request: Request) -> Response:
        body = await request.body()
        path = request.scope["path"]
        if path == "/healthz":  # only process.status calls it
            return await self._forward(service, request, body)
        # An object's name is one part of the path only while its slashes are still %2F.
        raw = request.scope["raw_path"].decode() if service == "storage" else path
        method = method_of(service, request.method, raw)
        record = self._record(
            service=service, method=method, verb=request.method, path=path,
            query=[list(pair) for pair in request.query_params.multi_items()],
            body=json_of(request.headers.get("content-type", ""), body))
        fault = self._faults.take("call", method)
        await self._delay(fault)
        if fault and fault.status:
            status, content = http_error(method, fault)
            response = JSONResponse(content, status)
        else:
            response = await self._forward(service, request, body)
        record["status"] = response.status_code
        return response

    async def _forward(self, service: str, request: Request, body: bytes) -> Response:
        """The service's own answer, unchanged except for its address."""
        upstream = self._services[service]
        target = request.scope["raw_path"]
        if query := request.scope["query_string"]:
            target += b"?" + query
        # The service must not see the gateway's address: storage stores it in each object's
        # mediaLink, which Vertex AI itself also reads.
        headers = [(key, value) for key, value in request.headers.raw
                   if key not in HOP_BY_HOP and key != b"host"]
        sent = httpx.Request(
            request.method, upstream, headers=headers, content=body,
            extensions={"target": target})
        try:
            answer = await self._client.send(sent, stream=True)
            content = b"".join([chunk async for chunk in answer.aiter_raw()])
            await answer.aclose()
        except httpx.HTTPError as error:
            return JSONResponse({"error": {
                "code": 502, "message": f"{service} does not answer the gateway: {error!r}",
                "status": "UNAVAILABLE"}}, 502)
        own = f"http://{request.headers['host']}".encode()
        if service == "storage" and _is_resource(request, answer):
            content = re.sub(rb'(?<="mediaLink": ")http://[^/"]+', own, content)
        response = Response(content, answer.status_code)
        response.raw_headers += [
            (key.lower(), value.replace(upstream.encode(), own))
            for key, value in answer.headers.raw
            if key.lower() not in HOP_BY_HOP | {b"content-length"}]
        return response

    # gRPC: the Storage Read API, and fetches

    async def _start_grpc(self, service: str) -> str:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.aio.insecure_channel(self._services[service], options=unlimited)
        self._running.push_async_callback(channel.close)
        server = grpc.aio.server(options=unlimited)
        server.add_generic_rpc_handlers([_Forwarder(self, channel)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._running.push_async_callback(server.stop, STOP_SECONDS)
        return f"127.0.0.1:{port}"

    async def grpc_call(
        self, path: str, request: bytes, context: grpc.aio.ServicerContext,
        forward: Callable[[], AsyncIterator[bytes]],
    ) -> AsyncIterator[bytes]:
        """Record a call, apply its faults, and forward the answers, or the error."""
        method, kind = GRPC[path]
        record = self._record(
            service="bigquery_storage" if path.startswith(READ) else "vertex", method=method,
            verb="GRPC", path=path,
            query=[list(pair) for pair in context.invocation_metadata() if pair[0] == ROUTING],
            body=json_format.MessageToDict(kind.pb().FromString(request)))
        fault = self._faults.take("call", method)
        await self._delay(fault)
        if fault and fault.status:
            record["status"] = HTTP[fault.status]
            await context.abort(
                grpc.StatusCode[fault.status], fault.message, _error_details(fault))
        try:
            async for answer in forward():
                yield answer
        except grpc.aio.AioRpcError as error:
            record["status"] = HTTP[error.code().name]
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
        except (asyncio.CancelledError, GeneratorExit):  # the client has cancelled
            record["status"] = HTTP["CANCELLED"]
            raise
        record["status"] = 200

    # The admin routes

    def _admin(self) -> Starlette:
        return Starlette(routes=[
            Route("/admin/faults", self._add_faults, methods=["POST"]),
            Route("/admin/faults", self._show_faults, methods=["GET"]),
            Route("/admin/faults", self._clear_faults, methods=["DELETE"]),
            Route("/admin/requests", self._show_requests, methods=["GET"]),
            Route("/admin/requests", self._clear_requests, methods=["DELETE"]),
            Route("/admin/project", self._renew_project, methods=["DELETE"]),
            Route("/admin/gcloud", self._apply_command, methods=["POST"]),
        ])

    async def _add_faults(self, request: Request) -> Response:
        try:
            rules = await request.json()
            check_methods(rules)
            self._faults.add(rules)
        except ValueError as error:
            return JSONResponse({"error": {
                "code": 400, "message": str(error), "status": "INVALID_ARGUMENT"}}, 400)
        return JSONResponse(self._faults.shown())

    async def _renew_project(self, _request: Request) -> Response:
        self._platform.renew()
        return JSONResponse({})

    async def _apply_command(self, request: Request) -> Response:
        try:
            gcloud.apply(self._platform, (await request.body()).decode())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({})

    async def _show_faults(self, _request: Request) -> Response:
        return JSONResponse(self._faults.shown())

    async def _clear_faults(self, _request: Request) -> Response:
        self._faults.clear()
        return JSONResponse(self._faults.shown())

    async def _show_requests(self, _request: Request) -> Response:
        return JSONResponse(self._requests)

    async def _clear_requests(self, _request: Request) -> Response:
        self._requests.clear()
        return JSONResponse(self._requests)


class _Forwarder(grpc.GenericRpcHandler):
    """The methods of method_names.GRPC as bytes; any other is UNIMPLEMENTED."""

    def __init__(self, gateway: Gateway, channel: grpc.aio.Channel):
        self._gateway = gateway
        self._channel = channel

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method not in GRPC:
            return None
        if details.method == READ + "ReadRows":
            return grpc.unary_stream_rpc_method_handler(self._stream(details.method))
        return grpc.unary_unary_rpc_method_handler(self._unary(details.method))

    def _unary(self, path: str) -> Callable:
        call = self._channel.unary_unary(path)

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async def forward() -> AsyncIterator[bytes]:
                yield await call(request, **_forwarded(context))

            answers = [a async for a in self._gateway.grpc_call(path, request, context, forward)]
            return answers[0]

        return handle

    def _stream(self, path: str) -> Callable:
        call = self._channel.unary_stream(path)

        async def handle(
            request: bytes, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[bytes]:
            def forward() -> AsyncIterator[bytes]:
                return call(request, **_forwarded(context))

            async for answer in self._gateway.grpc_call(path, request, context, forward):
                yield answer

        return handle


def _forwarded(context: grpc.aio.ServicerContext) -> dict:
    """Metadata and deadline of a call, for the forwarded call."""
    own = ("user-agent", "grpc-", ":")  # gRPC sets these itself
    metadata = [pair for pair in context.invocation_metadata() if not pair[0].startswith(own)]
    return {"metadata": metadata, "timeout": context.time_remaining()}


def _error_details(fault: Fault) -> tuple:
    """The reason of an error, where gRPC carries it: in the trailing metadata."""
    if not fault.reason:
        return ()
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=fault.reason, domain="googleapis.com"))
    status = status_pb2.Status(
        code=code_pb2.Code.Value(fault.status), message=fault.message, details=[info])
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _is_resource(request: Request, answer: httpx.Response) -> bool:
    """Whether the answer describes objects (the content of an object may be JSON too)."""
    content = request.query_params.get("alt") == "media" or request.scope["path"].startswith(
        "/download/")
    return not content and "json" in answer.headers.get("content-type", "")
