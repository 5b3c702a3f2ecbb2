"""Answers that are known from recordings of Google's own: each with its source.

KCC: golden _http.log files of GoogleCloudPlatform/k8s-config-connector. TF: issues of
hashicorp/terraform-provider-google. JFS: tests of googleapis/java-vertex-feature-store.
"""

import re
import threading

import pytest
import requests
from google.api_core import exceptions as errors
from google.cloud import aiplatform_v1

NUMBER = "100000000001"
SPEC = {
    "schemaVersion": "2.1.0", "sdkVersion": "kfp-2.17.0", "pipelineInfo": {"name": "p"},
    "root": {"dag": {"tasks": {}}}, "components": {}, "deploymentSpec": {"executors": {}}}


@pytest.mark.parametrize(("path", "says"), [  # KCC; those of other kinds are assumed alike
    ("pipelineJobs/j", "The PipelineJob does not exist."),
    ("featureOnlineStores/s", "The FeatureOnlineStore does not exist."),
    ("featureGroups/g/features/f", "The Feature does not exist."),
    ("models/m", "The Model does not exist."),
    ("endpoints/1", 'endpoint "projects/{NUMBER}/locations/{LOCATION}/endpoints/1" not found')])
def test_what_does_not_exist(vertex, location, path, says):
    answer = requests.get(f"{vertex.url}/v1/{location}/{path}")
    says = says.format(NUMBER=NUMBER, LOCATION=location.rsplit("/", 1)[1])
    assert answer.status_code == 404
    assert answer.json()["error"] == {"code": 404, "message": says, "status": "NOT_FOUND"}


def test_the_operation_of_a_delete_belongs_to_the_location_and_is_done(vertex, location):  # KCC
    vertex.endpoints.create_endpoint(
        parent=location, endpoint={"display_name": "e"}, endpoint_id="e").result()
    answer = requests.delete(f"{vertex.url}/v1/{location}/endpoints/e").json()
    where = location.rsplit("/", 1)[1]
    assert re.fullmatch(rf"projects/{NUMBER}/locations/{where}/operations/\d+", answer["name"])
    assert answer["done"] and answer["response"]["@type"].endswith("protobuf.Empty")
    for prefix in ("v1", "ui"):
        assert requests.get(f"{vertex.url}/{prefix}/{answer['name']}").json() == answer


def test_the_result_of_an_operation_is_a_stub(vertex, location, table):  # KCC
    uri = table("""select 'a' as id, 1 as f0, 2 as f1,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp""")
    group = vertex.registry.create_feature_group(
        parent=location, feature_group_id="g", feature_group={
            "labels": {"a": "b"}, "big_query": {
                "big_query_source": {"input_uri": uri}, "entity_id_columns": ["id"]}}).result()
    assert group == aiplatform_v1.FeatureGroup(name=group.name)
    assert vertex.registry.get_feature_group(name=group.name).labels == {"a": "b"}
    made = vertex.registry.batch_create_features(parent=group.name, requests=[
        {"parent": group.name, "feature_id": "f0", "feature": {"description": "d"}}]).result()
    assert list(made.features) == [aiplatform_v1.Feature(name=f"{group.name}/features/f0")]


def test_names_have_the_project_number(vertex, location):  # KCC
    where = location.rsplit("/", 1)[1]
    for parent in (f"projects/p1/locations/{where}", f"projects/{NUMBER}/locations/{where}"):
        endpoint = vertex.endpoints.create_endpoint(
            parent=parent, endpoint={"display_name": "e"}).result()
        assert endpoint.name.startswith(f"projects/{NUMBER}/locations/{where}/endpoints/")
        assert [e.name for e in vertex.endpoints.list_endpoints(parent=parent)] == [endpoint.name]
        vertex.endpoints.delete_endpoint(name=endpoint.name).result()
    # Also where a body names a resource.
    model = vertex.models.upload_model(parent=location, model={
        "display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}).result()
    assert model.model.startswith(f"projects/{NUMBER}/")
    second = vertex.models.upload_model(request={
        "parent": location, "parent_model": model.model, "model": {
            "display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}}).result()
    assert (second.model, second.model_version_id) == (model.model, "2")


def test_a_pipeline_job_as_it_is_created(vertex, location):  # KCC
    job = {"displayName": "j", "labels": {"mine": "1"}, "pipelineSpec": SPEC,
           "runtimeConfig": {"gcsOutputDirectory": "gs://b/p"}}
    made = requests.post(f"{vertex.url}/v1/{location}/pipelineJobs", json=job).json()
    assert made["state"] == "PIPELINE_STATE_PENDING" and made["jobDetail"] == {}
    assert made["serviceAccount"] == f"{NUMBER}-compute@developer.gserviceaccount.com"
    assert made["labels"].pop("vertex-ai-pipelines-run-billing-id").isdigit()
    assert made["labels"] == {"mine": "1"}
    own = requests.post(f"{vertex.url}/v1/{location}/pipelineJobs", json={
        **job, "serviceAccount": "a@b"}).json()
    assert own["serviceAccount"] == "a@b"


@pytest.mark.parametrize("kind", ["pipelineJobs", "customJobs"])
def test_a_job_that_is_cancelled_while_pending_has_no_error(  # KCC
    vertex, location, wait_for, monkeypatch, kind
):
    go, start = threading.Event(), vertex.vertex.background.start

    def later(name, work):
        start(name, lambda stop: (go.wait(20), work(stop)))

    monkeypatch.setattr(vertex.vertex.background, "start", later)
    url = f"{vertex.url}/v1/{location}/{kind}"
    job = {"displayName": "j"} | ({
        "pipelineSpec": SPEC, "runtimeConfig": {"gcsOutputDirectory": "gs://b/p"},
    } if kind == "pipelineJobs" else {"jobSpec": {"workerPoolSpecs": [{
        "machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1,
        "containerSpec": {"imageUri": "r/echo:1"}}]}})
    made = requests.post(url, json=job)
    name = made.json()["name"]
    requests.post(f"{vertex.url}/v1/{name}:cancel").raise_for_status()
    go.set()
    found = wait_for(lambda: (found := requests.get(f"{vertex.url}/v1/{name}").json())
                     and found["state"].endswith("CANCELLED") and found)
    assert "error" not in found and "startTime" not in found and "endTime" in found


def test_a_feature_of_the_entity_column_is_refused(vertex, group, table):  # TF#21169
    name = group(table("""select 'a' as id, 1 as f0,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp"""), ["f0"])
    says = "has an invalid schema. Feature column id is same as entity id column registered."
    for feature_id, feature in (("id", {}), ("other", {"version_column_name": "id"})):
        with pytest.raises(errors.BadRequest, match=says):
            vertex.registry.create_feature(parent=name, feature_id=feature_id, feature=feature)
    with pytest.raises(errors.BadRequest, match=says):
        vertex.registry.batch_create_features(parent=name, requests=[
            {"parent": name, "feature_id": "id", "feature": {}}])


def test_a_null_feature_is_left_out_of_a_fetch(group, view, sync, fetch, table):  # JFS
    group(table("""select 'a' as id, cast(null as float64) as f0, 0 as f1,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp"""), ["f0", "f1"], dense=True)
    name = view(["f0", "f1"])
    sync(name)
    assert list(fetch(name, "a")) == ["f1", "feature_timestamp"]


def test_a_feature_group_is_shown_without_its_description(vertex, location, table):  # TF
    uri = table("select 'a' as id, timestamp '2024-01-01 00:00:00+00' as feature_timestamp")
    name = vertex.registry.create_feature_group(
        parent=location, feature_group_id="g", feature_group={
            "description": "d", "big_query": {
                "big_query_source": {"input_uri": uri}, "entity_id_columns": ["id"]}}).result().name
    shown = [vertex.registry.get_feature_group(name=name),
             *vertex.registry.list_feature_groups(parent=location)]
    assert [g.description for g in shown] == ["", ""]
    assert shown[0].big_query.big_query_source.input_uri == uri
