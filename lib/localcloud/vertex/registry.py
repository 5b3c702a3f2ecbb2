"""FeatureRegistryService: feature groups and their features."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex import listing, operations, rules, source
from lib.localcloud.vertex.errors import invalid, precondition
from lib.localcloud.vertex.state import new_message

GROUP_UPDATABLE = {"labels", "description", "big_query", "big_query.entity_id_columns"}
FEATURE_UPDATABLE = {
    "labels", "description", "version_column_name", "point_of_contact", "disable_monitoring"}


def entity_columns(group: Message) -> list[str]:
    """The group's entity id columns; `entity_id` if none were given."""
    return list(group.big_query.entity_id_columns) or [source.DEFAULT_ENTITY_COLUMN]


def timestamp_column(group: Message) -> str | None:
    """The group's timestamp column; None for a static source."""
    if group.big_query.static_data_source:
        return None
    return group.big_query.time_series.timestamp_column or source.TIMESTAMP_COLUMN


def _check_group(cloud, group: Message) -> None:
    """Every rule on a group's source; raises INVALID_ARGUMENT or NOT_FOUND."""
    rules.check_labels(group.labels)
    spec = group.big_query
    if not spec.big_query_source.input_uri:
        raise invalid("feature_group.big_query.big_query_source.input_uri is required.")
    if spec.static_data_source and spec.HasField("time_series"):
        raise invalid("static_data_source and time_series are mutually exclusive.")
    schema = cloud.bigquery.schema(spec.big_query_source.input_uri)
    source.check_entity_columns(schema, entity_columns(group))
    if timestamp_column(group):
        source.check_timestamp_column(schema, timestamp_column(group))


def create_feature_group(cloud, request: Message) -> dict:
    """CreateFeatureGroup. The table must exist, with its entity id and timestamp columns."""
    rules.check_id(request.feature_group_id, rules.FEATURE_ID, "feature_group_id")
    group = request.feature_group
    group.name = f"{request.parent}/featureGroups/{request.feature_group_id}"
    _check_group(cloud, group)
    cloud.state.insert(group)
    return operations.done(cloud.state, "CreateFeatureGroup", group.name, group)


def get_feature_group(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_feature_groups(cloud, request: Message) -> Message:
    found = cloud.state.children(request.parent, "featureGroups")
    return listing.page(
        found, request, new_message(types.ListFeatureGroupsResponse), "feature_groups")


def update_feature_group(cloud, request: Message) -> dict:
    """UpdateFeatureGroup. Fields that may change: the proto comment of `update_mask`."""
    group = cloud.state.get(request.feature_group.name)
    changed = rules.merge(group, request.feature_group, request.update_mask, GROUP_UPDATABLE)
    if changed.big_query.big_query_source != group.big_query.big_query_source:
        raise invalid("big_query.big_query_source is immutable.")
    _check_group(cloud, changed)
    return operations.done(
        cloud.state, "UpdateFeatureGroup", group.name, cloud.state.put(changed))


def delete_feature_group(cloud, request: Message) -> dict:
    """DeleteFeatureGroup: FAILED_PRECONDITION if it has features and `force` is not set."""
    cloud.state.get(request.name)
    if cloud.state.children(request.name, "features") and not request.force:
        raise precondition(f"{request.name} has features; delete them first or set force.")
    cloud.state.delete(request.name)
    return operations.done(cloud.state, "DeleteFeatureGroup", request.name)


def _check_feature(cloud, group: Message, feature: Message, feature_id: str) -> None:
    rules.check_id(feature_id, rules.FEATURE_ID, "feature_id")
    rules.check_labels(feature.labels)
    schema = cloud.bigquery.schema(group.big_query.big_query_source.input_uri)
    source.check_feature_column(schema, feature.version_column_name or feature_id)


def _new_feature(cloud, request: Message) -> Message:
    group = cloud.state.get(request.parent)
    feature = request.feature
    _check_feature(cloud, group, feature, request.feature_id)
    feature.name = f"{request.parent}/features/{request.feature_id}"
    return cloud.state.insert(feature)


def create_feature(cloud, request: Message) -> dict:
    """CreateFeature. Its column (version_column_name, else its id) must be in the source."""
    feature = _new_feature(cloud, request)
    return operations.done(cloud.state, "CreateFeature", feature.name, feature)


def batch_create_features(cloud, request: Message) -> dict:
    """BatchCreateFeatures: all of them or none."""
    response = new_message(types.BatchCreateFeaturesResponse)
    with cloud.state.transaction():
        for one in request.requests:
            if one.parent and one.parent != request.parent:
                raise invalid(f"requests: parent {one.parent!r} is not {request.parent!r}.")
            one.parent = request.parent
            response.features.append(_new_feature(cloud, one))
    return operations.done(cloud.state, "BatchCreateFeatures", request.parent, response)


def get_feature(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_features(cloud, request: Message) -> Message:
    cloud.state.get(request.parent)
    found = cloud.state.children(request.parent, "features")
    return listing.page(found, request, new_message(types.ListFeaturesResponse), "features")


def update_feature(cloud, request: Message) -> dict:
    """UpdateFeature; the column is checked again."""
    feature = cloud.state.get(request.feature.name)
    changed = rules.merge(feature, request.feature, request.update_mask, FEATURE_UPDATABLE)
    group_name, _, feature_id = feature.name.rsplit("/", 2)
    _check_feature(cloud, cloud.state.get(group_name), changed, feature_id)
    return operations.done(cloud.state, "UpdateFeature", feature.name, cloud.state.put(changed))


def delete_feature(cloud, request: Message) -> dict:
    cloud.state.get(request.name)
    cloud.state.delete(request.name)
    return operations.done(cloud.state, "DeleteFeature", request.name)
