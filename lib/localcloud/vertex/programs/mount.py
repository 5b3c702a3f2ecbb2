"""Cloud Storage as a folder: what Vertex AI mounts at /gcs in the containers of its jobs.

A process here has no such mount. It gets a folder instead: the objects that it will read are
copied there before it starts, and what it has written is copied back.
"""

import hashlib
import re
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from lib.localcloud.errors import invalid, precondition, refused

RETRY = DEFAULT_RETRY.with_timeout(10)  # seconds; the emulator is on loopback
# /gcs/bucket/object in a word of a command line or the value of a variable.
MENTION = re.compile(r"(?<![\w./-])/gcs/([a-z0-9][\w.-]+)((?:/[^\s\"',;:]*)?)")


def split_uri(uri: str) -> tuple[str, str]:
    """`gs://bucket/a/b` -> (bucket, a/b)."""
    match = re.fullmatch(r"gs://([^/]+)(?:/(.*))?", uri)
    if not match or ".." in uri.split("/"):
        raise invalid("every.gs-uri", f"{uri!r} is no gs:// address.")
    return match[1], (match[2] or "").rstrip("/")


class Storage:
    """Objects by gs:// address, which names an object and all below it."""

    def __init__(self, project: str, url: str):
        self._client = storage.Client(
            project, credentials=AnonymousCredentials(), client_options={"api_endpoint": url})

    def objects(self, uri: str) -> list[storage.Blob]:
        bucket, key = split_uri(uri)
        try:
            found = list(self._client.list_blobs(bucket, prefix=key, retry=RETRY))
        except NotFound:
            raise refused(
                "pipelines.bucket",
                "NOT_FOUND", f"The bucket gs://{bucket} was not found.") from None
        return [b for b in found if not key or b.name == key or b.name.startswith(f"{key}/")]

    def fingerprint(self, uri: str) -> str:
        """Changes with the names and contents of the objects; "" if there are none."""
        _, key = split_uri(uri)
        content = sorted((b.name[len(key):], b.md5_hash) for b in self.objects(uri))
        return hashlib.sha256(repr(content).encode()).hexdigest() if content else ""

    def upload(self, file: Path, bucket: str, key: str) -> None:
        try:
            self._client.bucket(bucket).blob(key).upload_from_filename(str(file), retry=RETRY)
        except GoogleAPIError as error:
            raise precondition(
                "pipelines.bucket", f"gs://{bucket}/{key} cannot be written: "
                f"{getattr(error, 'message', error)}") from None

    def close(self) -> None:
        self._client.close()


class Mount:
    """The folder that replaces /gcs; one for each run of a task, so that none sees another's."""

    def __init__(self, folder: Path, store: Storage):
        self._folder = folder
        self._store = store
        self._fetched: dict[Path, tuple[int, int]] = {}

    def path(self, uri: str) -> Path:
        """Where the objects of an address are, or will be written."""
        bucket, key = split_uri(uri)
        return self._folder / bucket / key

    def fetch(self, uri: str) -> Path:
        """Copy the objects of an address into the folder; returns their path."""
        path = self.path(uri)
        (self._folder / split_uri(uri)[0]).mkdir(parents=True, exist_ok=True)
        for blob in self._store.objects(uri):
            file = self.path(f"gs://{blob.bucket.name}/{blob.name}")
            if blob.name.endswith("/"):  # a folder's own object
                file.mkdir(parents=True, exist_ok=True)
            elif file not in self._fetched:
                file.parent.mkdir(parents=True, exist_ok=True)
                blob.download_to_filename(str(file), retry=RETRY)
                self._fetched[file] = _mark(file)
        return path

    def localize(self, text: str) -> str:
        """The text with each /gcs/bucket/... fetched and replaced by its path in the folder."""
        def local(match: re.Match) -> str:
            end = "/" if match[2].endswith("/") else ""
            return str(self.fetch(f"gs://{match[1]}{match[2]}")) + end

        return MENTION.sub(local, text)

    def store(self) -> None:
        """Copy every file that is new or changed to Cloud Storage."""
        for file in sorted(self._folder.glob("*/**/*")):
            if file.is_file() and self._fetched.get(file) != _mark(file):
                bucket, _, key = file.relative_to(self._folder).as_posix().partition("/")
                self._store.upload(file, bucket, key)
                self._fetched[file] = _mark(file)


def _mark(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size
