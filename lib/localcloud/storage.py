"""Cloud Storage of the local cloud: the `gcp-storage-emulator` package on loopback."""

import io
import json
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import anyio
import uvicorn
from gcp_storage_emulator import server, settings
from gcp_storage_emulator.exceptions import BadRequest, NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lib.localcloud.errors import MARK
from lib.localcloud.guard import Guard

READS = (objects.get, objects.download)
CREATES = (objects.insert, objects.upload_partial, objects.copy, objects.rewrite, objects.compose)
REFUSALS = {  # rule -> status, reason, message
    "storage.old-generation": (HTTPStatus.NOT_FOUND, "notFound", "No such object generation."),
    "storage.not-modified": (HTTPStatus.NOT_MODIFIED, "", ""),
    "storage.precondition": (
        HTTPStatus.PRECONDITION_FAILED, "conditionNotMet", "At least one of the pre-conditions "
        "you specified did not hold (ifGenerationMatch and the like)."),
    "fresh.uniform-access": (
        HTTPStatus.PRECONDITION_FAILED, "conditionNotMet",
        "Request violates constraint 'constraints/storage.uniformBucketLevelAccess'"),
}
ENFORCED: set[str] = set()  # those of the rules above that only a new organisation has
CHECKED = (*READS, *CREATES, objects.patch, objects.delete)


def objects_folder(data_dir: Path) -> Path:
    """The folder in which a StorageServer at `data_dir` keeps gs://bucket/name as bucket/name."""
    return data_dir / settings.STORAGE_DIR


def _insert_bucket(request: object, response: object, storage: object, *rest: object) -> None:
    """buckets.insert that keeps labels and location: the package stores only the name.

    https://cloud.google.com/storage/docs/json_api/v1/buckets/insert
    """
    name = (request.data or {}).get("name")
    uniform = (request.data or {}).get("iamConfiguration", {}).get("uniformBucketLevelAccess", {})
    if "fresh.uniform-access" in ENFORCED and not uniform.get("enabled"):
        _refuse(response, "fresh.uniform-access")
        return
    new = bool(name) and not storage.get_bucket(name)
    _INSERT(request, response, storage, *rest)
    if new:
        kept = buckets._patch_bucket(storage.buckets[name], request.data)
        storage.create_bucket(name, kept)


def _check_generations(handler: Callable) -> Callable:
    """The handler, with the generations and preconditions that the package ignores.

    Check and change are one step: one request is handled at a time.
    https://cloud.google.com/storage/docs/request-preconditions
    """

    def checked(request: object, response: object, storage: object, *rest: object) -> None:
        rule = _refusal(handler, request, storage)
        if rule is None:
            return handler(request, response, storage, *rest)
        _refuse(response, rule)

    return checked


def _refuse(response: object, rule: str) -> None:
    status, reason, message = REFUSALS[rule]
    response[MARK] = rule
    response.status = status
    if status is not HTTPStatus.NOT_MODIFIED:  # which has no body
        response.json({"error": {"code": status.value, "message": message, "errors": [
            {"domain": "global", "reason": reason, "message": message}]}})


def _refusal(handler: Callable, request: object, storage: object) -> str | None:
    """The rule of REFUSALS to answer by, instead of calling the handler; None: call it."""
    params = request.params
    bucket = params.get("dest_bucket_name", params["bucket_name"])
    target = _find(storage, bucket, params.get("dest_object_id") or _name(request, storage))
    checks = [("if", target)]
    if "dest_object_id" in params:
        source = _find(storage, params["bucket_name"], params["object_id"])
        checks.append(("ifSource", source))
        wanted, present = _query(request, "sourceGeneration"), source
    else:
        wanted, present = _query(request, "generation"), target
    if present and wanted not in (None, present["generation"]):
        return "storage.old-generation"
    for prefix, found in checks:
        if not found and not (prefix == "if" and handler in CREATES):
            continue  # the handler itself answers 404
        for field in ("generation", "metageneration"):
            current = (found or {}).get(field, "0")
            key = f"{prefix}{field.capitalize()}"
            if _query(request, f"{key}Match") not in (None, current):
                return "storage.precondition"
            if _query(request, f"{key}NotMatch") == current:
                return "storage.not-modified" if handler in READS else "storage.precondition"
    return None


def _query(request: object, name: str) -> str | None:
    return request.query.get(name, [None])[0]


def _find(storage: object, bucket: str, name: str | None) -> dict | None:
    try:
        return storage.get_file_obj(bucket, name)
    except NotFound:
        return None


def _name(request: object, storage: object) -> str | None:
    """The object that a request is about: in the path, the query, the body or the session."""
    if "object_id" in request.params:
        return request.params["object_id"]
    if upload := _query(request, "upload_id"):
        try:
            return storage.get_resumable_file_obj(upload)["name"]
        except NotFound:
            return None
    if name := _query(request, "name"):
        return name
    body = request.data if isinstance(request.data, dict) else {}
    return body.get("meta", body).get("name")


# What no client of Google's asks for: a health check, and /wipe, which deletes everything.
server.HANDLERS = tuple((path, methods) for path, methods in server.HANDLERS
                        if path not in (r"^/$", r"^/wipe$"))
_INSERT = buckets.insert
for _, _methods in server.HANDLERS:
    for _verb, _handler in _methods.items():
        if _handler is _INSERT:
            _methods[_verb] = _insert_bucket
        elif _handler in CHECKED:
            _methods[_verb] = _check_generations(_handler)


class MarkedResponse(server.Response):
    """An answer that is marked as one of the local cloud."""

    def __init__(self, handler: object):
        super().__init__(handler)
        self[MARK] = "ok"


server.Response = MarkedResponse


class _Exchange:
    """One request, as the package's Router expects it of http.server, and the answer to it.

    http.server itself would serve one connection at a time: a client that stops in the middle of a
    request would hold up all others.
    """

    def __init__(self, request: Request, body: bytes, storage: Storage):
        query = request.scope["query_string"]
        self.path = (request.scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        self.headers = request.headers.mutablecopy()
        self.headers["Content-Length"] = str(len(body))  # also of a chunked body
        self.rfile, self.wfile = io.BytesIO(body), io.BytesIO()
        self.server = SimpleNamespace(server_address=request.scope["server"])
        self.storage = storage
        self.sent: dict[str, str] = {}
        self.status = 0

    def has_metadata(self) -> bool:
        """Whether the body is a JSON object, if it is JSON and no upload: at any other value, the
        package fails after it has changed a part of the object."""
        body = self.rfile.getvalue()
        if self.path.startswith("/upload/") or not self.headers.get(
                "Content-Type", "").startswith("application/json"):
            return True
        try:
            return not body or isinstance(json.loads(body), dict | None)
        except (ValueError, RecursionError):
            return True  # which the package itself refuses

    def send_response(self, status: int, _phrase: str) -> None:
        self.status = status

    def send_header(self, name: str, value: str) -> None:
        self.sent[name] = value

    def end_headers(self) -> None:
        pass


def _answer(exchange: _Exchange, method: str) -> Response:
    """The package's answer; where the package fails, one with the cause, which is not retried."""
    if not exchange.has_metadata():
        return _error("every.malformed", 400, "invalid", "The body is not a JSON object.")
    try:
        server.Router(exchange).handle(method)
        return Response(exchange.wfile.getvalue(), exchange.status, exchange.sent)
    except (ValueError, BadRequest) as error:  # such as a body that is no JSON
        return _error("every.malformed", 400, "invalid", f"The request cannot be read: {error}")
    except Exception as error:
        logging.getLogger(__name__).exception("%s %s", method, exchange.path)
        return _error("divergence.emulator-failure", 501, "notImplemented", (
            f"{error!r}\n(The local cloud's Cloud Storage, gcp-storage-emulator, failed at this "
            "request; repeating it does not help. See Known divergences in "
            "lib/localcloud/README.md.)"))


def _error(rule: str, status: int, reason: str, message: str) -> JSONResponse:
    """An error in Cloud Storage's form: https://cloud.google.com/storage/docs/json_api"""
    return JSONResponse({"error": {"code": status, "message": message, "errors": [
        {"domain": "global", "reason": reason, "message": message}]}}, status, {MARK: rule})


def _application(storage: Storage) -> Starlette:
    """The package's routes, as an ASGI application."""
    one_at_a_time = anyio.CapacityLimiter(1)  # see _check_generations

    async def serve(request: Request) -> Response:
        exchange = _Exchange(request, await request.body(), storage)
        return await anyio.to_thread.run_sync(
            _answer, exchange, request.method, limiter=one_at_a_time)

    verbs = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", serve, methods=verbs)],
                     middleware=[Middleware(Guard)])


class StorageServer:
    """The emulator in one thread of this process; objects are files under `data_dir`."""

    def __init__(self, data_dir: Path, listener: socket.socket, project_number: int = 1):
        logging.getLogger("gcp_storage_emulator").setLevel(logging.WARNING)
        data_dir.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        storage = Storage(data_dir=str(data_dir), project_number=str(project_number))
        self._renew_links(storage)
        self._server = uvicorn.Server(uvicorn.Config(
            _application(storage), log_level="warning", lifespan="off",
            timeout_graceful_shutdown=1))  # seconds; a client may have stopped in the middle
        listener.listen()  # a call may come before the server runs
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)

    def _renew_links(self, storage: Storage) -> None:
        """Objects are stored with the address of their upload, and clients that list them
        download from it: put the current port, which changes at each start."""
        for found in storage.objects.values():
            for stored in found.values():
                path = urlsplit(stored["mediaLink"])
                stored["mediaLink"] = f"{self.url}{path.path}?{path.query}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
