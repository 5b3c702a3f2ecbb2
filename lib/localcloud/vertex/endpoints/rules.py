"""Rules of endpoints and deployments; each is listed with its source in ../../README.md."""

import re

from google.protobuf.message import Message

from lib.localcloud.errors import invalid, not_found, precondition, refused, unsupported
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.base.context import Vertex

ENDPOINT_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}|0")
NEW = "0"  # in a traffic split: the model that is just being deployed


def check_endpoint(vertex: Vertex, endpoint: Message) -> None:
    """Names and labels; it starts empty and is reached at the shared address."""
    rules.check_display_name(endpoint.display_name)
    rules.check_labels(endpoint.labels)
    if endpoint.dedicated_endpoint_enabled or endpoint.enable_private_service_connect:
        raise unsupported("divergence.dedicated-endpoint", "An endpoint with a DNS name of its own")
    if endpoint.deployed_models or endpoint.traffic_split:
        raise invalid(
            "endpoints.starts-empty", "deployed_models and traffic_split are set by deployModel.")


def check_delete(vertex: Vertex, endpoint: Message, request: Message) -> None:
    """No model is deployed to it."""
    if endpoint.deployed_models:
        ids = ", ".join(deployed.id for deployed in endpoint.deployed_models)
        raise precondition(
            "endpoints.delete",
            f"{endpoint.name} has deployed models ({ids}); undeploy them first.")


def check_deploy(endpoint: Message, request: Message) -> None:
    """The id is free, there are resources, and the traffic split adds up."""
    deployed, in_use = request.deployed_model, {d.id for d in endpoint.deployed_models}
    if deployed.id in in_use:
        raise refused(
            "endpoints.deployed-id",
            "ALREADY_EXISTS", f"Deployed model id {deployed.id!r} is in use.")
    if not deployed.HasField("dedicated_resources"):
        raise invalid(
            "endpoints.resources",
            "deployed_model.dedicated_resources is required for a custom container.")
    if deployed.dedicated_resources.min_replica_count < 1:
        raise invalid(
            "endpoints.resources", "dedicated_resources.min_replica_count must be at least 1.")
    _check_split(request.traffic_split, in_use | {NEW})


def split_without(endpoint: Message, request: Message) -> dict[str, int]:
    """The traffic split after an undeployment.

    Raises:
        ApiError: NOT_FOUND for the deployed model; FAILED_PRECONDITION if it has traffic and is
            not the last one; INVALID_ARGUMENT for the split.
    """
    model_id = request.deployed_model_id
    rest = {d.id for d in endpoint.deployed_models} - {model_id}
    if len(rest) == len(endpoint.deployed_models):
        raise not_found(f"{request.endpoint}/deployedModels/{model_id}")
    if not rest:
        return {}
    split = dict(request.traffic_split or endpoint.traffic_split)
    if split.pop(model_id, 0):
        raise precondition(
            "endpoints.undeploy", f"Deployed model {model_id} has traffic; give traffic_split too.")
    _check_split(split, rest)
    return split


def _check_split(split: dict[str, int], deployed: set[str]) -> None:
    """Percentages of known deployed models that add up to 100, or none at all."""
    if unknown := set(split) - deployed:
        raise invalid(
            "endpoints.traffic-split",
            f"traffic_split: no deployed model {', '.join(sorted(unknown))}.")
    if any(share < 0 for share in split.values()):
        raise invalid("endpoints.traffic-split", "traffic_split: a percentage is negative.")
    if split and sum(split.values()) != 100:
        raise invalid(
            "endpoints.traffic-split", f"traffic_split adds up to {sum(split.values())}, not 100.")
