"""Cloud Storage of the local cloud: the `gcp-storage-emulator` package on loopback."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import buckets


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


_INSERT = buckets.insert
for _, _methods in server.HANDLERS:
    if _methods.get(server.POST) is _INSERT:
        _methods[server.POST] = _insert_bucket


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
