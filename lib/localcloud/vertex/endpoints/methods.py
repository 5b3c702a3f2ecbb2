"""EndpointService: endpoints and the models deployed to them."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import not_found
from lib.localcloud.vertex.base import operations
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.operations import new_id
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.endpoints import rules
from lib.localcloud.vertex.endpoints.predicting import predict, server_spec
from lib.localcloud.vertex.models import versions

ENDPOINTS = Collection(
    types.Endpoint, "endpoints", rules.check_endpoint, rules.check_delete,
    id_pattern=rules.ENDPOINT_ID, id_rule="endpoints.id", id_optional=True)


def deploy_model(vertex: Vertex, request: Message) -> dict:
    """DeployModel: starts the model's container; the operation ends when it is healthy.

    Raises:
        ApiError: NOT_FOUND for the endpoint or the model; INVALID_ARGUMENT for resources or
            traffic split; ALREADY_EXISTS for an id in use.
    """
    state, deployed = vertex.state, request.deployed_model
    endpoint = state.get(request.endpoint)
    version = versions.find(state, deployed.model)
    rules.check_deploy(endpoint, request)
    model = state.get(versions.split_name(deployed.model)[0])
    deployed.id = deployed.id or new_id()
    deployed.model = model.name
    deployed.model_version_id = version.version_id
    deployed.display_name = deployed.display_name or model.display_name
    split = {deployed.id if k == rules.NEW else k: v for k, v in request.traffic_split.items()}

    def work() -> Message:
        vertex.servers.start(server_spec(vertex, endpoint.name, deployed))
        with state.transaction():
            current = state.find(endpoint.name)
            if current is None:
                vertex.servers.stop(deployed.id)
                raise not_found(endpoint.name)
            deployed.create_time.GetCurrentTime()
            current.deployed_models.append(deployed)
            _set_split(current, split or dict(current.traffic_split))
            state.put(current)
        response = new_message(types.DeployModelResponse)
        response.deployed_model.CopyFrom(deployed)
        return response

    return operations.start(state, "DeployModel", endpoint.name, work)


def undeploy_model(vertex: Vertex, request: Message) -> dict:
    """UndeployModel: the last one always; another only if it has no traffic."""
    endpoint = vertex.state.get(request.endpoint)
    split = rules.split_without(endpoint, request)
    rest = [d for d in endpoint.deployed_models if d.id != request.deployed_model_id]
    del endpoint.deployed_models[:]
    endpoint.deployed_models.extend(rest)
    _set_split(endpoint, split)
    vertex.state.put(endpoint)
    vertex.servers.stop(request.deployed_model_id)
    response = new_message(types.UndeployModelResponse)
    return operations.done(vertex.state, "UndeployModel", endpoint.name, response)


def _set_split(endpoint: Message, split: dict[str, int]) -> None:
    endpoint.traffic_split.clear()
    endpoint.traffic_split.update(split)


METHODS = {
    **ENDPOINTS.handlers("create", "get", "list", "delete"),
    "DeployModel": deploy_model,
    "UndeployModel": undeploy_model,
    "Predict": predict,
}
