"""The ports of the local cloud take anything that is sent to them, and refuse web pages.

Requests are drawn by hypothesis (fuzzing.py). `--hypothesis-profile=thorough` draws 20 times as
many. Images do not exist here, so no request starts a program.
"""

import contextlib
import gzip
import ipaddress
import json
import re
import socket
import time
from urllib.parse import quote, urlsplit

import psutil
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kfp import compiler, dsl

from lib.localcloud import rest
from lib.localcloud.platform import Platform
from lib.localcloud.vertex import app
from tests.contract.schema import document
from tests.localcloud.fuzzing import (
    JSON,
    changed,
    discovery_methods,
    from_discovery,
    messages,
    paths,
    texts,
)

PARENT = "projects/p1/locations/l1"
FOREIGN = [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Host": ""},
           {"Origin": "https://evil.example"}, {"Origin": "null"},
           {"Origin": "http://localhost:8888"}, {"Sec-Fetch-Site": "cross-site"},
           {"Sec-Fetch-Site": "same-site"}]
fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def ports(vertex, bq_server, bq, gcs):
    """Service -> its address, with a dataset and a bucket."""
    gcs.create_bucket("surface")
    bq.query("create or replace table ds.surface as select 1 as id").result()
    return {"vertex": vertex.url, "bigquery": bq_server.rest,
            "storage": gcs.api_endpoint}


SOME_PATH = {"vertex": f"/v1/{PARENT}/models", "bigquery": "/bigquery/v2/projects/p1/datasets",
             "storage": "/storage/v1/b?project=p1"}
SERVICES = list(SOME_PATH)


@pytest.mark.parametrize("service", SERVICES)
def test_a_web_page_is_refused(ports, service):
    url = ports[service] + SOME_PATH[service]
    assert requests.get(url).status_code == 200
    for name in ("127.0.0.1", "localhost"):  # as the user wrote it, with or without the port
        assert requests.get(url, headers={"Host": name}).status_code == 200
    for headers in FOREIGN:
        for verb in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = requests.request(verb, url, headers=headers, data="{}")
            assert answer.status_code == 403, (verb, headers, answer.text)
            assert "not web pages" in answer.json()["error"]["message"]
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_web_page_changes_nothing(ports, gcs):
    """A form, and the address of an image: neither needs the page's permission to read."""
    form = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    url = f"{ports['storage']}/storage/v1/b?project=p1"
    assert requests.post(url, json={"name": "planted"}, headers=form).status_code == 403
    assert gcs.lookup_bucket("planted") is None
    assert requests.get(f"{ports['storage']}/wipe").status_code == 501
    assert gcs.lookup_bucket("surface") is not None


@pytest.mark.parametrize("service", SERVICES)
def test_compressed_requests_are_refused_unread(ports, service):
    bomb = gzip.compress(bytes(20_000_000))
    for encoding in ("gzip", "deflate", "br"):
        answer = requests.post(ports[service] + SOME_PATH[service], data=bomb,
                               headers={"Content-Encoding": encoding})
        assert answer.status_code == 415


@pytest.mark.parametrize("body", [
    b" " * 20_000_000 + b"{", b'{"labels": {"a": "' + b"x" * 20_000_000 + b'"}}',
    b'{"query": "select 1 ' + b"+ 1" * 5_000 + b'"}', b"[" * 2_000_000,
    b'{"a":' * 200_000 + b"1" + b"}" * 200_000, b'{"n": ' + b"9" * 100_000 + b"}",
    b"\x00\xff" * 1000], ids=["blanks", "20 MB of text", "a long sum", "lists", "objects",
                              "a long number", "bytes"])
@pytest.mark.parametrize("path", [
    f"vertex /v1/{PARENT}/featureGroups?featureGroupId=g", f"vertex /v1/{PARENT}/pipelineJobs",
    f"vertex /v1/{PARENT}/endpoints/e:predict", "bigquery /bigquery/v2/projects/p1/datasets",
    "bigquery /bigquery/v2/projects/p1/jobs", "bigquery /bigquery/v2/projects/p1/queries",
    "storage /storage/v1/b?project=p1", "storage /upload/storage/v1/b/none/o?uploadType=media"])
def test_large_and_deep_bodies(ports, path, body):
    service, path = path.split(" ")
    answer = requests.post(ports[service] + path, data=body,
                           headers={"Content-Type": "application/json"}, timeout=60)
    assert 400 <= answer.status_code < 500 or answer.status_code == 501, answer.text[:500]
    check = requests.get(ports[service] + SOME_PATH[service], timeout=60)
    assert check.status_code == 200


def test_metadata_that_are_no_object_change_nothing(ports, gcs):
    blob = gcs.bucket("surface").blob("kept")
    blob.upload_from_string("x")
    for body in ("true", "[]", '"a"', "1"):
        answer = requests.patch(f"{ports['storage']}/storage/v1/b/surface/o/kept", data=body,
                                headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (body, answer.text)
    before = blob.metageneration
    blob.reload()
    assert blob.metageneration == before


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_that_stops_in_the_middle_holds_up_nobody(ports, service):
    address = urlsplit(ports[service])
    beginnings = (b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                  b"\r\n{", b"GET / HTTP/1.1\r\nX: ")
    held = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
    try:
        for number, connection in enumerate(held):
            connection.sendall(beginnings[number % len(beginnings)])
        answer = requests.get(ports[service] + SOME_PATH[service], timeout=30)
        assert answer.status_code == 200
    finally:
        for connection in held:
            connection.close()


def test_every_listener_is_on_loopback(ports, vertex, location):
    """Also those of model servers, which are processes of their own."""
    model = vertex.models.upload_model(parent=location, model={
        "display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}).result().model
    endpoint = vertex.endpoints.create_endpoint(
        parent=location, endpoint={"display_name": "e"}).result().name
    vertex.endpoints.deploy_model(
        endpoint=endpoint, traffic_split={"0": 100}, deployed_model={
            "model": model, "dedicated_resources": {
                "machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}},
    ).result()
    me = psutil.Process()
    own, others = [[connection.laddr for process in processes
                    for connection in process.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN]
                   for processes in ([me], me.children(recursive=True))]
    assert {urlsplit(url).port for url in ports.values()} <= {address.port for address in own}
    assert others  # the model server's
    for address in own + others:
        ip = ipaddress.ip_address(address.ip)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, address
    (deployed,) = vertex.endpoints.get_endpoint(name=endpoint).deployed_models
    vertex.endpoints.undeploy_model(
        endpoint=endpoint, deployed_model_id=deployed.id, traffic_split={}).result()


# --- fuzzing: Vertex AI and the platform APIs, by their protobuf messages


@dsl.container_component
def say(text: str):
    return dsl.ContainerSpec("r/none:1", ["say"], ["--text", text])


@dsl.pipeline(name="said")
def said(text: str = "a"):
    first = say(text=text)
    with dsl.If(text == "a"):
        say(text="b").after(first)


@pytest.fixture(scope="module")
def target(bq, bq_server, gcs, tmp_path_factory):
    """A stand-in of its own, with one resource of each kind; no image exists."""
    folder = tmp_path_factory.mktemp("fuzzed")
    bq.query("create or replace table ds.fuzzed as select 'a' as id, 2.5 as f, "
             "timestamp '2024-01-01' as feature_timestamp").result()
    vertex = app.start(folder, "p1", {
        "bigquery": bq_server.rest, "bigquery_grpc": bq_server.grpc, "storage": gcs.api_endpoint},
        images={})
    platform = Platform("p1", app.PROJECT_NUMBER, folder / "registry.json")
    target = Target(vertex, platform, "bq://p1.ds.fuzzed", _spec(folder))
    target.seed()
    yield target
    app.stop(vertex)


def _spec(folder):
    file = folder / "said.json"
    compiler.Compiler().compile(said, str(file))
    return json.loads(file.read_text())


class Target:
    """A stand-in to fuzz: valid bodies, the names that exist, its state."""

    ids = {"projects": ["p1", str(app.PROJECT_NUMBER)], "locations": ["l1"],
           "featureGroups": ["fg"], "features": ["f"], "featureOnlineStores": ["store"],
           "featureViews": ["view"], "models": ["m", "m@1", "m@default"], "endpoints": ["e"],
           "pipelineJobs": ["job"]}
    names = [f"{PARENT}/featureGroups/fg", f"{PARENT}/models/m", f"{PARENT}/models/m@1",
             f"{PARENT}/endpoints/e", "fg", "f", "id", "view", "store", "a", "default"]

    def __init__(self, vertex, platform, uri, spec):
        self.apis = [platform.api(), app.api(vertex)]
        self.vertex = vertex
        self.names = [*self.names, uri]
        scaling = {"autoScaling": {"minNodeCount": 1, "maxNodeCount": 2}}
        resources = {"machineSpec": {"machineType": "n1-standard-2"}, "minReplicaCount": 1}
        container = {"imageUri": "r/none:1", "command": ["say"], "args": ["x"]}
        sources = {"featureGroups": [{"featureGroupId": "fg", "featureIds": ["f"]}]}
        self.valid = {
            "CreateFeatureGroup": ({"bigQuery": {
                "bigQuerySource": {"inputUri": uri}, "entityIdColumns": ["id"]},
                "labels": {"a": "b"}}, {"featureGroupId": "fg"}),
            "CreateFeature": ({"versionColumnName": "f"}, {"featureId": "f"}),
            "CreateFeatureOnlineStore": ({"bigtable": scaling}, {"featureOnlineStoreId": "store"}),
            "CreateFeatureView": ({
                "featureRegistrySource": sources, "syncConfig": {"cron": "TZ=UTC 0 3 * * *"}},
                {"featureViewId": "view"}),
            "UpdateFeature": ({"description": "f"}, {"updateMask": "description"}),
            "UpdateFeatureOnlineStore": ({"bigtable": scaling},
                                         {"updateMask": "bigtable.autoScaling"}),
            "UpdateFeatureView": ({"syncConfig": {"cron": "0 4 * * *"}},
                                  {"updateMask": "syncConfig"}),
            "FetchFeatureValues": ({"dataKey": {"key": "a"}, "dataFormat": "KEY_VALUE"}, {}),
            "UploadModel": ({"modelId": "m", "model": {
                "displayName": "m", "artifactUri": "gs://b/m", "versionAliases": ["good"],
                "containerSpec": {"imageUri": "r/none:1", "env": [{"name": "A", "value": "b"}]}}},
                {}),
            "ImportModelEvaluation": ({"modelEvaluation": {
                "displayName": "e", "metricsSchemaUri": "gs://s", "metrics": {"auRoc": 0.7}}}, {}),
            "CreateEndpoint": ({"displayName": "e", "labels": {"a": "b"}}, {"endpointId": "e"}),
            "DeployModel": ({"deployedModel": {
                "model": f"{PARENT}/models/m", "dedicatedResources": resources},
                "trafficSplit": {"0": 100}}, {}),
            "Predict": ({"instances": [{"f": 1}], "parameters": {"a": 1}}, {}),
            "CreatePipelineJob": ({"pipelineSpec": spec, "runtimeConfig": {
                "gcsOutputDirectory": "gs://b/root", "parameterValues": {"text": "a"}}},
                {"pipelineJobId": "job"}),
            "CreateCustomJob": ({"displayName": "j", "jobSpec": {
                "workerPoolSpecs": [{"machineSpec": resources["machineSpec"],
                                     "replicaCount": "1", "containerSpec": container}]}}, {}),
        }

    def call(self, verb, path, query=(), body=b""):
        """HTTP status and the decoded answer."""
        status, content, _ = rest.answer(self.apis, verb, path, list(query), body)
        return status, json.loads(content)

    def seed(self):
        parents = {"CreateFeature": "/featureGroups/fg/features",
                   "CreateFeatureView": "/featureOnlineStores/store/featureViews"}
        for rpc, path in {
                "CreateFeatureGroup": "/featureGroups", "CreateFeature": parents["CreateFeature"],
                "CreateFeatureOnlineStore": "/featureOnlineStores",
                "CreateFeatureView": parents["CreateFeatureView"], "UploadModel": "/models:upload",
                "CreateEndpoint": "/endpoints", "CreatePipelineJob": "/pipelineJobs"}.items():
            body, query = self.valid[rpc]
            status, answer = self.call(
                "POST", f"/v1/{PARENT}{path}", query.items(), json.dumps(body).encode())
            assert status in (200, 409), answer
        self.before = self.state()

    def state(self):
        """Everything stored, once what runs in the background has ended."""
        def rows(table):
            return self.vertex.state.connection().execute(f"select * from {table}").fetchall()

        while not self.ended():
            time.sleep(0.002)
        return {table: rows(table) for table in (
            "resources", "operations", "online_values", "task_cache")}

    def ended(self):
        """No operation, sync or job is running."""
        state = self.vertex.state
        return (all(operation["done"] for operation in state.operations())
                and all(sync.run_time.HasField("end_time")
                        for sync in state.all("featureViewSyncs"))
                and all(job.HasField("end_time") for kind in ("pipelineJobs", "customJobs")
                        for job in state.all(kind)))


def changes(before, after):
    """The keys of all rows that are not the same."""
    return [(table, row[0]) for table in before
            for row in set(before[table]) ^ set(after[table])]


ROUTES = [route for route in app.ROUTES if route.rpc in app.METHODS]


@st.composite
def vertex_requests(draw, target):
    """(route, path, query, body) of one of the methods."""
    route = draw(st.sampled_from(ROUTES))
    path = draw(paths(route.path.pattern, target.ids))
    message = route.request().DESCRIPTOR
    if route.body not in ("", "*"):
        message = message.fields_by_name[route.body].message_type
    valid, query = target.valid.get(route.rpc, ({}, {}))
    body = draw(st.one_of(changed(valid, target.names), messages(message, target.names), JSON)
                if route.body else st.just({}) | st.just({}) | JSON)
    names = sorted({field.json_name for field in route.request().DESCRIPTOR.fields})
    more = draw(st.lists(st.tuples(
        st.sampled_from(names + ["force", "pageSize", "filter", "x"]), texts(target.names)),
        max_size=2))
    return route, path, [*draw(changed(query, target.names)).items(), *more], body


@fuzz
@given(data=st.data())
def test_every_method_answers_whatever_the_message_is(target, trials, data):
    trials()
    route, path, query, body = data.draw(vertex_requests(target))
    query = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in query]
    status, answer = target.call(route.verb, path, query, json.dumps(body).encode())
    assert status < 500 or status in (501, 503), (status, answer)
    if status != 200:
        before, target.before = target.before, target.state()
        assert changes(before, target.before) == [], answer
        assert answer["error"]["message"] and answer["error"]["status"]
    for operation in target.vertex.state.operations():
        assert operation.get("error", {}).get("code") != 13, operation
    if status == 200:
        target.seed()  # whatever was deleted


@pytest.mark.parametrize("depth", [50, 90, 110, 300, 900, 5000])
def test_nesting(target, depth):
    """Python's JSON reader, protobuf's and the stand-in's own code have limits of their own."""
    lists = f'{"[" * depth}1{"]" * depth}'
    objects = '{"a":' * depth + "1" + "}" * depth
    for path, body in (
            ("endpoints/e:predict", '{"instances": [%s]}'), ("endpoints", '{"metadata": %s}'),
            ("models:upload", '{"model": {"metadata": %s}}'),
            ("pipelineJobs", '{"pipelineSpec": %s}'),
            ("pipelineJobs", json.dumps(target.valid["CreatePipelineJob"][0]).replace(
                '"text": "a"', '"text": %s')),
            ("customJobs", '{"jobSpec": {"workerPoolSpecs": %s}}')):
        for value in (lists, objects):
            before = target.state()
            status, answer = target.call(
                "POST", f"/v1/{PARENT}/{path}", body=body.replace("%s", value).encode())
            assert status == 200 or 400 <= status < 500, (path, answer)
            if status != 200:
                assert changes(before, target.state()) == []


# --- fuzzing: BigQuery and Cloud Storage, by Google's discovery documents

VALID = {
    "bigquery.datasets.insert": {"datasetReference": {"projectId": "p1", "datasetId": "ds"}},
    "bigquery.tables.insert": {
        "tableReference": {"projectId": "p1", "datasetId": "ds", "tableId": "t"},
        "schema": {"fields": [{"name": "id", "type": "INTEGER", "mode": "NULLABLE"}]}},
    "bigquery.tabledata.insertAll": {"rows": [{"insertId": "1", "json": {"id": "1"}}]},
    "bigquery.jobs.query": {"query": "select id from ds.t", "useLegacySql": False,
                            "maxResults": 5},
    "bigquery.jobs.insert": {
        "jobReference": {"projectId": "p1", "jobId": "j"},
        "configuration": {"query": {"query": "select id from ds.t", "useLegacySql": False}}},
    "storage.buckets.insert": {"name": "b", "labels": {"a": "b"}, "location": "US"},
    "storage.objects.insert": {"name": "o", "contentType": "text/plain"},
    "storage.objects.compose": {"sourceObjects": [{"name": "o"}], "destination": {}},
}
NAMES = ["p1", "ds", "t", "id", "b", "o", "INTEGER", "select 1", "select id from ds.t",
         "drop table x", "insert into ds.t values (1)"]
METHODS = {service: discovery_methods(document(f"{service}.{version}"))
           for service, version in (("bigquery", "v2"), ("storage", "v1"))}
FIXED = {"projectId": "p1", "projectsId": "p1", "datasetId": "ds", "datasetsId": "ds",
         "tableId": "t", "tablesId": "t", "jobId": "j", "jobsId": "j", "bucket": "b",
         "object": "o"}


class Emulators:
    """BigQuery and Cloud Storage of their own, with a dataset, a table, a bucket and an object."""

    def __init__(self, urls):
        self.urls = urls
        self.session = requests.Session()

    def call(self, service, verb, path, **options):
        return self.session.request(verb, self.urls[service] + path, timeout=60, **options)

    def seed(self):
        base = "/bigquery/v2/projects/p1/datasets"
        for service, path, method in (
                ("bigquery", base, "bigquery.datasets.insert"),
                ("bigquery", f"{base}/ds/tables", "bigquery.tables.insert"),
                ("storage", "/storage/v1/b?project=p1", "storage.buckets.insert")):
            answer = self.call(service, "POST", path, json=VALID[method])
            assert answer.status_code in (200, 400, 409), answer.text  # 400: Cloud Storage has it
        self.call("storage", "POST", "/upload/storage/v1/b/b/o?uploadType=media&name=o",
                  data=b"x", params={"ifGenerationMatch": 0})
        self.before = self.state()

    def state(self):
        base = "/bigquery/v2/projects/p1/datasets"
        paths = [("bigquery", base), ("bigquery", f"{base}/ds"), ("bigquery", f"{base}/ds/tables"),
                 ("bigquery", f"{base}/ds/tables/t"), ("bigquery", f"{base}/ds/tables/t/data"),
                 ("storage", "/storage/v1/b?project=p1"), ("storage", "/storage/v1/b/b"),
                 ("storage", "/storage/v1/b/b/o")]
        return {path: self.call(service, "GET", path).text for service, path in paths}


@pytest.fixture(scope="module")
def emulators(start_emulators, tmp_path_factory):
    with start_emulators(tmp_path_factory.mktemp("emulators")) as urls:
        running = Emulators(urls)
        running.seed()
        yield running
        running.session.close()


@st.composite
def emulator_requests(draw, service):
    """(verb, path, query, JSON body or None) of a method of the discovery document."""
    description = document({"bigquery": "bigquery.v2", "storage": "storage.v1"}[service])
    method = draw(st.sampled_from(METHODS[service]))
    path = "/" + description["servicePath"] + re.sub(
        r"{\+?(\w+)}", lambda name: quote(
            draw(st.just(FIXED.get(name[1], "x")) | st.just(FIXED.get(name[1], "x"))
                 | texts(NAMES)).encode(errors="replace"), safe=""),
        method.get("flatPath", method["path"]))
    if method["id"] == "storage.objects.insert":
        path = "/upload" + path
    known = sorted(method.get("parameters", {})) + ["alt", "uploadType", "upload_id"]
    query = draw(st.lists(st.tuples(st.sampled_from(known), texts(NAMES)), max_size=3))
    query = [(key, value.encode(errors="replace")) for key, value in query]
    body = None
    if "request" in method:
        made = from_discovery(description, method["request"], NAMES)
        valid = VALID.get(method["id"])
        body = draw(changed(valid, NAMES) | made | JSON if valid else made | JSON)
    return method["httpMethod"], path, query, body


@pytest.mark.parametrize("service", ["bigquery", "storage"])
@fuzz
@given(data=st.data())
def test_every_route_of_the_emulators_answers(emulators, service, trials, data):
    trials()
    verb, path, query, body = data.draw(emulator_requests(service))
    content = None if body is None else json.dumps(body).encode()
    answer = emulators.call(service, verb, path, params=query, data=content,
                            headers={"Content-Type": "application/json"})
    assert answer.status_code < 500 or answer.status_code == 501, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        before, emulators.before = emulators.before, emulators.state()
        assert [key for key in before if before[key] != emulators.before[key]] == [], answer.text
    else:
        emulators.seed()  # whatever was deleted


@pytest.mark.parametrize("service", SERVICES)
@fuzz
@given(lines=st.lists(st.sampled_from([
    b"GET / HTTP/1.1", b"GET", b"POST /storage/v1/b HTTP/1.1", b"\x16\x03\x01", b"PRI * HTTP/2.0",
    b"BREW /pot HTTP/1.1", b"GET /%ff%00/../.. HTTP/1.1", b"GET http://evil.example/ HTTP/1.1",
    b"Host: localhost", b"Host: a", b"Content-Length: -1", b"Content-Length: 9999999999999999999",
    b"Content-Length: 2", b"Transfer-Encoding: chunked", b"zz", b"0", b"{}", b"Upgrade: websocket",
    b"Connection: Upgrade", b"Expect: 100-continue", b"Content-Type: multipart/related; boundary=a",
    b"Content-Type: multipart/related", b"--a", b"x-http-method-override: GET", b"", b"A" * 70_000,
]) | st.binary(max_size=40), max_size=8))
def test_raw_bytes(ports, service, trials, lines):
    trials()
    address = urlsplit(ports[service])
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.settimeout(60)
        with contextlib.suppress(ConnectionError):  # it may hang up at nonsense
            connection.sendall(b"\r\n".join([*lines, b"", b""]))
            with contextlib.suppress(OSError):  # "not connected", if it has done so already
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
            assert not re.match(rb"HTTP/1\.[01] 50[^15]", answer), answer
    assert requests.get(ports[service] + SOME_PATH[service], timeout=60).status_code == 200
