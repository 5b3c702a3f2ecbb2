"""schema.problems: right requests of each API pass, and each planted mistake is found and named."""

import copy
import dataclasses
import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from google.cloud import aiplatform_v1, bigquery

from lib.operate import schedule
from tests.contract import schema

GAPIC = [("$alt", "json;enum-encoding=int")]
CLIENT = [("prettyPrint", "false")]
HERE = "/v1/projects/local-demo/locations/us-central1"
STORE = f"{HERE}/featureOnlineStores/churn_dev_store"
VIEW = f"{STORE}/featureViews/churn_dev_view"
GROUP = f"{HERE}/featureGroups/churn_dev"
ENDPOINT = f"{HERE}/endpoints/123"
BIGQUERY = "/bigquery/v2/projects/local-demo"
LABELS = {"app": "churn", "env": "dev", "owner": "ml", "run_id": "20250101-000000-dev-a"}
DIGEST = "sha256:" + "0a" * 32
REPOSITORY = f"{HERE}/repositories/churn-dev"

FEATURE_GROUP = {
    "bigQuery": {"bigQuerySource": {"inputUri": "bq://p.churn_dev.features_customer"},
                 "entityIdColumns": ["customer_id"], "dense": True,
                 "timeSeries": {"timestampColumn": "feature_timestamp"}},
    "labels": LABELS, "description": "Customer behaviour"}
STORE_BODY = {"bigtable": {"autoScaling": {"minNodeCount": 1, "maxNodeCount": 2,
                                           "cpuUtilizationTarget": 50}}, "labels": LABELS}
VIEW_BODY = {
    "featureRegistrySource": {"featureGroups": [
        {"featureGroupId": "churn_dev", "featureIds": ["orders_90d"]}]},
    "syncConfig": {"cron": "0 6 * * 1"}, "serviceAgentType": 2, "labels": LABELS}
MODEL = {"model": {
    "displayName": "churn", "artifactUri": "gs://b/model", "versionAliases": ["sha-0123"],
    "containerSpec": {"imageUri": f"r/serving@{DIGEST}", "ports": [{"containerPort": 8080}],
                      "predictRoute": "/predict", "healthRoute": "/health"},
    "labels": LABELS}}
DEPLOYMENT = {
    "deployedModel": {
        "model": "projects/p/locations/us-central1/models/1@2", "displayName": "churn",
        "dedicatedResources": {"machineSpec": {"machineType": "n1-standard-2"},
                               "minReplicaCount": 1, "maxReplicaCount": 1}},
    "trafficSplit": {"0": 100}}
PIPELINE = {
    "displayName": "churn-dev-training", "labels": LABELS,
    "pipelineSpec": {"root": {"dag": {}}, "schemaVersion": "2.1.0", "any_thing": [None, 1]},
    "runtimeConfig": {
        "gcsOutputDirectory": "gs://b/pipelines", "failurePolicy": 1,
        "parameterValues": {"seed": 1, "table": "t", "ratios": [0.7, 0.3]}}}
EVALUATION = {"modelEvaluation": {
    "displayName": "churn-test", "metricsSchemaUri": "gs://s/classification_metrics_1.0.0.yaml",
    "metrics": {"auRoc": 0.8, "auPrc": 0.4}}}
QUERY = {
    "jobReference": {"jobId": "j", "projectId": "local-demo", "location": "US"},
    "configuration": {"labels": LABELS, "dryRun": False, "query": {
        "query": "select 1", "useLegacySql": False, "maximumBytesBilled": "20000000000",
        "parameterMode": "NAMED", "queryParameters": [
            {"name": "days", "parameterType": {"type": "INT64"},
             "parameterValue": {"value": "90"}},
            {"name": "ids", "parameterType": {"type": "ARRAY", "arrayType": {"type": "STRING"}},
             "parameterValue": {"arrayValues": [{"value": "1"}]}}]}}}
LOAD = {
    "jobReference": {"jobId": "j", "projectId": "local-demo", "location": "US"},
    "configuration": {"labels": LABELS, "load": {
        "sourceFormat": "PARQUET", "writeDisposition": "WRITE_TRUNCATE",
        "destinationTable": {"projectId": "p", "datasetId": "d", "tableId": "t"}}}}
DATASET = {
    "datasetReference": {"projectId": "local-demo", "datasetId": "churn_dev"}, "location": "US",
    "labels": LABELS, "defaultTableExpirationMs": "86400000"}
UPLOAD, LOAD_UPLOAD = "/upload/storage/v1/b/churn-bucket/o", f"/upload{BIGQUERY}/jobs"
DOWNLOAD = "/download/storage/v1/b/churn-bucket/o/pipelines/train/model_meta.json"
OBJECT = "/storage/v1/b/churn-bucket/o/pipelines%2Ftrain%2Fmodel_meta.json"
PROJECTS = "cloudresourcemanager.projects"
VERTEX = "aiplatform.projects.locations"

# method -> verb, path, query, body, service
RIGHT = {
    f"{VERTEX}.featureGroups.create": (
        "POST", f"{HERE}/featureGroups", [*GAPIC, ("featureGroupId", "churn_dev")],
        FEATURE_GROUP, "vertex"),
    f"{VERTEX}.featureGroups.get": ("GET", GROUP, GAPIC, None, "vertex"),
    f"{VERTEX}.featureGroups.delete": (
        "DELETE", GROUP, [*GAPIC, ("force", "true")], None, "vertex"),
    f"{VERTEX}.featureGroups.features.list": (
        "GET", f"{GROUP}/features", [*GAPIC, ("pageSize", "100")], None, "vertex"),
    f"{VERTEX}.featureGroups.features.batchCreate": (
        "POST", f"{GROUP}/features:batchCreate", GAPIC,
        {"requests": [{"parent": GROUP[4:], "featureId": "orders_90d", "feature": {
            "description": "Orders", "versionColumnName": "orders_90d", "pointOfContact": "ml",
            "labels": {**LABELS, "unit": "count"}}}]}, "vertex"),
    f"{VERTEX}.featureOnlineStores.create": (
        "POST", f"{HERE}/featureOnlineStores",
        [*GAPIC, ("featureOnlineStoreId", "churn_dev_store")], STORE_BODY, "vertex"),
    f"{VERTEX}.featureOnlineStores.featureViews.create": (
        "POST", f"{STORE}/featureViews", [*GAPIC, ("featureViewId", "churn_dev_view")],
        VIEW_BODY, "vertex"),
    f"{VERTEX}.featureOnlineStores.featureViews.patch": (
        "PATCH", VIEW, [*GAPIC, ("updateMask", "featureRegistrySource,syncConfig")],
        {"name": VIEW[4:], **VIEW_BODY}, "vertex"),
    f"{VERTEX}.featureOnlineStores.featureViews.sync": (
        "POST", f"{VIEW}:sync", GAPIC, {}, "vertex"),
    f"{VERTEX}.featureOnlineStores.featureViews.featureViewSyncs.list": (
        "GET", f"{VIEW}/featureViewSyncs", GAPIC, None, "vertex"),
    f"{VERTEX}.featureOnlineStores.featureViews.fetchFeatureValues": (
        "POST", f"{VIEW}:fetchFeatureValues", GAPIC,
        {"dataKey": {"key": "42"}, "dataFormat": 1}, "vertex"),
    f"{VERTEX}.models.upload": ("POST", f"{HERE}/models:upload", GAPIC, MODEL, "vertex"),
    f"{VERTEX}.models.get": ("GET", f"{HERE}/models/1@2", GAPIC, None, "vertex"),
    f"{VERTEX}.models.evaluations.import": (
        "POST", f"{HERE}/models/1@2/evaluations:import", GAPIC, EVALUATION, "vertex"),
    f"{VERTEX}.endpoints.create": (
        "POST", f"{HERE}/endpoints", GAPIC, {"displayName": "churn", "labels": LABELS}, "vertex"),
    f"{VERTEX}.endpoints.deployModel": (
        "POST", f"{ENDPOINT}:deployModel", GAPIC, DEPLOYMENT, "vertex"),
    f"{VERTEX}.endpoints.predict": (
        "POST", f"{ENDPOINT}:predict", GAPIC,
        {"instances": [{"orders_90d": 3, "days": None}]}, "vertex"),
    f"{VERTEX}.pipelineJobs.create": (
        "POST", f"{HERE}/pipelineJobs", [*GAPIC, ("pipelineJobId", "churn-1")], PIPELINE,
        "vertex"),
    f"{VERTEX}.operations.get": (
        "GET", "/ui/projects/local-demo/locations/us-central1/operations/7", GAPIC, None,
        "vertex"),
    "bigquery.jobs.insert": ("POST", f"{BIGQUERY}/jobs", CLIENT, QUERY, "bigquery"),
    "bigquery.jobs.getQueryResults": (
        "GET", f"{BIGQUERY}/queries/j",
        [*CLIENT, ("maxResults", "0"), ("location", "US"),
         ("formatOptions.useInt64Timestamp", "True")], None, "bigquery"),
    "bigquery.datasets.insert": ("POST", f"{BIGQUERY}/datasets", CLIENT, DATASET, "bigquery"),
    "bigquery.datasets.patch": (
        "PATCH", f"{BIGQUERY}/datasets/churn_dev", CLIENT, {"description": None}, "bigquery"),
    "bigquery.tables.testIamPermissions": (
        "POST", f"{BIGQUERY}/datasets/d/tables/t:testIamPermissions", CLIENT,
        {"permissions": ["bigquery.tables.get"]}, "bigquery"),
    "storage.buckets.insert": (
        "POST", "/storage/v1/b", [*CLIENT, ("project", "local-demo")],
        {"name": "churn-bucket", "location": "US", "labels": LABELS}, "storage"),
    "storage.buckets.testIamPermissions": (
        "GET", "/storage/v1/b/churn-bucket/iam/testPermissions",
        [*CLIENT, ("permissions", "storage.objects.get"), ("permissions", "storage.objects.list")],
        None, "storage"),
    "storage.objects.insert": (
        "POST", UPLOAD, [("uploadType", "multipart")],
        {"name": "serving/model.json", "contentType": "application/json"}, "storage"),
    "storage.objects.get": (
        "GET", OBJECT, [*CLIENT, ("projection", "noAcl")], None, "storage"),
    "storage.objects.delete": ("DELETE", OBJECT.replace("%2F", "/"), CLIENT, None, "storage"),
    f"{PROJECTS}.get": ("GET", "/v3/projects/local-demo", GAPIC, None, "platform"),
    f"{PROJECTS}.testIamPermissions": (
        "POST", "/v3/projects/local-demo:testIamPermissions", GAPIC,
        {"permissions": ["aiplatform.models.upload"]}, "platform"),
    "serviceusage.services.batchGet": (
        "GET", "/v1/projects/local-demo/services:batchGet",
        [*GAPIC, ("names", "projects/local-demo/services/a.googleapis.com"),
         ("names", "projects/local-demo/services/b.googleapis.com")], None, "platform"),
    "artifactregistry.projects.locations.repositories.get": (
        "GET", REPOSITORY, GAPIC, None, "platform"),
    "artifactregistry.projects.locations.repositories.dockerImages.get": (
        "GET", f"{REPOSITORY}/dockerImages/serving@{DIGEST}", GAPIC, None, "platform"),
}
# Other paths to methods of RIGHT.
MEDIA = {
    "the content of a resumable upload": (
        ("PUT", UPLOAD, [("uploadType", "resumable"), ("upload_id", "u")], None, "storage"),
        "storage.objects.insert"),
    "the start of a resumable upload": (
        ("POST", f"/resumable{UPLOAD}", [("uploadType", "resumable")], {"name": "a"}, "storage"),
        "storage.objects.insert"),
    "a load job": (
        ("POST", LOAD_UPLOAD, [("uploadType", "resumable")], LOAD, "bigquery"),
        "bigquery.jobs.insert"),
    "the content of a load job": (
        ("PUT", LOAD_UPLOAD, [("uploadType", "resumable"), ("upload_id", "u")], None, "bigquery"),
        "bigquery.jobs.insert"),
    "a download": (
        ("GET", DOWNLOAD, [("alt", "media")], None, "storage"), "storage.objects.get"),
}


@pytest.mark.parametrize("method", RIGHT)
def test_right_requests_pass(method):
    verb, path, _, _, service = RIGHT[method]
    assert schema.problems(*RIGHT[method]) == []
    assert schema.name(verb, path, service) == method


@pytest.mark.parametrize("case", MEDIA)
def test_uploads_and_downloads_pass(case):
    request, method = MEDIA[case]
    verb, path, *_, service = request
    assert schema.problems(*request) == []
    assert schema.name(verb, path, service) == method


def test_pairs_may_be_lists_as_json_has_them():
    verb, path, query, body, service = RIGHT["serviceusage.services.batchGet"]
    assert schema.problems(verb, path, [list(pair) for pair in query], body, service) == []


def test_grpc_requests_need_only_what_google_routes_them_by():
    path = "/google.cloud.bigquery.storage.v1.BigQueryRead/ReadRows"
    routed = [["x-goog-request-params", "read_stream=s"]]
    assert schema.problems("GRPC", path, routed, {"any": 1}, "bigquery_storage") == []
    assert schema.problems("GRPC", path, [], {"any": 1}, "bigquery_storage") != []
    assert schema.name("GRPC", path, "bigquery_storage").endswith("BigQueryRead.ReadRows")


def planted(method: str, **changes: object) -> list[str]:
    """The problems of a right request with verb, path or query changed, or with parts of its
    body set: `body={"a.0.b": value}`."""
    verb, path, query, body, service = copy.deepcopy(RIGHT[method])
    for place, value in changes.get("body", {}).items():
        *parents, last = [int(p) if p.isdecimal() else p for p in place.split(".")]
        target = body
        for parent in parents:
            target = target[parent]
        target[last] = value
    return schema.problems(
        changes.get("verb", verb), changes.get("path", path),
        [*query, *changes.get("query", [])], changes.get("whole", body), service)


VIEWS = f"{VERTEX}.featureOnlineStores.featureViews.create"
JOBS, DATASETS = "bigquery.jobs.insert", "bigquery.datasets.insert"
BUCKETS = "storage.buckets.insert"
UPLOADS, DEPLOY = f"{VERTEX}.models.upload", f"{VERTEX}.endpoints.deployModel"
# mistake -> method, what is changed, what the first problem says of it
BODY_MISTAKES = {
    "misspelled, deep": (
        VIEWS, {"featureRegistrySource.featureGroups.0.featureIdz": ["a"]},
        "body field featureRegistrySource.featureGroups[0].featureIdz is unknown"),
    "misspelled, deep, BigQuery": (
        JOBS, {"configuration.query.queryParameters.1.parameterType.arrayType.typ": "STRING"},
        "configuration.query.queryParameters[1].parameterType.arrayType.typ is unknown"),
    "misspelled, Storage": (BUCKETS, {"lables": {}}, "body field lables is unknown to Bucket"),
    "snake_case": (
        UPLOADS, {"model.container_spec": {}},
        "model.container_spec is unknown to GoogleCloudAiplatformV1Model: it is written "
        "containerSpec"),
    "snake_case, BigQuery": (
        DATASETS, {"default_table_expiration_ms": "1"}, "written defaultTableExpirationMs"),
    "enum string": (
        VIEWS, {"serviceAgentType": "SERVICE_AGENT_TYPE_STORE"},
        "serviceAgentType: 'SERVICE_AGENT_TYPE_STORE' is none of SERVICE_AGENT_TYPE_UNSPECIFIED"),
    "enum integer": (
        VIEWS, {"serviceAgentType": 3},
        "featureView.serviceAgentType: 3 is not the number of any ServiceAgentType"),
    "enum boolean": (VIEWS, {"serviceAgentType": True}, "serviceAgentType: a string is wanted"),
    "enum integer of a client that has none": (
        JOBS, {"configuration.query.scriptOptions": {"keyResultStatement": 1}},
        "keyResultStatement: 1 is a number"),
    "string for an object": (
        VIEWS, {"syncConfig": "0 6 * * 1"},
        'body field syncConfig: an object is wanted, not a string ("0 6 * * 1")'),
    "number for a string": (
        UPLOADS, {"model.displayName": 7}, "model.displayName: a string is wanted, not a number"),
    "number for a string, Storage": (
        BUCKETS, {"location": 7}, "body field location: a string is wanted, not a number (7)"),
    "number in a map of strings": (
        DATASETS, {"labels.run_id": 7}, "body field labels.run_id: a string is wanted"),
    "list for a map": (
        VIEWS, {"labels": ["app"]}, 'labels: an object is wanted, not a list (["app"])'),
    "object for a list": (
        UPLOADS, {"model.versionAliases": {}}, "versionAliases: a list is wanted, not an object"),
    "null in a list": (
        UPLOADS, {"model.versionAliases": [None]}, "model.versionAliases[0]: null in a list"),
    "string for an int32": (
        DEPLOY, {"deployedModel.dedicatedResources.minReplicaCount": "one"},
        "dedicatedResources.minReplicaCount: an integer is wanted, not a string"),
    "text for an int64": (
        DATASETS, {"defaultTableExpirationMs": "1 day"},
        "defaultTableExpirationMs: an integer is wanted"),
    "fraction for an int64": (
        DATASETS, {"defaultTableExpirationMs": 0.5}, "defaultTableExpirationMs: an integer"),
    "string for a boolean": (
        JOBS, {"configuration.dryRun": "false"}, "configuration.dryRun: a boolean is wanted"),
    "boolean for a number in a map": (
        DEPLOY, {"trafficSplit.0": True}, "trafficSplit.0: an integer is wanted, not a boolean"),
}


@pytest.mark.parametrize("mistake", BODY_MISTAKES)
def test_mistakes_in_a_body_are_named(mistake):
    method, body, text = BODY_MISTAKES[mistake]
    found = planted(method, body=body)
    assert text in found[0], found


MISTAKES = {
    "wrong path": (VIEWS, {"path": f"{STORE}/featureViewz"}, "no such method in aiplatform.v1"),
    "missing path part": (
        VIEWS, {"path": f"{HERE}/featureOnlineStores/featureViews"},
        "no such method in aiplatform.v1: POST"),
    "empty path part": (
        VIEWS, {"path": f"{HERE}/featureOnlineStores//featureViews"}, "no such method"),
    "another version": (
        VIEWS, {"path": VIEW.replace("/v1/", "/v2/")}, "no such method in aiplatform.v1"),
    "/ui for something else": (
        VIEWS, {"path": VIEW.replace("/v1/", "/ui/")}, "no such method in aiplatform.v1"),
    "unknown custom verb": (VIEWS, {"path": f"{VIEW}:synch"}, "no such method"),
    "wrong verb": (VIEWS, {"verb": "PUT"}, "featureViews (it takes GET, POST)"),
    "no base path": (BUCKETS, {"path": "/b"}, "no such method in storage.v1: POST /b"),
    "another API's path": (
        f"{PROJECTS}.get", {"path": "/v3/project/p"}, "no such method in cloudresourcemanager.v3"),
    "not a digest": (
        "artifactregistry.projects.locations.repositories.dockerImages.get",
        {"path": f"{REPOSITORY}/dockerImages/serving:latest"}, "no such method"),
    "unknown query parameter": (
        VIEWS, {"query": [("featureViewName", "v")]},
        "query parameter featureViewName is unknown to aiplatform.projects.locations"),
    "unknown query parameter, Storage": (
        BUCKETS, {"query": [("projct", "p")]}, "query parameter projct is unknown"),
    "query parameter without its value's type": (
        "bigquery.jobs.getQueryResults", {"query": [("timeoutMs", "1s")]},
        "query parameter timeoutMs: '1s' is no integer"),
    "query boolean": (
        VIEWS, {"query": [("runSyncImmediately", "yes")]}, "'yes' is neither true nor false"),
    "query enum": (
        BUCKETS, {"query": [("projection", "some")]},
        "query parameter projection: 'some' is none of full, noAcl"),
    "query parameter twice": (BUCKETS, {"query": [("project", "p")]}, "project comes 2 times"),
    "unknown $alt": (VIEWS, {"query": [("$alt", "yaml")]}, "query parameter $alt: 'yaml'"),
    "upload_id without an upload": (BUCKETS, {"query": [("upload_id", "u")]}, "is unknown"),
    "uploadType without an upload": (
        BUCKETS, {"query": [("uploadType", "media")]}, "uploads under /upload/ only"),
    "unknown uploadType": (
        "storage.objects.get", {"verb": "POST", "path": UPLOAD, "query": [("uploadType", "big")]},
        "query parameter uploadType: 'big' is none of media, multipart, resumable"),
    "content of no upload": (
        "storage.objects.delete", {"verb": "PUT", "path": UPLOAD}, "upload_id is missing"),
    "download without alt": ("storage.objects.delete", {"verb": "GET", "path": DOWNLOAD},
                             "a download says alt=media"),
    "body of a wrong kind": (
        VIEWS, {"whole": [1]}, "body: an object is wanted, not a list ([1])"),
    "body where none belongs": (
        f"{VERTEX}.featureGroups.get", {"whole": {"a": 1}}, "featureGroups.get takes none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_around_a_body_are_named(mistake):
    method, changes, text = MISTAKES[mistake]
    found = planted(method, **changes)
    assert found and text in found[0], found


def test_a_required_query_parameter_is_missed():
    verb, path, _, body, service = RIGHT[BUCKETS]
    assert schema.problems(verb, path, [], body, service) == [
        "query parameter project is missing, and storage.buckets.insert requires it"]


def test_no_method_has_no_name():
    with pytest.raises(LookupError, match="no such method in bigquery.v2: GET /bigquery/v2/job"):
        schema.name("GET", "/bigquery/v2/jobs", "bigquery")


@pytest.mark.parametrize("field, value", [
    ("featureRegistrySource.featureGroups.0.featureIdz", ["a"]), ("labels", ["app"]),
    ("serviceAgentType", "SERVICE_AGENT_TYPE_STORE"), ("syncConfig", "0 6 * * 1")])
def test_protobuf_finds_them_by_itself(field, value):
    first, second = planted(VIEWS, body={field: value})
    assert not first.startswith("protobuf: ") and second.startswith("protobuf: ")


def test_protobuf_alone_knows_numbers_of_enums_and_forms_of_masks():
    # 6 is FLEX_START, one past the last index of the document's names; 5 is nobody's.
    job = {"displayName": "j", "jobSpec": {"scheduling": {"strategy": 6}}}
    jobs = ("POST", f"{HERE}/customJobs", GAPIC)
    assert schema.problems(*jobs, job, "vertex") == []
    job["jobSpec"]["scheduling"]["strategy"] = 5
    assert schema.problems(*jobs, job, "vertex") == [
        "protobuf: customJob.jobSpec.scheduling.strategy: 5 is not the number of any Strategy"]
    verb, path, _, body, service = RIGHT[f"{VERTEX}.featureOnlineStores.featureViews.patch"]
    (found,) = schema.problems(verb, path, [("updateMask", "sync_config")], {"name": "n"}, service)
    assert "Path name sync_config must not contain" in found


def test_maps_and_free_values_hold_any_names():
    assert planted(f"{VERTEX}.pipelineJobs.create", body={
        "pipelineSpec.snake_case": {"a_b": [1, "a", None]}, "labels.snake_case": "x"}) == []
    assert planted(DATASETS, body={"labels.snake_case": None}) == []  # BigQuery: take it away


def test_a_number_may_be_an_int64():
    assert planted(DATASETS, body={"defaultTableExpirationMs": 86400000}) == []


def test_the_allowed_gaps_pass():
    assert planted(f"{VERTEX}.endpoints.create", body={"privateModelServerEnabled": True}) == []


def test_numbers_for_strings_pass_where_google_sends_them():
    value = bigquery.ScalarQueryParameter("low", "FLOAT64", 0.1).to_api_repr()["parameterValue"]
    assert value == {"value": 0.1}  # else it may leave NUMBERS_TOO
    parameter = "configuration.query.queryParameters.0.parameterValue"
    assert planted(JOBS, body={parameter: value}) == []
    (found,) = planted(JOBS, body={parameter: {"value": 1}})
    assert "queryParameters[0].parameterValue.value: a string is wanted, not a number (1)" in found


def test_the_allowed_gaps_are_gaps():
    """Each is in the package and not in the document; else it must leave the list."""
    known = schema.document("aiplatform.v1")["schemas"]
    for name, field in schema.MISSING_IN_DISCOVERY:
        message = getattr(aiplatform_v1, name.removeprefix("GoogleCloudAiplatformV1"))
        assert field in message.pb().DESCRIPTOR.fields_by_camelcase_name
        assert field not in known[name]["properties"]


def test_the_request_is_left_as_it_was():
    request = RIGHT[f"{VERTEX}.featureOnlineStores.featureViews.patch"]
    before = copy.deepcopy(request)
    schema.problems(*request)
    assert request == before


def test_google_would_take_the_requests_of_the_schedule(cloud):
    """A whole run makes none, so that requests.txt has only the list of the teardown."""
    here, sent = dataclasses.replace(cloud), []
    here.watch(lambda response: sent.append(response.request))
    name = schedule.create(here).name
    here.schedules.pause_schedule(name=name)
    here.schedules.resume_schedule(name=name)
    schedule.delete(here, name)
    assert schedule.find(here) == []
    methods = set()
    for request in [one for one in sent if "/schedules" in one.url]:
        url = urlsplit(request.url)
        body = json.loads(request.body) if request.body else None
        methods.add(schema.name(request.method, url.path, "vertex"))
        assert schema.problems(
            request.method, url.path, parse_qsl(url.query), body, "vertex") == [], request.url
    assert {method.rsplit(".", 1)[1] for method in methods} == {
        "create", "pause", "resume", "delete", "list"}
