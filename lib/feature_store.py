"""Feature group, features, online store, feature view, sync and wait, fetch.

Built on the GAPIC clients: the preview classes of the SDK can set neither `dense` nor
`time_series`. Every function makes what is missing and reuses what stands.
"""

import random
import time
from datetime import UTC, datetime

import pandas as pd
from google.api_core.exceptions import NotFound
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2

from lib import warehouse
from lib.cloud import Cloud
from lib.stages import Needed, Outcome

OPERATION_SECONDS = 1800  # an online store "might take up to 10 minutes" (Google's notebook)


class EntityNotServed(LookupError):
    """A fetch found nothing; the message says which of the possible reasons it was."""


def group_name(cloud: Cloud) -> str:
    return f"{cloud.parent}/featureGroups/{cloud.settings.names.feature_group}"


def store_name(cloud: Cloud) -> str:
    return f"{cloud.parent}/featureOnlineStores/{cloud.settings.names.online_store}"


def view_name(cloud: Cloud) -> str:
    return f"{store_name(cloud)}/featureViews/{cloud.settings.names.feature_view}"


def create_group(cloud: Cloud) -> Outcome:
    """The feature group over features_customer: which column is the entity, which the time.

    Raises:
        Needed: a group of that name stands over another table, or with another `dense`.
    """
    settings = cloud.settings
    wanted = vertex.FeatureGroup(
        big_query=vertex.FeatureGroup.BigQuery(
            big_query_source=vertex.BigQuerySource(input_uri=f"bq://{settings.table('features')}"),
            entity_id_columns=[settings.entity.column],
            time_series=vertex.FeatureGroup.BigQuery.TimeSeries(
                timestamp_column=settings.entity.timestamp),
            # true: online serves the newest row, as training sees it. The default serves the
            # newest non-null value per column: a NULL average would come back as an old one.
            dense=settings.feature_view.dense,
        ),
        labels=settings.labels, description="Customer behaviour, one row per weekly snapshot",
    )
    try:
        standing = cloud.registry.get_feature_group(name=group_name(cloud))
        if standing.big_query != wanted.big_query:
            raise Needed(
                f"feature group {standing.name} stands with another source or `dense`",
                "the group of config.yaml; delete the old one (its BigQuery data stay)",
                f"gcloud ai feature-groups delete {settings.names.feature_group} "
                f"--region={settings.region} --force")
        return Outcome("reused", standing.name)
    except NotFound:
        operation = cloud.registry.create_feature_group(
            parent=cloud.parent, feature_group=wanted,
            feature_group_id=settings.names.feature_group)
        return Outcome("created", operation.result(timeout=OPERATION_SECONDS).name)


def register_features(cloud: Cloud) -> Outcome:
    """One Feature per column of the list in config.yaml, with description, unit and owner."""
    settings, parent = cloud.settings, group_name(cloud)
    standing = {f.name.rsplit("/", 1)[1] for f in cloud.registry.list_features(parent=parent)}
    missing = [f for f in settings.features if f.name not in standing]
    if missing:
        requests = [
            vertex.CreateFeatureRequest(
                parent=parent, feature_id=feature.name,
                feature=vertex.Feature(
                    description=feature.description, version_column_name=feature.name,
                    point_of_contact=settings.owner,
                    labels={**settings.labels, "unit": feature.unit.lower(),
                            "type": feature.type.lower()},
                ),
            )
            for feature in missing
        ]
        operation = cloud.registry.batch_create_features(parent=parent, requests=requests)
        operation.result(timeout=OPERATION_SECONDS)
    return Outcome("created" if missing else "reused", f"{parent}/features",
                   {"features": len(settings.features), "new": len(missing)})


def read_registry(cloud: Cloud) -> pd.DataFrame:
    """What the registry says of each feature, in the order of config.yaml."""
    found = {f.name.rsplit("/", 1)[1]: f
             for f in cloud.registry.list_features(parent=group_name(cloud))}
    return pd.DataFrame([
        {"feature": name, "type": found[name].labels.get("type"),
         "unit": found[name].labels.get("unit"), "owner": found[name].point_of_contact,
         "description": found[name].description}
        for name in cloud.settings.feature_names
    ])


def create_online_store(cloud: Cloud) -> Outcome:
    """The Bigtable online store; on Google it takes about ten minutes and bills by the hour."""
    settings, scale = cloud.settings, cloud.settings.online_store
    figures = {"nodes": f"{scale.min_node_count} to {scale.max_node_count}"}
    try:
        standing = cloud.online_admin.get_feature_online_store(name=store_name(cloud))
        return Outcome("reused", standing.name, figures)
    except NotFound:
        autoscaling = vertex.FeatureOnlineStore.Bigtable.AutoScaling(
            min_node_count=scale.min_node_count, max_node_count=scale.max_node_count,
            cpu_utilization_target=scale.cpu_utilization_target)
        operation = cloud.online_admin.create_feature_online_store(
            parent=cloud.parent, feature_online_store_id=settings.names.online_store,
            feature_online_store=vertex.FeatureOnlineStore(
                bigtable=vertex.FeatureOnlineStore.Bigtable(auto_scaling=autoscaling),
                labels=settings.labels))
        return Outcome("created", operation.result(timeout=OPERATION_SECONDS).name, figures)


def create_view(cloud: Cloud) -> Outcome:
    """The feature view: which features of the group the store serves, and when it syncs."""
    settings = cloud.settings
    source = vertex.FeatureView.FeatureRegistrySource(feature_groups=[
        vertex.FeatureView.FeatureRegistrySource.FeatureGroup(
            feature_group_id=settings.names.feature_group,
            feature_ids=settings.feature_names)])
    sync = vertex.FeatureView.SyncConfig(cron=settings.feature_view.sync_cron)
    wanted = vertex.FeatureView(
        feature_registry_source=source, sync_config=sync, labels=settings.labels)
    figures = {"features": len(settings.features), "sync": settings.feature_view.sync_cron}
    try:
        standing = cloud.online_admin.get_feature_view(name=view_name(cloud))
    except NotFound:
        operation = cloud.online_admin.create_feature_view(
            parent=store_name(cloud), feature_view=wanted,
            feature_view_id=settings.names.feature_view)
        return Outcome("created", operation.result(timeout=OPERATION_SECONDS).name, figures)
    served = [list(g.feature_ids) for g in standing.feature_registry_source.feature_groups]
    if served == [settings.feature_names] and standing.sync_config.cron == sync.cron:
        return Outcome("reused", standing.name, figures)
    wanted.name = standing.name
    operation = cloud.online_admin.update_feature_view(
        feature_view=wanted,
        update_mask=field_mask_pb2.FieldMask(paths=["feature_registry_source", "sync_config"]))
    return Outcome("created", operation.result(timeout=OPERATION_SECONDS).name,
                   {**figures, "updated": "yes"})


def list_syncs(cloud: Cloud) -> list[vertex.FeatureViewSync]:
    """Every sync of the view, newest first."""
    syncs = cloud.online_admin.list_feature_view_syncs(parent=view_name(cloud))
    return sorted(syncs, key=lambda sync: sync.create_time, reverse=True)


def sync(cloud: Cloud, force: bool = False) -> Outcome:
    """Copy the newest features into the online store and wait for the end.

    Reuses the newest successful sync if it began after features_customer was built.

    Raises:
        Needed: the sync failed, or did not end in waits.sync_seconds.
    """
    if not force:
        standing = _sync_of_this_build(cloud)
        if standing:
            return Outcome("reused", standing.name, _sync_figures(standing))
    started = cloud.online_admin.sync_feature_view(feature_view=view_name(cloud))
    finished = wait_for_sync(cloud, started.feature_view_sync)
    return Outcome("created", finished.name, _sync_figures(finished))


def _sync_of_this_build(cloud: Cloud) -> vertex.FeatureViewSync | None:
    built = warehouse.built_at(cloud, "features")
    if built is None:
        return None
    built_time = datetime.fromtimestamp(int(built) / 1e9, UTC)
    return next((s for s in list_syncs(cloud)
                 if _ended(s) and s.final_status.code == 0 and s.create_time > built_time), None)


def wait_for_sync(cloud: Cloud, name: str) -> vertex.FeatureViewSync:
    """Poll until the sync has ended. A sync has no state field: its run time gets an end.

    Raises:
        Needed: it failed (with its final status), or the time-out passed.
    """
    settings = cloud.settings.feature_view
    began, pause = time.monotonic(), 0.2
    while True:
        sync = cloud.online_admin.get_feature_view_sync(name=name)
        if _ended(sync):
            break
        if time.monotonic() - began > cloud.settings.waits.sync_seconds:
            raise Needed(
                f"sync {name} has not ended in {cloud.settings.waits.sync_seconds} s",
                "more time (waits.sync_seconds), or a look at the sync",
                "https://console.cloud.google.com/vertex-ai/feature-store?project="
                + cloud.settings.project)
        time.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 1.5, cloud.settings.waits.longest_pause_seconds)
    if sync.final_status.code:
        raise Needed(
            f"sync {name} failed with status {sync.final_status.code}: "
            f"{sync.final_status.message}",
            "a readable source table and BigQuery Data Viewer for the view's service account",
            f"./run_all.sh --target {cloud.settings.target} --from 04")
    return sync


def _ended(sync: vertex.FeatureViewSync) -> bool:
    # google.type.Interval is a plain protobuf message: an unset end is an empty, true one.
    return vertex.FeatureViewSync.pb(sync).run_time.HasField("end_time")


def _sync_figures(sync: vertex.FeatureViewSync) -> dict:
    took = sync.run_time.end_time.ToDatetime() - sync.run_time.start_time.ToDatetime()
    return {"rows": sync.sync_summary.row_synced, "seconds": round(took.total_seconds(), 1)}


def fetch(cloud: Cloud, customer_id: str) -> tuple[dict[str, object], datetime | None]:
    """The values that the online store serves for one customer, and their snapshot's time.

    Returns:
        {feature name: value or None} in the order of config.yaml, and feature_timestamp
        (None if the service does not return it).

    Raises:
        EntityNotServed: nothing is served; the message says why.
    """
    request = vertex.FetchFeatureValuesRequest(
        feature_view=view_name(cloud), data_key=vertex.FeatureViewDataKey(key=str(customer_id)),
        data_format=vertex.FeatureViewDataFormat.KEY_VALUE)
    try:
        reply = cloud.online.fetch_feature_values(
            request, timeout=cloud.settings.predict.fetch_timeout_seconds)
    except NotFound as error:
        raise EntityNotServed(_why_not_served(cloud, str(customer_id))) from error
    pairs = vertex.FetchFeatureValuesResponse.pb(reply).key_values.features
    values = {pair.name: _plain(pair) for pair in pairs}
    stamp = values.get(cloud.settings.entity.timestamp)
    taken_at = datetime.fromtimestamp(stamp / 1e6, UTC) if stamp is not None else None
    return {name: values.get(name) for name in cloud.settings.feature_names}, taken_at


def _plain(pair: object) -> object:
    kind = pair.value.WhichOneof("value")
    return getattr(pair.value, kind) if kind else None


def _why_not_served(cloud: Cloud, customer_id: str) -> str:
    """NOT_FOUND means any of four things: look, then say which."""
    for kind, name, get in (
        ("online store", store_name(cloud), cloud.online_admin.get_feature_online_store),
        ("feature view", view_name(cloud), cloud.online_admin.get_feature_view),
    ):
        try:
            get(name=name)
        except NotFound:
            return f"the {kind} {name} does not exist; ./run_all.sh --from 04 makes it"
    if not any(_ended(s) and s.final_status.code == 0 for s in list_syncs(cloud)):
        return (f"the feature view {view_name(cloud)} has never been synced, so it serves "
                "nothing; ./run_all.sh --from 04 syncs it")
    return (f"customer {customer_id!r} is not in the feature view: unknown, never ordered, or "
            "ordered for the first time after the newest snapshot")
