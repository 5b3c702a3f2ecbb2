"""Teardown deletes what a run made, wherever the run stopped, and nothing else.

On a local cloud of its own, with 1,000 users of theLook: other tests need theirs.
"""

import dataclasses
import io
import json
import threading
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from google.api_core.exceptions import BadRequest, Forbidden
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as vertex
from google.cloud import bigquery, storage

from lib import config, endpoint, feature_store, lookups, model_registry, warehouse
from lib.cloud import EMULATOR_VARIABLES, Cloud
from lib.config import ROOT
from lib.errors import Needed
from lib.localcloud import process
from lib.operate import teardown
from lib.operate.inventory import KINDS
from lib.proof import freshness, planted
from lib.training import custom_jobs, inputs, jobs, pipeline_job, training
from tests.support import forked

PROJECT = "local-demo"
TINY = {
    "thelook": {"users": 1000}, "snapshots": {"history_days": 210},
    "label": {"positive_rate_band": [0.01, 0.999]}, "checks": {"max_honest_roc_auc": 1.0},
    "train": {"min_roc_auc": 0.0, "params": {
        "random_forest": {"n_estimators": 3, "max_depth": 3, "min_samples_leaf": 5}}},
    "waits": {"first_pause_seconds": 0.02, "longest_pause_seconds": 0.2},
}
KEPT = "_kept"  # copies of the tables that were built first
LEFT_OUT = ("_vertex_sync", KEPT)  # the first is a dataset of the stand-in itself
LABELS = {"app": "churn", "env": "dev"}


def settings_of(env="dev", **changes):
    return config.load(target="local", env=env, overrides={**TINY, **changes})


def isolated_sdk(patch):
    """Have the monkeypatch restore the SDK's project and address, which are global."""
    from google.cloud.aiplatform import initializer
    from google.cloud.aiplatform.utils import resource_manager_utils

    for key, value in vars(initializer.global_config).items():
        patch.setattr(initializer.global_config, key, value)
    patch.setattr(resource_manager_utils, "get_project_number",
                  resource_manager_utils.get_project_number)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """The local cloud's addresses and state folder; all global state is restored at the end."""
    state = tmp_path_factory.mktemp("teardown")
    thelook = settings_of().thelook.model_dump(mode="json")
    running, _ = process.start(PROJECT, thelook, state=state)
    with pytest.MonkeyPatch.context() as patch:
        isolated_sdk(patch)
        addresses = running["bigquery"], running["bigquery_grpc"], running["storage"]
        for name, address in zip(EMULATOR_VARIABLES, addresses, strict=True):
            patch.setenv(name, address)
        yield SimpleNamespace(running=running, state=state)
    process.stop(state)


@pytest.fixture
def open_cloud(emulator):
    """Makes a Cloud for settings; at the end everything in the project is deleted."""
    def opened(settings):
        running = emulator.running
        return Cloud(settings, AnonymousCredentials(), running["vertex"], running["bigquery"],
                     running["bigquery_grpc"], running["platform"], "local cloud",
                     project_number=running["project_number"],
                     vertex_grpc=running["vertex_grpc"])

    yield opened
    delete_everything(opened(settings_of()))


@pytest.fixture
def cloud(open_cloud):
    return open_cloud(settings_of())


# -- the flow, step by step ---------------------------------------------------------------------


BUILT: set[str] = set()
LEFT: dict = {}  # results of the one real training: a Training, and the bucket's objects
TRAINED: dict = {}  # env -> Training whose files are in that env's bucket


def tables(cloud, file):
    """The tables of a file: the first time by its SQL; then copies of those."""
    first, labels = file not in BUILT, warehouse.expected_labels(cloud, file)
    if first:
        BUILT.add(file)
        warehouse.build(cloud, file)
        cloud.bigquery.create_dataset(f"{PROJECT}.{KEPT}", exists_ok=True)
    for key in warehouse.BUILDS[file][0]:
        ours, kept = cloud.settings.table(key), f"{PROJECT}.{KEPT}.{key}"
        copied, copy = (ours, kept) if first else (kept, ours)
        cloud.bigquery.query(f"create table `{copy}` as select * from `{copied}`").result()
        if not first:
            warehouse.stamp(cloud, key, labels)


def submit(cloud):
    inputs.make_bucket(cloud)
    return pipeline_job.submit(cloud, "0123456789abcdef")


def train(cloud):
    """The first time the whole pipeline; then only copies of the files that it wrote."""
    bucket = cloud.settings.names.bucket
    if not LEFT:
        trained = training.train(cloud).value
        LEFT.update(trained=trained, bucket=bucket, objects={
            b.name: b.download_as_bytes() for b in cloud.storage.list_blobs(bucket)})
    else:
        inputs.make_bucket(cloud)
        for name, content in LEFT["objects"].items():
            cloud.storage.bucket(bucket).blob(name).upload_from_string(content)
    uri = LEFT["trained"].artifact_uri.replace(LEFT["bucket"], bucket)
    TRAINED[cloud.settings.env] = dataclasses.replace(LEFT["trained"], artifact_uri=uri)


STEPS = [
    ("dataset", warehouse.create_dataset),
    *((file, lambda c, f=file: tables(c, f)) for file in warehouse.BUILDS),
    ("group", feature_store.create_group),
    ("features", feature_store.register_features),
    ("store", feature_store.create_online_store),
    ("view", feature_store.create_view),
    ("sync", feature_store.sync),
    ("training", train),
    ("job that runs", submit),
    ("model", lambda c: model_registry.upload(c, TRAINED[c.settings.env])),
    ("endpoint", endpoint.create),
    ("deployment", lambda c: endpoint.deploy(c, endpoint.find(c), model_registry.find(c))),
]


def build(cloud, last, without=""):
    """All steps up to `last`, as in a run that stopped there."""
    for name, step in STEPS:
        if name != without:
            step(cloud)
        if name == last:
            return


# -- what exists, listed without teardown's own code --------------------------------------------


def everything(cloud):
    """The names of all resources in the project, ours or not."""
    parent = cloud.parent
    names = [e.name for e in cloud.endpoints.list_endpoints(parent=parent)]
    names += [f"{e.name} deployed {d.id}" for e in cloud.endpoints.list_endpoints(parent=parent)
              for d in e.deployed_models]
    names += [m.name for m in cloud.models.list_models(parent=parent)]
    for store in cloud.online_admin.list_feature_online_stores(parent=parent):
        names += [store.name]
        names += [v.name for v in cloud.online_admin.list_feature_views(parent=store.name)]
    for group in cloud.registry.list_feature_groups(parent=parent):
        names += [group.name, *(f.name for f in cloud.registry.list_features(parent=group.name))]
    names += [j.name for j in cloud.pipeline_jobs.list_pipeline_jobs(parent=parent)]
    names += [j.name for j in cloud.custom_jobs.list_custom_jobs(parent=parent)]
    for dataset in cloud.bigquery.list_datasets():
        if dataset.dataset_id not in LEFT_OUT:
            names += [f"dataset {dataset.dataset_id}"]
            names += [str(t.reference) for t in cloud.bigquery.list_tables(dataset.reference)]
    for bucket in cloud.storage.list_buckets():
        names += [f"bucket {bucket.name}"]
        names += [f"gs://{bucket.name}/{b.name}" for b in cloud.storage.list_blobs(bucket.name)]
    return sorted(names)


def delete_everything(cloud):
    """Delete all resources in the project, ours or not."""
    for found in cloud.endpoints.list_endpoints(parent=cloud.parent):
        cloud.aiplatform.Endpoint(found.name).delete(force=True)
    for model in cloud.models.list_models(parent=cloud.parent):
        cloud.models.delete_model(name=model.name).result()
    for store in cloud.online_admin.list_feature_online_stores(parent=cloud.parent):
        cloud.online_admin.delete_feature_online_store(name=store.name, force=True).result()
    for group in cloud.registry.list_feature_groups(parent=cloud.parent):
        cloud.registry.delete_feature_group(name=group.name, force=True).result()
    for job in cloud.pipeline_jobs.list_pipeline_jobs(parent=cloud.parent):
        if jobs.state(job) not in jobs.ENDED:
            end(cloud, job)
        cloud.pipeline_jobs.delete_pipeline_job(name=job.name).result()
    for dataset in cloud.bigquery.list_datasets():
        if dataset.dataset_id not in LEFT_OUT:
            cloud.bigquery.delete_dataset(dataset.reference, delete_contents=True)
    for bucket in cloud.storage.list_buckets():
        bucket.delete(force=True)
    assert everything(cloud) == []


def end(cloud, job):
    """Cancel a pipeline job, unless it has ended, and wait until it has."""
    try:
        cloud.pipeline_jobs.cancel_pipeline_job(name=job.name)
    except BadRequest:
        return
    with pytest.raises(Needed, match="(?i)cancelled|failed"):
        pipeline_job.wait(cloud, job, say=lambda _: None)


def tear_down(cloud, delete=True):
    """teardown.run: its status and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = teardown.run(cloud, delete=delete)
    return status, printed.getvalue()


def test_every_version_of_an_object_is_deleted():
    """An organisation may switch versioning on; the local storage has none, so a server here."""
    kept = {("a", "1"), ("a", "2"), ("b", "1")}

    class Bucket(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, status, content):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_GET(self):
            self.reply(200, {"items": [{"name": n, "generation": g} for n, g in sorted(kept)]})

        def do_DELETE(self):
            parts = urlsplit(self.path)
            if "/o/" not in parts.path:  # the bucket
                return self.reply(409 if kept else 204, {})
            # Without a generation the live object becomes an older version, which is kept.
            kept.discard((parts.path[-1], parse_qs(parts.query).get("generation", [""])[0]))
            self.reply(204, {})

    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        client = storage.Client(PROJECT, AnonymousCredentials(), client_options={
            "api_endpoint": f"http://127.0.0.1:{server.server_port}"})
        KINDS["bucket"].delete(SimpleNamespace(storage=client, settings=settings_of()), "gs://x")
        server.shutdown()
    assert not kept


@pytest.mark.parametrize("last", [name for name, _ in STEPS])
def test_nothing_is_left_of_a_run_that_stopped_at(last, cloud):
    build(cloud, last)
    before = everything(cloud)
    assert before
    status, printed = tear_down(cloud, delete=False)
    assert status == 0, printed
    assert "not ours" not in printed and cloud.settings.command(teardown.MODULE, "--yes") in printed
    assert set(everything(cloud)) >= set(before), "a listing deletes nothing"
    status, printed = tear_down(cloud)
    assert status == 0, printed
    assert everything(cloud) == []
    assert tear_down(cloud) == (0, printed.splitlines()[0] + "\nnothing to delete\n")


def test_a_half_finished_teardown_is_finished(cloud):
    build(cloud, "sync")
    cloud.online_admin.delete_feature_view(name=feature_store.view_name(cloud)).result()
    warehouse.create_dataset(cloud, f"{PROJECT}.{cloud.settings.names.source_dataset}")
    cloud.bigquery.delete_dataset(cloud.settings.dataset, delete_contents=True)
    status, printed = tear_down(cloud)
    assert status == 0, printed
    assert everything(cloud) == []


def test_the_copies_of_a_killed_run_are_deleted(cloud):
    build(cloud, "sync")
    copied = planted.copy(cloud, "planted", planted.choose(cloud, 20))
    planted.build_features(copied)
    planted.serve(copied)
    freshness.prepare(cloud)
    left = everything(cloud)
    for name in ("planted", "freshness"):
        assert f"dataset churn_dev_{name}" in left
        assert any(n.endswith(f"featureViews/churn_dev_customer_view_{name}") for n in left)
    status, printed = tear_down(cloud)
    assert status == 0, printed
    assert everything(cloud) == []


def test_a_custom_job_that_runs_is_cancelled_and_deleted(cloud):
    build(cloud, "04_build_train")
    inputs.make_bucket(cloud)
    chain = custom_jobs.Chain("0123456789abcdef")
    folder = f"/gcs/{cloud.settings.names.bucket}/x"
    given = custom_jobs.arguments(inputs.parameters(cloud), folder)
    custom_jobs.start(cloud, chain, "data_load", given["data_load"])
    _, printed = tear_down(cloud, delete=False)
    assert "churn-dev-data_load, running: it is cancelled first" in printed
    status, printed = tear_down(cloud)
    assert status == 0, printed
    assert everything(cloud) == []


# -- what is not ours ---------------------------------------------------------------------------


def test_dev_is_deleted_and_prod_another_app_and_foreign_resources_stay(cloud, open_cloud):
    prod, other = open_cloud(settings_of("prod")), open_cloud(settings_of(app="churn2"))
    build(prod, "deployment")
    for job in prod.pipeline_jobs.list_pipeline_jobs(parent=prod.parent):
        end(prod, job)  # else it goes on writing into its bucket
    build(other, "view")
    similar(cloud)
    before = everything(cloud)
    build(cloud, "deployment")
    same_names(cloud)
    known = {n for n in everything(cloud) if n in before}
    assert known == set(before)

    status, printed = tear_down(cloud)

    assert status == 0, printed
    assert "not ours: labels differ (app other, env dev), left alone: endpoint" in printed
    assert "not ours: labels differ (app missing, env missing), left alone: dataset" in printed
    foreign = "dataset churn_dev_source"
    endpoints = cloud.endpoints.list_endpoints(parent=cloud.parent)
    kept = [e.name for e in endpoints if e.display_name == cloud.settings.names.endpoint]
    assert everything(cloud) == sorted([*before, foreign, *kept])
    assert len(kept) == 1
    customer = lookups.served_customers(prod, 1)[0]
    values, _ = feature_store.fetch(prod, customer)
    assert 0 <= endpoint.predict(prod, endpoint.connect(prod), [values])[0] <= 1


def similar(cloud):
    """Names that begin like ours, with our labels; a bucket too."""
    group = vertex.FeatureGroup(labels=LABELS)
    group.big_query.big_query_source.input_uri = "bq://local-demo.churn_prod.features_customer"
    group.big_query.entity_id_columns = ["customer_id"]
    cloud.registry.create_feature_group(
        parent=cloud.parent, feature_group=group, feature_group_id="churn_dev_customer2").result()
    dataset = bigquery.Dataset(f"{PROJECT}.churn_dev2")
    dataset.labels = LABELS
    cloud.bigquery.create_dataset(dataset)
    cloud.aiplatform.Endpoint.create(display_name="churn_dev_endpoint2", labels=LABELS)
    bucket = cloud.storage.create_bucket(f"{PROJECT}-churn-dev2")
    bucket.labels = LABELS
    bucket.patch()


def same_names(cloud):
    """Our names with other labels, or none."""
    cloud.aiplatform.Endpoint.create(
        display_name=cloud.settings.names.endpoint, labels={"app": "other", "env": "dev"})
    cloud.bigquery.create_dataset(f"{PROJECT}.{cloud.settings.names.source_dataset}")


def test_what_holds_a_foreign_resource_stays_with_it(cloud):
    build(cloud, "view")
    mine = answered(cloud, feature_store.view_name(cloud))
    view = cloud.online_admin.get_feature_view(name=mine)
    foreign = vertex.FeatureView(
        feature_registry_source=view.feature_registry_source, sync_config=view.sync_config,
        labels=LABELS)  # that is not enough: its name is not ours
    parent, group = feature_store.store_name(cloud), feature_store.group_name(cloud)
    cloud.online_admin.create_feature_view(
        parent=parent, feature_view=foreign, feature_view_id="foreign").result()
    cloud.registry.create_feature(
        parent=group, feature_id="foreign",
        feature=vertex.Feature(version_column_name="orders_30d")).result()

    status, printed = tear_down(cloud)

    assert status == 1
    assert "not ours: its name is none of config.yaml's, left alone: feature view" in printed
    store, holding = answered(cloud, parent), answered(cloud, group)
    assert f"NOT DELETED: online store {store}: it holds {store}/featureViews/foreign" in printed
    assert f"NOT DELETED: feature group {holding}: it holds {holding}/features/foreign" in printed
    left = everything(cloud)
    assert f"{store}/featureViews/foreign" in left and f"{holding}/features/orders_30d" in left
    assert mine not in left and "dataset churn_dev" not in left


# -- refusals -----------------------------------------------------------------------------------


def refuse(*_, **__):
    raise Forbidden("Permission denied on the resource")


def test_a_kind_that_cannot_be_listed_stops_no_other(cloud, monkeypatch):
    build(cloud, "view")
    monkeypatch.setattr(cloud.models, "list_models", refuse)
    status, printed = tear_down(cloud)
    assert status == 1
    assert "NOT LISTED: models: 403 Permission denied" in printed
    assert "roles/aiplatform.user" in printed
    assert everything_but_models(cloud) == []


def everything_but_models(cloud):
    return everything(dataclasses.replace(cloud))  # clients of its own, which nothing refuses


def answered(cloud, name):
    """A resource's name as answers have it: with the number of the project."""
    return name.replace(f"projects/{cloud.settings.project}/", f"projects/{cloud.project_number}/")


def test_what_cannot_be_deleted_is_reported_and_the_rest_is_deleted(cloud, monkeypatch):
    build(cloud, "view")
    with monkeypatch.context() as patch:
        patch.setattr(cloud.online_admin, "delete_feature_view", refuse)
        patch.setattr(cloud.bigquery, "delete_dataset", refuse)
        status, printed = tear_down(cloud)
    store, view = (answered(cloud, name(cloud))
                   for name in (feature_store.store_name, feature_store.view_name))
    assert status == 1
    assert f"NOT DELETED: feature view {view}: 403 Permission denied" in printed
    assert f"NOT DELETED: online store {store}: it holds {view}" in printed
    assert "roles/bigquery.dataOwner" in printed
    assert everything(cloud)[0].startswith("dataset churn_dev")
    assert [n for n in everything(cloud) if n.startswith("projects/")] == [store, view]
    assert tear_down(cloud)[0] == 0
    assert everything(cloud) == []


def command(emulator, *arguments, **variables):
    return forked.run(teardown.MODULE, *arguments, **{
        "LOCALCLOUD_STATE": str(emulator.state), config.SETTINGS_VARIABLE: json.dumps(TINY),
        **variables})


def test_prod_is_deleted_only_if_the_command_line_says_so(emulator, open_cloud, tmp_path):
    prod, dev = open_cloud(settings_of("prod")), open_cloud(settings_of())
    warehouse.create_dataset(prod)
    warehouse.create_dataset(dev)
    file = tmp_path / "config.yaml"
    text = (ROOT / "config.yaml").read_text()
    assert text.count("\nenv: dev ") == 1
    file.write_text(text.replace("\nenv: dev ", "\nenv: prod "))

    refused = command(emulator, "--yes", **{config.CONFIG_VARIABLE: str(file)})
    assert refused.returncode == 2 and refused.stdout == ""
    typed = (".venv/bin/python -m lib.operate.teardown --target local --env prod "
             f"--config {file} --yes")
    assert typed in refused.stderr
    listed = command(emulator, **{config.CONFIG_VARIABLE: str(file)})
    assert listed.returncode == 0 and "dataset        local-demo.churn_prod |" in listed.stdout
    assert everything(dev) == ["dataset churn_dev", "dataset churn_prod"]

    done = command(emulator, "--env", "prod", "--yes")
    assert done.returncode == 0, done.stderr
    assert "dataset local-demo.churn_prod: deleted in " in done.stdout
    assert everything(dev) == ["dataset churn_dev"]


def test_a_bad_command_line_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        teardown.main(["--env", "test"])
    assert ended.value.code == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(config.SETTINGS_VARIABLE, '{"app": "Churn!"}')
        assert teardown.main([]) == 2
    assert "app = 'Churn!'" in capsys.readouterr().err


# -- what costs ---------------------------------------------------------------------------------


def test_what_is_billed_by_the_hour_is_listed_with_its_price(cloud, open_cloud):
    prices = {"usd_per_bigtable_node_hour": 1.0, "usd_per_serving_node_hour": 0.25}
    priced = open_cloud(billed_settings(**prices))
    assert teardown.still_billed(priced) == ["nothing is running that is billed by the hour"]
    build(cloud, "deployment", without="job that runs")
    model = cloud.aiplatform.Model(model_registry.version_name(model_registry.find(cloud)))
    model.deploy(endpoint=cloud.aiplatform.Endpoint(endpoint.find(cloud).name),
                 traffic_percentage=50, min_replica_count=2, max_replica_count=3,
                 machine_type="n1-standard-4")

    store = answered(cloud, feature_store.store_name(cloud))
    lines = teardown.still_billed(priced)
    assert lines[0].startswith("still running and billed by the hour: endpoint projects/")
    assert "n1-standard-2 x 1" in lines[0] and "n1-standard-4 x 2 to 3" in lines[0]
    assert f"online store {store} (1 Bigtable node)" in lines[0]
    assert lines[1:] == [
        "until deleted it costs at least $1.75 an hour, $42.00 a day",
        "delete: .venv/bin/python -m lib.operate.teardown --target local --env dev --yes"]
    unpriced = open_cloud(billed_settings())
    assert teardown.PRICES in teardown.still_billed(unpriced)[1]

    _, printed = tear_down(unpriced, delete=False)
    assert "billed by the hour: n1-standard-2 x 1" in printed and teardown.PRICES in printed
    assert ("gcloud artifacts repositories delete churn-dev --location us-central1 "
            "--project local-demo") in printed
    assert "ML Metadata" in printed and "job history" in printed
    status, printed = tear_down(priced)  # two models share the traffic
    assert status == 0 and "an hour" not in printed, printed
    assert everything(cloud) == []


def billed_settings(**costs):
    local = settings_of().targets["local"].model_dump() | {"billed": True}
    return settings_of(targets={"local": local}, costs=costs)


def test_the_end_of_a_run_survives_a_cloud_that_does_not_answer(cloud, monkeypatch):
    feature_store.create_online_store(cloud)
    monkeypatch.setattr(cloud.endpoints, "list_endpoints", refuse)
    lines = teardown.still_billed(cloud)
    assert lines[0] == ("cannot list endpoints, which are billed by the hour: "
                        "403 Permission denied on the resource")
    assert "online store" in lines[1] and lines[-1].startswith("delete: ")
    monkeypatch.setattr(cloud.online_admin, "get_feature_online_store", lambda **_: 1 / 0)
    lines = teardown.still_billed(cloud)
    assert lines[1] == "cannot list online stores, which are billed by the hour: division by zero"
    assert lines[-1] == "list: .venv/bin/python -m lib.operate.teardown --target local --env dev"


def test_what_is_refused_says_what_is_needed():
    settings = settings_of()
    disabled = Forbidden("Vertex AI API has not been used in project before or it is disabled "
                         "aiplatform.googleapis.com")
    assert "gcloud services enable" in teardown.explain(disabled, "model", settings)
    uncounted = Forbidden("Caller does not have required permission to use project local-demo.")
    assert teardown.explain(uncounted, "bucket", settings).endswith(
        "--role roles/serviceusage.serviceUsageConsumer)")
    slow = Needed("operation 1 has not ended after 5 s", "more time", "the console")
    assert "more time (the console)" in teardown.explain(slow, "model", settings)
