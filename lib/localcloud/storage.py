"""Cloud Storage of the local cloud: the `gcp-storage-emulator` package on loopback."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from gcp_storage_emulator import server, settings
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects

from lib.localcloud.errors import MARK

READS = (objects.get, objects.download)
CREATES = (objects.insert, objects.upload_partial, objects.copy, objects.rewrite, objects.compose)
REFUSALS = {  # rule -> status, reason, message
    "storage.old-generation": (HTTPStatus.NOT_FOUND, "notFound", "No such object generation."),
    "storage.not-modified": (HTTPStatus.NOT_MODIFIED, "", ""),
    "storage.precondition": (
        HTTPStatus.PRECONDITION_FAILED, "conditionNotMet", "At least one of the pre-conditions "
        "you specified did not hold (ifGenerationMatch and the like)."),
}
CHECKED = (*READS, *CREATES, objects.patch, objects.delete)


def objects_folder(data_dir: Path) -> Path:
    """The folder in which a StorageServer at `data_dir` keeps gs://bucket/name as bucket/name."""
    return data_dir / settings.STORAGE_DIR


def _insert_bucket(request: object, response: object, storage: object, *rest: object) -> None:
    """buckets.insert that keeps labels and location: the package stores only the name.

    https://cloud.google.com/storage/docs/json_api/v1/buckets/insert
    """
    name = (request.data or {}).get("name")
    new = bool(name) and not storage.get_bucket(name)
    _INSERT(request, response, storage, *rest)
    if new:
        kept = buckets._patch_bucket(storage.buckets[name], request.data)
        storage.create_bucket(name, kept)


def _check_generations(handler: Callable) -> Callable:
    """The handler, with the generations and preconditions that the package ignores.

    Check and change are one step: the emulator handles one request at a time.
    https://cloud.google.com/storage/docs/request-preconditions
    """

    def checked(request: object, response: object, storage: object, *rest: object) -> None:
        rule = _refusal(handler, request, storage)
        if rule is None:
            return handler(request, response, storage, *rest)
        status, reason, message = REFUSALS[rule]
        response[MARK] = rule
        response.status = status
        if status is not HTTPStatus.NOT_MODIFIED:  # which has no body
            response.json({"error": {"code": status.value, "message": message, "errors": [
                {"domain": "global", "reason": reason, "message": message}]}})

    return checked


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


class StorageServer:
    """One emulator thread in this process; objects are files under `data_dir`."""

    def __init__(self, data_dir: Path, port: int, project_number: int = 1):
        logging.getLogger("gcp_storage_emulator").setLevel(logging.WARNING)
        data_dir.mkdir(parents=True, exist_ok=True)
        self._server = server.create_server(
            "127.0.0.1", port, data_dir=str(data_dir), project_number=str(project_number))
        self.url = f"http://127.0.0.1:{port}"
        self._renew_links()

    def _renew_links(self) -> None:
        """Objects are stored with the address of their upload, and clients that list them
        download from it: put the current port, which changes at each start."""
        for found in self._server._storage.objects.values():
            for stored in found.values():
                path = urlsplit(stored["mediaLink"])
                stored["mediaLink"] = f"{self.url}{path.path}?{path.query}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
