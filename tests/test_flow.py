"""The whole flow on a small theLook, through Google's own clients: in order, as a run does it.

The tests of this file build on each other, as the notebooks do. They use an app of their own, so
that other files of tests may run before or after.
"""

import dataclasses
import itertools
import json
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pandas as pd
import pytest
import requests
from google.cloud import aiplatform_v1 as vertex
from google.cloud import bigquery

from lib import (
    config,
    endpoint,
    errors,
    feature_store,
    lookups,
    model_registry,
    predict,
    source_load,
    stages,
    warehouse,
)
from lib.cloud import connect, stop_local
from lib.errors import Needed
from lib.proof import latency, leakage, parity, sanity
from lib.training import training
from tests.conftest import SMALL
from tests.support import forked

OWN = {**SMALL, "app": "flow", "checks": {"leakage_groups": 2}}
STEPS = [
    ("dataset", warehouse.create_dataset),
    ("source", source_load.load),
    *((file, lambda c, f=file: warehouse.build(c, f)) for file in warehouse.BUILDS),
    ("group", feature_store.create_group),
    ("features", feature_store.register_features),
    ("store", feature_store.create_online_store),
    ("view", feature_store.create_view),
    ("sync", feature_store.sync),
    ("training", training.train),
    ("model", lambda c: upload(c)),
    ("endpoint", endpoint.create),
    ("deployment", lambda c: endpoint.deploy(c, endpoint.find(c), model_registry.find(c))),
]


@pytest.fixture(scope="module")
def settings():
    return config.load(target="local", env="dev", overrides=OWN)


def upload(cloud):
    return model_registry.upload(cloud, training.train(cloud).value)


def run_command(module, *arguments):
    return forked.run(module, *arguments, **{config.SETTINGS_VARIABLE: json.dumps(OWN)})


def listing(cloud):
    """The names of everything that exists."""
    parent = cloud.parent
    names = [g.name for g in cloud.registry.list_feature_groups(parent=parent)]
    names += [f.name for f in cloud.registry.list_features(parent=feature_store.group_name(cloud))]
    names += [s.name for s in cloud.online_admin.list_feature_online_stores(parent=parent)]
    names += [v.name for v in cloud.online_admin.list_feature_views(
        parent=feature_store.store_name(cloud))]
    names += [s.name for s in feature_store.list_syncs(cloud)]
    names += [m.name for m in cloud.models.list_models(parent=parent)]
    names += [f"version {v.version_id}" for v in
              cloud.models.list_model_versions(name=model_registry.find(cloud).name)]
    names += [e.name for e in cloud.endpoints.list_endpoints(parent=parent)]
    names += [d.id for d in endpoint.find(cloud).deployed_models]
    names += [t.full_table_id for t in cloud.bigquery.list_tables(cloud.settings.dataset)]
    names += [b.name for b in cloud.storage.list_blobs(cloud.settings.names.bucket)]
    return sorted(names)


def test_each_missing_thing_has_its_own_message_before_anything_exists(cloud):
    with pytest.raises(feature_store.EntityNotServed, match=r"online store .* does not exist"):
        feature_store.fetch(cloud, "1")
    with pytest.raises(endpoint.NotDeployed, match="does not exist"):
        endpoint.connect(cloud)
    with pytest.raises(Needed, match="nothing|no model"):
        model_registry.newest(cloud)
    with pytest.raises(Needed, match="not built"):
        training.train(cloud)
    done = run_command("lib.predict", "--customer_id", "1")
    assert (done.returncode, done.stdout) == (predict.NOT_DEPLOYED, "")


def test_the_flow_creates_each_thing_once(cloud):
    for name, step in STEPS:
        if name == "sync":
            customer = lookups.served_customers(cloud, 1)[0]
            with pytest.raises(feature_store.EntityNotServed, match="never been synced"):
                feature_store.fetch(cloud, customer)
        if name == "deployment":
            with pytest.raises(endpoint.NotDeployed, match="no model is deployed"):
                endpoint.connect(cloud)
        outcome = step(cloud)
        assert outcome.status in (("done", "created") if name == "source" else ("created",)), name
        assert outcome.resource, name


def test_a_second_pass_makes_nothing_new(cloud):
    before = listing(cloud)
    assert {name: step(cloud).status for name, step in STEPS if name != "source"} == {
        name: "reused" for name, _ in STEPS if name != "source"}
    assert listing(cloud) == before


def test_a_sync_started_early_is_waited_for_and_not_run_twice(cloud, monkeypatch):
    before = {s.name for s in feature_store.list_syncs(cloud)}
    built = SimpleNamespace(modified=datetime.now(UTC))  # as if just now
    monkeypatch.setattr(warehouse, "find_table", lambda *_: built)
    is_done, polls = feature_store.is_done, itertools.count()
    monkeypatch.setattr(feature_store, "is_done", lambda sync: next(polls) >= 4 and is_done(sync))
    early = feature_store.start_sync(cloud)
    assert early.status == "started" and early.resource not in before
    second = feature_store.start_sync(cloud)
    assert (second.status, second.resource) == ("started", early.resource)
    with monkeypatch.context() as patch:  # as if it were the first one
        patch.setattr(feature_store, "list_syncs", lambda _: [vertex.FeatureViewSync()])
        with pytest.raises(feature_store.EntityNotServed, match="its first sync is running"):
            feature_store.fetch(cloud, "no-such-customer")
    waited = feature_store.sync(cloud)
    assert (waited.status, waited.resource) == ("created", early.resource)
    assert next(polls) > 4  # the first answers said that it was running
    later = feature_store.start_sync(cloud)
    assert (later.status, later.resource) == ("reused", early.resource)
    assert {s.name for s in feature_store.list_syncs(cloud)} - before == {early.resource}


def test_labels_lean_but_have_both_classes(cloud):
    checks = sanity.check(cloud).value
    assert 0.85 < sanity.positive_rate(checks) < 0.95


def test_the_registry_describes_each_feature(cloud):
    table = feature_store.read_registry(cloud)
    assert list(table["feature"]) == cloud.settings.feature_names
    written = {f.name: (f.description, f.unit.lower()) for f in cloud.settings.features}
    assert {r.feature: (r.description, r.unit) for r in table.itertuples()} == written
    assert set(table["owner"]) == {cloud.settings.owner}


def test_fetch_serves_the_newest_row_with_its_nulls(cloud):
    newest = lookups.newest_features(cloud)
    silent = newest[newest["avg_order_value_90d"].isna()].head(3)["customer_id"]
    for customer in [*lookups.served_customers(cloud, 5), *silent]:
        served, taken_at = feature_store.fetch(cloud, customer)
        stored = lookups.newest_row(cloud, customer)
        assert list(served) == cloud.settings.feature_names
        assert taken_at == stored["feature_timestamp"].to_pydatetime()
        for name, value in served.items():
            assert (value is None) == pd.isna(stored[name])
            assert value is None or value == pytest.approx(stored[name], abs=1e-9)


def test_the_active_customers_are_those_of_the_labels(cloud):
    """The base rate is theirs, so percentiles beside it are among them."""
    newest = lookups.newest_features(cloud)
    found, ten = {}, cloud.settings.label.model_copy(update={"active_days": 10})
    for label in (cloud.settings.label, ten):
        there = dataclasses.replace(
            cloud, settings=cloud.settings.model_copy(update={"label": label}))
        days = label.active_days
        found[days] = list(newest[newest["days_since_last_order"] < days]["customer_id"])
        assert list(lookups.active_features(there)["customer_id"]) == found[days]
        assert lookups.served_customers(there, len(newest)) == sorted(found[days], key=int)
    assert 0 < len(found[10]) < len(found[90]) < len(newest)
    assert found[90] == list(newest[newest["orders_90d"] > 0]["customer_id"])


def test_a_prediction_is_a_probability_and_ignores_the_order_of_features(cloud):
    predictor = predict.Predictor(cloud)
    customers = lookups.served_customers(cloud, 12)
    answers = predict.many(predictor, customers).value
    assert len(answers) == 12
    assert all(0 < a.churn_probability < 1 for a in answers)
    assert len({a.churn_probability for a in answers}) > 3
    first = answers[0]
    backwards = dict(reversed(first.features.items()))
    assert endpoint.predict(cloud, predictor.endpoint, [backwards]) == [first.churn_probability]


def test_the_endpoint_refuses_what_it_was_not_trained_on(cloud):
    service = endpoint.connect(cloud)
    good = predict.Predictor(cloud).predict(lookups.served_customers(cloud, 1)[0]).features
    short = {k: v for k, v in good.items() if k != "tenure_days"}
    assert "tenure_days" in endpoint.refusal(cloud, service, [short])
    assert "extra" in endpoint.refusal(cloud, service, [{**good, "extra": 1}])
    assert endpoint.refusal(cloud, service, [{**good, "tenure_days": "long"}]).startswith("400")
    assert endpoint.refusal(cloud, service, [good]) == ""


def test_an_unknown_customer_has_its_own_message(cloud):
    with pytest.raises(feature_store.EntityNotServed, match="'no-such-id' is not in the feature"):
        predict.Predictor(cloud).predict("no-such-id")


def test_predict_is_a_command(cloud):
    customer = lookups.served_customers(cloud, 1)[0]
    done = run_command("lib.predict", "--customer_id", customer)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer["features"]) == cloud.settings.feature_names
    assert 0 < answer["churn_probability"] < 1
    unknown = run_command("lib.predict", "--customer_id", "no-such-id")
    assert unknown.returncode == predict.NOT_SERVED
    assert "is not in the feature view" in unknown.stderr and unknown.stdout == ""


def test_parity_holds_and_a_stale_online_store_is_caught(cloud):
    customers = lookups.served_customers(cloud, 40)
    assert parity.figures(parity.check(cloud, customers).value) == {
        "customers": 40, "features": 11, "mismatches": 0, "max_abs_diff": 0.0}
    table, customer = cloud.settings.table("features"), customers[0]
    cloud.bigquery.query(
        f"update `{table}` set orders_90d = orders_90d + 5, avg_order_value_90d = null "
        f"where customer_id = '{customer}'").result()
    with pytest.raises(Needed) as caught:
        parity.check(cloud, customers)
    message = str(caught.value)
    assert f"customer {customer}, orders_90d" in message and "avg_order_value_90d" in message
    assert "differ in 2 of 440" in message
    feature_store.sync(cloud, force=True)
    assert parity.figures(parity.check(cloud, customers).value)["mismatches"] == 0


def test_the_naive_join_promises_more_than_it_keeps(cloud):
    figures = leakage.measure(cloud, training.train(cloud).value).value
    assert figures["roc_auc"]["promised - kept"]["value"] > 0


def test_an_impossible_score_stops_the_run(cloud):
    assert leakage.check_honest(cloud, {"roc_auc": 0.80}).status == "done"
    with pytest.raises(Needed, match="sees the future"):
        leakage.check_honest(cloud, {"roc_auc": 0.82})


def test_latency_is_measured_per_call(cloud):
    predictor = predict.Predictor(cloud)
    samples = latency.measure(predictor, lookups.served_customers(cloud, 3), 10).value
    assert {k: len(v) for k, v in samples.items()} == {"fetch": 10, "predict": 10, "both": 10}
    assert set(latency.figures(samples)) == {"fetch_p50", "fetch_p99", "predict_p50", "predict_p99"}


def test_another_model_replaces_the_old_one_on_the_endpoint(cloud):
    other = cloud.settings.train.model_copy(update={"model_type": "logistic_regression"})
    changed = dataclasses.replace(
        cloud, settings=cloud.settings.model_copy(update={"train": other}))
    before = model_registry.find(changed).version_id
    assert training.train(changed).status == "created"
    assert upload(changed).status == "created"
    model = model_registry.find(changed)
    assert int(model.version_id) == int(before) + 1
    outcome = endpoint.deploy(changed, endpoint.find(changed), model)
    assert outcome.status == "created"
    (deployed,) = endpoint.find(changed).deployed_models
    assert deployed.model_version_id == model.version_id


@pytest.mark.parametrize(("extra", "split"), [("older", (50, 50)), ("same", (0, 100))])
def test_deploying_completes_what_an_earlier_run_left_half_done(cloud, extra, split):
    """Two deployments share the traffic: an older version, or a second one of this version. The
    one of this version that has traffic is kept, with all of it."""
    service, model = endpoint.find(cloud), model_registry.find(cloud)
    (first,) = service.deployed_models
    versions = sorted(cloud.models.list_model_versions(name=model.name),
                      key=lambda v: int(v.version_id))
    version = versions[0].version_id if extra == "older" else model.version_id
    cloud.endpoints.deploy_model(
        endpoint=service.name, traffic_split={"0": split[1], first.id: split[0]},
        deployed_model=vertex.DeployedModel(
            model=f"{model.name.split('@')[0]}@{version}",
            dedicated_resources=first.dedicated_resources)).result()
    second = next(d for d in endpoint.find(cloud).deployed_models if d.id != first.id)
    assert endpoint.deploy(cloud, service, model).status == "reused"
    found = endpoint.find(cloud)
    kept = first.id if extra == "older" else second.id
    assert [d.id for d in found.deployed_models] == [kept]
    assert dict(found.traffic_split) == {kept: 100}


def test_the_bucket_is_in_the_region_with_uniform_access(cloud):
    """"It must be in the same regional location as the service location": python-aiplatform."""
    bucket = cloud.storage.get_bucket(cloud.settings.names.bucket)
    assert bucket.location.lower() == cloud.settings.region
    assert bucket.iam_configuration.uniform_bucket_level_access_enabled


def test_a_group_over_another_table_is_not_silently_reused(cloud):
    tables = cloud.settings.tables.model_copy(update={"features": "other_table"})
    changed = dataclasses.replace(
        cloud, settings=cloud.settings.model_copy(update={"tables": tables}))
    with pytest.raises(Needed, match="another source"):
        feature_store.create_group(changed)


def test_summary_of_a_failed_step_is_kept(cloud, tmp_path):
    run = stages.open_stage("04_feature_store", cloud.settings, tmp_path)
    tables = cloud.settings.tables.model_copy(update={"features": "no_such_table"})
    names = cloud.settings.names.model_copy(update={"feature_group": "flow_dev_other"})
    changed = dataclasses.replace(cloud, settings=cloud.settings.model_copy(
        update={"tables": tables, "names": names}))
    with pytest.raises(errors.StageError, match="no_such_table"):
        run.step("feature group", feature_store.create_group, changed)


def test_a_view_that_reads_as_itself_gets_access_and_is_waited_for(cloud, monkeypatch):
    names = cloud.settings.names.model_copy(update={"feature_view": "flow_dev_own_view"})
    waits = cloud.settings.waits.model_copy(update={"longest_pause_seconds": 0.2})
    own = cloud.settings.feature_view.model_copy(update={"service_agent": "view"})
    changed = dataclasses.replace(cloud, settings=cloud.settings.model_copy(
        update={"names": names, "waits": waits, "feature_view": own}))
    granted = []
    # As on Google, where a grant counts only after some minutes.
    monkeypatch.setattr(warehouse, "grant_reader", lambda cloud, email: granted.append(email))
    assert feature_store.create_view(changed).status == "created"
    monkeypatch.undo()
    (email,) = granted
    dataset = cloud.bigquery.get_dataset(cloud.settings.dataset)
    dataset.access_entries = [bigquery.AccessEntry(
        "READER", "userByEmail", "deleted:serviceAccount:an-old-view@example.com?uid=7")]
    cloud.bigquery.update_dataset(dataset, ["access_entries"])
    timer = threading.Timer(1.5, warehouse.grant_reader, (changed, email))
    timer.start()
    assert feature_store.sync(changed).status == "created"
    timer.join()
    entries = cloud.bigquery.get_dataset(cloud.settings.dataset).access_entries
    assert [entry.entity_id for entry in entries] == [email]
    syncs = feature_store.list_syncs(changed)
    assert len(syncs) > 1 and all("denied" in s.final_status.message for s in syncs[1:])
    assert feature_store.create_view(changed).status == "reused"
    customer = lookups.served_customers(changed, 1)[0]
    assert feature_store.fetch(changed, customer)[0] == feature_store.fetch(cloud, customer)[0]


def test_a_view_that_may_never_read_says_so(cloud):
    names = cloud.settings.names.model_copy(update={"feature_view": "flow_dev_own_view"})
    waits = cloud.settings.waits.model_copy(update={"iam_seconds": 0})
    own = cloud.settings.feature_view.model_copy(update={"service_agent": "view"})
    changed = dataclasses.replace(cloud, settings=cloud.settings.model_copy(
        update={"names": names, "waits": waits, "feature_view": own}))
    dataset = cloud.bigquery.get_dataset(cloud.settings.dataset)
    dataset.access_entries = []
    cloud.bigquery.update_dataset(dataset, ["access_entries"])
    with pytest.raises(Needed, match="status 7.*denied") as caught:
        feature_store.sync(changed, force=True)
    assert "BigQuery Data Viewer" in caught.value.need


def test_tables_expire_in_dev_and_stay_in_prod(cloud):
    names = cloud.settings.names.model_copy(update={"dataset": "flow_prod"})
    prod = config.load(target="local", env="prod", overrides=SMALL)
    changed = dataclasses.replace(cloud, settings=prod.model_copy(update={"names": names}))
    warehouse.create_dataset(changed)
    days = 24 * 3600 * 1000
    dev = cloud.bigquery.get_dataset(cloud.settings.dataset)
    assert dev.default_table_expiration_ms == 30 * days
    assert cloud.bigquery.get_dataset("flow_prod").default_table_expiration_ms is None
    assert dev.labels["env"] == "dev"
    assert cloud.bigquery.get_dataset("flow_prod").labels["env"] == "prod"
    cloud.bigquery.delete_dataset("flow_prod")


def test_a_restart_keeps_everything(cloud):
    """The last two tests: the clients of `cloud` only know the addresses before the restart."""
    customer = lookups.served_customers(cloud, 1)[0]
    before = predict.Predictor(cloud).predict(customer)
    assert stop_local()
    restarted = connect(cloud.settings)
    assert restarted.started_local
    after = predict.Predictor(restarted).predict(customer)
    assert (after.features, after.churn_probability) == (before.features, before.churn_probability)


@pytest.mark.parametrize("call", [
    warehouse.create_dataset, lambda cloud: lookups.served_customers(cloud, 1),
    lambda cloud: warehouse.read_table(cloud, "features"),
    lambda cloud: list(cloud.storage.list_blobs("bucket")),
    lambda cloud: feature_store.fetch(cloud, "1"), feature_store.sync], ids=[
    "dataset", "query", "table", "bucket", "fetch", "sync"])
def test_a_stopped_local_cloud_is_an_error_at_once(cloud, call):
    """The ports of `cloud` are closed since the restart."""
    began = time.monotonic()
    with pytest.raises((Needed, requests.ConnectionError)) as caught:
        call(cloud)
    assert time.monotonic() - began < 10
    explained = errors.explain(caught.value, "04_feature_store", "step", cloud.settings)
    assert "the local cloud" in explained.need
    assert explained.command.startswith("./run_all.sh --target local")
