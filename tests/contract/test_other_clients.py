"""Clients that nobody here wrote, against the local cloud: gcloud, and Google's other Python ones.

What they ask for and what they make of the answers is Google's own idea of the services.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import textwrap
import time

import pytest
from google.api_core import exceptions as errors
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1, bigquery

from lib.localcloud import process
from lib.localcloud.vertex.app import PROJECT_NUMBER
from tests.contract.conftest import TARGET
from tests.localcloud.conftest import SERVER
from tests.support import forked

pytestmark = pytest.mark.skipif(TARGET == "gcp", reason="of the local cloud")
PROJECT, REGION = "other-clients", "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
ANSWERED = f"projects/{PROJECT_NUMBER}/locations/{REGION}"  # as answers name it
TABLE = f"bq://{PROJECT}.ds.features"
GCLOUD = shutil.which("gcloud")

# What both preview packages promise. A process of its own: aiplatform.init is global.
# It prints what it saw as one line of JSON, the last of its output.
PREVIEW = '''
import importlib, json, sys, time
from google.api_core.exceptions import BadRequest, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

package, project, region, url, table = sys.argv[1:]
fs = importlib.import_module(package + ".resources.preview.feature_store")
aiplatform.init(project=project, location=region, credentials=AnonymousCredentials(),
                api_endpoint=url, api_transport="rest")
saw = {}
group_id, store_id = package + "_group", package + "_store"

def refused(call, *kinds):
    try:
        call()
    except kinds as error:
        return type(error).__name__
    return "not refused"

group = fs.FeatureGroup.create(
    name=group_id, description="behaviour", labels={"app": "churn"},
    source=fs.FeatureGroupBigQuerySource(uri=table, entity_id_columns=["customer_id"]))
group.create_feature("orders_90d", description="orders", labels={"unit": "orders"})
group.create_feature("aov", version_column_name="avg_order_value")
found = fs.FeatureGroup(group_id)
saw["group"] = [found.resource_name, found.source.uri, list(found.source.entity_id_columns),
                dict(found.labels), found.gca_resource.description]
saw["groups"] = [g.name for g in fs.FeatureGroup.list()]
saw["features"] = sorted(f.name for f in group.list_features())
feature = group.get_feature("aov")
saw["feature"] = [feature.version_column_name,
                  group.get_feature("orders_90d").gca_resource.description]

store = fs.FeatureOnlineStore.create_bigtable_store(store_id, max_node_count=2)
saw["store"] = [store.resource_name, store.feature_online_store_type.name,
                fs.FeatureOnlineStore(store_id).gca_resource.bigtable.auto_scaling.max_node_count]
saw["stores"] = [s.name for s in fs.FeatureOnlineStore.list()]

view = store.create_feature_view(
    "view", sync_config="TZ=Etc/UTC 0 3 * * 1", labels={"app": "churn"},
    source=fs.FeatureViewRegistrySource(features=[group_id + ".orders_90d", group_id + ".aov"]))
saw["view"] = [view.resource_name, view.gca_resource.sync_config.cron]
sync_id = view.sync().name.rsplit("/", 1)[-1]
deadline = time.monotonic() + 20
while "end_time" not in (sync := view.get_sync(sync_id).gca_resource).run_time:
    assert time.monotonic() < deadline, "the sync does not end"
    time.sleep(0.1)
saw["sync"] = [sync.final_status.code, sync.sync_summary.row_synced]
saw["syncs"] = [s.name == sync_id for s in view.list_syncs()]

read = fs.FeatureView("view", store_id).read(key=["12"])
saw["read"] = read.to_dict()["features"]
saw["proto"] = len(read.to_proto().key_values.features)
saw["nobody"] = refused(lambda: view.read(key=["none"]), NotFound)

direct = store.create_feature_view("direct", source=fs.FeatureViewBigQuerySource(
    uri=table, entity_id_columns=["customer_id"]))
saw["views"] = sorted(v.name for v in fs.FeatureView.list(store_id))
saw["full"] = refused(store.delete, BadRequest)
direct.delete()
store.delete(force=True)
feature.delete()
group.delete(force=True)
saw["gone"] = [refused(lambda: view.read(key=["12"]), NotFound),
               refused(lambda: fs.FeatureOnlineStore(store_id), NotFound),
               refused(lambda: fs.FeatureGroup(group_id), NotFound)]
print(json.dumps(saw))
'''


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A local cloud with one table and one image of a model server."""
    state, image = tmp_path_factory.mktemp("others"), tmp_path_factory.mktemp("image")
    (image / "main.py").write_text(SERVER)
    (image / "Dockerfile").write_text(
        'FROM python:3.11-slim\nCOPY main.py .\nENTRYPOINT ["python", "main.py"]\n')
    running, _ = process.start(PROJECT, None, {"echo": image}, state=state)
    try:
        fill(running["bigquery"])
        yield running
    finally:
        process.stop(state)


def fill(url):
    client = bigquery.Client(
        PROJECT, credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    client.create_dataset("ds")
    client.query(textwrap.dedent(f"""
        create table `{PROJECT}.ds.features` as
        select 12 as customer_id, timestamp '2025-01-06' as feature_timestamp,
               3 as orders_90d, 20.5 as avg_order_value
        union all select 12, timestamp '2025-01-13', 5, 31.5
        union all select 13, timestamp '2025-01-13', 0, null""")).result()
    client.close()


def gapic(kind, local):
    return kind(credentials=AnonymousCredentials(), transport="rest",
                client_options=ClientOptions(api_endpoint=local["vertex"]))


# gcloud


@pytest.fixture
def gcloud(local, tmp_path):
    """Run `gcloud ai ...`; returns what it printed, or what it said when it has to fail."""
    if not GCLOUD:
        pytest.skip("the Google Cloud SDK (gcloud) is not installed")
    environment = {
        **os.environ, "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": local["vertex"] + "/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true", "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true"}

    def run(*arguments, fails=False):
        done = subprocess.run(
            [GCLOUD, "ai", *arguments, f"--region={REGION}", "--format=json"],
            env=environment, text=True, capture_output=True, timeout=60)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run


def test_gcloud_uploads_deploys_predicts_and_deletes(gcloud, tmp_path):
    model, endpoint = f"{ANSWERED}/models/churn", f"{ANSWERED}/endpoints/123"
    uploaded = gcloud(
        "models", "upload", "--container-image-uri=echo", "--display-name=Churn",
        "--model-id=churn", "--container-ports=8080", "--container-predict-route=/predict",
        "--container-health-route=/health", "--artifact-uri=gs://b/m", "--version-aliases=live")
    assert (uploaded["model"], uploaded["modelVersionId"]) == (model, "1")
    (listed,) = gcloud("models", "list")
    assert (listed["name"], listed["displayName"]) == (model, "Churn")
    described = gcloud("models", "describe", "churn@live")
    assert sorted(described["versionAliases"]) == ["default", "live"]
    assert described["containerSpec"] == {
        "imageUri": "echo", "ports": [{"containerPort": 8080}],
        "predictRoute": "/predict", "healthRoute": "/health"}

    made = gcloud("endpoints", "create", "--display-name=Churn", "--endpoint-id=123",
                  "--labels=app=churn")
    assert made["name"] == endpoint
    assert gcloud("endpoints", "describe", "123")["labels"] == {"app": "churn"}
    assert [e["name"] for e in gcloud("endpoints", "list")] == [endpoint]
    # gcloud asks for the model first, then polls the operation under v1beta1
    gcloud("endpoints", "deploy-model", "123", "--model=churn", "--display-name=first",
           "--machine-type=n1-standard-2", "--deployed-model-id=77", "--traffic-split=0=100")
    described = gcloud("endpoints", "describe", "123")
    (deployed,) = described["deployedModels"]
    assert (deployed["id"], deployed["model"], deployed["displayName"]) == ("77", model, "first")
    assert deployed["dedicatedResources"]["machineSpec"] == {"machineType": "n1-standard-2"}
    assert described["trafficSplit"] == {"77": 100}

    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [[1, 2], [3, 4.5]]}))
    answer = gcloud("endpoints", "predict", "123", f"--json-request={request}")
    assert answer["predictions"] == [3, 7.5]
    assert (answer["deployedModelId"], answer["model"]) == ("77", model)
    request.write_text(json.dumps({"instances": ["bad"]}))
    said = gcloud("endpoints", "predict", "123", f"--json-request={request}", fails=True)
    assert "feature revenue_90d is missing" in said

    assert "has deployed models" in gcloud("endpoints", "delete", "123", fails=True)
    gcloud("endpoints", "undeploy-model", "123", "--deployed-model-id=77")
    gcloud("endpoints", "delete", "123")
    assert gcloud("endpoints", "list") == []


# The Python clients


@pytest.mark.parametrize("package", ["vertexai", "agentplatform"])
def test_the_preview_classes_of(package, local, tmp_path):
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    (tmp_path / "preview.py").write_text(PREVIEW)
    done = forked.run(
        "preview", package, PROJECT, REGION, local["vertex"], TABLE, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    saw = json.loads(done.stdout.splitlines()[-1])
    group, store = f"{package}_group", f"{package}_store"
    store_name = f"{ANSWERED}/featureOnlineStores/{store}"
    values = {f["name"]: f.get("value") for f in saw.pop("read")}
    assert values == {
        "orders_90d": {"int64_value": "5"}, "aov": {"double_value": 31.5},
        "feature_timestamp": {"int64_value": "1736726400000000"}}
    assert saw == {
        "group": [f"{ANSWERED}/featureGroups/{group}", TABLE, ["customer_id"], {"app": "churn"},
                  ""],  # its description is not returned
        "groups": [group], "features": ["aov", "orders_90d"],
        "feature": ["avg_order_value", "orders"],
        "store": [store_name, "BIGTABLE", 2], "stores": [store],
        "view": [f"{store_name}/featureViews/view", "TZ=Etc/UTC 0 3 * * 1"],
        "sync": [0, 2], "syncs": [True], "proto": 3, "nobody": "NotFound",
        "views": ["direct", "view"], "full": "BadRequest", "gone": ["NotFound"] * 3}


def test_the_v1beta1_client_of_feature_groups(local):
    from google.cloud import aiplatform_v1beta1  # here: each worker imports this file

    client = gapic(aiplatform_v1beta1.FeatureRegistryServiceClient, local)
    source = {"big_query_source": {"input_uri": TABLE}, "entity_id_columns": ["customer_id"]}
    made = client.create_feature_group(
        parent=PARENT, feature_group_id="beta",
        feature_group={"big_query": source, "labels": {"app": "churn"}}).result(timeout=20)
    assert isinstance(made, aiplatform_v1beta1.FeatureGroup)
    made = client.get_feature_group(name=made.name)
    assert made.labels == {"app": "churn"} and made.big_query.big_query_source.input_uri == TABLE
    assert "beta" in [g.name.rsplit("/", 1)[-1] for g in client.list_feature_groups(parent=PARENT)]
    client.delete_feature_group(name=made.name).result(timeout=20)
    with pytest.raises(errors.NotFound):
        client.get_feature_group(name=made.name)


@pytest.fixture
def view(local):
    """The ids of a store and of a synced view in it, straight from the table."""
    pytest.importorskip("apache_beam")  # it alone asks for this
    client = gapic(aiplatform_v1.FeatureOnlineStoreAdminServiceClient, local)
    store = client.create_feature_online_store(
        parent=PARENT, feature_online_store_id="beam", feature_online_store={
            "bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}).result()
    made = client.create_feature_view(parent=store.name, feature_view_id="latest", feature_view={
        "big_query_source": {"uri": TABLE, "entity_id_columns": ["customer_id"]}}).result()
    sync = client.sync_feature_view(feature_view=made.name).feature_view_sync
    deadline = time.monotonic() + 20
    while "end_time" not in client.get_feature_view_sync(name=sync).run_time:
        assert time.monotonic() < deadline, "the sync does not end"
        time.sleep(0.05)
    yield "beam", "latest"
    client.delete_feature_online_store(name=store.name, force=True).result(timeout=20)


def test_beam_enriches_rows(local, view):
    """Not in requirements.txt: to run it, let PYTHONPATH lead to a venv with apache-beam."""
    import apache_beam as beam
    from apache_beam.testing.util import assert_that, equal_to
    from apache_beam.transforms.enrichment import Enrichment
    from apache_beam.transforms.enrichment_handlers import vertex_ai_feature_store

    # Any further keyword goes to Google's client; a row's key has to be a string.
    handler = vertex_ai_feature_store.VertexAIFeatureStoreEnrichmentHandler(
        PROJECT, REGION, local["vertex"], *view, "customer_id",
        transport="rest", credentials=AnonymousCredentials())
    # PROTO_STRUCT is what it asks for, so that numbers are floats; nobody's row stays as it was.
    # FnApiRunner: the default runner may fetch a program of its own.
    with beam.Pipeline("FnApiRunner") as pipeline:
        enriched = (
            pipeline | beam.Create([beam.Row(customer_id="13"), beam.Row(customer_id="none")])
            | Enrichment(handler) | beam.Map(lambda row: row._asdict()))
        assert_that(enriched, equal_to([
            {"customer_id": "13", "orders_90d": 0.0, "avg_order_value": None,
             "feature_timestamp": 1736726400000000.0}, {"customer_id": "none"}]))
