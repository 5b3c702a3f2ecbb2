"""The feature store's resources and values, in each way that Google may answer them."""

import os
import socket
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest import mock

import google.auth
import pytest
from google.api_core.exceptions import (
    Conflict,
    FailedPrecondition,
    NotFound,
    RetryError,
    ServiceUnavailable,
)
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as vertex

from lib import config, errors, feature_store, waiting
from lib.cloud import connect
from lib.errors import Needed
from lib.localcloud.vertex.base.rules import check_labels


@pytest.fixture
def fake(settings):
    """fake(**clients) -> what the functions use of a Cloud."""
    parent = f"projects/{settings.project}/locations/{settings.region}"

    def cloud(**clients):
        return SimpleNamespace(
            settings=settings, parent=parent, vertex="https://vertex",
            **{name: SimpleNamespace(**methods) for name, methods in clients.items()})

    return cloud


def group(cloud, **changes):
    """The group as it is sent, with changes to its big_query, under the project's number."""
    wanted = feature_store.group_message(cloud)
    for name, value in changes.items():
        setattr(wanted.big_query, name, value)
    wanted.name, wanted.etag, wanted.description = "projects/7/x/featureGroups/g", "e", ""
    return wanted


@pytest.mark.parametrize("changes", [
    {}, {"time_series": None},  # the default column, left out
    {"static_data_source": False}])
def test_a_group_that_leaves_out_a_default_is_reused(fake, changes):
    cloud = fake(registry={"get_feature_group": lambda name: group(cloud, **changes)})
    outcome = feature_store.create_group(cloud)
    assert (outcome.status, outcome.resource) == ("reused", "projects/7/x/featureGroups/g")


@pytest.mark.parametrize(("changes", "named"), [
    ({"dense": False}, "dense"),
    ({"entity_id_columns": ["user_id"]}, "entity_id_columns"),
    ({"big_query_source": vertex.BigQuerySource(input_uri="bq://a.b.c")}, "source table"),
    ({"time_series": {"timestamp_column": "seen_at"}}, "timestamp column")])
def test_a_group_that_differs_is_refused_by_what_differs(fake, changes, named):
    cloud = fake(registry={"get_feature_group": lambda name: group(cloud, **changes)})
    with pytest.raises(Needed) as caught:
        feature_store.create_group(cloud)
    assert caught.value.cause.endswith(f"exists with another {named}")


class OnceMade:
    """get and create of one resource that exists from the first create on."""

    def __init__(self, resource):
        self.resource, self.made = resource, False

    def get(self, name):
        if not self.made:
            raise NotFound(name)
        return self.resource

    def create(self, **_):
        self.made = True
        return "operation"


@pytest.mark.parametrize("result", ["stub", None])
def test_a_group_is_read_again_after_it_was_created(fake, monkeypatch, result):
    stub = result and vertex.FeatureGroup(name="stub")
    monkeypatch.setattr(waiting, "operation", lambda *_: stub)
    once = OnceMade(vertex.FeatureGroup(name="projects/7/x/featureGroups/g"))
    cloud = fake(registry={"get_feature_group": once.get, "create_feature_group": once.create})
    outcome = feature_store.create_group(cloud)
    assert (outcome.status, outcome.resource) == ("created", "projects/7/x/featureGroups/g")


@pytest.mark.parametrize("result", ["stub", None])
def test_a_view_is_read_again_after_it_was_created(fake, monkeypatch, result):
    """Otherwise its service account would not get its grant, and it would be updated at once."""
    from lib import warehouse

    granted = []
    monkeypatch.setattr(warehouse, "grant_reader", lambda cloud, email: granted.append(email))
    monkeypatch.setattr(feature_store, "_reads_as_itself", lambda cloud: True)
    stub = result and vertex.FeatureView(name="stub")
    monkeypatch.setattr(waiting, "operation", lambda *_: stub)
    cloud = fake(online_admin={})
    made = feature_store.view_message(cloud)
    made.name, made.service_account_email = "projects/7/x/featureViews/v", "view@google"
    made.feature_registry_source.project_number = 7
    once = OnceMade(made)
    cloud.online_admin.get_feature_view = once.get
    cloud.online_admin.create_feature_view = once.create
    outcome = feature_store.create_view(cloud)
    assert (outcome.status, outcome.resource) == ("created", "projects/7/x/featureViews/v")
    assert "updated" not in outcome.figures and granted == ["view@google"]


def served(**values):
    """A reply with these features; a value "" is sent as a name without a value."""
    pair = vertex.FetchFeatureValuesResponse.FeatureNameValuePairList.FeatureNameValuePair
    return vertex.FetchFeatureValuesResponse(key_values={"features": [
        pair(name=name) if value == "" else pair(name=name, value={"int64_value": value})
        for name, value in values.items()]})


@pytest.mark.parametrize("null", ["left out", "without a value"])
@pytest.mark.parametrize(("stamp", "taken_at"), [
    ({}, None), ({"feature_timestamp": ""}, None),
    ({"feature_timestamp": 1704067200000000}, datetime(2024, 1, 1, tzinfo=UTC))])
def test_a_null_and_a_timestamp_may_be_left_out(fake, null, stamp, taken_at):
    cloud = fake(online={})
    first, *others = cloud.settings.feature_names
    empty = {others[0]: ""} if null == "without a value" else {}
    reply = served(**{name: 1 for name in [first, *others[1:]]}, **empty, **stamp)
    cloud.online.fetch_feature_values = lambda *_, **__: reply
    values, taken = feature_store.fetch(cloud, "1")
    assert values == {first: 1, others[0]: None, **dict.fromkeys(others[1:], 1)}
    assert list(values) == cloud.settings.feature_names and taken == taken_at


class MadeUnseen(OnceMade):
    """What exists, and is found only at the third call; its create says that it exists."""

    def __init__(self, resource):
        super().__init__(resource)
        self.calls = 0

    def get(self, name):
        self.calls += 1
        if self.calls < 3:
            raise NotFound(name)
        return self.resource

    def create(self, **_):
        raise Conflict("exists")


@pytest.mark.parametrize("kind", [OnceMade, MadeUnseen])
def test_a_group_or_view_that_is_not_visible_yet_is_waited_for(fake, monkeypatch, kind):
    """A create that was answered 503 may have taken effect: the next one is a conflict."""
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    cloud = fake(registry={}, online_admin={})
    status = "created" if kind is OnceMade else "reused"
    once = kind(group(cloud))
    cloud.registry.get_feature_group, cloud.registry.create_feature_group = once.get, once.create
    assert feature_store.create_group(cloud).status == status
    view = feature_store.view_message(cloud)
    view.name = "projects/7/x/featureViews/v"
    once = kind(view)
    cloud.online_admin.get_feature_view = once.get
    cloud.online_admin.create_feature_view = once.create
    assert feature_store.create_view(cloud).status == status


@pytest.mark.parametrize("exists", [False, True])
def test_features_are_waited_for_until_the_list_has_all(fake, monkeypatch, exists):
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    cloud = fake(registry={})
    names = [f"projects/7/x/features/{name}" for name in cloud.settings.feature_names]
    lists = [[], names[:3], names]

    def create(**_):
        if exists:
            raise Conflict("exists")

    cloud.registry.batch_create_features = create
    cloud.registry.list_features = lambda parent: [
        vertex.Feature(name=name) for name in (lists.pop(0) if len(lists) > 1 else lists[0])]
    feature_store.register_features(cloud)
    assert list(feature_store.read_registry(cloud)["feature"]) == cloud.settings.feature_names


def test_a_unit_of_any_words_is_registered_as_a_label(fake, monkeypatch):
    """config.yaml takes any text as a unit, and charts show it; labels have few characters."""
    cloud, sent = fake(registry={}), []
    feature = cloud.settings.features[0].model_copy(update={"unit": "% of Items, per week " * 9})
    cloud.settings = cloud.settings.model_copy(update={"features": [feature]})
    cloud.registry.batch_create_features = lambda parent, requests: sent.extend(requests)
    cloud.registry.list_features = lambda parent: [
        vertex.Feature(name=f"{parent}/features/{r.feature_id}") for r in sent]
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    feature_store.register_features(cloud)
    (request,) = sent
    check_labels(request.feature.labels)
    assert request.feature.labels["unit"].startswith("_of_items_per_week_")


def test_an_answer_without_any_feature_is_nothing_served(fake, monkeypatch):
    monkeypatch.setattr(feature_store, "_why_not_served", lambda *_: "never been synced")
    cloud = fake(online={"fetch_feature_values": lambda *_, **__: served()})
    with pytest.raises(feature_store.EntityNotServed, match="never been synced"):
        feature_store.fetch(cloud, "1")


def test_a_fetch_without_a_network_says_so_and_names_the_view(fake):
    def fail(*_, **__):
        raise RetryError("Timeout of 2.0s exceeded", ServiceUnavailable(
            "failed to connect to all addresses"))

    cloud = fake(online={"fetch_feature_values": fail})
    with pytest.raises(RetryError) as failed:
        feature_store.fetch(cloud, "1")
    explained = errors.explain(failed.value, "07_online_predict", "fetch", cloud.settings)
    assert explained.need == errors.NETWORK
    assert explained.resource == feature_store.view_name(cloud)


def test_a_fetch_from_google_goes_through_the_proxy_that_all_others_use(monkeypatch):
    """gRPC reads https_proxy, in lower case; requests and google.auth also HTTPS_PROXY."""
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "p"))
    asked = []
    with mock.patch.dict(os.environ), socket.create_server(("127.0.0.1", 0)) as proxy:
        def refuse():
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(1000).split(b"\r\n")[0])

        threading.Thread(target=refuse, daemon=True).start()
        os.environ.pop("https_proxy", None)
        os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        cloud = connect(config.load(target="gcp", env="dev", overrides={
            "targets": {"gcp": {"project": "my-project"}}}))
        with pytest.raises(ServiceUnavailable):
            cloud.online.fetch_feature_values({"feature_view": "v"}, timeout=20)
    assert asked == [b"CONNECT us-central1-aiplatform.googleapis.com:443 HTTP/1.1"]


@pytest.mark.parametrize(("syncs", "raised"), [
    ([], feature_store.EntityNotServed), ([vertex.FeatureViewSync()], FailedPrecondition)])
def test_a_refused_fetch_of_a_view_that_was_never_synced_says_so(
    fake, monkeypatch, syncs, raised
):
    def refuse(*_, **__):
        raise FailedPrecondition("not possible")

    monkeypatch.setattr(feature_store, "list_syncs", lambda _: syncs)
    monkeypatch.setattr(feature_store, "is_done", lambda _: True)
    cloud = fake(online={"fetch_feature_values": refuse}, online_admin={
        "get_feature_online_store": lambda name: 1, "get_feature_view": lambda name: 1})
    with pytest.raises(raised, match="never been synced|not possible"):
        feature_store.fetch(cloud, "1")


def test_a_sync_without_a_start_has_no_seconds(fake):
    sync = vertex.FeatureViewSync(name="projects/7/x/featureViewSyncs/s")
    vertex.FeatureViewSync.pb(sync).run_time.end_time.GetCurrentTime()
    cloud = fake(online_admin={
        "sync_feature_view": lambda **_: vertex.SyncFeatureViewResponse(
            feature_view_sync=sync.name),
        "get_feature_view_sync": lambda **_: sync})
    assert feature_store.sync(cloud, force=True).figures == {"rows": 0}


@pytest.mark.parametrize("clock", [0, 10**6])  # of this machine, in seconds: its own matter
@pytest.mark.parametrize(("table_made", "group_made", "status"), [
    (10, 50, "reused"), (10, 200, "started"), (200, 50, "started")])
def test_a_sync_before_the_table_or_the_group_was_made_is_not_reused(
        fake, monkeypatch, clock, table_made, group_made, status):
    """The message about another `dense` says to delete the group: what was synced before then is
    what the old group serves."""
    from lib import warehouse

    monkeypatch.setattr(warehouse, "find_table", lambda *_: SimpleNamespace(
        labels={"build": f"{clock * 10**9}"}, modified=datetime.fromtimestamp(table_made, UTC)))
    done = vertex.FeatureViewSync(name="old", create_time=datetime.fromtimestamp(100, UTC))
    vertex.FeatureViewSync.pb(done).run_time.end_time.FromSeconds(110)
    made = vertex.FeatureGroup(create_time=datetime.fromtimestamp(group_made, UTC))
    cloud = fake(registry={"get_feature_group": lambda name: made}, online_admin={
        "list_feature_view_syncs": lambda parent: [done],
        "sync_feature_view": lambda **_: vertex.SyncFeatureViewResponse(feature_view_sync="new")})
    assert feature_store.start_sync(cloud).status == status


def test_an_existing_store_gets_the_nodes_of_config_yaml(fake, monkeypatch):
    """The report multiplies them by a price: until the update, those are named that there are."""
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    store = vertex.FeatureOnlineStore(
        bigtable={"auto_scaling": {"min_node_count": 2, "max_node_count": 5}},
        state=vertex.FeatureOnlineStore.State.STABLE)
    sent = []

    def update(feature_online_store, update_mask):
        sent.extend(update_mask.paths)
        store.bigtable.auto_scaling = feature_online_store.bigtable.auto_scaling
        store.bigtable.auto_scaling.cpu_utilization_target = 0  # a default, left out

    cloud = fake(online_admin={"get_feature_online_store": lambda name: store,
                               "update_feature_online_store": update})
    for step, nodes in ((feature_store.start_online_store, "2 to 5"),
                        (feature_store.create_online_store, "1 to 1"),
                        (feature_store.create_online_store, "1 to 1")):
        outcome = step(cloud)
        assert (outcome.status, outcome.figures) == ("reused", {"nodes": nodes})
    assert sent == ["bigtable.auto_scaling"]  # once


@pytest.mark.parametrize("changes", [
    {"description": "Another"}, {"unit": "dozens"}, {"type": "FLOAT64"}, {}])
def test_a_feature_that_config_yaml_describes_otherwise_is_updated(fake, monkeypatch, changes):
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    cloud, there, sent = fake(registry={}), {}, []
    cloud.registry.list_features = lambda parent: there.values()

    def create(parent, requests):
        for one in requests:
            there[one.feature_id] = one.feature
            one.feature.name = f"{parent}/features/{one.feature_id}"

    def update(feature, update_mask):
        sent.append(feature.name.rsplit("/", 1)[1])
        for path in update_mask.paths:
            setattr(there[sent[-1]], path, getattr(feature, path))

    cloud.registry.batch_create_features, cloud.registry.update_feature = create, update
    feature_store.register_features(cloud)
    first, *others = cloud.settings.features
    cloud.settings = cloud.settings.model_copy(update={
        "features": [first.model_copy(update=changes), *others], "run_id": "20260101-000000"})
    outcome = feature_store.register_features(cloud)
    assert sent == ([first.name] if changes else [])
    assert (outcome.status, "updated" in outcome.figures) == (
        ("created", True) if changes else ("reused", False))
    (row,) = feature_store.read_registry(cloud).head(1).itertuples()
    wanted = cloud.settings.features[0]
    assert (row.description, row.unit, row.type) == (
        wanted.description, wanted.unit, wanted.type.lower())
