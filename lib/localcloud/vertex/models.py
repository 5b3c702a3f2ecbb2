"""ModelService: the Model Registry - models, their versions, aliases and evaluations.

A model is kept as two kinds of resources: `models/m` holds what all versions share (its
`version_id` is the last one given out), `models/m/versions/1` holds a version.
"""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex import listing, operations, rules
from lib.localcloud.vertex.errors import invalid, not_found, precondition
from lib.localcloud.vertex.operations import new_id
from lib.localcloud.vertex.state import State, new_message

DEFAULT = "default"
FIELDS = ("display_name", "labels", "model", *listing.TIMES)
SHARED = ("name", "display_name", "description", "create_time", "update_time")
MODEL_UPDATABLE = {"display_name", "description", "labels"}
VERSION_UPDATABLE = {"version_description", "labels"}


def split_name(name: str) -> tuple[str, str]:
    """`.../models/m@1` -> (`.../models/m`, `1`); without "@" the second part is ""."""
    model_name, _, version = name.partition("@")
    return model_name, version


def find_version(state: State, name: str) -> Message:
    """The version that `models/m`, `models/m@1` or `models/m@alias` names, as stored.

    Raises:
        ApiError: NOT_FOUND.
    """
    model_name, wanted = split_name(name)
    for version in state.children(model_name, "versions"):
        if version.version_id == wanted or (wanted or DEFAULT) in version.version_aliases:
            return version
    raise not_found(name)


def _shown(state: State, version: Message) -> Message:
    """A version as Google shows it: with what the model's versions share, and its deployments."""
    model_name = version.name.rsplit("/", 2)[0]
    model = state.get(model_name)
    shown = type(version)()
    shown.CopyFrom(version)
    for field in SHARED:
        value = getattr(model, field)
        if isinstance(value, str):
            setattr(shown, field, value)
        else:
            getattr(shown, field).CopyFrom(value)
    shown.labels.clear()
    shown.labels.update({**model.labels, **version.labels})
    shown.version_create_time.CopyFrom(version.create_time)
    shown.version_update_time.CopyFrom(version.update_time)
    for endpoint_name, deployed_id in _deployments(state, model_name, version.version_id):
        shown.deployed_models.add(endpoint=endpoint_name, deployed_model_id=deployed_id)
    return shown


def _deployments(state: State, model_name: str, version_id: str = "") -> list[tuple[str, str]]:
    """(endpoint, deployed model id) of a version, or of any version of the model."""
    return [
        (endpoint.name, deployed.id)
        for endpoint in state.all("endpoints")
        for deployed in endpoint.deployed_models
        if deployed.model == model_name and version_id in ("", deployed.model_version_id)]


def _move_aliases(state: State, version: Message, aliases: list[str]) -> None:
    """Give the version these aliases; another version of the model that had one loses it."""
    for other in state.children(version.name.rsplit("/", 2)[0], "versions"):
        kept = [alias for alias in other.version_aliases if alias not in aliases]
        if other.name != version.name and kept != list(other.version_aliases):
            other.version_aliases[:] = kept
            state.put(other)
    version.version_aliases[:] = sorted({*version.version_aliases, *aliases})


def _check_aliases(aliases: list[str]) -> None:
    for alias in aliases:
        rules.check_id(alias, rules.VERSION_ALIAS, "version_aliases")


def upload_model(cloud, request: Message) -> dict:
    """UploadModel: a new model, or a new version of `parent_model`.

    The first version gets the alias "default" whether asked for or not.

    Raises:
        ApiError: INVALID_ARGUMENT; NOT_FOUND for parent_model; ALREADY_EXISTS for model_id.
    """
    state, version = cloud.state, request.model
    rules.check_labels(version.labels)
    _check_aliases(version.version_aliases)
    if not version.container_spec.image_uri and not version.metadata_schema_uri:
        raise invalid("model.container_spec.image_uri is required.")
    with state.transaction():
        if request.parent_model:
            model = state.get(split_name(request.parent_model)[0])
            aliases = list(version.version_aliases)
        else:
            model = _new_model(request)
            state.insert(model)
            aliases = [DEFAULT, *version.version_aliases]
        model.version_id = str(int(model.version_id or 0) + 1)
        state.put(model)
        version.name = f"{model.name}/versions/{model.version_id}"
        version.version_id = model.version_id
        version.supported_deployment_resources_types[:] = [
            types.Model.DeploymentResourcesType.DEDICATED_RESOURCES]
        version.supported_input_storage_formats[:] = ["jsonl"]
        version.supported_output_storage_formats[:] = ["jsonl"]
        version.ClearField("version_aliases")
        _move_aliases(state, version, aliases)
        if not request.parent_model:  # those are the model's; a later version has its own
            version.labels.clear()
        state.insert(version)
    response = new_message(types.UploadModelResponse)
    response.model, response.model_version_id = model.name, model.version_id
    return operations.done(state, "UploadModel", model.name, response)


def _new_model(request: Message) -> Message:
    if request.model_id:
        rules.check_id(request.model_id, rules.MODEL_ID, "model_id")
    rules.check_display_name(request.model.display_name)
    model = new_message(types.Model)
    model.name = f"{request.parent}/models/{request.model_id or new_id()}"
    model.display_name = request.model.display_name
    model.description = request.model.description
    model.labels.update(request.model.labels)
    return model


def get_model(cloud, request: Message) -> Message:
    """GetModel by `m`, `m@version` or `m@alias`; without "@" the default version."""
    return _shown(cloud.state, find_version(cloud.state, request.name))


def list_models(cloud, request: Message) -> Message:
    """ListModels: the default version of each."""
    found = [
        _shown(cloud.state, find_version(cloud.state, model.name))
        for model in cloud.state.children(request.parent, "models")]
    return listing.page(found, request, new_message(types.ListModelsResponse), "models", FIELDS)


def list_model_versions(cloud, request: Message) -> Message:
    """ListModelVersions: here `name` holds the version id, `models/m@1`."""
    model_name, _ = split_name(request.name)
    cloud.state.get(model_name)
    found = [_shown(cloud.state, v) for v in cloud.state.children(model_name, "versions")]
    for version in found:
        version.name = f"{version.name}@{version.version_id}"
    response = new_message(types.ListModelVersionsResponse)
    return listing.page(found, request, response, "models", FIELDS)


def update_model(cloud, request: Message) -> Message:
    """UpdateModel: `models/m` changes the model's own fields, `models/m@1` the version's."""
    state, (model_name, version) = cloud.state, split_name(request.model.name)
    of_model = version in ("", "-")
    stored = state.get(model_name) if of_model else find_version(state, request.model.name)
    updatable = MODEL_UPDATABLE if of_model else VERSION_UPDATABLE
    # An etag shown is the version's, and the model's changes on its own.
    request.model.etag = ""
    changed = rules.merge(stored, request.model, request.update_mask, updatable)
    rules.check_labels(changed.labels)
    if of_model:
        rules.check_display_name(changed.display_name)
    state.put(changed)
    return _shown(state, find_version(state, model_name if of_model else request.model.name))


def delete_model(cloud, request: Message) -> dict:
    """DeleteModel with all versions: FAILED_PRECONDITION while one is deployed."""
    model_name, _ = split_name(request.name)
    cloud.state.get(model_name)
    if in_use := _deployments(cloud.state, model_name):
        raise precondition(f"{model_name} is deployed to {in_use[0][0]}; undeploy it first.")
    for version in cloud.state.children(model_name, "versions"):
        cloud.state.delete(f"{model_name}@{version.version_id}")  # its evaluations
    cloud.state.delete(model_name)
    return operations.done(cloud.state, "DeleteModel", model_name)


def delete_model_version(cloud, request: Message) -> dict:
    """DeleteModelVersion: neither the only, nor the default, nor a deployed one."""
    version = find_version(cloud.state, request.name)
    model_name, wanted = split_name(request.name)
    if wanted != version.version_id:
        raise invalid(f"{request.name!r} must name a version id.")
    if len(cloud.state.children(model_name, "versions")) == 1:
        raise precondition(f"{request.name} is the only version; delete the model instead.")
    if _deployments(cloud.state, model_name, wanted):
        raise precondition(f"{request.name} is deployed; undeploy it first.")
    if DEFAULT in version.version_aliases:
        raise precondition(f"{request.name} is the default version; move that alias first.")
    cloud.state.delete(version.name)
    cloud.state.delete(request.name)  # its evaluations
    return operations.done(cloud.state, "DeleteModelVersion", model_name)


def merge_version_aliases(cloud, request: Message) -> Message:
    """MergeVersionAliases: adds aliases; one with "-" in front is taken away."""
    version = find_version(cloud.state, request.name)
    removed = [a[1:] for a in request.version_aliases if a.startswith("-")]
    added = [a for a in request.version_aliases if not a.startswith("-")]
    _check_aliases([*added, *removed])
    if DEFAULT in removed:
        raise invalid('The alias "default" cannot be removed, only given to another version.')
    _move_aliases(cloud.state, version, added)
    version.version_aliases[:] = [a for a in version.version_aliases if a not in removed]
    cloud.state.put(version)
    return _shown(cloud.state, version)


# Evaluations, kept under the version: models/m@1/evaluations/123


def _version_name(cloud, name: str) -> str:
    version = find_version(cloud.state, name)
    return f"{split_name(name)[0]}@{version.version_id}"


def import_model_evaluation(cloud, request: Message) -> Message:
    """ImportModelEvaluation returns the evaluation itself, no operation."""
    evaluation = request.model_evaluation
    evaluation.name = f"{_version_name(cloud, request.parent)}/evaluations/{new_id()}"
    evaluation.create_time.GetCurrentTime()
    return cloud.state.put(evaluation)


def get_model_evaluation(cloud, request: Message) -> Message:
    """GetModelEvaluation; the model may be named with a version, an alias, or neither."""
    model, _, evaluation_id = request.name.rsplit("/", 2)
    return cloud.state.get(f"{_version_name(cloud, model)}/evaluations/{evaluation_id}")


def list_model_evaluations(cloud, request: Message) -> Message:
    found = cloud.state.children(_version_name(cloud, request.parent), "evaluations")
    response = new_message(types.ListModelEvaluationsResponse)
    return listing.page(found, request, response, "model_evaluations", ("create_time",))
