"""FeatureOnlineStoreAdminService: online stores, feature views and their syncs."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.online import rules
from lib.localcloud.vertex.online.fetching import fetch_feature_values
from lib.localcloud.vertex.online.sync import OWN_ACCOUNT

STORES = Collection(
    types.FeatureOnlineStore, "featureOnlineStores", rules.check_store, rules.check_store_delete,
    id_pattern=rules.ONLINE_STORE_ID, id_rule="online.id",
    updatable=frozenset({"labels", "bigtable", "bigtable.auto_scaling"}))
VIEWS = Collection(
    types.FeatureView, "featureViews", rules.check_view,
    id_pattern=rules.ONLINE_STORE_ID, id_rule="online.id",
    updatable=frozenset({
        "labels", "service_agent_type", "sync_config", "sync_config.cron",
        "big_query_source", "big_query_source.uri", "big_query_source.entity_id_columns",
        "feature_registry_source", "feature_registry_source.feature_groups"}))
SYNCS = Collection(types.FeatureViewSync, "featureViewSyncs")


def create_feature_view(vertex: Vertex, request: Message) -> dict:
    """CreateFeatureView; with run_sync_immediately, also its first sync."""
    if request.feature_view.service_agent_type == OWN_ACCOUNT:
        request.feature_view.service_account_email = (
            f"{request.feature_view_id}@feature-view.local")
    operation = VIEWS.create(vertex, request)
    if request.run_sync_immediately:
        vertex.syncs.add(request.feature_view.name)
    return operation


def sync_feature_view(vertex: Vertex, request: Message) -> Message:
    """SyncFeatureView answers at once; the sync runs after the view's earlier ones."""
    vertex.state.get(request.feature_view)
    response = new_message(types.SyncFeatureViewResponse)
    response.feature_view_sync = vertex.syncs.add(request.feature_view)
    return response


METHODS = {
    **STORES.handlers("create", "get", "list", "update", "delete"),
    **VIEWS.handlers("get", "list", "update", "delete"),
    **SYNCS.handlers("get", "list"),
    "CreateFeatureView": create_feature_view,
    "SyncFeatureView": sync_feature_view,
    "FetchFeatureValues": fetch_feature_values,
}
