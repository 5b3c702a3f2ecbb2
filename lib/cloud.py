"""The only module that makes Google's clients, or starts the local cloud that can answer them.

All other code takes a `Cloud` and does not know which target it talks to: the same clients send
the same requests, to Google or to the local cloud.

Each client's package is imported when the client is first used: they take up to a second each,
and a command or a notebook needs only some of them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.transport.requests import AuthorizedSession

from lib.config import Settings
from lib.errors import Needed, is_refused
from lib.localcloud.lazily import import_parts_of

if TYPE_CHECKING:
    import grpc
    from google.cloud import bigquery, bigquery_storage_v1, storage
    from google.cloud.aiplatform_v1 import FeatureOnlineStoreServiceClient

    from lib.localcloud.ledger import Rule

# The clients' own variables for another endpoint. A component or the serving container is a
# separate program and finds the local cloud by these alone.
EMULATOR_VARIABLES = (
    "BIGQUERY_EMULATOR_HOST", "BIGQUERY_STORAGE_GRPC_ENDPOINT", "STORAGE_EMULATOR_HOST",
)
# Nearly every command needs its messages, and clients of some of its forty services.
import_parts_of("google.cloud.aiplatform_v1")
VERTEX = ("google.cloud.aiplatform_v1.types",)


class LocalSession(AuthorizedSession):
    """The HTTP session of BigQuery's and Cloud Storage's clients on the local cloud.

    It reports a local cloud that has stopped or does not answer. The clients would retry for up to
    ten minutes; they do not retry Needed.
    """

    def __init__(self, settings: Settings):
        super().__init__(AnonymousCredentials())
        self._settings = settings

    def request(self, *arguments, **options) -> requests.Response:
        """Raises lib.errors.Needed if nothing listens at the address, or nothing answers."""
        try:
            return super().request(*arguments, **options)
        except (requests.ConnectionError, requests.Timeout) as error:
            _check_local(error)
            if not is_refused(error):
                raise
            raise stopped(self._settings) from error


def stopped(settings: Settings) -> Needed:
    """The error where nothing listens at the address of the local cloud."""
    return Needed("the local cloud has stopped",
                  "the local cloud: the first cell of a notebook and every command start it",
                  settings.rerun_command())


def _made_once(name: str, package: str = "aiplatform_v1") -> cached_property:
    """A client of google.cloud.<package>, made at its first use."""
    return cached_property(lambda cloud: cloud._client(name, package))


@dataclass(frozen=True)
class Cloud:
    """Google's clients for one target, each made at its first use.

    vertex: base URL of Vertex AI. bigquery_rest, bigquery_grpc, platform (Resource Manager,
    Service Usage, Artifact Registry), vertex_grpc: addresses; None means Google's own.
    project_number: None reads it from Google's Resource Manager.
    session: HTTP session of BigQuery's and Cloud Storage's clients; None: their own.
    local_pid: the local cloud's process; None on Google.
    data_folder: where the tables are kept on this machine; None on Google.
    """

    settings: Settings
    credentials: Credentials
    vertex: str
    bigquery_rest: str | None = None
    bigquery_grpc: str | None = None
    platform: str | None = None
    note: str = ""
    started_local: bool = False
    project_number: int | None = None
    session: requests.Session | None = None
    local_pid: int | None = None
    data_folder: Path | None = None
    vertex_grpc: str | None = None

    @property
    def parent(self) -> str:
        """projects/<project>/locations/<region>, the parent of every Vertex AI resource."""
        return f"projects/{self.settings.project}/locations/{self.settings.region}"

    @cached_property
    def bigquery(self) -> bigquery.Client:
        """BigQuery: datasets, tables, jobs."""
        from google.cloud import bigquery

        options = {"api_endpoint": self.bigquery_rest} if self.bigquery_rest else None
        return bigquery.Client(
            project=self.settings.project, location=self.settings.target_settings.location,
            credentials=self.credentials, client_options=options, _http=self.session)

    @cached_property
    def bigquery_read(self) -> bigquery_storage_v1.BigQueryReadClient:
        """The Storage Read API: whole tables as Arrow, about 50 times faster than REST."""
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient

        if not self.bigquery_grpc:
            return BigQueryReadClient(credentials=self.credentials)
        return self._local_grpc(BigQueryReadClient, self.bigquery_grpc)

    @cached_property
    def online(self) -> FeatureOnlineStoreServiceClient:
        """Fetches, by gRPC: the default of Google's client, and faster than its REST.

        Its errors are subclasses of those of REST: google.api_core.exceptions.InvalidArgument of
        BadRequest, PermissionDenied of Forbidden, DeadlineExceeded of GatewayTimeout, and so on.
        """
        from google.cloud.aiplatform_v1 import FeatureOnlineStoreServiceClient

        if not self.vertex_grpc:
            return FeatureOnlineStoreServiceClient(
                credentials=self.credentials,
                client_options={"api_endpoint": urlsplit(self.vertex).netloc})
        return self._local_grpc(FeatureOnlineStoreServiceClient, self.vertex_grpc)

    def _local_grpc(self, kind: type, address: str):
        """A client of the local cloud; like LocalSession, it reports one that has stopped."""
        import grpc

        def check(call: grpc.Call) -> None:
            if "Connection refused" in (call.details() or ""):
                raise stopped(self.settings)

        channel = grpc.insecure_channel(address, options=[
            ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)])
        return kind(transport=kind.get_transport_class("grpc")(channel=_noted(channel, check)))

    @cached_property
    def storage(self) -> storage.Client:
        """Cloud Storage; $STORAGE_EMULATOR_HOST points the client at the local cloud."""
        from google.cloud import storage

        return storage.Client(project=self.settings.project, credentials=self.credentials,
                              _http=self.session)

    # Vertex AI: feature groups and features (the SDK's preview classes cannot set `dense`); online
    # stores, feature views and syncs; models, their versions and evaluations; endpoints;
    # predictions; jobs, to list, cancel and delete; the schedule of the weekly refresh.
    registry = _made_once("FeatureRegistryServiceClient")
    online_admin = _made_once("FeatureOnlineStoreAdminServiceClient")
    models = _made_once("ModelServiceClient")
    endpoints = _made_once("EndpointServiceClient")
    predictions = _made_once("PredictionServiceClient")
    pipeline_jobs = _made_once("PipelineServiceClient")
    custom_jobs = _made_once("JobServiceClient")
    schedules = _made_once("ScheduleServiceClient")
    # Whether the project answers, and which permissions we have; which APIs are enabled; which
    # images exist.
    projects = _made_once("ProjectsClient", "resourcemanager_v3")
    services = _made_once("ServiceUsageClient", "service_usage_v1")
    artifacts = _made_once("ArtifactRegistryClient", "artifactregistry_v1")

    def iam(self, verb: str, path: str, body: dict | None = None) -> dict:
        """A call of the IAM API (v1), such as GET projects/P/serviceAccounts/EMAIL; its answer.

        Google's client for it has no REST transport. The errors are those of all other clients.

        Raises:
            google.api_core.exceptions.GoogleAPICallError: the API refused it.
        """
        from google.api_core import exceptions

        session = self.session or AuthorizedSession(self.credentials)
        response = session.request(
            verb, f"{self.platform or 'https://iam.googleapis.com'}/v1/{path}", json=body,
            timeout=60)
        if not response.ok:
            raise exceptions.from_http_response(response)
        return response.json()

    @cached_property
    def aiplatform(self):
        """The high-level SDK (CustomJob), initialised for this target."""
        from google.cloud import aiplatform

        # The SDK prints every operation to stdout; our own lines say the same, once.
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("google.cloud.aiplatform"):
                logging.getLogger(name).setLevel(logging.WARNING)
        if self.project_number:
            # The SDK compares the number of the bucket's project with Resource Manager's answer.
            # Its client for that has no option for another address, and would wait a minute for
            # the network.
            from google.cloud.aiplatform.utils import resource_manager_utils

            resource_manager_utils.get_project_number = lambda *_, **__: self.project_number
        aiplatform.init(
            project=self.settings.project, location=self.settings.region,
            credentials=self.credentials, api_endpoint=self.vertex, api_transport="rest",
            staging_bucket=f"gs://{self.settings.names.bucket}",
        )
        return aiplatform

    def watch(self, hook: Callable[[requests.Response], object]) -> None:
        """Call `hook` with each answer that Vertex AI, BigQuery and Cloud Storage give to these
        clients from now on; one by gRPC has the form of HTTP: see `_as_http`."""
        def before_ours(response: requests.Response, **_: object) -> None:
            hook(response)

        for client in (self.registry, self.online_admin, self.models, self.endpoints,
                       self.predictions, self.pipeline_jobs, self.schedules):
            client.transport._session.hooks["response"].insert(0, before_ours)
        for client in (self.bigquery, self.storage):
            client._http.hooks["response"].append(before_ours)
        kind, url = type(self.online), self.vertex_grpc and f"http://{self.vertex_grpc}"
        channel = _noted(self.online.transport.grpc_channel,
                         lambda call: hook(_as_http(url or self.vertex, call)))
        vars(self)["online"] = kind(transport=kind.get_transport_class("grpc")(channel=channel))

    @cached_property
    def _retrying_reads(self) -> requests.adapters.HTTPAdapter:
        """Repeats a GET that is answered "too many requests" or "unavailable", as the clients of
        BigQuery and Cloud Storage do; those of Vertex AI do not. What changes something is
        repeated by its stage."""
        retries = self.settings.retries
        return requests.adapters.HTTPAdapter(max_retries=urllib3.Retry(
            total=None, connect=0, read=False, status=retries.attempts - 1,
            status_forcelist=[429, 503], allowed_methods=["GET"], raise_on_status=False,
            backoff_factor=retries.first_pause_seconds,
            backoff_jitter=retries.first_pause_seconds,
            backoff_max=retries.longest_pause_seconds))

    def _client(self, name: str, package: str):
        address = self.vertex if package == "aiplatform_v1" else self.platform
        # REST on both targets, so that both raise the same error classes; fetches: see `online`.
        client = getattr(import_module(f"google.cloud.{package}"), name)(
            credentials=self.credentials, transport="rest",
            client_options={"api_endpoint": address} if address else None)
        transports = [client.transport]
        if hasattr(client.transport, "operations_client"):
            transports.append(client.transport.operations_client.transport)
        for transport in transports:
            for scheme in ("https://", "http://"):
                transport._session.mount(scheme, self._retrying_reads)
            transport._session.hooks["response"].append(make_operation_readable)
        return client


def _noted(channel: grpc.Channel, note: Callable[[grpc.Call], object]) -> grpc.Channel:
    """The channel, calling `note` with each call that has ended, successful or not."""
    import grpc

    class Notes(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, proceed, details, request):
            call = proceed(details, request)
            note(call)
            return call

    return grpc.intercept_channel(channel, Notes())


def _as_http(url: str, call: grpc.Call) -> requests.Response:
    """The end of a gRPC call as an HTTP answer: its address, the trailing metadata as headers, the
    name of a status that is no OK."""
    answer = requests.Response()
    answer.url = url
    answer.headers.update(
        {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)})
    answer.raw = io.BytesIO(json.dumps({"error": {"status": call.code().name}}).encode())
    return answer


def make_operation_readable(response: requests.Response, **_: object) -> None:
    """Drop what the installed packages cannot parse from a response that is an operation.

    Google's clients parse operations strictly (google.api_core.operations_v1.transports.rest): a
    field or a type that is newer than the package would end in a ParseError, and the operation
    would be lost. A result of an unknown type is dropped, too; see `lib.waiting.operation`.
    """
    if not response.ok or b"/operations/" not in response.content:
        return
    content = response.json()
    if not isinstance(content, dict) or "/operations/" not in str(content.get("name")):
        return
    from google.longrunning import operations_pb2

    kept = {k: v for k, v in content.items()
            if k in operations_pb2.Operation.DESCRIPTOR.fields_by_name}
    for key in ("metadata", "response"):
        if key in kept and (found := _known_message(kept.pop(key))):
            kept[key] = found
    if "error" in kept:
        details = map(_known_message, kept["error"].get("details", []))
        kept["error"] = {**kept["error"], "details": list(filter(None, details))}
    response._content = json.dumps(kept).encode()  # requests has no public way to replace it


def _known_message(content: dict) -> dict | None:
    """A google.protobuf.Any as JSON, with the fields that its type has here; None if the type is
    unknown. v1beta1 is read as v1, whose messages have the same names."""
    from google.protobuf import any_pb2, json_format

    v1 = {**content, "@type": content.get("@type", "").replace(".v1beta1.", ".v1.")}
    message = any_pb2.Any()
    try:
        json_format.ParseDict(v1, message, ignore_unknown_fields=True)
        return json_format.MessageToDict(message)
    except (json_format.ParseError, TypeError):
        return None


def connect(settings: Settings, packages: Collection[str] = VERTEX) -> Cloud:
    """A Cloud for the settings' target; starts the local cloud if it is not running.

    packages: that the caller will need, imported while a local cloud starts.

    Raises:
        google.auth.exceptions.DefaultCredentialsError: on gcp, without credentials.
        lib.errors.Needed: the local cloud did not start.
    """
    if settings.target == "local":
        return _connect_local(settings, packages)
    return _connect_gcp(settings)


@contextmanager
def connected(settings: Settings, keep_running: bool = False,
              packages: Collection[str] = VERTEX) -> Iterator[Cloud]:
    """`connect`; at the end a local cloud that this has started is stopped, or kept running.

    Raises:
        lib.errors.Needed: also, in the middle of anything, when the local cloud ends or hangs.
    """
    cloud = connect(settings, packages)
    try:
        with _watched(cloud):
            yield cloud
    finally:
        if cloud.started_local and not keep_running:
            stop_local()


@contextmanager
def _watched(cloud: Cloud) -> Iterator[None]:
    """Interrupt the main thread when the local cloud is lost: its clients would retry, some for
    minutes, and a notebook that a run waits for may be one of them.

    Raises:
        lib.errors.Needed: it has ended or hangs.
    """
    if not cloud.local_pid or threading.current_thread() is not threading.main_thread():
        yield
        return
    from lib import localcloud

    over, lost, leaving = threading.Event(), [], threading.Lock()

    def watch() -> None:
        error = localcloud.wait_for_loss(cloud.local_pid, over)
        with leaving:
            if error and not over.is_set():
                lost.append(error)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    # As for Ctrl-C: a KeyboardInterrupt ends event loops and is not retried. SIGINT itself is
    # ignored in a script's background jobs.
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    threading.Thread(target=watch, name="watch the local cloud", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
        raise Needed(str(lost[0]), lost[0].need,
                     lost[0].command or cloud.settings.rerun_command()) from None
    finally:
        with leaving:
            over.set()
        signal.signal(signal.SIGUSR2, before)


def _connect_gcp(settings: Settings) -> Cloud:
    import google.auth

    for name in EMULATOR_VARIABLES:
        os.environ.pop(name, None)
    for name in ("https_proxy", "no_proxy"):  # gRPC reads only these, all others the upper case too
        if given := os.environ.get(name.upper()):
            os.environ.setdefault(name, given)
    # Without credentials, google.auth tries a metadata server three times, which takes twelve
    # seconds on a network that drops the packets.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials, _ = google.auth.default(scopes=scopes, quota_project_id=settings.project)
    vertex = f"https://{settings.region}-aiplatform.googleapis.com"
    return Cloud(settings, credentials, vertex, note=f"Google Cloud project {settings.project}")


def _connect_local(settings: Settings, packages: Collection[str]) -> Cloud:
    from lib import localcloud

    thelook = None if settings.source_is_folder else settings.thelook.model_dump(mode="json")
    try:
        running, started = localcloud.start(
            settings.project, thelook, meanwhile=lambda: [*map(import_module, packages)])
    except localcloud.LocalCloudError as error:
        raise Needed(str(error), error.need, error.command or settings.rerun_command()) from None
    os.environ.update({
        **localcloud.direct(),
        "BIGQUERY_EMULATOR_HOST": running["bigquery"],
        "BIGQUERY_STORAGE_GRPC_ENDPOINT": running["bigquery_grpc"],
        "STORAGE_EMULATOR_HOST": running["storage"],
    })
    return Cloud(
        settings, AnonymousCredentials(), running["vertex"], running["bigquery"],
        running["bigquery_grpc"], running["platform"],
        "local cloud " + ("started" if started else "is running"), started,
        running["project_number"], LocalSession(settings), running["pid"], localcloud.STATE,
        running["vertex_grpc"])


def _check_local(error: Exception) -> None:
    """Raise Needed if the local cloud is running and does not answer."""
    from lib import localcloud

    if not localcloud.status() and (pid := localcloud.owner()):
        time.sleep(1)  # one that was just killed holds its lock until it is gone
        if localcloud.owner() != pid:
            return
        stuck = localcloud.not_answering(pid)
        raise Needed(str(stuck), stuck.need, stuck.command) from error


def fidelity() -> str:
    """How the rules of the local cloud are known, as one line of counts."""
    from lib.localcloud import ledger

    return ledger.counts()


def rules() -> dict[str, Rule]:
    """The rules of the local cloud by id; see the top of lib/localcloud/rules.toml."""
    from lib.localcloud import ledger

    return ledger.load().rules


def local_mark(response: requests.Response) -> str:
    """How the local cloud marks its answers: the id of the rule by which it refuses, or "ok". ""
    for an answer of Google's."""
    from lib.localcloud.errors import MARK

    return response.headers.get(MARK, "")


def stop_local() -> bool:
    """Stop the local cloud and keep its data. False if none was running."""
    from lib import localcloud

    return localcloud.stop()
