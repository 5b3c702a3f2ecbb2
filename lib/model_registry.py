"""Upload a model version with its evaluation, or reuse one with the same file and image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.cloud import aiplatform_v1 as vertex
from google.protobuf import struct_pb2

from lib import images, waiting
from lib.cloud import Cloud
from lib.errors import Needed
from lib.stages import Outcome

if TYPE_CHECKING:  # notebooks 06 and 07 find a model without the packages of training
    from lib.training.training import Training

# Google's schema for a classification evaluation (model evaluation import, documentation).
METRICS_SCHEMA = ("gs://google-cloud-aiplatform/schema/modelevaluation/"
                  "classification_metrics_1.0.0.yaml")
PREDICT_ROUTE, HEALTH_ROUTE, PORT = "/predict", "/health", 8080


def find(cloud: Cloud) -> vertex.Model | None:
    """The default version of the app's model, or None."""
    request = vertex.ListModelsRequest(
        parent=cloud.parent, filter=cloud.settings.list_filter(cloud.settings.names.model))
    # Of two with this name, which a call that seemed to fail may leave, the older one.
    return min(cloud.models.list_models(request=request), default=None,
               key=lambda found: (found.create_time, found.name))


def upload(cloud: Cloud, training: Training) -> Outcome:
    """Upload a new version of the app's model, unless its default version is this file and image.

    Returns:
        Outcome whose value is the vertex.Model.

    Raises:
        Needed: the model did not pass the gate, so there is nothing to register; or the serving
            image was not pushed yet.
    """
    settings = cloud.settings
    if training.artifact_uri is None:
        raise Needed("the model did not pass the gate: "
                     + "; ".join(training.metrics["gate"]["reasons"]),
                     "a model inside train.min_roc_auc, checks.max_honest_roc_auc and "
                     "label.positive_rate_band",
                     f"edit config.yaml, then {settings.rerun_command('05')}")
    existing, sent = find(cloud), model_message(cloud, training)
    if existing is not None and _is_same(existing, sent):
        _import_evaluation(cloud, existing, training.metrics)
        return _outcome("reused", existing)
    operation = cloud.models.upload_model(vertex.UploadModelRequest(
        parent=cloud.parent, parent_model=existing.name if existing else None, model=sent))
    stub = waiting.operation(settings, "model", operation, settings.names.model)

    def uploaded() -> vertex.Model | None:
        if stub:
            return cloud.models.get_model(name=f"{stub.model}@{stub.model_version_id}")
        found = find(cloud)
        return found if found and _is_same(found, sent) else None

    model = waiting.made(settings, "model", uploaded)
    _import_evaluation(cloud, model, training.metrics)
    return _outcome("created", model)


def model_message(cloud: Cloud, training: Training) -> vertex.Model:
    """The model as it is sent: its file, the serving image, and where this version comes from."""
    settings, meta = cloud.settings, training.meta
    digest = meta["sha256"][:16]
    return vertex.Model(
        display_name=settings.names.model, artifact_uri=training.artifact_uri,
        container_spec=vertex.ModelContainerSpec(
            image_uri=images.reference(settings, settings.serve.image,
                                       required=settings.target_settings.pinned_images),
            predict_route=PREDICT_ROUTE, health_route=HEALTH_ROUTE,
            ports=[vertex.Port(container_port=PORT)],
            # The container loads no other model.pkl than the one with this SHA-256.
            env=[vertex.EnvVar(name="MODEL_SHA256", value=meta["sha256"])]),
        version_aliases=[f"sha-{digest}", "default"],
        version_description=f"{meta['model_type']} on {settings.table('train')}, by {training.job}",
        labels={**settings.labels, "model_sha": digest, "model_type": meta["model_type"],
                "training_job": training.job.rsplit("/", 1)[1][-63:],
                "training_table": settings.tables.train.lower()[:63]})  # a label has no capitals


def _is_same(existing: vertex.Model, sent: vertex.Model) -> bool:
    """Does this version have the same file, by its checksum, and the same serving image?"""
    here, (checksum,) = existing.container_spec, sent.container_spec.env
    return checksum in here.env and here.image_uri == sent.container_spec.image_uri


def newest(cloud: Cloud) -> Outcome:
    """The default version of the app's model, as the Outcome's value.

    Raises:
        Needed: no model was uploaded yet.
    """
    model = find(cloud)
    if model is None:
        raise Needed(f"no model {cloud.settings.names.model} in the registry", "notebook 05",
                     cloud.settings.rerun_command("05"))
    return _outcome("done", model)


def version_name(model: vertex.Model) -> str:
    """projects/.../models/<id>@<version>."""
    return f"{model.name.split('@')[0]}@{model.version_id}"


def _outcome(status: str, model: vertex.Model) -> Outcome:
    aliases = ", ".join(model.version_aliases)
    return Outcome(status, version_name(model),
                   {"version": model.version_id, "aliases": aliases}, model)


def _import_evaluation(cloud: Cloud, model: vertex.Model, metrics: dict) -> None:
    """Import the evaluation of this version, unless it has one: an earlier run may have stopped
    in between."""
    parent = version_name(model)
    if any(cloud.models.list_model_evaluations(parent=parent)):
        return
    values = struct_pb2.Value()
    # The schema's own names for the areas under the two curves.
    values.struct_value.update({"auRoc": metrics["roc_auc"], "auPrc": metrics["pr_auc"]})
    cloud.models.import_model_evaluation(
        parent=parent,
        model_evaluation=vertex.ModelEvaluation(
            display_name=f"{cloud.settings.names.model}-{metrics['split']}",
            metrics_schema_uri=METRICS_SCHEMA, metrics=values))
