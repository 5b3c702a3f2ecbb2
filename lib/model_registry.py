"""Upload a model version with its evaluation, or reuse the version that holds the same bytes."""

from google.cloud.aiplatform_v1 import ModelEvaluation
from google.protobuf import struct_pb2

from lib import images, waiting
from lib.cloud import Cloud
from lib.errors import Needed
from lib.stages import Outcome
from lib.training.training import Training

# Google's schema for a classification evaluation (model evaluation import, documentation).
METRICS_SCHEMA = ("gs://google-cloud-aiplatform/schema/modelevaluation/"
                  "classification_metrics_1.0.0.yaml")
PREDICT_ROUTE, HEALTH_ROUTE, PORT = "/predict", "/health", 8080


def find(cloud: Cloud):
    """The default version of the app's model (aiplatform.Model), or None."""
    models = cloud.aiplatform.Model.list(
        filter=cloud.settings.list_filter(cloud.settings.names.model))
    return models[0] if models else None


def upload(cloud: Cloud, training: Training) -> Outcome:
    """A new version of the app's model, unless its default version is this very file.

    Returns:
        Outcome whose value is the aiplatform.Model.

    Raises:
        Needed: the gate did not let the model pass, so there is nothing to register.
    """
    settings, meta = cloud.settings, training.meta
    if training.artifact_uri is None:
        raise Needed("the model did not pass the gate: "
                     + "; ".join(training.metrics["gate"]["reasons"]),
                     "a model inside train.min_roc_auc, checks.max_honest_roc_auc and "
                     "label.positive_rate_band", f"edit config.yaml, then {settings.rerun_command('05')}")
    digest = meta["sha256"][:16]
    standing = find(cloud)
    if standing is not None and standing.labels.get("model_sha") == digest:
        _import_evaluation(cloud, standing, training.metrics)
        return Outcome("reused", standing.versioned_resource_name, _figures(standing), standing)
    model = waiting.call(settings, "model", lambda: cloud.aiplatform.Model.upload(
        display_name=settings.names.model,
        parent_model=standing.resource_name if standing else None,
        artifact_uri=training.artifact_uri,
        serving_container_image_uri=images.reference(
            settings, settings.serve.image, required=settings.target_settings.pinned_images),
        serving_container_predict_route=PREDICT_ROUTE,
        serving_container_health_route=HEALTH_ROUTE,
        serving_container_ports=[PORT],
        version_aliases=[f"sha-{digest}"],
        # Where it came from, for whoever finds it in a year.
        version_description=f"{meta['model_type']} on {settings.table('train')}, by {training.job}",
        labels={**settings.labels, "model_sha": digest, "model_type": meta["model_type"],
                "training_job": training.job.rsplit("/", 1)[1][-63:],
                "training_table": settings.tables.train},
    ), settings.waits.operation_seconds, resource=settings.names.model)
    _import_evaluation(cloud, model, training.metrics)
    return Outcome("created", model.versioned_resource_name, _figures(model), model)


def newest(cloud: Cloud) -> Outcome:
    """The default version of the app's model, as the Outcome's value.

    Raises:
        Needed: nothing was uploaded yet.
    """
    model = find(cloud)
    if model is None:
        raise Needed(f"no model {cloud.settings.names.model} in the registry", "notebook 05",
                     cloud.settings.rerun_command("05"))
    return Outcome("done", model.versioned_resource_name, _figures(model), model)


def _figures(model) -> dict:
    return {"version": model.version_id, "aliases": ", ".join(model.version_aliases)}


def _import_evaluation(cloud: Cloud, model, metrics: dict) -> None:
    """The evaluation of this version, unless it has one: an earlier run may have stopped here."""
    if any(cloud.models.list_model_evaluations(parent=model.versioned_resource_name)):
        return
    values = struct_pb2.Value()
    # The schema's own names for the areas under the two curves.
    values.struct_value.update({"auRoc": metrics["roc_auc"], "auPrc": metrics["pr_auc"]})
    cloud.models.import_model_evaluation(
        parent=model.versioned_resource_name,
        model_evaluation=ModelEvaluation(
            display_name=f"{cloud.settings.names.model}-{metrics['split']}",
            metrics_schema_uri=METRICS_SCHEMA, metrics=values))
