"""Feature groups and features: what is accepted, what is refused, and with which error."""

import pytest
from google.api_core import exceptions as errors

GOOD = """select 'a' as id, 7 as number_id, timestamp '2024-01-01' as feature_timestamp,
    timestamp '2024-01-01' as seen_at, 1 as f0, 1.5 as f1, numeric '1.5' as money,
    date '2024-01-01' as day, struct(1 as a) as nested, [b'x'] as blobs, [1, 2] as numbers"""


@pytest.fixture
def good(table):
    return table(GOOD)


def create_group(vertex, location, group_id="fg", labels=None, **big_query):
    uri = big_query.pop("uri", None)
    source = {"big_query_source": {"input_uri": uri}} if uri else {}
    return vertex.registry.create_feature_group(
        parent=location, feature_group_id=group_id,
        feature_group={"labels": labels or {}, "big_query": source | big_query}).result()


def test_group_round_trip(vertex, location, good):
    created = create_group(
        vertex, location, uri=good, entity_id_columns=["id"], labels={"env": "dev"}, dense=True,
        time_series={"timestamp_column": "seen_at"})
    assert created.name == f"{location}/featureGroups/fg"
    found = vertex.registry.get_feature_group(name=created.name)
    assert found.big_query.dense and found.labels == {"env": "dev"} and found.etag
    assert found.create_time is not None
    assert [g.name for g in vertex.registry.list_feature_groups(parent=location)] == [found.name]
    with pytest.raises(errors.Conflict):
        create_group(vertex, location, uri=good, entity_id_columns=["id"])


@pytest.mark.parametrize("group_id", ["1st", "Upper", "with-dash", "x" * 129, ""])
def test_bad_group_ids(vertex, location, good, group_id):
    with pytest.raises(errors.BadRequest):
        create_group(vertex, location, group_id, uri=good, entity_id_columns=["id"])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "entity_id"),  # the default column, which the table does not have
        ({"entity_id_columns": ["f1"]}, "FLOAT"),
        ({"entity_id_columns": ["id"], "time_series": {"timestamp_column": "f0"}}, "TIMESTAMP"),
        ({"entity_id_columns": ["id"], "time_series": {"timestamp_column": "no"}}, "no"),
        ({"entity_id_columns": ["id"], "time_series": {}, "static_data_source": True}, "exclusive"),
        ({"entity_id_columns": ["id"], "labels": {"Env": "dev"}}, "labels"),
        ({"entity_id_columns": ["id"], "labels": {f"k{i}": "" for i in range(65)}}, "at most 64"),
    ],
)
def test_groups_that_are_refused(vertex, location, good, spec, says):
    with pytest.raises(errors.BadRequest, match=says):
        create_group(vertex, location, uri=good, **spec)


def test_group_needs_its_table(vertex, location):
    with pytest.raises(errors.NotFound, match="ds.nowhere"):
        create_group(vertex, location, uri="bq://p1.ds.nowhere", entity_id_columns=["id"])
    with pytest.raises(errors.BadRequest):
        create_group(vertex, location, uri="p1.ds.nowhere", entity_id_columns=["id"])


def test_int64_entity_and_static_source(vertex, location, table):
    uri = table("select 7 as number_id, 1 as f0")
    create_group(
        vertex, location, uri=uri, entity_id_columns=["number_id"], static_data_source=True)


@pytest.mark.parametrize("column", ["money", "day", "nested", "blobs", "nowhere"])
def test_features_that_are_refused(vertex, group, good, column):
    parent = group(good, [])
    with pytest.raises(errors.BadRequest, match=column):
        vertex.registry.create_feature(
            parent=parent, feature_id="f", feature={"version_column_name": column})


def test_features(vertex, group, good):
    parent = group(good, ["f0"])
    client = vertex.registry
    batch = client.batch_create_features(parent=parent, requests=[
        {"parent": parent, "feature_id": "f1", "feature": {}},
        {"parent": parent, "feature_id": "n", "feature": {"version_column_name": "numbers"}},
    ]).result()
    assert [f.name.rsplit("/")[-1] for f in batch.features] == ["f1", "n"]
    with pytest.raises(errors.Conflict):
        client.create_feature(parent=parent, feature_id="f0", feature={})
    with pytest.raises(errors.NotFound):
        client.create_feature(parent=parent + "x", feature_id="f0", feature={})
    name = f"{parent}/features/f0"
    client.update_feature(
        feature={"name": name, "description": "d", "labels": {"unit": "usd"}},
        update_mask={"paths": ["description", "labels"]}).result()
    found = client.get_feature(name=name)
    assert (found.name, found.description, found.labels) == (name, "d", {"unit": "usd"})
    with pytest.raises(errors.BadRequest, match="version_column_name"):
        client.update_feature(feature={"name": name}, update_mask={
            "paths": ["version_column_name"]}).result()
    client.delete_feature(name=name).result()
    with pytest.raises(errors.NotFound):
        client.get_feature(name=name)
    assert len(list(client.list_features(parent=parent))) == 2


def test_batch_is_all_or_nothing(vertex, group, good):
    parent = group(good, [])
    with pytest.raises(errors.BadRequest):
        vertex.registry.batch_create_features(parent=parent, requests=[
            {"parent": parent, "feature_id": "f0", "feature": {}},
            {"parent": parent, "feature_id": "nowhere", "feature": {}}])
    assert list(vertex.registry.list_features(parent=parent)) == []


def test_delete_group_with_features_needs_force(vertex, group, good):
    name = group(good, ["f0"])
    with pytest.raises(errors.BadRequest, match="force"):
        vertex.registry.delete_feature_group(name=name)
    vertex.registry.delete_feature_group(request={"name": name, "force": True}).result()
    with pytest.raises(errors.NotFound):
        vertex.registry.get_feature_group(name=name)
    with pytest.raises(errors.NotFound):
        vertex.registry.get_feature(name=f"{name}/features/f0")


def test_lists_are_paged_and_filtered(vertex, location, good):
    for i in range(5):
        create_group(vertex, location, f"g{i}", uri=good, entity_id_columns=["id"],
                     labels={"even": str(i % 2 == 0).lower()})
    pages = vertex.registry.list_feature_groups(request={"parent": location, "page_size": 2}).pages
    assert [len(page.feature_groups) for page in pages] == [2, 2, 1]
    even = vertex.registry.list_feature_groups(request={
        "parent": location, "filter": 'labels.even="true"'})
    assert [g.name[-2:] for g in even] == ["g0", "g2", "g4"]
    with pytest.raises(errors.BadRequest, match="filter"):
        vertex.registry.list_feature_groups(request={"parent": location, "filter": "colour=red"})
    with pytest.raises(errors.BadRequest, match="order_by"):
        vertex.registry.list_feature_groups(request={"parent": location, "order_by": "name"})
