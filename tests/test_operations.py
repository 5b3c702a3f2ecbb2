"""Operations and their results, as Google may answer them and the installed package does not."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.api_core import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as vertex

from lib import endpoint, waiting
from lib.cloud import Cloud

OPERATION = "projects/7/locations/us-central1/operations/1"
TYPE = "type.googleapis.com/google.cloud.aiplatform"
ENDPOINT = "projects/7/locations/us-central1/endpoints/5"


@pytest.fixture
def busy():
    """The statuses with which the next calls are refused."""
    return []


@pytest.fixture
def answering(settings, busy):
    """answering(started, polled) -> a Cloud whose creates answer `started`, whose polls `polled`,
    and which has one endpoint."""
    servers = []

    def start(started: dict, polled: dict) -> Cloud:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, content: dict):
                data = json.dumps(content).encode()
                self.send_response(busy.pop(0) if busy else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.reply({"name": OPERATION, **started})

            def do_GET(self):
                if "/operations/" in self.path:
                    return self.reply({"name": OPERATION, **polled})
                found = {"name": ENDPOINT, "displayName": "found", "etag": "e", "newField": 1}
                listed = self.path.partition("?")[0].endswith("/endpoints")
                return self.reply({"endpoints": [found]} if listed else found)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        pauses = {"first_pause_seconds": 0.01, "longest_pause_seconds": 0.02}
        quick = settings.model_copy(update={
            "waits": settings.waits.model_copy(update=pauses),
            "retries": settings.retries.model_copy(update=pauses)})
        return Cloud(quick, AnonymousCredentials(), f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def create(cloud: Cloud):
    return cloud.endpoints.create_endpoint(
        parent=cloud.parent, endpoint=vertex.Endpoint(display_name="e"))


METADATA = {"@type": f"{TYPE}.v1.CreateEndpointOperationMetadata",
            "genericMetadata": {"createTime": "2026-01-01T00:00:00Z"}}
RUNNING = {"metadata": METADATA, "done": False}
STUB = {"@type": f"{TYPE}.v1.Endpoint", "name": ENDPOINT}


@pytest.mark.parametrize("polled", [
    {"metadata": METADATA, "response": STUB},
    {"metadata": METADATA, "response": {**STUB, "addedLastWeek": {"by": "Google"}}},
    {"metadata": {**METADATA, "addedLastWeek": 1}, "response": STUB, "addedToo": [1]},
    {"metadata": {**METADATA, "@type": f"{TYPE}.v1beta1.CreateEndpointOperationMetadata"},
     "response": {**STUB, "@type": f"{TYPE}.v1beta1.Endpoint", "newInBeta": True}},
    {"metadata": {"@type": f"{TYPE}.v1.NobodyKnowsMetadata", "x": 1}, "response": STUB},
])
def test_an_operation_with_unknown_fields_or_types_gives_its_result(answering, polled):
    cloud = answering(RUNNING, {"done": True, **polled})
    assert waiting.operation(cloud.settings, "endpoint", create(cloud)).name == ENDPOINT


@pytest.mark.parametrize("started", [
    {"metadata": {"@type": f"{TYPE}.v1beta1.NobodyKnowsMetadata"}, "done": True, "response": STUB},
    {"done": True, "response": {**STUB, "@type": f"{TYPE}.v1beta1.Endpoint"}}])
def test_an_operation_that_is_done_at_once_is_read_as_well(answering, started):
    cloud = answering(started, {})
    assert waiting.operation(cloud.settings, "endpoint", create(cloud)).name == ENDPOINT


UNKNOWN = {"@type": f"{TYPE}.v2.Endpoint", "name": ENDPOINT}


def test_a_result_of_an_unknown_type_is_none(answering):
    cloud = answering(RUNNING, {"done": True, "response": UNKNOWN})
    assert waiting.operation(cloud.settings, "endpoint", create(cloud)) is None


def test_an_error_with_unknown_details_is_that_error(answering):
    error = {"code": 8, "message": "10 endpoints", "details": [{"@type": f"{TYPE}.v9.Quota"}]}
    cloud = answering(RUNNING, {"done": True, "error": error})
    with pytest.raises(google_errors.ResourceExhausted, match="10 endpoints") as caught:
        waiting.operation(cloud.settings, "endpoint", create(cloud), "projects/p/endpoints/e")
    assert caught.value.resource_name == "projects/p/endpoints/e"


@pytest.mark.parametrize("response", [STUB, UNKNOWN])
def test_an_endpoint_is_read_again_after_it_was_created(answering, monkeypatch, response):
    cloud = answering(RUNNING, {"done": True, "response": response})
    found = iter([None, vertex.Endpoint(name=ENDPOINT)])
    monkeypatch.setattr(endpoint, "find", lambda _: next(found))
    outcome = endpoint.create(cloud)
    assert (outcome.resource, outcome.value.etag) == (ENDPOINT, "e")


@pytest.mark.parametrize("status", [429, 503])
def test_a_read_is_repeated_while_the_service_is_busy_and_a_change_is_not(
    answering, busy, status
):
    cloud = answering(RUNNING, {"done": True, "response": STUB})
    refused = google_errors.TooManyRequests if status == 429 else google_errors.ServiceUnavailable
    busy += [status] * 2
    assert cloud.endpoints.get_endpoint(name=ENDPOINT).name == ENDPOINT and not busy
    busy.append(status)
    with pytest.raises(refused):
        create(cloud)
    busy += [status] * (cloud.settings.retries.attempts + 1)
    with pytest.raises(refused):
        list(cloud.endpoints.list_endpoints(parent=cloud.parent))
    assert len(busy) == 1


def test_an_endpoint_of_an_unknown_type_is_waited_for(answering, monkeypatch):
    cloud = answering(RUNNING, {"done": True, "response": UNKNOWN})
    found = iter([None, None, None, vertex.Endpoint(name=ENDPOINT)])
    monkeypatch.setattr(endpoint, "find", lambda _: next(found))
    assert endpoint.create(cloud).resource == ENDPOINT
