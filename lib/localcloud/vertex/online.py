"""FeatureOnlineStoreAdminService and FeatureOnlineStoreService: stores, views, fetching."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex import listing, operations, registry, rules, source
from lib.localcloud.vertex.errors import ApiError, invalid, precondition, unsupported
from lib.localcloud.vertex.source import Source
from lib.localcloud.vertex.state import new_message

STORE_UPDATABLE = {"labels", "bigtable", "bigtable.auto_scaling"}
VIEW_UPDATABLE = {
    "labels", "service_agent_type", "sync_config", "sync_config.cron",
    "big_query_source", "big_query_source.uri", "big_query_source.entity_id_columns",
    "feature_registry_source", "feature_registry_source.feature_groups"}
PROTO_STRUCT = types.FeatureViewDataFormat.PROTO_STRUCT
OWN_ACCOUNT = types.FeatureView.ServiceAgentType.SERVICE_AGENT_TYPE_FEATURE_VIEW


# Online stores


def _check_store(store: Message) -> None:
    """Bigtable only; node counts and CPU target as the proto comment of AutoScaling says."""
    rules.check_labels(store.labels)
    if store.HasField("optimized"):
        raise unsupported("Optimized online serving (Google ends it on 2027-02-17)")
    if not store.bigtable.HasField("auto_scaling"):
        raise invalid("feature_online_store.bigtable.auto_scaling is required.")
    scaling = store.bigtable.auto_scaling
    if scaling.min_node_count < 1:
        raise invalid("min_node_count must be at least 1.")
    if not scaling.min_node_count <= scaling.max_node_count <= 10 * scaling.min_node_count:
        raise invalid("max_node_count must be from min_node_count to 10 times min_node_count.")
    scaling.cpu_utilization_target = scaling.cpu_utilization_target or 50
    if not 10 <= scaling.cpu_utilization_target <= 80:
        raise invalid("cpu_utilization_target must be from 10 to 80.")


def create_feature_online_store(cloud, request: Message) -> dict:
    rules.check_id(
        request.feature_online_store_id, rules.ONLINE_STORE_ID, "feature_online_store_id")
    store = request.feature_online_store
    store.name = f"{request.parent}/featureOnlineStores/{request.feature_online_store_id}"
    _check_store(store)
    store.state = types.FeatureOnlineStore.State.STABLE
    cloud.state.insert(store)
    return operations.done(cloud.state, "CreateFeatureOnlineStore", store.name, store)


def get_feature_online_store(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_feature_online_stores(cloud, request: Message) -> Message:
    found = cloud.state.children(request.parent, "featureOnlineStores")
    response = new_message(types.ListFeatureOnlineStoresResponse)
    return listing.page(found, request, response, "feature_online_stores")


def update_feature_online_store(cloud, request: Message) -> dict:
    store = cloud.state.get(request.feature_online_store.name)
    changed = rules.merge(
        store, request.feature_online_store, request.update_mask, STORE_UPDATABLE)
    _check_store(changed)
    return operations.done(
        cloud.state, "UpdateFeatureOnlineStore", store.name, cloud.state.put(changed))


def delete_feature_online_store(cloud, request: Message) -> dict:
    """DeleteFeatureOnlineStore: FAILED_PRECONDITION if it has views and `force` is not set."""
    cloud.state.get(request.name)
    if cloud.state.children(request.name, "featureViews") and not request.force:
        raise precondition(f"{request.name} has feature views; delete them first or set force.")
    cloud.state.delete(request.name)
    return operations.done(cloud.state, "DeleteFeatureOnlineStore", request.name)


# Feature views


def sources(cloud, view: Message) -> list[Source]:
    """What the view serves, resolved against the registry and BigQuery as they are now.

    Raises:
        ApiError: NOT_FOUND for a group, feature or table; INVALID_ARGUMENT for a column.
    """
    if view.HasField("big_query_source"):
        return [_bigquery_source(cloud, view)]
    location = "/".join(view.name.split("/")[:4])
    return [
        _group_source(cloud, f"{location}/featureGroups/{part.feature_group_id}", part.feature_ids)
        for part in view.feature_registry_source.feature_groups]


def _group_source(cloud, group_name: str, feature_ids: list[str]) -> Source:
    group = cloud.state.get(group_name)
    if not feature_ids:
        raise invalid(f"feature_ids of {group_name} is empty.")
    columns = {}
    for feature_id in feature_ids:
        feature = cloud.state.get(f"{group_name}/features/{feature_id}")
        columns[feature_id] = feature.version_column_name or feature_id
    return Source(
        key=group_name.rsplit("/", 1)[1],
        table=source.table_id(group.big_query.big_query_source.input_uri),
        entity_columns=tuple(registry.entity_columns(group)),
        columns=columns,
        order=registry.timestamp_column(group),
        dense=group.big_query.dense)


def _bigquery_source(cloud, view: Message) -> Source:
    """A view straight from a table: one row per entity, and of several an arbitrary one."""
    spec = view.big_query_source
    schema = cloud.bigquery.schema(spec.uri)
    keys = tuple(spec.entity_id_columns)
    served = [n for n, f in schema.items() if n not in keys and source.value_field(f)]
    return Source("", source.table_id(spec.uri), keys, {n: n for n in served}, None, True)


def _check_view(cloud, view: Message) -> None:
    """The rules on a view's source and schedule."""
    rules.check_labels(view.labels)
    if view.sync_config.continuous:
        raise unsupported("sync_config.continuous")
    if view.HasField("index_config") or view.HasField("optimized_config"):
        raise unsupported("Vector search (index_config, optimized_config)")
    if view.HasField("vertex_rag_source"):
        raise unsupported("vertex_rag_source")
    if view.sync_config.cron:
        rules.check_cron(view.sync_config.cron)
    if view.HasField("big_query_source"):
        schema = cloud.bigquery.schema(view.big_query_source.uri)
        if not view.big_query_source.entity_id_columns:
            raise invalid("big_query_source.entity_id_columns is required.")
        source.check_entity_columns(schema, view.big_query_source.entity_id_columns)
        for name in schema.keys() - set(view.big_query_source.entity_id_columns):
            source.check_feature_column(schema, name)
        return
    if not view.feature_registry_source.feature_groups:
        raise invalid("feature_view needs big_query_source or feature_registry_source.")
    if view.feature_registry_source.project_number not in (0, cloud.project_number):
        raise unsupported("feature_registry_source.project_number of another project")
    resolved = sources(cloud, view)
    if len({part.entity_columns for part in resolved}) > 1:
        raise invalid("All feature groups of a view must have the same entity_id_columns.")
    if any(part.dense for part in resolved) and not view.sync_config.cron:
        raise precondition("A dense feature group needs a view with a scheduled sync (cron).")


def create_feature_view(cloud, request: Message) -> dict:
    """CreateFeatureView; with run_sync_immediately, also its first sync."""
    rules.check_id(request.feature_view_id, rules.ONLINE_STORE_ID, "feature_view_id")
    cloud.state.get(request.parent)
    view = request.feature_view
    view.name = f"{request.parent}/featureViews/{request.feature_view_id}"
    _check_view(cloud, view)
    if view.service_agent_type == OWN_ACCOUNT:
        view.service_account_email = f"{request.feature_view_id}@feature-view.local"
    cloud.state.insert(view)
    if request.run_sync_immediately:
        cloud.syncs.add(view.name)
    return operations.done(cloud.state, "CreateFeatureView", view.name, view)


def get_feature_view(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_feature_views(cloud, request: Message) -> Message:
    cloud.state.get(request.parent)
    found = cloud.state.children(request.parent, "featureViews")
    return listing.page(
        found, request, new_message(types.ListFeatureViewsResponse), "feature_views")


def update_feature_view(cloud, request: Message) -> dict:
    view = cloud.state.get(request.feature_view.name)
    changed = rules.merge(view, request.feature_view, request.update_mask, VIEW_UPDATABLE)
    _check_view(cloud, changed)
    return operations.done(cloud.state, "UpdateFeatureView", view.name, cloud.state.put(changed))


def delete_feature_view(cloud, request: Message) -> dict:
    """DeleteFeatureView: also what it serves."""
    cloud.state.get(request.name)
    cloud.state.delete(request.name)
    return operations.done(cloud.state, "DeleteFeatureView", request.name)


def sync_feature_view(cloud, request: Message) -> Message:
    """SyncFeatureView answers at once; the sync runs behind the view's other syncs, if any."""
    cloud.state.get(request.feature_view)
    response = new_message(types.SyncFeatureViewResponse)
    response.feature_view_sync = cloud.syncs.add(request.feature_view)
    return response


def get_feature_view_sync(cloud, request: Message) -> Message:
    return cloud.state.get(request.name)


def list_feature_view_syncs(cloud, request: Message) -> Message:
    cloud.state.get(request.parent)
    found = cloud.state.children(request.parent, "featureViewSyncs")
    response = new_message(types.ListFeatureViewSyncsResponse)
    return listing.page(found, request, response, "feature_view_syncs", ("create_time",))


# Fetching


def fetch_feature_values(cloud, request: Message) -> Message:
    """FetchFeatureValues of one entity, as the last sync left them.

    Raises:
        ApiError: INVALID_ARGUMENT without a key; NOT_FOUND, with the same message, for an entity,
            view or store that is not there, and for a view that was never synced.
    """
    key = request.data_key
    parts = list(key.composite_key.parts) or ([key.key] if key.key else [])
    if not parts:
        raise invalid("data_key is required: key, or composite_key.parts.")
    found = cloud.state.values(request.feature_view, source.entity_key(parts))
    if not found:
        raise ApiError("NOT_FOUND", "Requested entity was not found.")
    response = new_message(types.FetchFeatureValuesResponse)
    pairs = _pairs(found)
    if request.data_format == PROTO_STRUCT:
        response.proto_struct.update({name: value for name, _, value in pairs})
        return response
    for name, kind, value in pairs:
        entry = response.key_values.features.add(name=name)
        if value is not None:  # a null feature is a name without a value
            _set_value(entry.value, kind, value)
    return response


def _pairs(found: list[tuple[list, list]]) -> list[tuple[str, str, object]]:
    """(name, kind, value) of every feature; one feature_timestamp, the newest of the groups'."""
    pairs, stamps = [], []
    for columns, values in found:
        for (name, kind), value in zip(columns, values, strict=True):
            (stamps if name == source.TIMESTAMP_COLUMN else pairs).append((name, kind, value))
    return pairs + sorted(stamps, key=lambda stamp: stamp[2] or 0)[-1:]


def _set_value(target: Message, kind: str, value: object) -> None:
    if kind.endswith("_array"):
        array = getattr(target, f"{kind}_value")
        array.SetInParent()  # so that an empty array is not taken for null
        array.values.extend(value)
    elif kind == "bytes":
        target.bytes_value = value.encode("latin-1")
    else:
        setattr(target, f"{kind}_value", value)
