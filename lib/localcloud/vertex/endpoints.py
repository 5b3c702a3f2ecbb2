"""EndpointService and PredictionService: endpoints, deployed models, predictions."""

import json
import random

import urllib3
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.protobuf.message import Message

from lib.localcloud.vertex import listing, models, operations, rules
from lib.localcloud.vertex.containers import START_SECONDS, Spec
from lib.localcloud.vertex.errors import ApiError, invalid, not_found, precondition, unsupported
from lib.localcloud.vertex.operations import new_id
from lib.localcloud.vertex.state import new_message

FIELDS = ("display_name", "labels", "endpoint", *listing.TIMES)
UPDATABLE = {"display_name", "description", "labels", "traffic_split"}
DYING_SECONDS = 0.5  # a server's connections break a little before its process is over
NEW = "0"  # in a traffic split: the model that is just being deployed


def create_endpoint(cloud, request: Message) -> dict:
    """CreateEndpoint, empty; deployModel puts models into it."""
    if request.endpoint_id:
        rules.check_id(request.endpoint_id, rules.ENDPOINT_ID, "endpoint_id")
    endpoint = request.endpoint
    rules.check_display_name(endpoint.display_name)
    rules.check_labels(endpoint.labels)
    if endpoint.dedicated_endpoint_enabled or endpoint.enable_private_service_connect:
        raise unsupported("An endpoint with a DNS name of its own")
    if endpoint.deployed_models or endpoint.traffic_split:
        raise invalid("deployed_models and traffic_split are set by deployModel.")
    endpoint.name = f"{request.parent}/endpoints/{request.endpoint_id or new_id()}"
    cloud.state.insert(endpoint)
    return operations.done(cloud.state, "CreateEndpoint", endpoint.name, endpoint)


def get_endpoint(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_endpoints(cloud, request: Message) -> Message:
    found = cloud.state.children(request.parent, "endpoints")
    response = new_message(types.ListEndpointsResponse)
    return listing.page(found, request, response, "endpoints", FIELDS)


def update_endpoint(cloud, request: Message) -> Message:
    """UpdateEndpoint: not an operation, but the endpoint itself."""
    stored = cloud.state.get(request.endpoint.name)
    changed = rules.merge(stored, request.endpoint, request.update_mask, UPDATABLE)
    rules.check_labels(changed.labels)
    _check_split(changed.traffic_split, {d.id for d in changed.deployed_models})
    return cloud.state.put(changed)


def delete_endpoint(cloud, request: Message) -> dict:
    """DeleteEndpoint: FAILED_PRECONDITION while a model is deployed to it."""
    endpoint = cloud.state.get(request.name)
    if endpoint.deployed_models:
        ids = ", ".join(d.id for d in endpoint.deployed_models)
        raise precondition(f"{request.name} has deployed models ({ids}); undeploy them first.")
    cloud.state.delete(request.name)
    return operations.done(cloud.state, "DeleteEndpoint", request.name)


def _check_split(split: dict[str, int], deployed: set[str]) -> None:
    """Percentages of known deployed models that add up to 100, or none at all."""
    if unknown := set(split) - deployed:
        raise invalid(f"traffic_split: no deployed model {', '.join(sorted(unknown))}.")
    if any(share < 0 for share in split.values()):
        raise invalid("traffic_split: a percentage is negative.")
    if split and sum(split.values()) != 100:
        raise invalid(f"traffic_split adds up to {sum(split.values())}, not 100.")


# Deploying


def deploy_model(cloud, request: Message) -> dict:
    """DeployModel: starts the model's container; the operation ends when it is healthy.

    Raises:
        ApiError: NOT_FOUND for the endpoint or the model; INVALID_ARGUMENT for resources or
            traffic split; ALREADY_EXISTS for an id in use.
    """
    state, deployed = cloud.state, request.deployed_model
    endpoint = state.get(request.endpoint)
    version = models.find_version(state, deployed.model)
    in_use = {d.id for d in endpoint.deployed_models}
    if deployed.id in in_use:
        raise ApiError("ALREADY_EXISTS", f"Deployed model id {deployed.id!r} is in use.")
    if not deployed.HasField("dedicated_resources"):
        raise invalid("deployed_model.dedicated_resources is required for a custom container.")
    if deployed.dedicated_resources.min_replica_count < 1:
        raise invalid("dedicated_resources.min_replica_count must be at least 1.")
    _check_split(request.traffic_split, in_use | {NEW})

    model = state.get(models.split_name(deployed.model)[0])
    deployed.id = deployed.id or new_id()
    deployed.model = model.name
    deployed.model_version_id = version.version_id
    deployed.display_name = deployed.display_name or model.display_name
    split = {deployed.id if k == NEW else k: v for k, v in request.traffic_split.items()}
    response = new_message(types.DeployModelResponse)

    def work() -> Message:
        cloud.containers.start(container_spec(cloud, endpoint.name, deployed))
        with state.transaction():
            current = state.find(endpoint.name)
            if current is None:
                cloud.containers.stop(deployed.id)
                raise not_found(endpoint.name)
            deployed.create_time.GetCurrentTime()
            current.deployed_models.append(deployed)
            if split:
                current.traffic_split.clear()
                current.traffic_split.update(split)
            state.put(current)
        response.deployed_model.CopyFrom(deployed)
        return response

    return operations.start(state, "DeployModel", endpoint.name, work)


def container_spec(cloud, endpoint_name: str, deployed: Message) -> Spec:
    """What runs for a deployed model, and in which environment.

    Variables and default routes: GEAP/machine-learning/predictions/custom-container-requirements
    and the proto comments of ModelContainerSpec.
    """
    version = models.find_version(cloud.state, f"{deployed.model}@{deployed.model_version_id}")
    container = version.container_spec
    endpoint_id = endpoint_name.rsplit("/", 1)[1]
    base = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed.id}"
    health = container.health_route or base
    predict = container.predict_route or f"{base}:predict"
    environment = {
        "AIP_MODE": "PREDICTION",
        "AIP_MODE_VERSION": "1.0.0",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
        "AIP_PROJECT_NUMBER": str(cloud.project_number),
        "AIP_ENDPOINT_ID": endpoint_id,
        "AIP_DEPLOYED_MODEL_ID": deployed.id,
        "AIP_MACHINE_TYPE": deployed.dedicated_resources.machine_spec.machine_type,
        "AIP_HEALTH_ROUTE": health,
        "AIP_PREDICT_ROUTE": predict,
        "AIP_STORAGE_URI": version.artifact_uri,
        # Not Vertex AI's: where a local process finds Cloud Storage, and may listen.
        "STORAGE_EMULATOR_HOST": cloud.storage,
        "SERVING_HOST": "127.0.0.1",
    }
    for variable in container.env:
        environment[variable.name] = variable.value
    return Spec(
        deployed_model_id=deployed.id, image_uri=container.image_uri, health_route=health,
        predict_route=predict, environment=environment, command=tuple(container.command),
        args=tuple(container.args),
        start_seconds=container.deployment_timeout.ToSeconds() or START_SECONDS)


def undeploy_model(cloud, request: Message) -> dict:
    """UndeployModel: the last one always; another only once it has no traffic."""
    state = cloud.state
    endpoint = state.get(request.endpoint)
    rest = [d for d in endpoint.deployed_models if d.id != request.deployed_model_id]
    if len(rest) == len(endpoint.deployed_models):
        raise not_found(f"{request.endpoint}/deployedModels/{request.deployed_model_id}")
    split = dict(request.traffic_split or endpoint.traffic_split)
    if rest and split.pop(request.deployed_model_id, 0):
        raise precondition(
            f"Deployed model {request.deployed_model_id} has traffic; give traffic_split too.")
    split = split if rest else {}
    _check_split(split, {d.id for d in rest})
    del endpoint.deployed_models[:]
    endpoint.deployed_models.extend(rest)
    endpoint.traffic_split.clear()
    endpoint.traffic_split.update(split)
    state.put(endpoint)
    cloud.containers.stop(request.deployed_model_id)
    response = new_message(types.UndeployModelResponse)
    return operations.done(state, "UndeployModel", endpoint.name, response)


# Predicting


def predict(cloud, request: Message) -> Message:
    """Predict: the container's answer, with the names of the model that gave it.

    Raises:
        ApiError: NOT_FOUND for the endpoint; FAILED_PRECONDITION if no model receives traffic, or
            with what the container says when it answers 4xx; INTERNAL when it answers otherwise;
            UNAVAILABLE if it cannot be reached, even after a new start.
    """
    endpoint = cloud.state.get(request.endpoint)
    deployed = _choose(endpoint)
    body = {"instances": [json_format.MessageToDict(value) for value in request.instances]}
    if request.HasField("parameters"):
        body["parameters"] = json_format.MessageToDict(request.parameters)
    status, answer = _ask(cloud, endpoint.name, deployed, json.dumps(body).encode())
    if status != 200:
        text = answer.decode(errors="replace")
        code = "FAILED_PRECONDITION" if 400 <= status < 500 else "INTERNAL"
        raise ApiError(code, f"The model server answered {status}: {text}")
    return _response(cloud, deployed, answer)


def _choose(endpoint: Message) -> Message:
    """One of the deployed models, at random by the traffic split."""
    receiving = [d for d in endpoint.deployed_models if endpoint.traffic_split.get(d.id)]
    if not receiving:
        raise precondition(f"{endpoint.name} has no deployed model that receives traffic.")
    shares = [endpoint.traffic_split[d.id] for d in receiving]
    return random.choices(receiving, shares)[0]


def _ask(cloud, endpoint_name: str, deployed: Message, body: bytes) -> tuple[int, bytes]:
    """Send to the model's server, twice if need be; one that has ended is started anew."""
    reason = None
    for _ in range(2):
        try:
            server = cloud.containers.running(deployed.id) or cloud.containers.start(
                container_spec(cloud, endpoint_name, deployed))
        except ApiError as error:
            raise ApiError("UNAVAILABLE", error.message) from None
        try:
            return server.predict(body)
        except urllib3.exceptions.TimeoutError as error:
            raise ApiError("UNAVAILABLE", f"The model server did not answer: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            server.ended(DYING_SECONDS)  # or only this connection broke
            reason = error
    raise ApiError("UNAVAILABLE", f"The model server cannot be reached: {reason}")


def _response(cloud, deployed: Message, answer: bytes) -> Message:
    response = new_message(types.PredictResponse)
    try:
        content = json.loads(answer)
        json_format.ParseDict({"predictions": content["predictions"]}, response)
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise ApiError(
            "INTERNAL", f'The model server must answer {{"predictions": [...]}}: {error!r}'
        ) from None
    response.deployed_model_id = deployed.id
    response.model = deployed.model
    response.model_version_id = deployed.model_version_id
    model = cloud.state.get(deployed.model)
    response.model_display_name = model.display_name
    return response
