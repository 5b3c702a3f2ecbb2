"""What this app and env made, kind by kind: how it is listed, and how it is deleted.

A resource is ours if it has one of config.yaml's names for this app and env, and labels that say
app and env. What has our name and other labels, or is inside one of ours, is listed as not ours.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from google.api_core.exceptions import BadRequest, NotFound
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2

from lib import feature_store, waiting, warehouse
from lib.cloud import Cloud
from lib.config import Settings
from lib.errors import existing
from lib.operate import schedule, service_account
from lib.proof import freshness, planted
from lib.training import inputs, jobs

COPIES = (planted.NAME, freshness.NAME)  # a run that was killed may leave them
JOB_FIELDS = field_mask_pb2.FieldMask(
    paths=["name", "display_name", "labels", "create_time", "state"])


@dataclass(frozen=True)
class Billed:
    """What is billed by the hour: in words, the fewest nodes, and the key of `costs` of a node."""

    what: str
    nodes: int
    price: str


@dataclass(frozen=True)
class Resource:
    """An existing resource.

    name: full name. note: what else to know, such as a display name.
    not_ours: why it is not ours; "" if it is.
    """

    kind: str
    name: str
    created: datetime | None = None
    note: str = ""
    billed: Billed | None = None
    not_ours: str = ""


class Kind(NamedTuple):
    """How resources of one kind are listed and deleted.

    delete: called with the name; returns an operation to wait for, or None.
    role: may delete them. Google's access-control pages.
    """

    list: Callable[[Cloud], Iterator[Resource]]
    delete: Callable[[Cloud, str], Any]
    role: str = "roles/aiplatform.user"


def _not_ours(labels: Any, settings: Settings) -> str:
    """Why a resource with our name is not ours; "" if its labels say that it is."""
    if settings.owns(labels):
        return ""
    found = {key: dict(labels or {}).get(key) for key in ("app", "env")}
    return "labels differ (" + ", ".join(f"{k} {v or 'missing'}" for k, v in found.items()) + ")"


def _with_copies(cloud: Cloud) -> list[Cloud]:
    """This cloud, and those of the copies that the checks make."""
    return [cloud, *(planted.beside(cloud, name) for name in COPIES)]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _range(fewest: int, most: int) -> str:
    return f"{fewest} to {most}" if most > fewest else f"{fewest}"


# -- endpoint and model ---------------------------------------------------------------------------


def _named(cloud: Cloud, names: Iterable[str]) -> dict[str, str]:
    """List request: resources with one of these display names."""
    return {"parent": cloud.parent,
            "filter": " OR ".join(f'display_name="{name}"' for name in names)}


def _our_endpoints(cloud: Cloud) -> Iterator[vertex.Endpoint]:
    name = cloud.settings.names.endpoint
    found = cloud.endpoints.list_endpoints(request=_named(cloud, [name]))
    return (endpoint for endpoint in found if endpoint.display_name == name)


def _deployed_models(cloud: Cloud) -> Iterator[Resource]:
    for endpoint in _our_endpoints(cloud):
        for deployed in endpoint.deployed_models:
            yield Resource(
                "deployed model", f"{endpoint.name}/deployedModels/{deployed.id}",
                deployed.create_time, f"version {deployed.model_version_id} of {deployed.model}",
                not_ours=_not_ours(endpoint.labels, cloud.settings))


def _undeploy(cloud: Cloud, name: str) -> Any:
    endpoint_name, _, deployed_id = name.rsplit("/", 2)
    endpoint = cloud.endpoints.get_endpoint(name=endpoint_name)
    rest = [d.id for d in endpoint.deployed_models if d.id != deployed_id]
    # Google refuses to undeploy a model with traffic while there are others: one takes it over.
    split = {rest[0]: 100} if rest and endpoint.traffic_split.get(deployed_id) else None
    return cloud.endpoints.undeploy_model(
        endpoint=endpoint_name, deployed_model_id=deployed_id, traffic_split=split)


def _endpoints(cloud: Cloud) -> Iterator[Resource]:
    for endpoint in _our_endpoints(cloud):
        machines = [_machines(deployed) for deployed in endpoint.deployed_models]
        billed = Billed(" and ".join(what for what, _ in machines), sum(n for _, n in machines),
                        "usd_per_serving_node_hour") if machines else None
        yield Resource("endpoint", endpoint.name, endpoint.create_time, endpoint.display_name,
                       billed, _not_ours(endpoint.labels, cloud.settings))


def _machines(deployed: vertex.DeployedModel) -> tuple[str, int]:
    """Machine type x replicas in words, and the fewest replicas."""
    given = deployed.dedicated_resources or deployed.automatic_resources
    machine = deployed.dedicated_resources.machine_spec.machine_type or "machine of Google's choice"
    fewest = given.min_replica_count
    return f"{machine} x {_range(fewest, given.max_replica_count)}", fewest


def _models(cloud: Cloud) -> Iterator[Resource]:
    name = cloud.settings.names.model
    for model in cloud.models.list_models(request=_named(cloud, [name])):
        if model.display_name == name:
            versions = len(list(cloud.models.list_model_versions(name=model.name)))
            yield Resource("model", model.name, model.create_time,
                           f"{name}, {_count(versions, 'version')}",
                           not_ours=_not_ours(model.labels, cloud.settings))


# -- feature store --------------------------------------------------------------------------------


def _views(cloud: Cloud) -> Iterator[Resource]:
    """All views of our store: it cannot be deleted while it holds a view that is not ours."""
    ours = {c.settings.names.feature_view for c in _with_copies(cloud)}
    store = feature_store.store_name(cloud)
    for view in existing(cloud.online_admin.list_feature_views, parent=store) or ():
        not_ours = _not_ours(view.labels, cloud.settings)
        if view.name.rsplit("/", 1)[1] not in ours:
            not_ours = "its name is none of config.yaml's"
        yield Resource("feature view", view.name, view.create_time, not_ours=not_ours)


def _stores(cloud: Cloud) -> Iterator[Resource]:
    store = feature_store.find_store(cloud)
    if store is None:
        return
    scale = store.bigtable.auto_scaling
    nodes = _range(scale.min_node_count, scale.max_node_count)
    billed = Billed(f"{nodes} Bigtable node{'s' if nodes != '1' else ''}",
                    scale.min_node_count, "usd_per_bigtable_node_hour")
    yield Resource("online store", store.name, store.create_time, billed=billed,
                   not_ours=_not_ours(store.labels, cloud.settings))


def _groups(cloud: Cloud) -> Iterator[Resource]:
    """Our groups, and features in them that are not ours: a group is deleted with its features."""
    for name in map(feature_store.group_name, _with_copies(cloud)):
        group = existing(cloud.registry.get_feature_group, name=name)
        if group is None:
            continue
        features = list(cloud.registry.list_features(parent=name))
        for feature in features:
            if not_ours := _not_ours(feature.labels, cloud.settings):
                yield Resource("feature", feature.name, feature.create_time, not_ours=not_ours)
        yield Resource("feature group", group.name, group.create_time,
                       f"with {_count(len(features), 'feature')}",
                       not_ours=_not_ours(group.labels, cloud.settings))


# -- jobs -----------------------------------------------------------------------------------------


def _schedules(cloud: Cloud) -> Iterator[Resource]:
    """A schedule has no labels: those of the job that it creates say whose it is."""
    for found in schedule.find(cloud):
        state = waiting.state_name(found.state).lower()
        labels = found.create_pipeline_job_request.pipeline_job.labels
        yield Resource("schedule", found.name, found.create_time, f"{found.cron}, {state}",
                       not_ours=_not_ours(labels, cloud.settings))


def _pipeline_jobs(cloud: Cloud) -> Iterator[Resource]:
    return _jobs(cloud, "pipeline job", cloud.pipeline_jobs.list_pipeline_jobs,
                 "training", schedule.STEP)


def _custom_jobs(cloud: Cloud) -> Iterator[Resource]:
    return _jobs(cloud, "custom job", cloud.custom_jobs.list_custom_jobs, *inputs.STEPS)


def _jobs(cloud: Cloud, kind: str, find: Callable, *steps: str) -> Iterator[Resource]:
    names = [jobs.display_name(cloud.settings, step) for step in steps]
    for job in find(request=_named(cloud, names) | {"read_mask": JOB_FIELDS}):
        if job.display_name in names:
            running = "" if jobs.state(job) in jobs.ENDED else ", running: it is cancelled first"
            yield Resource(kind, job.name, job.create_time, job.display_name + running,
                           not_ours=_not_ours(job.labels, cloud.settings))


def _delete_pipeline_job(cloud: Cloud, name: str) -> Any:
    client = cloud.pipeline_jobs
    _cancel(cloud, name, client.get_pipeline_job, client.cancel_pipeline_job)
    return client.delete_pipeline_job(name=name)


def _delete_custom_job(cloud: Cloud, name: str) -> Any:
    client = cloud.custom_jobs
    _cancel(cloud, name, client.get_custom_job, client.cancel_custom_job)
    return client.delete_custom_job(name=name)


def _cancel(cloud: Cloud, name: str, get: Callable, cancel: Callable) -> None:
    """Cancel a job that is running, and wait until it has ended: only then can it be deleted."""
    def state() -> str:
        return jobs.state(get(name=name))

    if state() in jobs.ENDED:
        return
    with suppress(BadRequest):  # it has just ended, or is being cancelled: the wait shows it
        cancel(name=name)
    waiting.until(cloud.settings, f"cancelling {name}", state, jobs.ENDED.__contains__,
                  cloud.settings.waits.operation_seconds, str)


# -- data -----------------------------------------------------------------------------------------


def _datasets(cloud: Cloud) -> Iterator[Resource]:
    names = [c.settings.names.dataset for c in _with_copies(cloud)]
    for name in [*names, cloud.settings.names.source_dataset]:
        dataset = warehouse.find_dataset(cloud, f"{cloud.settings.project}.{name}")
        if dataset is not None:
            tables = len(list(cloud.bigquery.list_tables(dataset)))
            yield Resource("dataset", str(dataset.reference), dataset.created,
                           f"with {_count(tables, 'table')}",
                           not_ours=_not_ours(dataset.labels, cloud.settings))


def _buckets(cloud: Cloud) -> Iterator[Resource]:
    bucket = cloud.storage.lookup_bucket(cloud.settings.names.bucket)
    if bucket is not None:
        objects = sum(1 for _ in cloud.storage.list_blobs(bucket, versions=True))
        yield Resource("bucket", f"gs://{bucket.name}", bucket.time_created,
                       f"with {_count(objects, 'object')}",
                       not_ours=_not_ours(bucket.labels, cloud.settings))


def _delete_bucket(cloud: Cloud, name: str) -> None:
    # Not bucket.delete(force=True): that refuses more than 256 objects.
    bucket = cloud.storage.bucket(name.removeprefix("gs://"))
    printed = time.monotonic()
    for number, blob in enumerate(cloud.storage.list_blobs(bucket, versions=True), 1):
        with suppress(NotFound):  # it is deleted already
            blob.delete()  # this version of it
        if time.monotonic() - printed > cloud.settings.waits.progress_seconds:
            printed = time.monotonic()
            print(f"  deleting {name}: {number} objects", flush=True)
    bucket.delete()


# -- account --------------------------------------------------------------------------------------


def _service_accounts(cloud: Cloud) -> Iterator[Resource]:
    """The account of training and serving; not the one that train.service_account names."""
    settings = cloud.settings
    if settings.service_account is None or settings.train.service_account:
        return
    if account := service_account.find(cloud):
        ours = service_account.is_ours(account, settings)
        yield Resource("service account", account["email"], note=account.get("displayName", ""),
                       not_ours="" if ours else "its description does not say so")


# In the order of deletion.
KINDS: dict[str, Kind] = {
    "schedule": Kind(
        _schedules, lambda cloud, name: cloud.schedules.delete_schedule(name=name)),
    "deployed model": Kind(_deployed_models, _undeploy),
    "endpoint": Kind(_endpoints, lambda cloud, name: cloud.endpoints.delete_endpoint(name=name)),
    "model": Kind(_models, lambda cloud, name: cloud.models.delete_model(name=name)),
    "feature view": Kind(
        _views, lambda cloud, name: cloud.online_admin.delete_feature_view(name=name)),
    # Without `force`: a view that was not listed must stay, and its store with it.
    "online store": Kind(
        _stores, lambda cloud, name: cloud.online_admin.delete_feature_online_store(name=name)),
    "feature group": Kind(
        _groups, lambda cloud, name: cloud.registry.delete_feature_group(name=name, force=True)),
    "pipeline job": Kind(_pipeline_jobs, _delete_pipeline_job),
    "custom job": Kind(_custom_jobs, _delete_custom_job),
    "dataset": Kind(
        _datasets,
        lambda cloud, name: cloud.bigquery.delete_dataset(name, delete_contents=True),
        "roles/bigquery.dataOwner"),
    "bucket": Kind(_buckets, _delete_bucket, "roles/storage.admin"),
    "service account": Kind(
        _service_accounts, service_account.delete, "roles/iam.serviceAccountDeleter"),
}
