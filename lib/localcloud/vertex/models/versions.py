"""How a model is stored, and found by a version or an alias.

Two kinds of resources: `models/m` holds what all versions share (its `version_id` is the last
one given out), `models/m/versions/1` holds a version.
"""

from google.protobuf.message import Message

from lib.localcloud.errors import not_found
from lib.localcloud.vertex.base.state import State

DEFAULT = "default"  # the alias of the version that a model's bare name stands for
SHARED = ("name", "display_name", "description", "create_time", "update_time")


def split_name(name: str) -> tuple[str, str]:
    """`.../models/m@1` -> (`.../models/m`, `1`); without "@" the second part is ""."""
    model_name, _, version = name.partition("@")
    return model_name, version


def find(state: State, name: str) -> Message:
    """The version that `models/m`, `models/m@1` or `models/m@alias` names, as stored.

    Raises:
        ApiError: NOT_FOUND.
    """
    model_name, wanted = split_name(name)
    for version in state.children(model_name, "versions"):
        if version.version_id == wanted or (wanted or DEFAULT) in version.version_aliases:
            return version
    raise not_found(name)


def shown(state: State, version: Message) -> Message:
    """A version as Google shows it: with what the model's versions share, and its deployments."""
    model_name = version.name.rsplit("/", 2)[0]
    model = state.get(model_name)
    result = type(version)()
    result.CopyFrom(version)
    for field in SHARED:
        result.ClearField(field)
    result.MergeFrom(type(model)(**{field: getattr(model, field) for field in SHARED}))
    result.labels.update({**model.labels, **version.labels})
    result.version_create_time.CopyFrom(version.create_time)
    result.version_update_time.CopyFrom(version.update_time)
    for endpoint_name, deployed_id in deployments(state, model_name, version.version_id):
        result.deployed_models.add(endpoint=endpoint_name, deployed_model_id=deployed_id)
    return result


def deployments(state: State, model_name: str, version_id: str = "") -> list[tuple[str, str]]:
    """(endpoint, deployed model id) of a version, or of any version of the model."""
    return [
        (endpoint.name, deployed.id)
        for endpoint in state.all("endpoints")
        for deployed in endpoint.deployed_models
        if deployed.model == model_name and version_id in ("", deployed.model_version_id)]


def give_aliases(state: State, version: Message, aliases: list[str]) -> None:
    """Give the version these aliases; another version of the model that has one loses it."""
    for other in state.children(version.name.rsplit("/", 2)[0], "versions"):
        kept = [alias for alias in other.version_aliases if alias not in aliases]
        if kept != list(other.version_aliases):
            other.version_aliases[:] = kept
            state.put(other)
    version.version_aliases[:] = sorted(set(aliases))
