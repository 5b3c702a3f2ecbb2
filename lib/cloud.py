"""The one door to Google's clients, and to the local cloud behind them.

Everything else in `lib` takes a `Cloud` and cannot tell which target it talks to: the same
clients send the same requests, to Google or to loopback.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import grpc
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud import bigquery, bigquery_storage_v1, storage
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)

from lib.config import Settings
from lib.errors import Needed

# The clients' own variables for another endpoint. A component or the serving container runs
# as a program of its own and learns of the local cloud from these alone.
EMULATOR_VARIABLES = (
    "BIGQUERY_EMULATOR_HOST", "BIGQUERY_STORAGE_GRPC_ENDPOINT", "STORAGE_EMULATOR_HOST",
)


@dataclass(frozen=True)
class Cloud:
    """Google's clients for one target, each made when first asked for.

    vertex: base URL of Vertex AI. bigquery_rest, bigquery_grpc, platform (Resource Manager,
    Service Usage, Artifact Registry): None means Google's own.
    project_number: None asks Google's Resource Manager.
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

    @property
    def parent(self) -> str:
        """projects/<project>/locations/<region>, under which Vertex AI keeps everything."""
        return f"projects/{self.settings.project}/locations/{self.settings.region}"

    @cached_property
    def bigquery(self) -> bigquery.Client:
        options = {"api_endpoint": self.bigquery_rest} if self.bigquery_rest else None
        return bigquery.Client(
            project=self.settings.project, location=self.settings.target_settings.location,
            credentials=self.credentials, client_options=options,
        )

    @cached_property
    def bigquery_read(self) -> bigquery_storage_v1.BigQueryReadClient:
        """The Storage Read API: whole tables as Arrow, some 50 times faster than REST."""
        if not self.bigquery_grpc:
            return bigquery_storage_v1.BigQueryReadClient(credentials=self.credentials)
        channel = grpc.insecure_channel(
            self.bigquery_grpc, options=[("grpc.max_receive_message_length", -1)])
        return bigquery_storage_v1.BigQueryReadClient(
            transport=BigQueryReadGrpcTransport(channel=channel))

    @cached_property
    def storage(self) -> storage.Client:
        """Cloud Storage; $STORAGE_EMULATOR_HOST points the client at the local cloud."""
        return storage.Client(project=self.settings.project, credentials=self.credentials)

    @cached_property
    def registry(self):
        """Feature groups and features (GAPIC: the preview classes cannot set `dense`)."""
        from google.cloud.aiplatform_v1 import FeatureRegistryServiceClient

        return FeatureRegistryServiceClient(**self._gapic)

    @cached_property
    def online_admin(self):
        """Online stores, feature views, syncs."""
        from google.cloud.aiplatform_v1 import FeatureOnlineStoreAdminServiceClient

        return FeatureOnlineStoreAdminServiceClient(**self._gapic)

    @cached_property
    def online(self):
        """Fetching feature values."""
        from google.cloud.aiplatform_v1 import FeatureOnlineStoreServiceClient

        return FeatureOnlineStoreServiceClient(**self._gapic)

    @cached_property
    def models(self):
        """Model evaluations (the high-level Model cannot import one)."""
        from google.cloud.aiplatform_v1 import ModelServiceClient

        return ModelServiceClient(**self._gapic)

    @cached_property
    def endpoints(self):
        """Endpoints as messages: an operation to wait for, where the SDK's Endpoint blocks."""
        from google.cloud.aiplatform_v1 import EndpointServiceClient

        return EndpointServiceClient(**self._gapic)

    @cached_property
    def pipeline_jobs(self):
        """Pipeline jobs as messages: list, cancel, delete."""
        from google.cloud.aiplatform_v1 import PipelineServiceClient

        return PipelineServiceClient(**self._gapic)

    @cached_property
    def custom_jobs(self):
        """Custom jobs as messages: list, cancel, delete."""
        from google.cloud.aiplatform_v1 import JobServiceClient

        return JobServiceClient(**self._gapic)

    @cached_property
    def projects(self):
        """Resource Manager: does the project answer, and which permissions are there."""
        from google.cloud.resourcemanager_v3 import ProjectsClient

        return ProjectsClient(**self._platform)

    @cached_property
    def services(self):
        """Service Usage: which APIs are enabled."""
        from google.cloud.service_usage_v1 import ServiceUsageClient

        return ServiceUsageClient(**self._platform)

    @cached_property
    def artifacts(self):
        """Artifact Registry: which images are there."""
        from google.cloud.artifactregistry_v1 import ArtifactRegistryClient

        return ArtifactRegistryClient(**self._platform)

    @cached_property
    def aiplatform(self):
        """The high-level SDK (Model, Endpoint), initialised for this target."""
        from google.cloud import aiplatform

        # The SDK prints every operation to stdout; our own lines say the same, once.
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("google.cloud.aiplatform"):
                logging.getLogger(name).setLevel(logging.WARNING)
        if self.project_number:
            # The SDK compares the number of the bucket's project with Resource Manager's answer.
            # That client can be pointed nowhere else, and would wait a minute for the network.
            from google.cloud.aiplatform.utils import resource_manager_utils

            resource_manager_utils.get_project_number = lambda *_, **__: self.project_number
        aiplatform.init(
            project=self.settings.project, location=self.settings.region,
            credentials=self.credentials, api_endpoint=self.vertex, api_transport="rest",
            staging_bucket=f"gs://{self.settings.names.bucket}",
        )
        return aiplatform

    @property
    def _gapic(self) -> dict:
        # REST on both targets, so that both raise the same error classes.
        return {"credentials": self.credentials, "transport": "rest",
                "client_options": {"api_endpoint": self.vertex}}

    @property
    def _platform(self) -> dict:
        options = {"api_endpoint": self.platform} if self.platform else None
        return {"credentials": self.credentials, "transport": "rest", "client_options": options}


def connect(settings: Settings) -> Cloud:
    """A Cloud for the settings' target; starts the local cloud if that is not up.

    Raises:
        google.auth.exceptions.DefaultCredentialsError: on gcp, with no credentials.
        lib.errors.Needed: the local cloud did not start.
    """
    return _connect_local(settings) if settings.target == "local" else _connect_gcp(settings)


@contextmanager
def connected(settings: Settings, keep_running: bool = False) -> Iterator[Cloud]:
    """`connect`; at the end a local cloud that this has started is stopped, or kept running."""
    cloud = connect(settings)
    try:
        yield cloud
    finally:
        if cloud.started_local and not keep_running:
            stop_local()


def _connect_gcp(settings: Settings) -> Cloud:
    import google.auth

    for name in EMULATOR_VARIABLES:
        os.environ.pop(name, None)
    # Without credentials google.auth looks for a metadata server, three times: on a network that
    # swallows the question that would take twelve seconds.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials, _ = google.auth.default(scopes=scopes, quota_project_id=settings.project)
    vertex = f"https://{settings.region}-aiplatform.googleapis.com"
    return Cloud(settings, credentials, vertex, note=f"Google Cloud project {settings.project}")


def _connect_local(settings: Settings) -> Cloud:
    from lib import localcloud

    thelook = None if settings.source_is_folder else settings.thelook.model_dump(mode="json")
    try:
        running, started = localcloud.start(settings.project, thelook)
    except localcloud.LocalCloudError as error:
        raise Needed(str(error), "the local cloud",
                     ".venv/bin/python -m lib.localcloud reset") from None
    os.environ.update({
        "BIGQUERY_EMULATOR_HOST": running["bigquery"],
        "BIGQUERY_STORAGE_GRPC_ENDPOINT": running["bigquery_grpc"],
        "STORAGE_EMULATOR_HOST": running["storage"],
    })
    return Cloud(
        settings, AnonymousCredentials(), running["vertex"], running["bigquery"],
        running["bigquery_grpc"], running["platform"],
        "local cloud " + ("started" if started else "is up"), started, running["project_number"],
    )


def stop_local() -> bool:
    """Stop the local cloud; its data stay. False if none was running."""
    from lib import localcloud

    return localcloud.stop()
