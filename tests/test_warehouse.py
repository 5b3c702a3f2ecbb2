"""What lib.warehouse sends to BigQuery, through the real client, against a small HTTP server.

The server keeps the layout and the labels of tables, which the local BigQuery does not, and
refuses what BigQuery refuses: another layout, and a statement above its own cap.
"""

import dataclasses
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.auth.credentials import AnonymousCredentials

from lib import config, warehouse
from lib.cloud import Cloud
from lib.errors import Needed

PROJECT, DATASET = "some-project-1", "churn_dev"
OURS = {"app": "churn", "env": "dev", "owner": "data-platform", "run_id": "old"}
BY_DAY = {"timePartitioning": {"type": "DAY", "field": "label_timestamp"},
          "clustering": {"fields": ["customer_id"]}}
OTHER_LAYOUTS = [
    {}, {**BY_DAY, "clustering": {"fields": ["label_timestamp"]}},
    {"timePartitioning": BY_DAY["timePartitioning"]}, {"clustering": BY_DAY["clustering"]},
    {**BY_DAY, "timePartitioning": {"type": "MONTH", "field": "label_timestamp"}},
    {**BY_DAY, "timePartitioning": {"type": "DAY"}},
    {"rangePartitioning": {"field": "customer_id", "range": {}}}]


class BigQuery(BaseHTTPRequestHandler):
    """As much of the API as one build needs. The state is kept on the server object."""

    def do_GET(self):
        self._answer(None)

    def do_DELETE(self):
        self._answer(None)

    def do_POST(self):
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    do_PATCH = do_POST

    def log_message(self, *_):
        pass

    def _answer(self, body):
        path = self.path.split("?")[0].removeprefix(f"/bigquery/v2/projects/{PROJECT}/")
        self.server.requests.append((self.command, path, body))
        status, answer = self._handle(path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self, path, body):
        tables = self.server.tables
        if path == "jobs":
            return self._job(body)
        if path.startswith("queries/"):
            return 200, {"jobComplete": True, "totalRows": "0", "jobReference": self._reference}
        if path == f"datasets/{DATASET}":
            return 200, self._named({"labels": self.server.dataset_labels})
        name = path.removeprefix(f"datasets/{DATASET}/tables/")
        if name not in tables:
            return 404, {"error": {"code": 404, "message": f"Not found: Table {name}"}}
        if self.command == "DELETE":
            del tables[name]
        elif self.command == "PATCH":
            tables[name]["labels"] = body["labels"]
        return 200, self._named(tables.get(name, {}), name)

    def _job(self, body):
        self._reference["jobId"] = body["jobReference"]["jobId"]
        query, dry_run = body["configuration"]["query"], body["configuration"].get("dryRun")
        if int(query.get("maximumBytesBilled") or 1e18) < self.server.scanned:
            return 400, {"error": {"code": 400, "message": "Query exceeded limit for bytes billed",
                                   "errors": [{"reason": "bytesBilledLimitExceeded"}]}}
        name, layout = self._made_by(query["query"])
        old = self.server.tables.get(name)
        if old is not None and {k: v for k, v in old.items() if k != "labels"} != layout:
            return 400, {"error": {"code": 400, "message": (
                "Cannot replace a table with a different partitioning spec. Instead, DROP the "
                "table, and then recreate it."), "errors": [{"reason": "invalid"}]}}
        if not dry_run:
            kept = {"labels": old["labels"]} if old and self.server.keeps_labels else {}
            self.server.tables[name] = layout | kept
        return 200, {"jobReference": self._reference, "configuration": body["configuration"],
                     "status": {"state": "DONE"}, "statistics": {
                         "query": {"totalBytesProcessed": str(self.server.scanned)}}}

    _reference = {"projectId": PROJECT, "location": "US"}

    @staticmethod
    def _made_by(sql):
        """Name and layout, read line by line: not by the code under test."""
        name, layout = re.search(r"\.(\w+)`\n", sql)[1], {}
        for line in sql.split("\nas\n")[0].splitlines():
            if line.startswith("partition by timestamp_trunc("):
                field, unit = line.removesuffix(")").split("(")[1].split(", ")
                layout["timePartitioning"] = {"type": unit.upper(), "field": field}
            if line.startswith("cluster by "):
                layout["clustering"] = {"fields": line.split()[2:]}
        return name, layout

    @staticmethod
    def _named(resource, name=None):
        reference = {"projectId": PROJECT, "datasetId": DATASET}
        return resource | ({"tableReference": reference | {"tableId": name}} if name
                           else {"datasetReference": reference})


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), BigQuery) as running:
        running.requests, running.scanned, running.dataset_labels = [], 1000, OURS
        running.keeps_labels = False
        running.tables = {"raw_orders": {"labels": OURS | {"build": "1"}}}
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def cloud(server):
    settings = config.load(target="gcp", env="dev", overrides={
        "targets": {"gcp": {"project": PROJECT}}})
    return Cloud(settings, AnonymousCredentials(), "https://vertex.invalid",
                 bigquery_rest=f"http://127.0.0.1:{server.server_port}")


def deleted(server):
    return [path.rsplit("/", 1)[1] for verb, path, _ in server.requests if verb == "DELETE"]


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
@pytest.mark.parametrize("labels", [OURS | {"fingerprint": "x", "build": "1"}, {}])
def test_our_table_with_another_layout_is_deleted_and_made_anew(server, cloud, layout, labels):
    server.tables["labels_customer_churn"] = layout | {"labels": labels}
    assert warehouse.build(cloud, "03_build_labels_churn").status == "created"
    assert deleted(server) == ["labels_customer_churn"]
    table = server.tables["labels_customer_churn"]
    assert {k: v for k, v in table.items() if k != "labels"} == BY_DAY
    assert cloud.settings.owns(table["labels"])
    assert warehouse.build(cloud, "03_build_labels_churn").status == "reused"


def test_our_table_with_the_same_layout_is_replaced_in_place(server, cloud):
    server.tables["labels_customer_churn"] = BY_DAY | {"labels": OURS}
    assert warehouse.build(cloud, "03_build_labels_churn").status == "created"
    assert deleted(server) == []


@pytest.mark.parametrize("keeps_labels", [False, True])
def test_an_interrupted_build_is_repeated(server, cloud, monkeypatch, keeps_labels):
    """Google does not say whether `create or replace table` keeps a table's labels."""
    server.keeps_labels, file = keeps_labels, "03_build_labels_churn"
    warehouse.build(cloud, file)
    settings = config.load(target="gcp", env="dev", overrides={
        "targets": {"gcp": {"project": PROJECT}}, "label": {"active_days": 60}})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(warehouse, "stamp", killed)
        warehouse.build(dataclasses.replace(cloud, settings=settings), file)
    assert warehouse.build(cloud, file).status == "created"  # the rows are those of 60 days


@pytest.mark.parametrize("labels, of_dataset", [
    (OURS | {"app": "another"}, OURS), (OURS | {"env": "prod"}, OURS), ({"team": "x"}, OURS),
    ({}, {}), ({}, OURS | {"app": "another"})])
def test_a_table_that_is_not_ours_is_refused(server, cloud, labels, of_dataset):
    server.dataset_labels = of_dataset
    server.tables["labels_customer_churn"] = {"labels": labels}
    with pytest.raises(Needed, match="not ours to replace") as refused:
        warehouse.build(cloud, "03_build_labels_churn")
    assert f"{PROJECT}.{DATASET}.labels_customer_churn exists, is neither partitioned nor " \
        "clustered" in refused.value.cause
    assert refused.value.command == f"bq rm -t {PROJECT}:{DATASET}.labels_customer_churn"
    assert {verb for verb, *_ in server.requests} == {"GET"}
    assert server.tables["labels_customer_churn"] == {"labels": labels}


def test_one_table_that_is_not_ours_keeps_the_others_of_its_file(server, cloud):
    server.tables["raw_orders"]["labels"] = {"app": "another"}
    server.tables["raw_users"] = {"labels": OURS}
    with pytest.raises(Needed, match="raw_orders exists"):
        warehouse.build(cloud, "01_prepare_bq")
    assert deleted(server) == [] and "raw_users" in server.tables


def test_each_statement_runs_with_a_cap_and_is_estimated_without(server, cloud):
    warehouse.build(cloud, "03_build_labels_churn")
    estimate, run = [body["configuration"] for _, path, body in server.requests if path == "jobs"]
    assert estimate["dryRun"] is True and "maximumBytesBilled" not in estimate["query"]
    assert "dryRun" not in run
    assert run["query"]["maximumBytesBilled"] == str(cloud.settings.costs.max_bytes_billed)


def test_over_the_cap_our_own_message_comes(server, cloud):
    server.scanned = cloud.settings.costs.max_bytes_billed + 1
    with pytest.raises(Needed, match="over the cap") as refused:
        warehouse.build(cloud, "03_build_labels_churn")
    assert "snapshots.sample_percent" in refused.value.need
    assert "labels_customer_churn" not in server.tables


def test_over_the_cap_an_old_table_stays(server, cloud):
    server.tables["labels_customer_churn"] = OTHER_LAYOUTS[0] | {"labels": OURS}
    server.scanned = cloud.settings.costs.max_bytes_billed + 1
    with pytest.raises(Needed, match="over the cap"):
        warehouse.build(cloud, "03_build_labels_churn")
    assert deleted(server) == [] and "labels_customer_churn" in server.tables
