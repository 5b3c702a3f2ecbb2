"""Rules of every method: JSON, errors, operations, API versions, Google's tools."""

import json
import os
import shutil
import subprocess

import pytest
import requests
from google.api_core import exceptions as errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.longrunning import operations_pb2

from lib.localcloud.errors import ApiError

SCALING = {"autoScaling": {"minNodeCount": 1, "maxNodeCount": 1}}


def error(answer):
    return answer.status_code, answer.json()["error"]["status"], answer.json()["error"]["message"]


def test_unknown_fields_are_refused_by_name(vertex, location):
    url = f"{vertex.url}/v1/{location}/featureOnlineStores?featureOnlineStoreId=s"
    for body, field in (
        ({"bigTable": SCALING}, "bigTable"),
        ({"bigtable": {"autoScaling": {"minNodes": 1}}}, "minNodes"),
        ({"bigtable": {"autoScaling": {"minNodeCount": "many"}}}, "minNodeCount"),
    ):
        code, status, message = error(requests.post(url, json=body))
        assert (code, status) == (400, "INVALID_ARGUMENT") and field in message
    code, status, message = error(requests.post(url + "&force=true", json={"bigtable": SCALING}))
    assert (code, status) == (400, "INVALID_ARGUMENT") and "force" in message
    assert requests.post(url, data="{").status_code == 400
    assert requests.post(url, json=[]).status_code == 400
    assert requests.post(url, data="[" * 100_000).status_code == 400
    for half in (rb'{"labels": {"a": "\ud800"}}', rb'{"\ud800": null}', b'{"\xed\xa0\x80": null}'):
        assert requests.post(url, data=half).status_code == 400


@pytest.mark.parametrize("name", ["", "m", "/m", "m@1"])
def test_a_name_in_a_body_may_be_any_text(vertex, location, name):
    requests.post(f"{vertex.url}/v1/{location}/endpoints?endpointId=texts",
                  json={"displayName": "e"}).raise_for_status()
    deployed = {"model": name, "dedicatedResources": {
        "machineSpec": {"machineType": "n1-standard-2"}, "minReplicaCount": 1}}
    code, _, _ = error(requests.post(f"{vertex.url}/v1/{location}/endpoints/texts:deployModel",
                                     json={"deployedModel": deployed}))
    assert code == 404


def test_snake_case_enum_names_and_numbers(vertex, location, table):
    store = f"{vertex.url}/v1/{location}/featureOnlineStores"
    requests.post(f"{store}?feature_online_store_id=s", json={"bigtable": {
        "auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}).raise_for_status()
    source = {"big_query_source": {"uri": table("select 1 as id, 2 as f"),
                                   "entity_id_columns": ["id"]}}
    for i, kind in enumerate((2, "SERVICE_AGENT_TYPE_FEATURE_VIEW")):
        requests.post(
            f"{store}/s/featureViews?featureViewId=v{i}",
            json=source | {"serviceAgentType": kind}).raise_for_status()
        found = requests.get(f"{store}/s/featureViews/v{i}").json()
        assert found["serviceAgentType"] == "SERVICE_AGENT_TYPE_FEATURE_VIEW"
        assert "serviceAccountEmail" in found
        found = requests.get(f"{store}/s/featureViews/v{i}?$alt=json;enum-encoding=int").json()
        assert found["serviceAgentType"] == 2


def test_what_is_not_implemented_says_so(vertex, location):
    for path, name in (("models:copy", "CopyModel"), ("datasets", "datasets")):
        code, status, message = error(requests.post(f"{vertex.url}/v1/{location}/{path}", json={}))
        assert (code, status) == (501, "UNIMPLEMENTED") and name in message
    with pytest.raises(errors.MethodNotImplemented, match="ExportModel"):
        vertex.models.export_model(name=f"{location}/models/m", output_config={})


def test_operations(vertex, location):
    created = requests.post(
        f"{vertex.url}/v1/{location}/endpoints", json={"displayName": "e"}).json()
    name = created["name"]
    assert created["done"] and created["response"]["name"].startswith(f"{location}/endpoints/")
    assert created["response"]["@type"].endswith("aiplatform.v1.Endpoint")
    for prefix in ("v1", "ui"):  # the documented path, and the one that the clients poll
        assert requests.get(f"{vertex.url}/{prefix}/{name}").json() == created
    request = operations_pb2.GetOperationRequest(name=name)
    assert vertex.endpoints.get_operation(request).done
    missing = requests.get(f"{vertex.url}/v1/{name}0")
    assert error(missing)[:2] == (404, "NOT_FOUND")


def test_the_project_number_stands_for_the_project(vertex, location):
    number = vertex.vertex.project_number
    by_id = location.replace(f"projects/{number}/", "projects/p1/")
    assert by_id != location
    vertex.endpoints.create_endpoint(
        parent=by_id, endpoint={"display_name": "e"}, endpoint_id="e").result()
    for path in (location, by_id):
        assert vertex.endpoints.get_endpoint(name=f"{path}/endpoints/e").name == (
            f"{location}/endpoints/e")


def test_a_defect_is_an_internal_error(vertex, location):
    def defect(*_):
        raise ZeroDivisionError("oops")

    vertex.vertex.middleware.append(defect)
    try:
        code, status, message = error(requests.get(f"{vertex.url}/v1/{location}/models"))
    finally:
        vertex.vertex.middleware.remove(defect)
    assert (code, status) == (500, "INTERNAL") and "oops" in message


def test_middleware_wraps_every_call(vertex, location):
    calls = []

    def fail_the_second(rpc, _request, proceed):
        calls.append(rpc)
        if calls.count("ListModels") == 2:
            raise ApiError("RESOURCE_EXHAUSTED", "Quota exceeded.")
        return proceed()

    middleware = vertex.vertex.middleware
    middleware.append(fail_the_second)
    try:
        list(vertex.models.list_models(parent=location))
        with pytest.raises(errors.TooManyRequests, match="Quota"):
            vertex.models.list_models(parent=location)
        list(vertex.models.list_models(parent=location))
    finally:
        middleware.remove(fail_the_second)


def test_preview_classes(vertex, table, wait_for):
    """vertexai.resources.preview.feature_store, which also calls v1beta1."""
    from vertexai.resources.preview import feature_store as fs

    aiplatform.init(
        project="p1", location="us-south1", credentials=AnonymousCredentials(),
        api_endpoint=vertex.url, api_transport="rest")
    uri = table("""select '12' as customer_id, 5 as orders,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp""")
    group = fs.FeatureGroup.create(
        "fg", source=fs.FeatureGroupBigQuerySource(uri=uri, entity_id_columns=["customer_id"]))
    group.create_feature("orders")
    assert [f.name for f in group.list_features()] == ["orders"]
    store = fs.FeatureOnlineStore.create_bigtable_store("s")
    view = store.create_feature_view(
        "v", source=fs.FeatureViewRegistrySource(features=["fg.orders"]),
        sync_config="TZ=Asia/Seoul 0 3 * * *")
    sync = view.sync()
    wait_for(lambda: view.get_sync(sync.name).gca_resource.run_time.HasField("end_time"))
    read = view.read(key=["12"]).to_dict()
    assert read["features"][0] == {"name": "orders", "value": {"int64_value": "5"}}
    assert len(view.list_syncs()) == 1
    store.delete(force=True)
    group.delete(force=True)
    assert fs.FeatureGroup.list() == []


GCLOUD = shutil.which("gcloud")


@pytest.mark.skipif(not GCLOUD, reason="Google's command line, gcloud, is not installed")
def test_gcloud(vertex, tmp_path):
    """Google's own command line, which calls v1beta1 and v1."""
    region = "europe-west4"
    parent = f"projects/p1/locations/{region}"
    model = vertex.models.upload_model(parent=parent, model={
        "display_name": "churn", "container_spec": {"image_uri": "r/echo:1"}}).result().model
    endpoint = vertex.endpoints.create_endpoint(
        parent=parent, endpoint={"display_name": "online"}).result().name
    vertex.endpoints.deploy_model(
        endpoint=endpoint, traffic_split={"0": 100}, deployed_model={
            "model": model, "dedicated_resources": {
                "machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}},
    ).result()
    environment = os.environ | {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": vertex.url + "/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true", "CLOUDSDK_CORE_PROJECT": "p1",
        "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}

    def gcloud(*arguments):
        done = subprocess.run(
            [GCLOUD, "ai", *arguments, f"--region={region}", "--format=json"],
            env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert [m["displayName"] for m in gcloud("models", "list")] == ["churn"]
    assert [e["name"] for e in gcloud("endpoints", "list")] == [endpoint]
    request = tmp_path / "request.json"
    request.write_text('{"instances": [[1, 2]]}')
    answer = gcloud("endpoints", "predict", endpoint, f"--json-request={request}")
    assert answer["predictions"] == [3] or answer == [3]
