"""Starts Vertex AI: makes what the handlers share, and joins the methods of all services.

To add a service: a folder with its methods.py and rules.py; name it in SERVICES and METHODS.
"""

import re
import shutil
from pathlib import Path

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from lib.localcloud import rest
from lib.localcloud.vertex.base import operations, tasks
from lib.localcloud.vertex.base.answering import Answering
from lib.localcloud.vertex.base.answers import USUAL, Answers
from lib.localcloud.vertex.base.background import Background
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import State
from lib.localcloud.vertex.endpoints import methods as endpoints
from lib.localcloud.vertex.jobs import methods as jobs
from lib.localcloud.vertex.models import methods as models
from lib.localcloud.vertex.online import methods as online
from lib.localcloud.vertex.online.sync import Syncs
from lib.localcloud.vertex.pipelines import methods as pipelines
from lib.localcloud.vertex.programs.forks import Forks
from lib.localcloud.vertex.programs.images import Images
from lib.localcloud.vertex.programs.mount import Storage
from lib.localcloud.vertex.programs.runner import Runner
from lib.localcloud.vertex.programs.servers import Servers
from lib.localcloud.vertex.registry import methods as registry
from lib.localcloud.vertex.registry.tables import BigQuery
from lib.localcloud.vertex.schedules import methods as schedules

SERVICES = (
    "feature_registry_service", "feature_online_store_admin_service",
    "feature_online_store_service", "model_service", "endpoint_service", "prediction_service",
    "pipeline_service", "job_service", "schedule_service")
METHODS = {
    **registry.METHODS, **online.METHODS, **models.METHODS, **endpoints.METHODS,
    **jobs.METHODS, **pipelines.METHODS, **schedules.METHODS,
    "GetOperation": lambda vertex, request: vertex.state.operation(request.name),
}
# Slow, or only reading: they do not hold the writer's lock.
UNLOCKED = {"Predict", "FetchFeatureValues"}
# v1beta1 is served with the messages of v1. Clients poll operations under /ui/, the first http
# rule of their operations client; the documented path is /v1/.
VERSIONS = "v1|v1beta1|ui"
OPERATION = rest.Route(
    "GET", re.compile(rf"/(?:{VERSIONS})/(projects/[^/:]+/locations/.+/operations/[^/:]+)"),
    "GetOperation", operations_pb2.GetOperationRequest, ("name",))
ROUTES = [OPERATION, *(
    route for service in SERVICES
    for route in rest.service_routes("google.cloud.aiplatform_v1", service, VERSIONS))]
# Also served by gRPC, the default of its client, which is faster than its REST.
GRPC_SERVICE = "google.cloud.aiplatform.v1.FeatureOnlineStoreService"
PROJECT_NUMBER = 100000000001  # of the local project


def start(
    data_dir: Path, project: str, addresses: dict[str, str], images: dict[str, Path],
    runner: str = "process", answers: str = USUAL, forks: Forks | None = None,
) -> Vertex:
    """Open the stored state and end what an earlier process left unfinished; see `stop`.

    Args:
        data_dir: folder for the database and the logs.
        project: the local project; its scratch dataset holds what a sync reads.
        addresses: "storage" and "bigquery": URLs of the REST APIs; "bigquery_grpc": host:port of
            the Storage Read API.
        images: container image name -> folder with its Dockerfile.
        runner: how the tasks of pipelines and custom jobs run: "process", or "container" on the
            Docker engine at DOCKER_HOST.
        answers: "usual", "strange" or "random:SEED": see base/answers.py.
        forks: what forks programs; without it each is started as a Python of its own.
    """
    data_dir = Path(data_dir).resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    known = Images(images, forks)
    vertex = Vertex(
        project=project, project_number=PROJECT_NUMBER, data_dir=data_dir,
        addresses=dict(addresses), state=State(data_dir / "vertex.sqlite"),
        objects=Storage(project, addresses["storage"]), images=known,
        servers=Servers(known, data_dir / "serving"),
        runner=Runner(known, runner, data_dir), background=Background(),
        tables=BigQuery(project, addresses["bigquery"], addresses["bigquery_grpc"]),
        answers=Answers(answers))
    shutil.rmtree(tasks.scratch(vertex), ignore_errors=True)
    operations.end_interrupted(vertex.state)
    for kind in (pipelines.JOBS, jobs.JOBS):
        kind.end_interrupted(vertex)
    vertex.syncs = Syncs(vertex)
    return vertex


def stop(vertex: Vertex) -> None:
    """End what it has started and close its files; may be repeated."""
    vertex.background.close()
    vertex.objects.close()
    vertex.syncs.close()
    vertex.servers.close()
    vertex.images.close()
    vertex.tables.close()
    vertex.state.close()


def api(vertex: Vertex) -> rest.Api:
    """All methods, each inside the middleware."""
    def call(rpc: str, request: Message) -> Message | dict:
        def work() -> Message | dict:
            if rpc in UNLOCKED or rpc.startswith(("Get", "List")):
                return METHODS[rpc](vertex, request)
            with vertex.state.lock:
                return METHODS[rpc](vertex, request)

        return vertex.call(rpc, request, work)

    answering = Answering(vertex)
    return rest.Api(ROUTES, METHODS, call, answering.render, answering.rename,
                    quick=["FetchFeatureValues"], serialize=answering.serialize)
