"""Create or reuse the endpoint, deploy a model version to it, predict."""

import math

from google.api_core.exceptions import GoogleAPICallError
from google.cloud import aiplatform_v1 as vertex

from lib import waiting
from lib.cloud import Cloud
from lib.errors import Needed, first_line
from lib.stages import Outcome


class NotDeployed(Needed):
    """There is no endpoint, or no model is deployed to it."""


def find(cloud: Cloud) -> vertex.Endpoint | None:
    """The app's endpoint, or None.

    A call that seemed to fail may leave a second one: of two the one that serves, or the older one.
    """
    request = vertex.ListEndpointsRequest(
        parent=cloud.parent, filter=cloud.settings.list_filter(cloud.settings.names.endpoint))
    return min(cloud.endpoints.list_endpoints(request=request), default=None,
               key=lambda found: (not found.deployed_models, found.create_time, found.name))


def create(cloud: Cloud) -> Outcome:
    """The app's endpoint; the Outcome's value is the vertex.Endpoint."""
    existing = find(cloud)
    if existing is not None:
        return Outcome("reused", existing.name, value=existing)
    name = cloud.settings.names.endpoint
    operation = cloud.endpoints.create_endpoint(
        parent=cloud.parent,
        endpoint=vertex.Endpoint(display_name=name, labels=cloud.settings.labels))
    stub = waiting.operation(cloud.settings, "endpoint", operation, name)
    stub = stub or waiting.made(cloud.settings, "endpoint", lambda: find(cloud))
    made = waiting.made(
        cloud.settings, "endpoint", lambda: cloud.endpoints.get_endpoint(name=stub.name))
    return Outcome("created", made.name, value=made)


def deploy(cloud: Cloud, endpoint: vertex.Endpoint, model: vertex.Model) -> Outcome:
    """Send all traffic of the endpoint to this model version on the machines of `serve` (type,
    least and most replicas), then remove all other deployments.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: the container did not start, or did not
            become healthy.
        Needed: it took longer than waits.deploy_seconds.
    """
    settings = cloud.settings
    figures = {"version": model.version_id, "machine": settings.serve.machine_type}
    kept, others = _deployments(cloud, endpoint.name, model)
    status = "reused" if kept else "created"
    if not kept:
        operation = cloud.endpoints.deploy_model(
            endpoint=endpoint.name, traffic_split={"0": 100},  # "0" is the model deployed here
            deployed_model=vertex.DeployedModel(
                model=f"{model.name.split('@')[0]}@{model.version_id}",
                display_name=settings.names.model,
                service_account=settings.service_account,
                dedicated_resources=_machines(cloud)))
        waiting.operation(settings, "deployment", operation, endpoint.name,
                          settings.waits.deploy_seconds)
        kept, others = waiting.until(
            settings, "deployment", lambda: _deployments(cloud, endpoint.name, model),
            lambda found: found[0], settings.waits.visible_seconds)
    # Older versions, also those that an earlier run left when it stopped before this loop.
    for old in others:
        operation = cloud.endpoints.undeploy_model(
            endpoint=endpoint.name, deployed_model_id=old, traffic_split={kept: 100})
        waiting.operation(settings, "removal of the older model", operation, endpoint.name)
    return Outcome(status, endpoint.name, figures)


def _machines(cloud: Cloud) -> vertex.DedicatedResources:
    serve = cloud.settings.serve
    return vertex.DedicatedResources(
        machine_spec=vertex.MachineSpec(machine_type=serve.machine_type),
        min_replica_count=serve.min_replica_count, max_replica_count=serve.max_replica_count)


def _deployments(
    cloud: Cloud, name: str, model: vertex.Model
) -> tuple[str | None, list[str]]:
    """(id of the deployment of this version on these machines, ids of all others), read anew.

    Of two of this version, the one with more traffic: a deployment that timed out in an earlier
    run may have succeeded later, beside a second one.
    """
    found = cloud.endpoints.get_endpoint(name=name)
    ours = [d.id for d in found.deployed_models if serves(d, model)
            and _sizes(d.dedicated_resources) == _sizes(_machines(cloud))]
    kept = max(ours, key=lambda id_: found.traffic_split.get(id_, 0), default=None)
    return kept, [d.id for d in found.deployed_models if d.id != kept]


def _sizes(machines: vertex.DedicatedResources) -> tuple[str, int, int]:
    """What config.yaml decides of them: an answer may say more."""
    least, most = machines.min_replica_count, machines.max_replica_count
    return machines.machine_spec.machine_type, least, most or least  # the default may be left out


def serves(deployed: vertex.DeployedModel, model: vertex.Model) -> bool:
    """Is this version of the model deployed here? Compared by the ids: Google's answers name the
    project by its id or by its number, and the model with or without "@version"."""
    ids = [name.rsplit("/", 1)[-1].split("@")[0] for name in (deployed.model, model.name)]
    return ids[0] == ids[1] and deployed.model_version_id == model.version_id


def connect(cloud: Cloud) -> vertex.Endpoint:
    """The endpoint, ready to predict.

    Raises:
        NotDeployed: no endpoint, or no model on it.
    """
    endpoint, rerun = find(cloud), cloud.settings.rerun_command("06")
    if endpoint is None:
        raise NotDeployed(f"the endpoint {cloud.settings.names.endpoint} does not exist",
                          "notebook 06, which creates it", rerun)
    if not endpoint.deployed_models:
        raise NotDeployed(f"no model is deployed to the endpoint {endpoint.display_name}",
                          "notebook 06, which deploys it", rerun)
    return endpoint


def predict(
    cloud: Cloud, endpoint: vertex.Endpoint, instances: list[dict[str, object]]
) -> list[float]:
    """Churn probability, 0 to 1, of each instance ({feature name: value or None}).

    Raises:
        Needed: a value is NaN or infinite, which JSON does not have; or the model server's answer
            has no probability for an instance.
    """
    rerun = cloud.settings.rerun_command
    for position, instance in enumerate(instances):
        for name, value in instance.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise Needed(f"{name} of instance {position} is {value}",
                             "finite numbers, or null for no value, in the features", rerun("02"))
    reply = cloud.predictions.predict(
        endpoint=endpoint.name, instances=instances, retry=waiting.BRIEFLY)
    try:
        found = [float(row["churn_probability"]) for row in reply.predictions]
    except (KeyError, TypeError, ValueError):
        found = []
    if len(found) != len(instances) or not all(0 <= p <= 1 for p in found):
        raise Needed(
            f"the model server behind {endpoint.name} did not answer {len(instances)} "
            f"probabilities, but {str(list(reply.predictions))[:200]}",
            "the model and the serving image of this project on the endpoint", rerun("06"))
    return found


def refusal(
    cloud: Cloud, endpoint: vertex.Endpoint, instances: list[dict[str, object]]
) -> str:
    """The endpoint's error message for instances that it must refuse; "" if it accepts them."""
    try:
        predict(cloud, endpoint, instances)
        return ""
    except GoogleAPICallError as error:
        return first_line(error)
