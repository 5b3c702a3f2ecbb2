"""BigQuery and Vertex AI of the local cloud, in this process, and Google's clients for them."""

import contextlib
import itertools
import textwrap
import time

import grpc
import pytest
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1, bigquery, storage

from lib.localcloud import ledger
from lib.localcloud.bigquery import BigQueryServer
from lib.localcloud.errors import MARK, ApiError
from lib.localcloud.server import listen
from lib.localcloud.storage import StorageServer
from lib.localcloud.vertex import app
from tests.support.serving import ServedVertex

PROJECT = "p1"
VERTEX = {"every", "registry", "online", "sync", "models", "endpoints", "pipelines", "jobs",
          "schedules"}
_numbers = itertools.count()

# A model server that follows Vertex AI's contract for custom containers, in stdlib Python.
SERVER = '''
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
HEALTH, PREDICT = os.environ["AIP_HEALTH_ROUTE"], os.environ["AIP_PREDICT_ROUTE"]
print("model server at", os.environ["AIP_STORAGE_URI"])
time.sleep(float(os.environ.get("LOADING_SECONDS", 0)))
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # one packet per answer: a second one would be delayed by 40 ms
    def log_message(self, *args): pass
    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.reply(200 if self.path == HEALTH else 404, {})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["instances"] == ["environment"]:
            return self.reply(200, {"predictions": [dict(os.environ)]})
        if asked["instances"] == ["die"]:
            os._exit(3)
        if asked["instances"] == ["bad"]:
            return self.reply(422, {"error": "feature revenue_90d is missing"})
        if asked["instances"] == ["nonsense"]:
            return self.reply(200, {"answer": 42})
        if asked["instances"] in (["NaN"], ["Infinity"]):
            return self.reply(200, {"predictions": [float(asked["instances"][0])]})
        self.reply(200, {"predictions": [sum(row) for row in asked["instances"]]})
host = os.environ.get("SERVING_HOST", "0.0.0.0")
ThreadingHTTPServer((host, int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
'''


@pytest.fixture(autouse=True)
def raises_the_rules_that_it_holds(request, monkeypatch):
    """A test that the ledger names for a refusal of Vertex AI must bring that refusal about. Not
    checked of a parametrized test, where only some of the parameters do."""
    held = {rule.refusal for rule in ledger.load().rules.values()
            if rule.refusal and rule.test == request.node.nodeid and rule.area in VERTEX}
    raised = set()
    init = ApiError.__init__

    def noted(self, *arguments):
        init(self, *arguments)
        raised.add(self.rule)

    monkeypatch.setattr(ApiError, "__init__", noted)
    yield
    assert held <= raised, f"not refused: {held - raised}"


@pytest.fixture(scope="session")
def state_folder(tmp_path_factory):
    """The folder of the state that BigQuery and Cloud Storage share."""
    return tmp_path_factory.mktemp("state")


@contextlib.contextmanager
def serve_bigquery(state):
    """A running bqemulator; gs:// means the objects below that folder."""
    server = BigQueryServer(state / "bigquery", PROJECT, state / "storage")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def bq_server(state_folder):
    """A running bqemulator; gs:// means the objects of `state_folder`."""
    with serve_bigquery(state_folder) as server:
        yield server


@pytest.fixture(scope="session")
def start_emulators():
    """Context manager: BigQuery and Cloud Storage over another folder; service -> address."""

    @contextlib.contextmanager
    def start(state):
        with serve_bigquery(state) as server:
            objects = StorageServer(state / "storage", listen())
            objects.start()
            yield {"bigquery": server.rest, "storage": objects.url}
            objects.stop()

    return start


@pytest.fixture(scope="session")
def bq(bq_server):
    """Google's BigQuery client, with an empty dataset `ds`."""
    client = bigquery.Client(
        PROJECT, credentials=AnonymousCredentials(),
        client_options={"api_endpoint": bq_server.rest})
    client.create_dataset("ds")
    yield client
    client.close()


@pytest.fixture(scope="session")
def gcs(state_folder):
    """Google's Cloud Storage client."""
    server = StorageServer(state_folder / "storage", listen())
    server.start()
    client = storage.Client(
        PROJECT, AnonymousCredentials(), client_options={"api_endpoint": server.url})
    yield client
    client.close()
    server.stop()


@pytest.fixture
def table(bq):
    """Create a table from a SELECT; returns its bq:// URI."""

    def make(select, name=None):
        name = name or f"{PROJECT}.ds.t{next(_numbers)}"
        bq.query(f"create or replace table `{name}` as {textwrap.dedent(select)}").result()
        return f"bq://{name}"

    return make


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Image name -> folder: `echo` works, `broken` dies at start, `deaf` is never healthy."""
    folders = {}
    for name, program in {
        "echo": SERVER,
        "broken": "raise SystemExit('no model.joblib in gs://b/m')",
        "deaf": "import time; print('loading...', flush=True); time.sleep(60)",
    }.items():
        folders[name] = tmp_path_factory.mktemp("images") / name
        folders[name].mkdir()
        (folders[name] / "main.py").write_text(program)
        (folders[name] / "Dockerfile").write_text(
            'FROM python:3.11-slim\nCOPY main.py .\nENTRYPOINT ["python", "main.py"]\n')
    return folders


class BothWays:
    """Google's client for fetches, by REST and by gRPC: each call must end alike by both, in the
    same answer, or in a refusal with the same status, message and rule."""

    def __init__(self, by_rest, by_grpc):
        self._clients = by_rest, by_grpc

    def fetch_feature_values(self, **arguments):
        by_rest, by_grpc = [self._end(client, arguments) for client in self._clients]
        assert by_rest[1:] == by_grpc[1:]
        if isinstance(by_grpc[0], Exception):
            raise by_grpc[0]
        return by_grpc[0]

    @staticmethod
    def _end(client, arguments):
        """The answer or the error, and what of it must be the same by both."""
        try:
            answer = client.fetch_feature_values(**arguments)
        except GoogleAPICallError as error:
            by_grpc = isinstance(error.response, grpc.Call)
            marks = error.response.trailing_metadata() if by_grpc else error.response.headers
            return error, int(error.code), error.message.split("%3Dint: ")[-1], dict(marks)[MARK]
        # Deterministic: NaN is not equal to itself, and a Struct has no order.
        return answer, type(answer).pb(answer).SerializeToString(deterministic=True)


class StandIn:
    """A running stand-in (`vertex`, of lib/localcloud) and GAPIC clients for it."""

    def __init__(self, data_dir, bq_server, images, answers="usual"):
        self.vertex = app.start(data_dir, PROJECT, {
            "bigquery": bq_server.rest, "bigquery_grpc": bq_server.grpc,
            "storage": "http://127.0.0.1:1"}, images, answers=answers)
        self._served = ServedVertex(self.vertex)
        self.url = self._served.url
        self.registry = self.client(aiplatform_v1.FeatureRegistryServiceClient)
        self.admin = self.client(aiplatform_v1.FeatureOnlineStoreAdminServiceClient)
        online = aiplatform_v1.FeatureOnlineStoreServiceClient
        self.channel = grpc.insecure_channel(self._served.grpc)
        self.online = BothWays(self.client(online), online(
            transport=online.get_transport_class("grpc")(channel=self.channel)))
        self.models = self.client(aiplatform_v1.ModelServiceClient)
        self.endpoints = self.client(aiplatform_v1.EndpointServiceClient)
        self.predictions = self.client(aiplatform_v1.PredictionServiceClient)

    def client(self, kind):
        return kind(
            credentials=AnonymousCredentials(), transport="rest",
            client_options=ClientOptions(api_endpoint=self.url))

    def close(self):
        self.channel.close()
        self._served.close()
        app.stop(self.vertex)


@pytest.fixture(scope="session")
def start_vertex(bq_server, images):
    """Context manager: a separate stand-in, over a data folder."""

    @contextlib.contextmanager
    def start(data_dir, answers="usual"):
        vertex = StandIn(data_dir, bq_server, images, answers)
        try:
            yield vertex
        finally:
            vertex.close()

    return start


@pytest.fixture(scope="session")
def vertex(start_vertex, tmp_path_factory):
    """The stand-in that the tests share; each test uses another location."""
    with start_vertex(tmp_path_factory.mktemp("vertex")) as running:
        yield running


@pytest.fixture
def location():
    """A location that no other test uses; its project is named as answers name it."""
    return f"projects/{app.PROJECT_NUMBER}/locations/test{next(_numbers)}"


@pytest.fixture
def group(vertex, location):
    """Create a feature group with features over a table; returns its name."""

    def make(uri, features, group_id="fg", **spec):
        spec.setdefault("entity_id_columns", ["id"])
        created = vertex.registry.create_feature_group(
            parent=location, feature_group_id=group_id, feature_group={
                "big_query": {"big_query_source": {"input_uri": uri}, **spec}}).result()
        for feature in features:
            vertex.registry.create_feature(
                parent=created.name, feature_id=feature, feature={}).result()
        return created.name

    return make


@pytest.fixture
def store(vertex, location):
    """The name of an online store."""
    return vertex.admin.create_feature_online_store(
        parent=location, feature_online_store_id="store", feature_online_store={
            "bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}},
    ).result().name


@pytest.fixture
def view(vertex, store):
    """Create a view of features of groups; returns its name."""

    def make(features, view_id="view", groups=("fg",), cron="TZ=Etc/UTC 0 3 * * 1"):
        return vertex.admin.create_feature_view(
            parent=store, feature_view_id=view_id, feature_view={
                "sync_config": {"cron": cron} if cron else None,
                "feature_registry_source": {"feature_groups": [
                    {"feature_group_id": g, "feature_ids": features} for g in groups]}},
        ).result().name

    return make


@pytest.fixture(scope="session")
def wait_for():
    """Poll until a condition is true; returns its result."""

    def wait(condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.02)
        return result

    return wait


@pytest.fixture
def sync(vertex, wait_for):
    """Sync a view and wait; returns the finished FeatureViewSync."""

    def run(view_name):
        name = vertex.admin.sync_feature_view(feature_view=view_name).feature_view_sync
        return wait_for(lambda: _finished(vertex, name))

    return run


def _finished(vertex, name):
    found = vertex.admin.get_feature_view_sync(name=name)
    return found if found.run_time.HasField("end_time") else None


@pytest.fixture
def fetch(vertex):
    """Feature name -> value of an entity (None for null), feature_timestamp among them."""

    def run(view_name, *parts, key=None):
        data_key = {"key": key} if key else {"composite_key": {"parts": parts}}
        answer = vertex.online.fetch_feature_values(
            request={"feature_view": view_name, "data_key": data_key})
        return {f.name: _value(f) for f in answer.key_values.features}

    return run


def _value(feature):
    message = type(feature).pb(feature)
    if not message.HasField("value"):
        return None
    value = getattr(message.value, message.value.WhichOneof("value"))
    return list(value.values) if hasattr(value, "values") else value
