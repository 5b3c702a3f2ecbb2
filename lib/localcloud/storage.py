"""Cloud Storage of the local cloud: the `gcp-storage-emulator` package on loopback."""

import logging
from pathlib import Path

from gcp_storage_emulator.server import create_server


class StorageServer:
    """One emulator thread in this process; objects are files under `data_dir`."""

    def __init__(self, data_dir: Path, port: int, project_number: int = 1):
        logging.getLogger("gcp_storage_emulator").setLevel(logging.WARNING)
        data_dir.mkdir(parents=True, exist_ok=True)
        self._server = create_server(
            "127.0.0.1", port, data_dir=str(data_dir), project_number=str(project_number))
        self.url = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
