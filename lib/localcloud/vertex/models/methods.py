"""ModelService: the Model Registry - models, their versions and evaluations."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.base import listing, operations
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.operations import new_id
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.models import rules
from lib.localcloud.vertex.models.versions import DEFAULT, find, give_aliases, shown, split_name

MODELS = Collection(types.Model, "models")
EVALUATIONS = Collection(types.ModelEvaluation, "evaluations")


def upload_model(vertex: Vertex, request: Message) -> dict:
    """UploadModel: a new model, or a new version of `parent_model`.

    The first version always gets the alias "default".

    Raises:
        ApiError: INVALID_ARGUMENT; NOT_FOUND for parent_model; ALREADY_EXISTS for model_id.
    """
    rules.check_upload(request)
    state, version = vertex.state, request.model
    aliases = list(version.version_aliases)
    with state.transaction():
        if request.parent_model:
            model = state.get(split_name(request.parent_model)[0])
        else:
            model = new_message(types.Model)
            model.name = f"{request.parent}/models/{request.model_id or new_id()}"
            model.display_name, model.description = version.display_name, version.description
            model.labels.update(version.labels)
            version.labels.clear()  # these are the model's; a later version has its own
            state.insert(model)
            aliases.append(DEFAULT)
        model.version_id = str(int(model.version_id or 0) + 1)
        state.put(model)
        version.name = f"{model.name}/versions/{model.version_id}"
        version.version_id = model.version_id
        version.supported_deployment_resources_types[:] = [
            types.Model.DeploymentResourcesType.DEDICATED_RESOURCES]
        version.supported_input_storage_formats[:] = ["jsonl"]
        version.supported_output_storage_formats[:] = ["jsonl"]
        give_aliases(state, version, aliases)
        state.insert(version)
    response = new_message(types.UploadModelResponse)
    response.model, response.model_version_id = model.name, model.version_id
    return operations.done(state, "UploadModel", model.name, response)


def get_model(vertex: Vertex, request: Message) -> Message:
    """GetModel by `m`, `m@version` or `m@alias`; without "@" the default version."""
    return shown(vertex.state, find(vertex.state, request.name))


def list_models(vertex: Vertex, request: Message) -> Message:
    """ListModels: the default version of each."""
    return MODELS.page(
        [shown(vertex.state, find(vertex.state, model.name))
         for model in vertex.state.children(request.parent, "models")], request)


def list_model_versions(vertex: Vertex, request: Message) -> Message:
    """ListModelVersions: here `name` holds the version id, `models/m@1`."""
    model_name, _ = split_name(request.name)
    vertex.state.get(model_name)
    found = [shown(vertex.state, v) for v in vertex.state.children(model_name, "versions")]
    for version in found:
        version.name = f"{version.name}@{version.version_id}"
    return listing.page(found, request, new_message(types.ListModelVersionsResponse))


def delete_model(vertex: Vertex, request: Message) -> dict:
    """DeleteModel, with all versions and their evaluations."""
    model_name, _ = split_name(request.name)
    vertex.state.get(model_name)
    rules.check_delete(vertex.state, model_name)
    for version in vertex.state.children(model_name, "versions"):
        vertex.state.delete(f"{model_name}@{version.version_id}")  # its evaluations
    vertex.state.delete(model_name)
    return operations.done(vertex.state, "DeleteModel", model_name)


def delete_model_version(vertex: Vertex, request: Message) -> dict:
    """DeleteModelVersion, with its evaluations."""
    version = find(vertex.state, request.name)
    rules.check_delete_version(vertex.state, request, version)
    vertex.state.delete(version.name)
    vertex.state.delete(request.name)  # its evaluations
    return operations.done(vertex.state, "DeleteModelVersion", split_name(request.name)[0])


# Evaluations are stored under the version: models/m@1/evaluations/123


def import_model_evaluation(vertex: Vertex, request: Message) -> Message:
    """ImportModelEvaluation returns the evaluation itself, no operation."""
    evaluation = request.model_evaluation
    evaluation.name = f"{_version_name(vertex, request.parent)}/evaluations/{new_id()}"
    evaluation.create_time.GetCurrentTime()
    return vertex.state.put(evaluation)


def get_model_evaluation(vertex: Vertex, request: Message) -> Message:
    """GetModelEvaluation; the model may be named with a version, an alias, or neither."""
    model, _, evaluation_id = request.name.rsplit("/", 2)
    return vertex.state.get(f"{_version_name(vertex, model)}/evaluations/{evaluation_id}")


def list_model_evaluations(vertex: Vertex, request: Message) -> Message:
    """ListModelEvaluations of one version."""
    found = vertex.state.children(_version_name(vertex, request.parent), "evaluations")
    return EVALUATIONS.page(found, request)


def _version_name(vertex: Vertex, name: str) -> str:
    return f"{split_name(name)[0]}@{find(vertex.state, name).version_id}"


METHODS = {
    "UploadModel": upload_model,
    "GetModel": get_model,
    "ListModels": list_models,
    "ListModelVersions": list_model_versions,
    "DeleteModel": delete_model,
    "DeleteModelVersion": delete_model_version,
    "ImportModelEvaluation": import_model_evaluation,
    "GetModelEvaluation": get_model_evaluation,
    "ListModelEvaluations": list_model_evaluations,
}
