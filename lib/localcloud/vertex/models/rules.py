"""Rules of models and their versions; each is listed with its source in ../../README.md."""

import re

from google.protobuf.message import Message

from lib.localcloud.errors import invalid, precondition
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.base.state import State
from lib.localcloud.vertex.models.versions import DEFAULT, deployments, split_name

MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
VERSION_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")


def check_upload(request: Message) -> None:
    """Labels, aliases and image; for a new model also id and display name."""
    version = request.model
    rules.check_labels(version.labels)
    for alias in version.version_aliases:
        rules.check_id("models.alias", alias, VERSION_ALIAS, "version_aliases")
    if not version.container_spec.image_uri and not version.metadata_schema_uri:
        raise invalid("models.image", "model.container_spec.image_uri is required.")
    if not request.parent_model:
        if request.model_id:
            rules.check_id("models.id", request.model_id, MODEL_ID, "model_id")
        rules.check_display_name(version.display_name)


def check_delete(state: State, model_name: str) -> None:
    """No version of the model is deployed."""
    if in_use := deployments(state, model_name):
        raise precondition(
            "models.delete-deployed",
            f"{model_name} is deployed to {in_use[0][0]}; undeploy it first.")


def check_delete_version(state: State, request: Message, version: Message) -> None:
    """It is named by its number, and neither the only, nor the default, nor a deployed one."""
    model_name, wanted = split_name(request.name)
    if wanted != version.version_id:
        raise invalid("models.delete-by-number", f"{request.name!r} must name a version id.")
    if len(state.children(model_name, "versions")) == 1:
        raise precondition(
            "models.delete-version",
            f"{request.name} is the only version; delete the model instead.")
    if deployments(state, model_name, wanted):
        raise precondition(
            "models.delete-deployed", f"{request.name} is deployed; undeploy it first.")
    if DEFAULT in version.version_aliases:
        raise precondition(
            "models.delete-version",
            f"{request.name} is the default version; move that alias first.")
