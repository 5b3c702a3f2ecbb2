"""List or delete exactly what this app and env made.

    python -m lib.operate.teardown [--target local|gcp] [--env dev|prod] [--yes]

Without --yes it only lists, and says the command that deletes. A resource is ours if its name is
one of config.yaml's for this app and env, and its labels say app and env; what has our name and
other labels is named and left alone. Deleting again, or after a half-finished run, does no harm.

Exit status: 0 listed or deleted, 1 something could not be listed or deleted (it is named, with
what is needed), 2 a bad command line or config.yaml, or prod without `--env prod --yes`.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
from google.api_core.exceptions import BadRequest, Conflict, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud import aiplatform_v1 as vertex
from google.cloud import bigquery
from google.protobuf import field_mask_pb2

from lib import cloud as clouds
from lib import config, errors, feature_store, waiting
from lib.cloud import Cloud
from lib.config import Settings
from lib.errors import TRANSIENT, Needed
from lib.proof import planted
from lib.training import custom_jobs, pipeline_job

COPIES = ("planted", "freshness")  # lib/proof: what a run that was killed may leave
PRICES = "https://cloud.google.com/products/gemini-enterprise-agent-platform/pricing"
BILLED = ("endpoint", "online store")  # kinds that are billed by the hour
# What a service may answer, or not answer, without a mistake of ours.
REFUSALS = (GoogleAPIError, GoogleAuthError, requests.RequestException, Needed)
# Google's access-control pages; roles/aiplatform.user may delete all of Vertex AI's kinds here.
ROLES = {"dataset": "roles/bigquery.dataOwner", "bucket": "roles/storage.admin"}
LISTED_FIELDS = field_mask_pb2.FieldMask(
    paths=["name", "display_name", "labels", "create_time", "state"])  # of a job


@dataclass(frozen=True)
class Billed:
    """What is billed by the hour: in words, how many nodes at least, and `costs` key of a node."""

    what: str
    nodes: int
    price: str


@dataclass(frozen=True)
class Resource:
    """Something that stands.

    name: full name. note: what else to know, such as a display name.
    stranger: why it is not ours; "" if it is.
    problem: only from `standing`: why it is not known whether it stands.
    """

    kind: str
    name: str
    created: datetime | None = None
    note: str = ""
    billed: Billed | None = None
    stranger: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """All that stands: what is ours, in the order of deletion; what is not; kinds that could
    not be listed, and why."""

    ours: list[Resource]
    others: list[Resource]
    problems: list[str]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.operate.teardown", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=["local", "gcp"], help="default: config.yaml's")
    parser.add_argument("--env", choices=["dev", "prod"], help="default: config.yaml's")
    parser.add_argument("--yes", action="store_true", help="delete; without it: list only")
    options = parser.parse_args(arguments)
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.yes and settings.env == "prod" and options.env != "prod":
        print("prod is deleted only if the command line says so; that config.yaml has `env: prod` "
              f"is not enough. Type:\n  {command(settings)}", file=sys.stderr)
        return 2
    started_local = False
    try:
        cloud = clouds.connect(settings)
        started_local = cloud.started_local
        return run(cloud, delete=options.yes)
    except KeyboardInterrupt:
        print("stopped; start again to go on", flush=True)
        return 130
    except Exception as error:
        told = errors.explain(error, "teardown", "connecting", settings)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1
    finally:
        if started_local:
            clouds.stop_local()


def run(cloud: Cloud, delete: bool = False) -> int:
    """List, or list and delete; print it all; the exit status (0 or 1)."""
    settings = cloud.settings
    _say(f"app {settings.app}, env {settings.env}: {cloud.note}, {settings.region}")
    found = look(cloud)
    for resource in found.ours:
        _say(_line(resource, settings))
    for resource in found.others:
        _say(f"not ours: {resource.stranger}, left alone: {_line(resource, settings)}")
    for problem in found.problems:
        _say(f"NOT LISTED: {problem}")
    if not found.ours:
        _say("nothing to delete" + (" among what could be listed" if found.problems else ""))
    failures = remove(cloud, found) if delete else {}
    for resource, reason in failures.items():
        _say(f"NOT DELETED: {resource.kind} {resource.name}: {reason}")
    left = list(failures) if delete else found.ours
    for line in _costs(left, settings):
        _say(line)
    if left:
        _say(f"to delete {'that' if len(left) == 1 else f'these {len(left)}'}: {command(settings)}")
    for line in _kept(settings):
        _say(line)
    return 1 if found.problems or failures else 0


def command(settings: Settings, yes: bool = True) -> str:
    """The command line that deletes (or lists) what these settings made."""
    file = os.environ.get(config.CONFIG_VARIABLE)  # another config.yaml has other names
    return " ".join(
        ([f"{config.CONFIG_VARIABLE}={shlex.quote(file)}"] if file else [])
        + [f".venv/bin/python -m lib.operate.teardown --target {settings.target} --env {settings.env}"]
        + (["--yes"] if yes else []))


# -- at the end of a run ------------------------------------------------------------------------


def standing(cloud: Cloud) -> list[Resource]:
    """What is ours, stands and is billed by the hour. Never raises: a kind that cannot be listed
    is a Resource with a `problem`."""
    found = []
    for kind in BILLED:
        try:
            found += [r for r in KINDS[kind][0](cloud) if r.billed and not r.stranger]
        except Exception as error:  # nothing may hide how the run itself ended
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            found.append(Resource(kind, "", problem=words))
    return found


def told(standing: list[Resource], settings: Settings) -> list[str]:
    """What to say at the end of a run of what `standing` gave. Never raises."""
    known = [r for r in standing if r.billed]
    lines = [f"could not be looked up whether {'an' if r.kind[0] in 'aeio' else 'a'} {r.kind} "
             f"still stands: {r.problem}" for r in standing if r.problem]
    if known:
        each = "; ".join(f"{r.kind} {r.name} ({r.billed.what})" for r in known)
        lines.append(f"still standing and billed by the hour: {each}")
        lines += _costs(known, settings)
    elif not lines:
        return ["nothing stands that is billed by the hour"]
    if known:
        lines.append(f"remove: {command(settings)}")
    else:
        lines.append(f"look: {command(settings, yes=False)}")
    return lines


def _costs(resources: list[Resource], settings: Settings) -> list[str]:
    """What they cost while they stand; where to look if config.yaml does not say."""
    billed = [r.billed for r in resources if r.billed] if settings.target_settings.billed else []
    if not billed:
        return []
    missing = sorted({b.price for b in billed if getattr(settings.costs, b.price) is None})
    if missing:
        return [f"what that costs an hour must be looked up: {PRICES} (costs."
                + " and costs.".join(missing) + " in config.yaml would say it here)"]
    hour = sum(b.nodes * getattr(settings.costs, b.price) for b in billed)
    return [f"while that stands it costs at least ${hour:,.2f} an hour, ${24 * hour:,.2f} a day"]


def _kept(settings: Settings) -> list[str]:
    """What no teardown removes, and why; nothing where nothing is billed."""
    if not settings.target_settings.billed:
        return []
    host, project, *path = settings.serve.image_repository.split("/")
    registry = (
        "gcloud artifacts repositories delete " + "/".join(path)
        + f" --location {host.removesuffix('-docker.pkg.dev')} --project {project}"
        if host.endswith("-docker.pkg.dev") else f"whoever keeps {host} can")
    return [
        "not removed by this command:",
        f"  images in {settings.serve.image_repository}: no run made that repository, and another "
        f"may use it; to delete it: {registry}",
        "  Vertex ML Metadata of pipeline runs: Google writes it without labels, so it cannot be "
        "known for ours",
        "  BigQuery's job history: a record of who ran what, without our data, which Google drops "
        "by itself",
    ]


# -- look, then delete --------------------------------------------------------------------------


def look(cloud: Cloud) -> Found:
    """Everything that has one of our names, kind by kind; a kind that refuses is a problem."""
    ours, others, problems = [], [], []
    for kind, (find, _) in KINDS.items():
        try:
            for resource in list(find(cloud)):
                (others if resource.stranger else ours).append(resource)
        except REFUSALS as error:
            problems.append(f"{kind}s: {_reason(error, kind, cloud.settings)}")
    return Found(ours, others, problems)


def remove(cloud: Cloud, found: Found) -> dict[Resource, str]:
    """Delete `found.ours` in order, and nothing else.

    Returns:
        What could not be deleted, and why and what is needed.
    """
    failures: dict[Resource, str] = {}
    for resource in found.ours:
        label, began = f"{resource.kind} {resource.name}", time.monotonic()
        inside = [r.name for r in (*found.others, *failures)
                  if _place(r.name).startswith(_place(resource.name) + "/")]
        if inside:
            failures[resource] = f"it holds {', '.join(inside)}. Needed: that to go first"
            continue
        try:
            operation = KINDS[resource.kind][1](cloud, resource.name)
            if operation is not None:
                waiting.operation(cloud.settings, f"deleting {label}", operation, resource.name)
            _say(f"{label}: deleted in {time.monotonic() - began:.1f} s")
        except NotFound:
            _say(f"{label}: was gone already")
        except REFUSALS as error:
            failures[resource] = _reason(error, resource.kind, cloud.settings)
            _say(f"{label}: FAILED after {time.monotonic() - began:.1f} s")
    return failures


def _place(name: str) -> str:
    """A Vertex AI name without its project, which Google gives by id or by number."""
    return name.split("/", 2)[-1] if name.startswith("projects/") else name


def _reason(error: Exception, kind: str, settings: Settings) -> str:
    """What was refused, and what is needed."""
    known = errors.explain(error, "teardown", kind, settings)
    cause, need, how = (known.cause, known.need, known.command) if known else (str(error), "", "")
    if "add-iam-policy-binding" in how and errors.CONSUMER not in how:
        role = ROLES.get(kind, "roles/aiplatform.user")
        need = f"{role} on project {settings.project}; that takes some minutes to count"
        how = (f"gcloud projects add-iam-policy-binding {settings.project} "
               f"--member user:YOU@EXAMPLE.COM --role {role}")
    elif isinstance(error, BadRequest | Conflict):
        need = ("nothing that uses it, or is still being made on it: remove what the message "
                "names, or wait some minutes")
        how = command(settings)
    elif isinstance(error, TRANSIENT) or not need or "run_all" in how:
        need, how = "another try, later", command(settings)
    return f"{cause}. Needed: {need}" + (f" ({how})" if how else "")


def _line(resource: Resource, settings: Settings) -> str:
    parts = [f"{resource.kind:<14} {resource.name}", resource.note]
    if resource.created:
        parts.append(f"created {resource.created:%Y-%m-%d %H:%M} UTC")
    if resource.billed:
        by_the_hour = "billed by the hour: " if settings.target_settings.billed else ""
        parts.append(by_the_hour + resource.billed.what)
    return " | ".join(part for part in parts if part)


def _say(line: str) -> None:
    print(line, flush=True)


def _stranger(labels: Any, settings: Settings) -> str:
    """Why a resource with our name is not ours; "" if its labels say that it is."""
    given = {key: dict(labels or {}).get(key) for key in ("app", "env")}
    if given == {"app": settings.app, "env": settings.env}:
        return ""
    return "labels differ (" + ", ".join(f"{k} {v or 'missing'}" for k, v in given.items()) + ")"


# -- one kind after the other: what stands, and how it goes -------------------------------------


def _our_endpoints(cloud: Cloud) -> Iterator[tuple[vertex.Endpoint, str]]:
    """Each endpoint of our name, and why it is not ours."""
    name = cloud.settings.names.endpoint
    request = {"parent": cloud.parent, "filter": f'display_name="{name}"'}
    for endpoint in cloud.endpoints.list_endpoints(request=request):
        if endpoint.display_name == name:
            yield endpoint, _stranger(endpoint.labels, cloud.settings)


def _deployed_models(cloud: Cloud) -> Iterator[Resource]:
    for endpoint, stranger in _our_endpoints(cloud):
        for deployed in endpoint.deployed_models:
            yield Resource(
                "deployed model", f"{endpoint.name}/deployedModels/{deployed.id}",
                deployed.create_time, f"version {deployed.model_version_id} of {deployed.model}",
                stranger=stranger)


def _undeploy(cloud: Cloud, name: str) -> Any:
    endpoint_name, _, deployed_id = name.rsplit("/", 2)
    endpoint = cloud.endpoints.get_endpoint(name=endpoint_name)
    rest = [d.id for d in endpoint.deployed_models if d.id != deployed_id]
    # One with traffic is not undeployed while others are there: they take the traffic over.
    split = {rest[0]: 100} if rest and endpoint.traffic_split.get(deployed_id) else None
    return cloud.endpoints.undeploy_model(
        endpoint=endpoint_name, deployed_model_id=deployed_id, traffic_split=split)


def _endpoints(cloud: Cloud) -> Iterator[Resource]:
    for endpoint, stranger in _our_endpoints(cloud):
        machines = [_machines(deployed) for deployed in endpoint.deployed_models]
        billed = Billed(" and ".join(what for what, _ in machines), sum(n for _, n in machines),
                        "usd_per_serving_node_hour") if machines else None
        yield Resource("endpoint", endpoint.name, endpoint.create_time, endpoint.display_name,
                       billed, stranger)


def _machines(deployed: vertex.DeployedModel) -> tuple[str, int]:
    """Machine type x replicas in words, and the fewest replicas."""
    given = deployed.dedicated_resources or deployed.automatic_resources
    machine = deployed.dedicated_resources.machine_spec.machine_type or "machine of Google's choice"
    least = given.min_replica_count
    return f"{machine} x {_range(least, given.max_replica_count)}", least


def _range(least: int, most: int) -> str:
    return f"{least} to {most}" if most > least else f"{least}"


def _delete_endpoint(cloud: Cloud, name: str) -> Any:
    return cloud.endpoints.delete_endpoint(name=name)


def _models(cloud: Cloud) -> Iterator[Resource]:
    name = cloud.settings.names.model
    request = {"parent": cloud.parent, "filter": f'display_name="{name}"'}
    for model in cloud.models.list_models(request=request):
        if model.display_name == name:
            versions = len(list(cloud.models.list_model_versions(name=model.name)))
            yield Resource("model", model.name, model.create_time,
                           f"{name}, {_count(versions, 'version')}",
                           stranger=_stranger(model.labels, cloud.settings))


def _delete_model(cloud: Cloud, name: str) -> Any:
    return cloud.models.delete_model(name=name)


def _views(cloud: Cloud) -> Iterator[Resource]:
    """All views of our store: it cannot go while a view that is not ours is in it."""
    known = {c.settings.names.feature_view for c in _with_copies(cloud)}
    for view in _unless_gone(
            lambda: cloud.online_admin.list_feature_views(parent=feature_store.store_name(cloud))):
        stranger = _stranger(view.labels, cloud.settings)
        if view.name.rsplit("/", 1)[1] not in known:
            stranger = "its name is none of config.yaml's"
        yield Resource("feature view", view.name, view.create_time, stranger=stranger)


def _delete_view(cloud: Cloud, name: str) -> Any:
    return cloud.online_admin.delete_feature_view(name=name)


def _stores(cloud: Cloud) -> Iterator[Resource]:
    name = feature_store.store_name(cloud)
    for store in _unless_gone(lambda: [cloud.online_admin.get_feature_online_store(name=name)]):
        scale = store.bigtable.auto_scaling
        nodes = _range(scale.min_node_count, scale.max_node_count)
        billed = Billed(f"{nodes} Bigtable node{'s' if nodes != '1' else ''}",
                        scale.min_node_count, "usd_per_bigtable_node_hour")
        yield Resource("online store", store.name, store.create_time, billed=billed,
                       stranger=_stranger(store.labels, cloud.settings))


def _delete_store(cloud: Cloud, name: str) -> Any:
    # Without `force`: a view that was not listed must stay, and its store with it.
    return cloud.online_admin.delete_feature_online_store(name=name)


def _groups(cloud: Cloud) -> Iterator[Resource]:
    """Our groups, and features in them that are not ours: a group goes with all its features."""
    for name in map(feature_store.group_name, _with_copies(cloud)):
        for group in _unless_gone(
                lambda name=name: [cloud.registry.get_feature_group(name=name)]):
            features = list(cloud.registry.list_features(parent=name))
            for feature in features:
                if stranger := _stranger(feature.labels, cloud.settings):
                    yield Resource("feature", feature.name, feature.create_time, stranger=stranger)
            yield Resource("feature group", group.name, group.create_time,
                           f"with {_count(len(features), 'feature')}",
                           stranger=_stranger(group.labels, cloud.settings))


def _delete_group(cloud: Cloud, name: str) -> Any:
    return cloud.registry.delete_feature_group(
        request=vertex.DeleteFeatureGroupRequest(name=name, force=True))


def _pipeline_jobs(cloud: Cloud) -> Iterator[Resource]:
    names = [f"{cloud.settings.app}-{cloud.settings.env}-training"]
    request = {"parent": cloud.parent, "filter": _named(names), "read_mask": LISTED_FIELDS}
    jobs = cloud.pipeline_jobs.list_pipeline_jobs(request=request)
    return _jobs("pipeline job", jobs, names, pipeline_job.ENDED, cloud.settings)


def _custom_jobs(cloud: Cloud) -> Iterator[Resource]:
    names = [f"{cloud.settings.app}-{cloud.settings.env}-{step}" for step in custom_jobs.STEPS]
    request = {"parent": cloud.parent, "filter": _named(names), "read_mask": LISTED_FIELDS}
    jobs = cloud.custom_jobs.list_custom_jobs(request=request)
    return _jobs("custom job", jobs, names, custom_jobs.ENDED, cloud.settings)


def _jobs(
    kind: str, jobs: Iterable, names: list[str], ended: set, settings: Settings,
) -> Iterator[Resource]:
    for job in jobs:
        if job.display_name in names:
            over = "" if job.state in ended else ", not over: is cancelled first"
            yield Resource(kind, job.name, job.create_time, job.display_name + over,
                           stranger=_stranger(job.labels, settings))


def _named(names: list[str]) -> str:
    return " OR ".join(f'display_name="{name}"' for name in names)


def _delete_pipeline_job(cloud: Cloud, name: str) -> Any:
    jobs = cloud.pipeline_jobs
    _end_job(cloud, name, lambda: jobs.get_pipeline_job(name=name).state,
             lambda: jobs.cancel_pipeline_job(name=name), pipeline_job.ENDED)
    return jobs.delete_pipeline_job(name=name)


def _delete_custom_job(cloud: Cloud, name: str) -> Any:
    jobs = cloud.custom_jobs
    _end_job(cloud, name, lambda: jobs.get_custom_job(name=name).state,
             lambda: jobs.cancel_custom_job(name=name), custom_jobs.ENDED)
    return jobs.delete_custom_job(name=name)


def _end_job(
    cloud: Cloud, name: str, state: Callable[[], Any], cancel: Callable[[], None], ended: set,
) -> None:
    """Cancel a job that is not over, and wait until it is: a running one is not deleted."""
    if state() in ended:
        return
    with suppress(BadRequest):  # over in the meantime, or being cancelled: the wait shows it
        cancel()
    waiting.until(cloud.settings, f"cancelling {name}", state, ended.__contains__,
                  cloud.settings.waits.operation_seconds, lambda seen: seen.name)


def _datasets(cloud: Cloud) -> Iterator[Resource]:
    names = [c.settings.names.dataset for c in _with_copies(cloud)]
    for name in [*names, cloud.settings.names.source_dataset]:
        reference = bigquery.DatasetReference(cloud.settings.project, name)
        for dataset in _unless_gone(lambda at=reference: [cloud.bigquery.get_dataset(at)]):
            tables = len(list(cloud.bigquery.list_tables(reference)))
            yield Resource("dataset", str(reference), dataset.created,
                           f"with {_count(tables, 'table')}",
                           stranger=_stranger(dataset.labels, cloud.settings))


def _delete_dataset(cloud: Cloud, name: str) -> None:
    cloud.bigquery.delete_dataset(name, delete_contents=True)


def _buckets(cloud: Cloud) -> Iterator[Resource]:
    bucket = cloud.storage.lookup_bucket(cloud.settings.names.bucket)
    if bucket is not None:
        objects = sum(1 for _ in cloud.storage.list_blobs(bucket, versions=True))
        yield Resource("bucket", f"gs://{bucket.name}", bucket.time_created,
                       f"with {_count(objects, 'object')}",
                       stranger=_stranger(bucket.labels, cloud.settings))


def _delete_bucket(cloud: Cloud, name: str) -> None:
    # Not bucket.delete(force=True): that refuses more than 256 objects.
    bucket, settings = cloud.storage.bucket(name.removeprefix("gs://")), cloud.settings
    said = time.monotonic()
    for gone, blob in enumerate(cloud.storage.list_blobs(bucket, versions=True), 1):
        bucket.delete_blobs([blob], on_error=lambda _: None)  # gone already: as it should be
        if time.monotonic() - said > settings.waits.progress_seconds:
            said = time.monotonic()
            _say(f"  deleting {name}: {gone} objects")
    bucket.delete()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _with_copies(cloud: Cloud) -> list[Cloud]:
    """This cloud and those of the copies that the checks make."""
    return [cloud, *(planted.beside(cloud, name) for name in COPIES)]


def _unless_gone(get: Callable[[], Iterable]) -> list:
    """What `get` gives; nothing if that, or its parent, is not there."""
    try:
        return list(get())
    except NotFound:
        return []


# In the order of deletion: (what stands, how one of it is deleted).
KINDS: dict[str, tuple[Callable[[Cloud], Iterator[Resource]], Callable[[Cloud, str], Any]]] = {
    "deployed model": (_deployed_models, _undeploy),
    "endpoint": (_endpoints, _delete_endpoint),
    "model": (_models, _delete_model),
    "feature view": (_views, _delete_view),
    "online store": (_stores, _delete_store),
    "feature group": (_groups, _delete_group),
    "pipeline job": (_pipeline_jobs, _delete_pipeline_job),
    "custom job": (_custom_jobs, _delete_custom_job),
    "dataset": (_datasets, _delete_dataset),
    "bucket": (_buckets, _delete_bucket),
}


if __name__ == "__main__":
    sys.exit(main())
