"""Feature group, features, online store, feature view, sync and wait, fetch.

Built on the GAPIC clients: the preview classes of the SDK can set neither `dense` nor
`time_series`. Every function creates what is missing and reuses what exists.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from google.api_core.exceptions import BadRequest, Conflict, GoogleAPIError, NotFound
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2
from google.rpc import code_pb2

from lib import waiting
from lib.cloud import Cloud
from lib.config import ENTITY, TIMESTAMP, Feature, Settings
from lib.errors import Needed, existing
from lib.stages import Outcome, short

# pandas and lib.warehouse (BigQuery's client) are imported in the functions that use them: they
# take over a second, and `python -m lib.predict` only fetches.
if TYPE_CHECKING:
    import pandas as pd


NEVER_SYNCED = "has never been synced"


class EntityNotServed(LookupError):
    """A fetch found nothing; the message says why."""


def group_name(cloud: Cloud) -> str:
    return f"{cloud.parent}/featureGroups/{cloud.settings.names.feature_group}"


def store_name(cloud: Cloud) -> str:
    return f"{cloud.parent}/featureOnlineStores/{cloud.settings.names.online_store}"


def view_name(cloud: Cloud) -> str:
    return f"{store_name(cloud)}/featureViews/{cloud.settings.names.feature_view}"


# -- feature group and features ----------------------------------------------------------------


def group_message(cloud: Cloud) -> vertex.FeatureGroup:
    """The feature group as it is sent: its table, and the columns of the entity and of time."""
    settings = cloud.settings
    return vertex.FeatureGroup(
        big_query=vertex.FeatureGroup.BigQuery(
            big_query_source=vertex.BigQuerySource(input_uri=f"bq://{settings.table('features')}"),
            entity_id_columns=[ENTITY],
            time_series=vertex.FeatureGroup.BigQuery.TimeSeries(
                timestamp_column=TIMESTAMP),
            # true: online serves the newest row, as training sees it. The default serves the
            # newest non-null value per column: a NULL average would come back as an old one.
            dense=settings.feature_view.dense,
        ),
        labels=settings.labels, description="Customer behaviour, one row per weekly snapshot",
    )


def create_group(cloud: Cloud) -> Outcome:
    """The feature group over features_customer.

    Raises:
        Needed: a group of that name exists with another table, other columns or another `dense`.
    """
    wanted = group_message(cloud)
    group, status = _find_or_make(
        cloud, "feature group", group_name(cloud),
        lambda: cloud.registry.get_feature_group(name=group_name(cloud)),
        lambda: cloud.registry.create_feature_group(
            parent=cloud.parent, feature_group=wanted,
            feature_group_id=cloud.settings.names.feature_group))
    here, ours = _group_settings(group), _group_settings(wanted)
    differing = [name for name in ours if here[name] != ours[name]]
    if differing and status == "reused":
        raise Needed(
            f"feature group {group.name} exists with another {', '.join(differing)}",
            "the group of config.yaml: delete the old one (its BigQuery data are kept)",
            # gcloud has no commands for the feature store.
            'curl -X DELETE -H "Authorization: Bearer $(gcloud auth print-access-token)" '
            f'"{cloud.vertex}/v1/{group_name(cloud)}?force=true"')
    return Outcome(status, group.name)


def _find_or_make(
    cloud: Cloud, what: str, name: str, get: Callable[[], Any], create: Callable[[], Any]
) -> tuple[Any, Literal["reused", "created"]]:
    """A resource whose id is ours, and whether it existed. It is read again after it was made:
    the operation's result may have no more than its name."""
    if (found := existing(get)) is not None:
        return found, "reused"
    status = "created"
    try:
        waiting.operation(cloud.settings, what, create(), name)
    except Conflict:  # made just now, by another run or by a call that seemed to fail
        status = "reused"
    return waiting.made(cloud.settings, what, get), status


def _group_settings(group: vertex.FeatureGroup) -> dict[str, object]:
    """The settings of a group that config.yaml decides. A default may be left out of an answer."""
    source = group.big_query
    return {
        "source table": source.big_query_source.input_uri,
        "entity_id_columns": list(source.entity_id_columns) or ["entity_id"],
        "timestamp column": source.time_series.timestamp_column or "feature_timestamp",
        "dense": source.dense,
    }


def register_features(cloud: Cloud) -> Outcome:
    """One Feature per column of the list in config.yaml, with description, unit and owner; one that
    exists with others is updated."""
    settings, parent = cloud.settings, group_name(cloud)
    wanted = {f.name: _feature_message(settings, f) for f in settings.features}
    found = _registered(cloud)
    missing = [name for name in wanted if name not in found]
    changed = [name for name in wanted.keys() & found if any(
        old and old != new  # an answer may leave a text out
        for old, new in zip(_texts(found[name]), _texts(wanted[name]), strict=True))]
    for name in changed:
        wanted[name].name = f"{parent}/features/{name}"
        operation = cloud.registry.update_feature(
            feature=wanted[name], update_mask=field_mask_pb2.FieldMask(
                paths=["description", "labels", "point_of_contact"]))
        waiting.operation(settings, "features", operation, wanted[name].name)
    if missing:
        requests = [vertex.CreateFeatureRequest(parent=parent, feature_id=name,
                                                feature=wanted[name]) for name in missing]
        with suppress(Conflict):  # made just now, by another run or by a call that seemed to fail
            operation = cloud.registry.batch_create_features(parent=parent, requests=requests)
            waiting.operation(settings, "features", operation, parent)
        waiting.until(settings, "features", lambda: wanted.keys() - _registered(cloud),
                      lambda left: not left, settings.waits.visible_seconds,
                      lambda left: f"not found: {', '.join(sorted(left))}")
    figures = {"features": len(wanted), "new": len(missing)}
    return Outcome("created" if missing or changed else "reused", parent,
                   figures | ({"updated": len(changed)} if changed else {}))


def _registered(cloud: Cloud) -> dict[str, vertex.Feature]:
    """The registered features by their ids."""
    listed = cloud.registry.list_features(parent=group_name(cloud))
    return {feature.name.rsplit("/", 1)[1]: feature for feature in listed}


def _feature_message(settings: Settings, feature: Feature) -> vertex.Feature:
    return vertex.Feature(
        description=feature.description, version_column_name=feature.name,
        point_of_contact=settings.owner,
        # A label has lower case, digits, "_" and "-", 63 characters at the most.
        labels={**settings.labels, "type": feature.type.lower(),
                "unit": re.sub(r"[^\w-]+", "_", feature.unit.lower())[:63]})


def _texts(feature: vertex.Feature) -> tuple[str | None, ...]:
    """What config.yaml says of a feature, without the labels of the app and the run."""
    return (feature.description, feature.point_of_contact, feature.labels.get("type"),
            feature.labels.get("unit"))


def read_registry(cloud: Cloud) -> pd.DataFrame:
    """Name, type, unit, owner and description of each registered feature, in the order of
    config.yaml."""
    import pandas as pd

    found = _registered(cloud)
    return pd.DataFrame([
        {"feature": name, "type": found[name].labels.get("type"),
         "unit": found[name].labels.get("unit"), "owner": found[name].point_of_contact,
         "description": found[name].description}
        for name in cloud.settings.feature_names
    ])


# -- online store ------------------------------------------------------------------------------


def start_online_store(cloud: Cloud) -> Outcome:
    """Start creating the Bigtable online store, without waiting for it.

    On Google this takes up to ten minutes, so a run starts it first and waits in notebook 04.
    """
    operation = _start_store(cloud)
    store = find_store(cloud) or store_message(cloud)
    return Outcome("started" if operation else "reused", store_name(cloud), _nodes(store))


def create_online_store(cloud: Cloud) -> Outcome:
    """The Bigtable online store, ready for views; it is billed by the hour while it exists. One
    that scales otherwise than config.yaml says is updated.

    Raises:
        lib.errors.Needed: it is not ready after waits.online_store_seconds.
    """
    settings, name = cloud.settings, store_name(cloud)
    operation = _start_store(cloud)
    limit = settings.waits.online_store_seconds
    if operation:
        waiting.operation(settings, "online store", operation, name, limit)
    store = waiting.until(
        settings, "online store", lambda: find_store(cloud),
        lambda found: found and found.state == vertex.FeatureOnlineStore.State.STABLE, limit,
        lambda found: f"state {waiting.state_name(found.state)}" if found else "being created",
        _console(cloud))
    if _scaling(store) != _scaling(wanted := store_message(cloud)):
        wanted.name = name
        operation = cloud.online_admin.update_feature_online_store(
            feature_online_store=wanted, update_mask=field_mask_pb2.FieldMask(
                paths=["bigtable.auto_scaling"]))
        waiting.operation(settings, "online store", operation, name, limit)
        store = find_store(cloud)
    return Outcome("created" if operation else "reused", name, _nodes(store))


def store_message(cloud: Cloud) -> vertex.FeatureOnlineStore:
    """The online store as it is sent: the Bigtable nodes between which it scales."""
    scale, bigtable = cloud.settings.online_store, vertex.FeatureOnlineStore.Bigtable
    return vertex.FeatureOnlineStore(
        bigtable=bigtable(auto_scaling=bigtable.AutoScaling(
            min_node_count=scale.min_node_count, max_node_count=scale.max_node_count,
            cpu_utilization_target=scale.cpu_utilization_target)),
        labels=cloud.settings.labels)


def _start_store(cloud: Cloud):
    """The operation that creates the store; None if it exists or is being created already."""
    if find_store(cloud):
        return None
    try:
        return cloud.online_admin.create_feature_online_store(
            parent=cloud.parent, feature_online_store_id=cloud.settings.names.online_store,
            feature_online_store=store_message(cloud))
    except Conflict:  # an earlier stage or another run has started it
        return None


def find_store(cloud: Cloud) -> vertex.FeatureOnlineStore | None:
    """The online store; None if it does not exist."""
    return existing(cloud.online_admin.get_feature_online_store, name=store_name(cloud))


def _scaling(store: vertex.FeatureOnlineStore) -> tuple[int, int, int]:
    """Least and most nodes, and the CPU target in percent, of which Google's default is 50."""
    scale = store.bigtable.auto_scaling
    return scale.min_node_count, scale.max_node_count, scale.cpu_utilization_target or 50


def _nodes(store: vertex.FeatureOnlineStore) -> dict[str, str]:
    """Of the store as it is: one that is reused may have other nodes than config.yaml says."""
    least, most, _ = _scaling(store)
    return {"nodes": f"{least} to {most}"}


def _console(cloud: Cloud) -> str:
    return ("https://console.cloud.google.com/vertex-ai/feature-store/online-stores?project="
            + cloud.settings.project)


# -- feature view ------------------------------------------------------------------------------


def create_view(cloud: Cloud) -> Outcome:
    """The feature view: which features of the group the store serves, and when it syncs.

    With feature_view.service_agent: view, its own service account gets read access to the
    dataset.
    """
    from lib import warehouse

    settings = cloud.settings
    wanted = view_message(cloud)
    figures = {"features": len(settings.features), "sync": settings.feature_view.sync_cron}
    view, status = _find_or_make(
        cloud, "feature view", view_name(cloud),
        lambda: cloud.online_admin.get_feature_view(name=view_name(cloud)),
        lambda: cloud.online_admin.create_feature_view(
            parent=store_name(cloud), feature_view=wanted,
            feature_view_id=settings.names.feature_view))
    if _view_settings(view) != _view_settings(wanted):
        wanted.name = view.name
        operation = cloud.online_admin.update_feature_view(
            feature_view=wanted, update_mask=field_mask_pb2.FieldMask(
                paths=["feature_registry_source", "sync_config", "service_agent_type"]))
        waiting.operation(settings, "feature view", operation, view_name(cloud))
        view = cloud.online_admin.get_feature_view(name=view_name(cloud))
        status, figures = "created", {**figures, "updated": "yes"}
    if _reads_as_itself(cloud) and view.service_account_email:
        warehouse.grant_reader(cloud, view.service_account_email)
        figures |= {"reads as": view.service_account_email}
    return Outcome(status, view.name, figures)


def view_message(cloud: Cloud) -> vertex.FeatureView:
    """The feature view as it is sent: the features it serves, and when it syncs."""
    settings = cloud.settings
    source = vertex.FeatureView.FeatureRegistrySource(feature_groups=[
        vertex.FeatureView.FeatureRegistrySource.FeatureGroup(
            feature_group_id=settings.names.feature_group,
            feature_ids=settings.feature_names)])
    kinds = vertex.FeatureView.ServiceAgentType
    own = settings.feature_view.service_agent == "view"
    return vertex.FeatureView(
        feature_registry_source=source, labels=settings.labels,
        sync_config=vertex.FeatureView.SyncConfig(cron=settings.feature_view.sync_cron),
        service_agent_type=kinds.SERVICE_AGENT_TYPE_FEATURE_VIEW if own
        else kinds.SERVICE_AGENT_TYPE_PROJECT)


def _view_settings(view: vertex.FeatureView) -> tuple:
    """The settings of a view that config.yaml decides."""
    own = vertex.FeatureView.ServiceAgentType.SERVICE_AGENT_TYPE_FEATURE_VIEW
    served = [(g.feature_group_id, list(g.feature_ids))
              for g in view.feature_registry_source.feature_groups]
    return served, view.sync_config.cron, view.service_agent_type == own


def dense_or_default(rows: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    """The values that would be served for one customer, with and without `dense`.

    Source of the rule: the comment on FeatureGroup.BigQuery.dense in google/cloud/aiplatform.

    Args:
        rows: one per snapshot, with `features` and feature_timestamp.

    Returns:
        One row per feature: "dense: true" has the value of the newest row, NULL or not;
        "default" has the newest value that is not NULL.
    """
    import pandas as pd

    ordered = rows.sort_values("feature_timestamp")[features]
    return pd.DataFrame({"dense: true": ordered.iloc[-1], "default": ordered.ffill().iloc[-1]})


# -- sync --------------------------------------------------------------------------------------


def list_syncs(cloud: Cloud) -> list[vertex.FeatureViewSync]:
    """Every sync of the view, newest first."""
    syncs = cloud.online_admin.list_feature_view_syncs(parent=view_name(cloud))
    return sorted(syncs, key=lambda sync: sync.create_time, reverse=True)


def start_sync(cloud: Cloud) -> Outcome:
    """Start copying the newest features into the online store, without waiting for the end.

    On Google this takes minutes; training and deployment run meanwhile, and notebook 07 waits.
    """
    existing = _sync_of_this_build(cloud)
    if existing and is_done(existing):
        return Outcome("reused", existing.name, _sync_figures(existing))
    return Outcome("started", existing.name if existing else _start_sync(cloud))


def sync(cloud: Cloud, force: bool = False) -> Outcome:
    """Copy the newest features into the online store and wait for the end.

    Reuses the newest successful sync if it began after features_customer was built and the group
    was made; waits for one that is running. `force`: always start a new one.

    Raises:
        Needed: the sync failed, or did not end in waits.sync_seconds.
    """
    existing = None if force else _sync_of_this_build(cloud)
    if existing and is_done(existing):
        return Outcome("reused", existing.name, _sync_figures(existing))
    finished = _wait_sync(cloud, existing.name if existing else _start_sync(cloud))
    # A new grant takes effect after some minutes; until then the view cannot read.
    until = time.monotonic() + cloud.settings.waits.iam_seconds
    while _was_denied(finished) and _reads_as_itself(cloud) and time.monotonic() < until:
        print("  sync: the view's service account may not read yet; retrying", flush=True)
        time.sleep(cloud.settings.waits.longest_pause_seconds)
        finished = _wait_sync(cloud, _start_sync(cloud))
    if finished.final_status.code:
        raise Needed(
            f"sync {finished.name} failed with status {finished.final_status.code}: "
            f"{finished.final_status.message}",
            "a readable source table and BigQuery Data Viewer for the view's service account",
            cloud.settings.rerun_command("07"))
    return Outcome("created", finished.name, _sync_figures(finished))


def finish_sync(cloud: Cloud) -> Outcome:
    """`sync`, reported as the end of the one that `start_sync` started."""
    return dataclasses.replace(sync(cloud), status="done")


def _start_sync(cloud: Cloud) -> str:
    """Start a sync; its name. (One that is requested while another runs starts after it: Google's
    guide to syncs.)"""
    return cloud.online_admin.sync_feature_view(feature_view=view_name(cloud)).feature_view_sync


def _wait_sync(cloud: Cloud, name: str) -> vertex.FeatureViewSync:
    """The sync when it is done, successful or not."""
    return waiting.until(
        cloud.settings, f"sync {short(name)}",
        lambda: cloud.online_admin.get_feature_view_sync(name=name), is_done,
        cloud.settings.waits.sync_seconds,
        lambda found: f"{found.sync_summary.row_synced:,} rows", _console(cloud))


def _was_denied(sync: vertex.FeatureViewSync) -> bool:
    return sync.final_status.code == code_pb2.PERMISSION_DENIED or (
        bool(sync.final_status.code) and "ermission" in sync.final_status.message)


def _reads_as_itself(cloud: Cloud) -> bool:
    return cloud.settings.feature_view.service_agent == "view"


def _sync_of_this_build(cloud: Cloud) -> vertex.FeatureViewSync | None:
    """The newest sync that succeeded or is running, since features_customer was built and the
    group was made: one with another `dense` had to be deleted first, see `create_group`.

    All times are the services' own. `modified` counts labels too, which a build writes last.
    """
    from lib import warehouse

    table = warehouse.find_table(cloud, "features")
    if table is None:
        return None
    group = cloud.registry.get_feature_group(name=group_name(cloud))
    since = max(table.modified, group.create_time)
    return next((s for s in list_syncs(cloud)
                 if s.create_time > since and s.final_status.code == 0), None)


def is_done(sync: vertex.FeatureViewSync) -> bool:
    """True if the sync has ended, successfully or not. A sync has no state, only an end time."""
    # run_time is a plain protobuf message, in which an unset end is an empty Timestamp, not None.
    return vertex.FeatureViewSync.pb(sync).run_time.HasField("end_time")


def _sync_figures(sync: vertex.FeatureViewSync) -> dict:
    figures, ran = {"rows": sync.sync_summary.row_synced}, vertex.FeatureViewSync.pb(sync).run_time
    if ran.HasField("start_time"):
        took = ran.end_time.ToDatetime() - ran.start_time.ToDatetime()
        figures["seconds"] = round(took.total_seconds(), 1)
    return figures


# -- fetch -------------------------------------------------------------------------------------


def fetch(cloud: Cloud, customer_id: str) -> tuple[dict[str, object], datetime | None]:
    """The values that the online store serves for one customer, and the time of their snapshot.

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
            request, timeout=cloud.settings.predict.fetch_timeout_seconds, retry=waiting.BRIEFLY)
    except NotFound as error:
        raise EntityNotServed(_why_not_served(cloud, str(customer_id))) from error
    except BadRequest as error:  # perhaps what a view answers before its first sync
        why = _why_not_served(cloud, str(customer_id))
        if NEVER_SYNCED not in why:
            raise
        raise EntityNotServed(why) from error
    except GoogleAPIError as error:  # by gRPC it has no address
        error.resource_name = view_name(cloud)
        raise
    pairs = vertex.FetchFeatureValuesResponse.pb(reply).key_values.features
    if not pairs:
        raise EntityNotServed(_why_not_served(cloud, str(customer_id)))
    values = {pair.name: _plain(pair) for pair in pairs}
    stamp = values.get(TIMESTAMP)
    taken_at = datetime.fromtimestamp(stamp / 1e6, UTC) if stamp is not None else None
    return {name: values.get(name) for name in cloud.settings.feature_names}, taken_at


def _plain(pair: object) -> object:
    kind = pair.value.WhichOneof("value")
    return getattr(pair.value, kind) if kind else None


def _why_not_served(cloud: Cloud, customer_id: str) -> str:
    """NOT_FOUND has four possible causes; check them one by one."""
    rerun = cloud.settings.rerun_command("04")
    for kind, name, get in (
        ("online store", store_name(cloud), cloud.online_admin.get_feature_online_store),
        ("feature view", view_name(cloud), cloud.online_admin.get_feature_view),
    ):
        if existing(get, name=name) is None:
            return f"the {kind} {name} does not exist; to create it: {rerun}"
    syncs = list_syncs(cloud)
    if not any(is_done(sync) and sync.final_status.code == 0 for sync in syncs):
        if any(not is_done(sync) for sync in syncs):
            return (f"the feature view {view_name(cloud)} serves nothing yet: its first sync is "
                    "running; retry in a few minutes")
        return (f"the feature view {view_name(cloud)} {NEVER_SYNCED}, so it serves "
                f"nothing; to sync it: {rerun}")
    return (f"customer {customer_id!r} is not in the feature view: unknown, never ordered, or "
            "ordered for the first time after the newest snapshot")
