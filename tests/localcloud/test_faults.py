"""Faults on demand and recorded requests: the local cloud behind the tests' gateway."""

import io
import itertools
import sys
import threading
import time
from types import SimpleNamespace

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from google.api_core import exceptions as errors
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1, bigquery, bigquery_storage_v1, storage
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.cloud.resourcemanager_v3 import ProjectsClient
from google.cloud.storage.retry import DEFAULT_RETRY
from google.iam.v1 import iam_policy_pb2
from google.protobuf import duration_pb2, field_mask_pb2
from google.rpc import code_pb2

from lib.localcloud import process
from lib.localcloud.errors import HTTP, MARK
from lib.localcloud.platform import Platform
from lib.localcloud.vertex.app import PROJECT_NUMBER
from tests.support import local_cloud
from tests.support.faults import Faults
from tests.support.method_names import json_of, method_of

PROJECT = "faulty"
LOCATION = f"projects/{PROJECT_NUMBER}/locations/here"  # as answers name it
BIGTABLE = {"bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}
# A program that the local cloud runs; it finds the services by its environment variables.
PROGRAM = """
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage
client = bigquery.Client("faulty", credentials=AnonymousCredentials())
client.query("select 1 as by_a_program").result()
storage.Client(project="faulty").bucket("things").blob("by-a-program").upload_from_string("x")
"""
_numbers = itertools.count()


class Local:
    """A running local cloud behind the gateway, and Google's clients for it."""

    def __init__(self, running):
        self.running = running
        options = {"credentials": AnonymousCredentials(), "transport": "rest",
                   "client_options": ClientOptions(api_endpoint=running["vertex"])}
        self.stores = aiplatform_v1.FeatureOnlineStoreAdminServiceClient(**options)
        self.endpoints = aiplatform_v1.EndpointServiceClient(**options)
        self.jobs = aiplatform_v1.JobServiceClient(**options)
        self.bigquery = bigquery.Client(
            PROJECT, credentials=AnonymousCredentials(),
            client_options={"api_endpoint": running["bigquery"]})
        self.storage = storage.Client(
            PROJECT, credentials=AnonymousCredentials(),
            client_options={"api_endpoint": running["storage"]})
        online = aiplatform_v1.FeatureOnlineStoreServiceClient
        self.online = online(transport=online.get_transport_class("grpc")(
            channel=grpc.insecure_channel(running["vertex_grpc"])))
        self.read = bigquery_storage_v1.BigQueryReadClient(transport=BigQueryReadGrpcTransport(
            channel=grpc.insecure_channel(running["bigquery_grpc"])))

    def platform(self):
        return ProjectsClient(
            credentials=AnonymousCredentials(), transport="rest",
            client_options=ClientOptions(api_endpoint=self.running["platform"]))

    def admin(self, verb, what, **arguments):
        answer = requests.request(verb, f"{self.running['admin']}/admin/{what}", **arguments)
        answer.raise_for_status()
        return answer.json()

    def fail(self, *rules):
        return self.admin("POST", "faults", json=rules)

    def fired(self):
        return [rule["fired"] for rule in self.admin("GET", "faults")["rules"]]

    def seen(self, method):
        return [r for r in self.admin("GET", "requests") if r["method"] == method]

    def make_store(self, name=None):
        return self.stores.create_feature_online_store(
            parent=LOCATION, feature_online_store_id=name or f"s{next(_numbers)}",
            feature_online_store=BIGTABLE)


@pytest.fixture(scope="module")
def running_local(tmp_path_factory):
    state = tmp_path_factory.mktemp("admin")
    image = state / "images" / "program"
    image.mkdir(parents=True)
    (image / "Dockerfile").write_text('ENTRYPOINT ["python", "-c"]\n')
    local = Local(local_cloud.start(PROJECT, None, {"program": image}, state=state))
    local.bigquery.create_dataset("ds")
    local.storage.create_bucket("things")
    yield local
    assert process.stop(state)


@pytest.fixture
def local(running_local):
    running_local.admin("DELETE", "faults")
    running_local.admin("DELETE", "requests")
    yield running_local
    running_local.admin("DELETE", "faults")


@pytest.fixture
def view(local):
    """A feature view over a table of one row."""
    table = f"{PROJECT}.ds.v{next(_numbers)}"
    local.bigquery.query(f"create table `{table}` as select 'a' as id, 1 as f").result()
    store = local.make_store().result().name
    return local.stores.create_feature_view(
        parent=store, feature_view_id="v", feature_view={
            "big_query_source": {"uri": f"bq://{table}", "entity_id_columns": ["id"]}},
    ).result().name


def ended(local, sync):
    found = local.stores.get_feature_view_sync(name=sync)
    return found if found.run_time.HasField("end_time") else None


# Errors and slow answers


@pytest.mark.parametrize(("status", "kind", "code"), [
    ("PERMISSION_DENIED", errors.Forbidden, 403),
    ("NOT_FOUND", errors.NotFound, 404),
    ("ALREADY_EXISTS", errors.Conflict, 409),
    ("RESOURCE_EXHAUSTED", errors.TooManyRequests, 429),
    ("INTERNAL", errors.InternalServerError, 500),
    ("UNAVAILABLE", errors.ServiceUnavailable, 503),
    ("DEADLINE_EXCEEDED", errors.GatewayTimeout, 504),
])
def test_only_the_second_call_of_a_method_fails(local, status, kind, code):
    local.fail({"method": "vertex.ListEndpoints", "call": 2, "status": status,
                "message": "not this time", "reason": "SOME_REASON"})
    local.endpoints.list_endpoints(parent=LOCATION)
    with pytest.raises(kind, match="not this time") as failed:
        local.endpoints.list_endpoints(parent=LOCATION)
    assert failed.value.reason == "SOME_REASON"
    local.endpoints.list_endpoints(parent=LOCATION)
    assert [r["status"] for r in local.seen("vertex.ListEndpoints")] == [200, code, 200]
    assert local.fired() == [1]


def test_a_fetch_by_grpc_is_recorded_and_fails_on_demand(local):
    view = f"{LOCATION}/featureOnlineStores/s/featureViews/v"
    fetch = {"feature_view": view, "data_key": {"key": "a"}}
    local.fail({"method": "vertex.FetchFeatureValues", "status": "PERMISSION_DENIED",
                "message": "not this time", "reason": "SOME_REASON"})
    with pytest.raises(errors.PermissionDenied, match="not this time") as failed:
        local.online.fetch_feature_values(fetch)
    assert failed.value.reason == "SOME_REASON"
    with pytest.raises(errors.NotFound) as failed:  # the service's own answer, with its mark
        local.online.fetch_feature_values(fetch)
    assert dict(failed.value.response.trailing_metadata())[MARK] == "sync.entity-missing"
    refused, missing = local.seen("vertex.FetchFeatureValues")
    assert (refused["status"], missing["status"]) == (403, 404)
    assert (missing["verb"], missing["service"]) == ("GRPC", "vertex")
    assert missing["body"] == {"featureView": view, "dataKey": {"key": "a"}}
    assert missing["query"] == [["x-goog-request-params", f"feature_view={view}"]]


def test_no_credentials(local):
    """By plain HTTP: on 401 Google's clients ask their credentials for a new token first."""
    local.fail({"method": "vertex.ListEndpoints", "status": "UNAUTHENTICATED", "message": "who?"})
    answer = requests.get(f"{local.running['vertex']}/v1/{LOCATION}/endpoints")
    assert (answer.status_code, answer.json()) == (401, {
        "error": {"code": 401, "message": "who?", "status": "UNAUTHENTICATED"}})


def test_a_rule_applies_to_several_calls_and_to_no_other_method(local):
    local.fail({"method": "vertex.CreateFeatureOnlineStore", "times": 2, "status": "UNAVAILABLE"})
    local.endpoints.list_endpoints(parent=LOCATION)
    for _ in range(2):
        with pytest.raises(errors.ServiceUnavailable):
            local.make_store("twice")
    assert local.make_store("twice").result().name.endswith("twice")
    (rule,) = local.admin("GET", "faults")["rules"]
    assert (rule["calls"], rule["fired"]) == (3, 2)


def test_bigquery_refuses_access(local):
    local.fail({"method": "bigquery.datasets.get", "status": "PERMISSION_DENIED",
                "message": "Access Denied: Dataset"})
    with pytest.raises(errors.Forbidden, match="Access Denied") as refused:
        local.bigquery.get_dataset("ds")
    assert refused.value.errors == [
        {"reason": "accessDenied", "domain": "global", "message": "Access Denied: Dataset"}]
    assert local.bigquery.get_dataset("ds").dataset_id == "ds"


def test_googles_client_retries_bigquery(local):
    local.fail({"method": "bigquery.datasets.get", "times": 2, "status": "UNAVAILABLE"})
    assert local.bigquery.get_dataset("ds", retry=_retry()).dataset_id == "ds"
    assert [r["status"] for r in local.seen("bigquery.datasets.get")] == [503, 503, 200]
    # 403 is retried for this reason, and not for others
    local.admin("DELETE", "faults")
    local.fail({"method": "bigquery.datasets.get", "status": "PERMISSION_DENIED",
                "reason": "rateLimitExceeded"})
    assert local.bigquery.get_dataset("ds", retry=_retry()).dataset_id == "ds"
    local.fail({"method": "bigquery.datasets.get", "status": "PERMISSION_DENIED",
                "reason": "accessNotConfigured"})
    with pytest.raises(errors.Forbidden):
        local.bigquery.get_dataset("ds", retry=_retry())


def _retry():
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05)


def test_storage_is_unavailable(local):
    local.fail({"method": "storage.objects.insert", "status": "UNAVAILABLE", "message": "busy"})
    blob = local.storage.bucket("things").blob("again")
    with pytest.raises(errors.ServiceUnavailable, match="busy"):
        blob.upload_from_string("x", retry=None)
    local.fail({"method": "storage.objects.insert", "status": "UNAVAILABLE"})
    blob.upload_from_string("x", retry=DEFAULT_RETRY.with_delay(initial=0.01))
    assert [r["status"] for r in local.seen("storage.objects.insert")] == [503, 503, 200]
    answer = requests.get(f"{local.running['storage']}/storage/v1/b/things/o/none")
    assert answer.status_code == 404  # the emulator's own error passes through
    local.fail({"method": "storage.buckets.get", "status": "PERMISSION_DENIED"})
    answer = requests.get(f"{local.running['storage']}/storage/v1/b/things")
    assert answer.status_code == 403
    assert answer.json()["error"]["errors"][0]["reason"] == "forbidden"


def test_the_platform_refuses(local):
    name = "cloudresourcemanager.projects.get"
    local.fail({"method": name, "status": "PERMISSION_DENIED", "reason": "SERVICE_DISABLED"})
    with pytest.raises(errors.Forbidden) as refused:
        local.platform().get_project(name=f"projects/{PROJECT}")
    assert (refused.value.reason, refused.value.domain) == ("SERVICE_DISABLED", "googleapis.com")
    (record,) = local.seen(name)
    assert (record["service"], record["status"]) == ("platform", 403)


def test_a_slow_answer(local):
    local.fail({"method": "vertex.ListEndpoints", "seconds": 0.6})
    start = time.monotonic()
    local.endpoints.list_endpoints(parent=LOCATION)
    assert 0.6 <= time.monotonic() - start < 5
    local.fail({"method": "vertex.ListEndpoints", "seconds": 0.3},
               {"method": "vertex.List*", "status": "UNAVAILABLE"})
    start = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable):
        local.endpoints.list_endpoints(parent=LOCATION)
    assert time.monotonic() - start >= 0.3
    # an answer that takes longer than the client's timeout
    local.fail({"method": "storage.buckets.get", "seconds": 30})
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{local.running['storage']}/storage/v1/b/things", timeout=0.2)


@pytest.mark.parametrize("rule", [
    {}, [], "rule", {"method": "vertex.ListEndpoints"}, {"status": "INTERNAL"},
    {"method": "vertex.ListEndpoint", "status": "INTERNAL"},
    {"method": "vertex.ListEndpoints", "status": "BROKEN"},
    {"method": "vertex.ListEndpoints", "status": "INTERNAL", "calls": 2},
    {"method": "vertex.ListEndpoints", "status": "INTERNAL", "call": 0},
    {"method": "vertex.ListEndpoints", "status": "INTERNAL", "call": True},
    {"method": "vertex.ListEndpoints", "hang": True},
    {"method": "bigquery.jobs.insert", "operation": True, "status": "INTERNAL"},
    {"method": "sync", "status": "INTERNAL", "reason": "r"},
    {"missing_permissions": "aiplatform.endpoints.deploy"},
])
def test_a_malformed_rule_is_refused_and_none_is_kept(local, rule):
    good = {"method": "sync", "status": "INTERNAL"}
    answer = requests.post(f"{local.running['admin']}/admin/faults", json=[good, rule])
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert local.admin("GET", "faults")["rules"] == []


def test_every_canonical_code_has_a_status():
    assert set(HTTP) == set(code_pb2.Code.keys()) - {"OK"}


# Operations


def test_an_operation_ends_in_an_error_and_creates_nothing(local):
    local.fail({"method": "vertex.CreateFeatureOnlineStore", "operation": True,
                "status": "RESOURCE_EXHAUSTED", "message": "No Bigtable nodes left"})
    operation = local.make_store("none_left")
    with pytest.raises(errors.ResourceExhausted, match="No Bigtable nodes left"):
        operation.result(timeout=10)
    with pytest.raises(errors.NotFound):
        local.stores.get_feature_online_store(name=f"{LOCATION}/featureOnlineStores/none_left")
    assert [r["status"] for r in local.seen("vertex.CreateFeatureOnlineStore")] == [200]
    assert local.fired() == [1]
    assert local.make_store("none_left").result().name.endswith("none_left")


def test_an_operation_succeeds_but_late(local):
    local.fail({"method": "vertex.CreateFeatureOnlineStore", "operation": True, "seconds": 0.8})
    start = time.monotonic()
    operation = local.make_store("late")
    assert time.monotonic() - start < 0.7 and not operation.done()
    with pytest.raises(errors.NotFound):
        local.stores.get_feature_online_store(name=f"{LOCATION}/featureOnlineStores/late")
    assert operation.result(timeout=10).name == f"{LOCATION}/featureOnlineStores/late"
    assert operation.metadata.generic_metadata.create_time
    local.fail({"method": "vertex.DeleteFeatureOnlineStore", "operation": True, "seconds": 0.1})
    local.stores.delete_feature_online_store(
        name=f"{LOCATION}/featureOnlineStores/late").result(timeout=10)
    with pytest.raises(errors.NotFound):
        local.stores.get_feature_online_store(name=f"{LOCATION}/featureOnlineStores/late")


def test_a_late_operation_ends_in_the_error_of_the_method_itself(local):
    local.make_store("taken").result()
    local.fail({"method": "vertex.CreateFeatureOnlineStore", "operation": True, "seconds": 0.1})
    with pytest.raises(errors.AlreadyExists, match="taken"):
        local.make_store("taken").result(timeout=10)


def test_clearing_ends_the_wait_of_an_operation(local):
    local.fail({"method": "vertex.CreateFeatureOnlineStore", "operation": True, "seconds": 600})
    operation = local.make_store("released")
    assert not operation.done()
    local.admin("DELETE", "faults")
    assert operation.result(timeout=10).name.endswith("released")


# Syncs


def test_a_sync_fails(local, view, wait_for):
    local.fail({"method": "sync", "status": "INTERNAL", "message": "BigQuery went away"})
    sync = local.stores.sync_feature_view(feature_view=view).feature_view_sync
    failed = wait_for(lambda: ended(local, sync))
    assert (failed.final_status.code, failed.final_status.message) == (13, "BigQuery went away")
    sync = local.stores.sync_feature_view(feature_view=view).feature_view_sync
    well = wait_for(lambda: ended(local, sync))
    assert (well.final_status.code, well.sync_summary.row_synced) == (0, 1)
    assert local.fired() == [1]


def test_a_sync_takes_longer(local, view, wait_for):
    local.fail({"method": "sync", "seconds": 0.7})
    sync = local.stores.sync_feature_view(feature_view=view).feature_view_sync
    times = wait_for(lambda: ended(local, sync)).run_time
    assert times.end_time.ToMilliseconds() - times.start_time.ToMilliseconds() >= 700


def test_a_sync_hangs_until_the_faults_are_cleared(local, view, wait_for):
    local.fail({"method": "sync", "hang": True})
    sync = local.stores.sync_feature_view(feature_view=view).feature_view_sync
    wait_for(lambda: local.fired() == [1])
    time.sleep(0.3)
    assert not ended(local, sync)
    local.admin("DELETE", "faults")
    assert wait_for(lambda: ended(local, sync)).sync_summary.row_synced == 1


def test_closing_does_not_wait_for_what_hangs(start_vertex, table, tmp_path, wait_for):
    """In this process, without the gateway and its admin routes."""
    source = {"uri": table("select 'a' as id, 1 as f"), "entity_id_columns": ["id"]}
    with start_vertex(tmp_path) as vertex:
        store = vertex.admin.create_feature_online_store(
            parent="projects/p1/locations/hang", feature_online_store_id="s",
            feature_online_store=BIGTABLE).result().name
        view = vertex.admin.create_feature_view(
            parent=store, feature_view_id="v", feature_view={"big_query_source": source},
        ).result().name
        faults = Faults(vertex.vertex, Platform("p1", 1, tmp_path / "registry.json"))
        faults.add([
            {"method": "sync", "hang": True},
            {"method": "vertex.CreateFeatureOnlineStore", "operation": True, "seconds": 600}])
        sync = vertex.admin.sync_feature_view(feature_view=view).feature_view_sync
        operation = vertex.admin.create_feature_online_store(
            parent="projects/p1/locations/hang", feature_online_store_id="t",
            feature_online_store=BIGTABLE).operation.name
        wait_for(lambda: faults.shown()["rules"][0]["fired"])
        start = time.monotonic()
        faults.close()
    assert time.monotonic() - start < 5
    with start_vertex(tmp_path) as vertex:
        found = vertex.admin.get_feature_view_sync(name=sync)
        assert found.final_status.code == code_pb2.ABORTED
        late = vertex.admin.get_operation({"name": operation})
        assert late.done and late.error.code == code_pb2.ABORTED


def test_a_fault_taken_before_a_clear_does_not_wait_for_the_next(tmp_path):
    platform = Platform("p1", 1, tmp_path / "registry.json")
    faults = Faults(SimpleNamespace(middleware=[]), platform)
    faults.add([{"method": "sync", "hang": True}])
    fault = faults.take("sync", "sync")
    faults.clear()
    waiting = threading.Thread(target=faults.wait, args=(fault,), daemon=True)
    waiting.start()
    waiting.join(2)
    assert not waiting.is_alive()


# Permissions


def test_missing_permissions_and_disabled_apis(local):
    deploy, use = "aiplatform.endpoints.deploy", "aiplatform.endpoints.predict"
    shown = local.fail({"missing_permissions": [deploy]},
                       {"disabled_apis": ["aiplatform.googleapis.com"]})
    assert shown == {"rules": [], "missing_permissions": [deploy],
                     "disabled_apis": ["aiplatform.googleapis.com"]}
    asked = iam_policy_pb2.TestIamPermissionsRequest(
        resource=f"projects/{PROJECT}", permissions=[deploy, use])
    client = local.platform()
    assert client.test_iam_permissions(asked).permissions == [use]
    local.admin("DELETE", "faults")
    assert client.test_iam_permissions(asked).permissions == [deploy, use]
    assert local.admin("GET", "faults")["disabled_apis"] == []


# The record of requests


def test_requests_are_recorded_with_bodies_and_statuses(local):
    name = f"{LOCATION}/featureOnlineStores/recorded"
    local.make_store("recorded").result()
    local.stores.update_feature_online_store(
        feature_online_store={"name": name, "labels": {"a": "b"}},
        update_mask=field_mask_pb2.FieldMask(paths=["labels"]))
    with pytest.raises(errors.NotFound):
        local.endpoints.get_endpoint(name=f"{LOCATION}/endpoints/none")
    create, update, get = local.admin("GET", "requests")
    assert create == {
        "service": "vertex", "method": "vertex.CreateFeatureOnlineStore", "verb": "POST",
        "path": f"/v1/{LOCATION}/featureOnlineStores", "status": 200,
        "query": [["featureOnlineStoreId", "recorded"], ["$alt", "json;enum-encoding=int"]],
        "body": {"bigtable": {"autoScaling": {"minNodeCount": 1, "maxNodeCount": 1}}}}
    assert (update["verb"], update["path"], update["status"]) == ("PATCH", f"/v1/{name}", 200)
    assert ["updateMask", "labels"] in update["query"]
    assert update["body"] == {"labels": {"a": "b"}}
    assert (get["method"], get["body"], get["status"]) == ("vertex.GetEndpoint", None, 404)
    local.admin("DELETE", "requests")
    assert local.admin("GET", "requests") == []


def test_a_query_is_recorded(local):
    rows = local.bigquery.query("select 1 as one").result()
    assert [row.one for row in rows] == [1]
    (job,) = local.seen("bigquery.jobs.insert")
    assert job["body"]["configuration"]["query"]["query"] == "select 1 as one"
    assert local.seen("bigquery.jobs.getQueryResults")
    list(local.bigquery.query_and_wait("select 2 as two"))
    (query,) = local.seen("bigquery.jobs.query")
    assert query["body"]["query"] == "select 2 as two"


def test_a_load_job_goes_through_the_gateway(local):
    name = f"{PROJECT}.ds.loaded"
    local.bigquery.create_table(bigquery.Table(name, [bigquery.SchemaField("n", "INT64")]))
    file = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(1000))}), file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
    local.bigquery.load_table_from_file(file, name, size=None, job_config=config).result()
    begin, upload = local.seen("bigquery.jobs.insert")
    assert begin["body"]["configuration"]["load"]["sourceFormat"] == "PARQUET"
    assert (upload["verb"], upload["body"], upload["status"]) == ("PUT", None, 200)
    assert local.bigquery.get_table(name).num_rows == 1000
    assert len(list(local.bigquery.list_rows(name))) == 1000
    assert local.seen("bigquery.tabledata.list")


def test_uploads_and_downloads_of_objects_go_through_the_gateway(local):
    bucket = local.storage.bucket("things")
    small, large = b'{"mediaLink": "http://127.0.0.1:1/x"}', bytes(range(256)) * 4096 + b"end"
    bucket.blob("a/small file.json").upload_from_string(small, content_type="application/json")
    blob = bucket.blob("large")
    blob.chunk_size = 256 * 1024
    blob.upload_from_file(io.BytesIO(large))  # of unknown size: resumable
    first, *rest = local.seen("storage.objects.insert")
    assert first["body"]["name"] == "a/small file.json"
    begin, *chunks = rest
    assert begin["body"]["name"] == "large" and ["uploadType", "resumable"] in begin["query"]
    assert [c["status"] for c in chunks] == [308, 308, 308, 308, 200]
    found = {b.name: b for b in bucket.list_blobs()}
    assert found["large"].download_as_bytes() == large  # by its mediaLink
    assert found["a/small file.json"].download_as_bytes() == small
    assert {r["path"] for r in local.seen("storage.objects.get")} == {
        "/download/storage/v1/b/things/o/large",
        "/download/storage/v1/b/things/o/a/small file.json"}
    bucket.copy_blob(blob, bucket, "copied")
    bucket.blob("copied").delete()
    assert local.seen("storage.objects.copy") and local.seen("storage.objects.delete")


def test_a_read_session_is_recorded_and_its_rows_are_right(local):
    local.bigquery.query(
        "create or replace table ds.read as select x from unnest(generate_array(1, 500)) x"
    ).result()
    table = f"projects/{PROJECT}/datasets/ds/tables/read"
    session = _session(local, table)
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
    batches = [
        pa.ipc.read_record_batch(
            pa.py_buffer(message.arrow_record_batch.serialized_record_batch), schema)
        for message in local.read.read_rows(session.streams[0].name)]
    assert sorted(pa.Table.from_batches(batches)["x"].to_pylist()) == list(range(1, 501))
    (create,) = local.seen("bigquerystorage.CreateReadSession")
    assert (create["service"], create["verb"]) == ("bigquery_storage", "GRPC")
    assert create["status"] == 200
    assert create["body"]["readSession"]["table"] == table
    (rows,) = local.seen("bigquerystorage.ReadRows")
    assert rows["body"]["readStream"] == session.streams[0].name and rows["status"] == 200


def test_errors_of_the_read_api(local):
    with pytest.raises(errors.NotFound):
        _session(local, f"projects/{PROJECT}/datasets/ds/tables/nothing")
    local.fail({"method": "bigquerystorage.CreateReadSession", "status": "PERMISSION_DENIED",
                "message": "no readsessions.create", "reason": "IAM_PERMISSION_DENIED"})
    with pytest.raises(errors.PermissionDenied, match="no readsessions.create") as refused:
        _session(local, f"projects/{PROJECT}/datasets/ds/tables/nothing")
    assert refused.value.reason == "IAM_PERMISSION_DENIED"
    statuses = [r["status"] for r in local.seen("bigquerystorage.CreateReadSession")]
    assert statuses == [404, 403]


def _session(local, table):
    return local.read.create_read_session(
        parent=f"projects/{PROJECT}", max_stream_count=1,
        read_session={"table": table, "data_format": "ARROW"})


def test_programs_are_recorded_but_vertex_itself_is_not(local, view, wait_for):
    local.admin("DELETE", "requests")
    sync = local.stores.sync_feature_view(feature_view=view).feature_view_sync
    assert wait_for(lambda: ended(local, sync)).final_status.code == 0
    assert {r["service"] for r in local.admin("GET", "requests")} == {"vertex"}
    job = local.jobs.create_custom_job(parent=LOCATION, custom_job={
        "display_name": "j", "job_spec": {
            "scheduling": {"timeout": duration_pb2.Duration(seconds=60)},
            "worker_pool_specs": [{"replica_count": 1, "container_spec": {
                "image_uri": "program", "command": [sys.executable, "-c", PROGRAM]}}]}}).name
    state = wait_for(lambda: _over(local, job), 60)
    assert state == aiplatform_v1.JobState.JOB_STATE_SUCCEEDED
    queries = [r["body"]["configuration"]["query"]["query"]
               for r in local.seen("bigquery.jobs.insert")]
    assert queries == ["select 1 as by_a_program"]
    assert [r["body"]["name"] for r in local.seen("storage.objects.insert")] == ["by-a-program"]


def _over(local, job):
    found = local.jobs.get_custom_job(name=job)
    return found.state if found.end_time else None


def test_names_of_methods():
    images = "/v1/projects/p/locations/l/repositories/r/dockerImages/a%2Fb@sha256:1"
    for service, verb, path, name in (
        ("bigquery", "GET", "/bigquery/v2/projects/p/datasets/d/tables", "bigquery.tables.list"),
        ("bigquery", "PATCH", "/bigquery/v2/projects/p/datasets/d", "bigquery.datasets.patch"),
        ("bigquery", "GET", "/bigquery/v2/projects/p/queries/j", "bigquery.jobs.getQueryResults"),
        ("storage", "GET", "/storage/v1/b/x/o/a%2Fb", "storage.objects.get"),
        ("storage", "POST", "/storage/v1/b/x/o/a/rewriteTo/b/y/o/c", "storage.objects.rewrite"),
        ("storage", "GET", "/wipe", "storage.unknown"),
        ("platform", "GET", "/v3/projects/p", "cloudresourcemanager.projects.get"),
        ("platform", "POST", "/v3/projects/p:testIamPermissions",
         "cloudresourcemanager.projects.testIamPermissions"),
        ("platform", "GET", "/v1/projects/p/services:batchGet", "serviceusage.services.batchGet"),
        ("platform", "GET", images,
         "artifactregistry.projects.locations.repositories.dockerImages.get"),
        ("vertex", "POST", f"/v1/{LOCATION}/models:upload", "vertex.UploadModel"),
        ("vertex", "GET", f"/ui/{LOCATION}/operations/1", "vertex.GetOperation"),
        ("vertex", "GET", "/v1/nothing", "vertex.unknown"),
    ):
        assert method_of(service, verb, path) == name
    assert json_of("application/json; charset=utf-8", b"[1]") == [1]
    assert json_of("application/octet-stream", b"[1]") is None
    assert json_of("application/json", b"{") is None
    assert json_of("multipart/related", b"") is None


# Starting and stopping


def test_only_the_tests_module_adds_admin_routes(tmp_path):
    running, _ = process.start(PROJECT, None, state=tmp_path)
    try:
        assert "admin" not in running
        assert process.start(PROJECT, None, state=tmp_path) == (running, False)
        for service in ("vertex", "bigquery", "storage"):
            for what in ("faults", "requests"):
                answer = requests.get(f"{running[service]}/admin/{what}")
                assert answer.status_code in (404, 501)
        with_admin = local_cloud.start(PROJECT, None, state=tmp_path)
        assert with_admin["pid"] != running["pid"] and "admin" in with_admin
        assert process.start(PROJECT, None, state=tmp_path) == (with_admin, False)
        requests.post(f"{with_admin['admin']}/admin/faults", json=[
            {"method": "vertex.ListEndpoints", "seconds": 600}]).raise_for_status()
        waiting = threading.Thread(target=lambda: requests.get(
            f"{with_admin['vertex']}/v1/{LOCATION}/endpoints"), daemon=True)
        waiting.start()
        time.sleep(0.3)
    finally:
        start = time.monotonic()
        assert process.stop(tmp_path)
    assert time.monotonic() - start < 10 and process.ended(with_admin["pid"])
