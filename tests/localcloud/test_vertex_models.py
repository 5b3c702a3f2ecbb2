"""Model Registry: versions, aliases, evaluations; through GAPIC and the high-level classes."""

import pytest
from google.api_core import exceptions as errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

IMAGE = "us-docker.pkg.dev/p1/repo/echo:1"
SCHEMA = "gs://google-cloud-aiplatform/schema/modelevaluation/classification_metrics_1.0.0.yaml"


@pytest.fixture
def upload(vertex, location):
    def run(parent_model="", model_id="", **model):
        model = {"display_name": "m", "container_spec": {"image_uri": IMAGE}} | model
        return vertex.models.upload_model(request={
            "parent": location, "model": model, "parent_model": parent_model,
            "model_id": model_id}).result()

    return run


def test_versions_and_aliases(vertex, location, upload):
    first = upload(model_id="churn", artifact_uri="gs://b/1", description="d", labels={"a": "1"})
    name = f"{location}/models/churn"
    assert (first.model, first.model_version_id) == (name, "1")
    second = upload(parent_model=name, version_aliases=["candidate"], artifact_uri="gs://b/2")
    assert second.model_version_id == "2"

    assert vertex.models.get_model(name=name).version_id == "1"  # still the default
    assert vertex.models.get_model(name=f"{name}@2").artifact_uri == "gs://b/2"
    assert vertex.models.get_model(name=f"{name}@candidate").version_id == "2"
    found = vertex.models.get_model(name=f"{name}@default")
    assert found.name == name and found.labels == {"a": "1"} and found.etag
    assert list(found.version_aliases) == ["default"]
    for missing in ("@3", "@nobody"):
        with pytest.raises(errors.NotFound):
            vertex.models.get_model(name=name + missing)

    versions = list(vertex.models.list_model_versions(name=name))
    assert [v.name for v in versions] == [f"{name}@1", f"{name}@2"]

    upload(parent_model=name, version_aliases=["default", "live"])
    assert vertex.models.get_model(name=name).version_id == "3"
    assert list(vertex.models.get_model(name=f"{name}@1").version_aliases) == []
    assert list(vertex.models.get_model(name=name).version_aliases) == ["default", "live"]


def test_an_upload_with_the_default_alias_moves_it(vertex, location, upload):
    name = upload(model_id="churn").model
    upload(parent_model=name, version_aliases=["default"])
    assert vertex.models.get_model(name=name).version_id == "2"


def test_uploads_that_are_refused(upload, location):
    upload(model_id="churn")
    with pytest.raises(errors.Conflict):
        upload(model_id="churn")
    with pytest.raises(errors.NotFound):
        upload(parent_model=f"{location}/models/other")
    for spec in ({"model_id": "Churn"}, {"model_id": "1churn"}, {"display_name": ""},
                 {"container_spec": {}}, {"version_aliases": ["2"]}, {"labels": {"A": "b"}}):
        with pytest.raises(errors.BadRequest):
            upload(**spec)


def test_deleting(vertex, upload):
    name = upload(model_id="churn").model
    with pytest.raises(errors.BadRequest, match="only version"):
        vertex.models.delete_model_version(name=f"{name}@1")
    upload(parent_model=name)
    with pytest.raises(errors.BadRequest, match="default"):
        vertex.models.delete_model_version(name=f"{name}@1")
    vertex.models.delete_model_version(name=f"{name}@2").result()
    with pytest.raises(errors.NotFound):
        vertex.models.get_model(name=f"{name}@2")
    assert upload(parent_model=name).model_version_id == "3"  # a number is never used again
    vertex.models.delete_model(name=name).result()
    with pytest.raises(errors.NotFound):
        vertex.models.get_model(name=name)


def test_evaluations(vertex, upload):
    name = upload(model_id="churn").model
    upload(parent_model=name)
    imported = vertex.models.import_model_evaluation(
        parent=f"{name}@2", model_evaluation={
            "display_name": "test", "metrics_schema_uri": SCHEMA,
            "metrics": {"auRoc": 0.75, "confusionMatrix": {"rows": [[1, 2], [3, 4]]}}})
    assert imported.metrics["auRoc"] == 0.75
    found = vertex.models.get_model_evaluation(name=imported.name)
    assert found == imported
    assert [e.name for e in vertex.models.list_model_evaluations(parent=f"{name}@2")] == [
        imported.name]
    assert list(vertex.models.list_model_evaluations(parent=name)) == []  # version 1
    with pytest.raises(errors.NotFound):
        vertex.models.import_model_evaluation(parent=f"{name}@3", model_evaluation={})


def test_list_filter_and_pages(vertex, location, upload):
    for i in range(3):
        upload(model_id=f"m{i}", display_name=f"m{i % 2}", labels={"i": str(i)})
    client = vertex.models

    def ids(**request):
        found = client.list_models(request={"parent": location, **request})
        return [m.name.rsplit("/")[-1] for m in found]

    assert ids(filter='display_name="m0"') == ["m0", "m2"]
    assert ids(filter='displayName="m0" AND labels.i="2"') == ["m2"]
    assert ids(filter='labels.i!=1 OR display_name="m1"') == ["m0", "m1", "m2"]
    assert ids(filter="labels:i", page_size=2) == ["m0", "m1", "m2"]
    with pytest.raises(errors.BadRequest):
        ids(filter="artifact_uri=x")


@pytest.fixture
def sdk(vertex):
    """The high-level classes, pointed at the stand-in; a region that no other test uses."""
    aiplatform.init(
        project="p1", location="us-west1", credentials=AnonymousCredentials(),
        api_endpoint=vertex.url, api_transport="rest", staging_bucket="gs://b")
    return aiplatform


def test_high_level_classes(sdk):
    first = sdk.Model.upload(
        display_name="churn", model_id="churn", artifact_uri="gs://b/m", labels={"run": "1"},
        serving_container_image_uri=IMAGE, serving_container_health_route="/health",
        serving_container_predict_route="/predict")
    assert first.version_id == "1" and "default" in first.version_aliases
    second = sdk.Model.upload(
        display_name="churn", parent_model=first.resource_name, artifact_uri="gs://b/m2",
        serving_container_image_uri=IMAGE, is_default_version=False, version_aliases=["new"])
    assert second.versioned_resource_name.endswith("models/churn@2")
    assert sdk.Model("churn").version_id == "1"
    assert sdk.Model("churn@new").uri == "gs://b/m2"
    assert [m.version_id for m in sdk.Model.list(filter='display_name="churn"')] == ["1"]

    registry = first.versioning_registry
    assert [v.version_id for v in registry.list_versions()] == ["1", "2"]
    assert registry.get_version_info("new").version_id == "2"
    registry.delete_version("2")
    assert [v.version_id for v in registry.list_versions()] == ["1"]

    model = sdk.Model("churn")
    assert sdk.Model("churn").list_model_evaluations() == []
    model.delete()
    assert sdk.Model.list() == []
