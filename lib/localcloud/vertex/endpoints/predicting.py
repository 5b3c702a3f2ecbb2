"""PredictionService: requests to the model servers of an endpoint."""

import json
import random
import threading
import time
from contextlib import suppress

import urllib3
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.protobuf.message import Message

from lib.localcloud import loopback, rest
from lib.localcloud.errors import ApiError, precondition, refused
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import State, new_message
from lib.localcloud.vertex.models import versions
from lib.localcloud.vertex.programs.servers import (
    PREDICT_SECONDS,
    START_SECONDS,
    Server,
    Spec,
)

CRASHES = 3  # of the server during one request: then the request itself may be the cause
EXIT_SECONDS = 0.5  # a server's connections break shortly before its process has ended


def predict(vertex: Vertex, request: Message) -> Message:
    """Predict: the container's answer, with the names of the model that gave it.

    Raises:
        ApiError: NOT_FOUND for the endpoint; FAILED_PRECONDITION if no model receives traffic, or
            with the container's own text when it answers 4xx; INTERNAL for any other answer;
            UNAVAILABLE if it cannot be reached, even after restarts.
    """
    body = {"instances": [json_format.MessageToDict(value) for value in request.instances]}
    if request.HasField("parameters"):
        body["parameters"] = json_format.MessageToDict(request.parameters)
    deployed, status, answer = _send(vertex, request.endpoint, json.dumps(body).encode())
    if status != 200:
        text = answer.decode(errors="replace")
        message = f"The model server answered {status}: {text}"
        if 400 <= status < 500:
            raise precondition("endpoints.answer-4xx", message)
        raise refused("endpoints.answer-5xx", "INTERNAL", message)
    response = new_message(types.PredictResponse)
    try:
        predictions = rest.parse_json(answer)["predictions"]
        json_format.ParseDict({"predictions": predictions}, response)
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise refused(
            "endpoints.answer-5xx",
            "INTERNAL", f'The model server must answer {{"predictions": [...]}}: {error}'
        ) from None
    response.deployed_model_id = deployed.id
    response.model = deployed.model
    response.model_version_id = deployed.model_version_id
    response.model_display_name = vertex.state.get(deployed.model).display_name
    return response


def server_spec(vertex: Vertex, endpoint_name: str, deployed: Message) -> Spec:
    """What runs for a deployed model, and in which environment.

    Variables and default routes: GEAP/machine-learning/predictions/custom-container-requirements
    and the proto comments of ModelContainerSpec.
    """
    version = _version(vertex.state, deployed)
    container = version.container_spec
    endpoint_id = endpoint_name.rsplit("/", 1)[1]
    base = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed.id}"
    health = container.health_route or base
    route = container.predict_route or f"{base}:predict"
    environment = {
        "AIP_MODE": "PREDICTION",
        "AIP_MODE_VERSION": "1.0.0",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
        "AIP_PROJECT_NUMBER": str(vertex.project_number),
        "AIP_ENDPOINT_ID": endpoint_id,
        "AIP_DEPLOYED_MODEL_ID": deployed.id,
        "AIP_MACHINE_TYPE": deployed.dedicated_resources.machine_spec.machine_type,
        "AIP_HEALTH_ROUTE": health,
        "AIP_PREDICT_ROUTE": route,
        "AIP_STORAGE_URI": version.artifact_uri,
        # Not set by Vertex AI: where a local process finds Cloud Storage, and may listen.
        "STORAGE_EMULATOR_HOST": vertex.addresses["storage"],
        "SERVING_HOST": "127.0.0.1",
        **{variable.name: variable.value for variable in container.env},
    }
    environment |= loopback.no_proxy(environment)
    return Spec(
        deployed_model_id=deployed.id, image_uri=container.image_uri, health_route=health,
        predict_route=route, environment=environment, command=tuple(container.command),
        args=tuple(container.args),
        start_seconds=container.deployment_timeout.ToSeconds() or START_SECONDS)


def deployed_images(state: State) -> set[str]:
    """The image of each model that receives traffic."""
    return {
        _version(state, deployed).container_spec.image_uri
        for endpoint in state.all("endpoints") for deployed in _receiving(endpoint)}


def start_servers(vertex: Vertex) -> None:
    """Start the server of each model that receives traffic; returns at once. The first prediction
    waits for it, or tries again and says what is wrong."""
    def start(endpoint: Message, deployed: Message) -> None:
        with suppress(ApiError):
            _start_server(vertex, endpoint.name, deployed)

    for endpoint in vertex.state.all("endpoints"):
        for deployed in _receiving(endpoint):
            threading.Thread(target=start, args=(endpoint, deployed), daemon=True).start()


def _start_server(
    vertex: Vertex, endpoint_name: str, deployed: Message, patience: float = -1
) -> Server | None:
    """`Servers.start`; None if the model was undeployed before: nobody else would stop it."""
    server = vertex.servers.start(server_spec(vertex, endpoint_name, deployed), patience)
    endpoint = vertex.state.find(endpoint_name)
    if endpoint and any(other.id == deployed.id for other in endpoint.deployed_models):
        return server
    vertex.servers.stop(deployed.id)
    return None


def _version(state: State, deployed: Message) -> Message:
    return versions.find(state, f"{deployed.model}@{deployed.model_version_id}")


def _receiving(endpoint: Message) -> list[Message]:
    """The deployed models that receive traffic."""
    return [d for d in endpoint.deployed_models if endpoint.traffic_split.get(d.id)]


def _choose(endpoint: Message) -> Message:
    """One of the deployed models, at random by the traffic split."""
    receiving = _receiving(endpoint)
    if not receiving:
        raise precondition(
            "endpoints.no-traffic", f"{endpoint.name} has no deployed model that receives traffic.")
    shares = [endpoint.traffic_split[d.id] for d in receiving]
    return random.choices(receiving, shares)[0]


def _send(vertex: Vertex, endpoint_name: str, body: bytes) -> tuple[Message, int, bytes]:
    """The deployed model that answered, HTTP status and body of its answer.

    If its server ends, the request waits for a new one, up to the time that a prediction may take;
    a start that it makes itself may take longer, up to the start's own limit.
    """
    deadline, crashes = time.monotonic() + PREDICT_SECONDS, 0
    while True:
        # Read each time: a model may be replaced while a request waits.
        deployed = _choose(vertex.state.get(endpoint_name))
        try:
            server = vertex.servers.running(deployed.id) or _start_server(
                vertex, endpoint_name, deployed, max(deadline - time.monotonic(), 0))
        except ApiError as error:
            crashes += 1  # it ended before it was healthy
            if error.status == "INTERNAL" and crashes < CRASHES and time.monotonic() < deadline:
                continue
            raise refused("endpoints.unreachable", "UNAVAILABLE", error.message) from None
        if server is None:
            continue
        try:
            return deployed, *server.predict(body, deadline - time.monotonic())
        except urllib3.exceptions.NewConnectionError as error:  # nobody listens; no timeout
            reason = error
        except urllib3.exceptions.TimeoutError as error:
            raise refused(
                "endpoints.unreachable",
                "UNAVAILABLE", f"The model server did not answer: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            reason = error
        crashes += server.ended(EXIT_SECONDS)  # or only this connection broke
        if crashes == CRASHES or time.monotonic() > deadline:
            raise refused("endpoints.unreachable", "UNAVAILABLE",
                          f"The model server cannot be reached: {reason}")
