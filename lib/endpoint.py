"""Create or reuse the endpoint, deploy a model version to it, predict."""

import re

from google.api_core.exceptions import GoogleAPICallError

from lib import waiting
from lib.cloud import Cloud
from lib.errors import Needed
from lib.stages import Outcome


class NotDeployed(Needed):
    """There is no endpoint, or no model is deployed to it."""


def find(cloud: Cloud):
    """The app's endpoint (aiplatform.Endpoint), or None."""
    endpoints = cloud.aiplatform.Endpoint.list(
        filter=cloud.settings.list_filter(cloud.settings.names.endpoint))
    return endpoints[0] if endpoints else None


def create(cloud: Cloud) -> Outcome:
    """The app's endpoint; the Outcome's value is the aiplatform.Endpoint."""
    standing = find(cloud)
    if standing is not None:
        return Outcome("reused", standing.resource_name, value=standing)
    name = cloud.settings.names.endpoint
    made = waiting.call(
        cloud.settings, "endpoint", lambda: cloud.aiplatform.Endpoint.create(
            display_name=name, labels=cloud.settings.labels),
        cloud.settings.waits.operation_seconds, resource=name)
    return Outcome("created", made.resource_name, value=made)


def deploy(cloud: Cloud, endpoint, model) -> Outcome:
    """Send all traffic of the endpoint to this model version; remove older ones after that.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: the container did not start, or did not
            get healthy.
        Needed: it took longer than waits.deploy_seconds.
    """
    serve = cloud.settings.serve
    wanted = (model.resource_name, model.version_id)
    deployed = endpoint.list_models()
    current = [d for d in deployed if (_plain(d.model), d.model_version_id) == wanted]
    figures = {"version": model.version_id, "machine": serve.machine_type}
    if not current:
        waiting.call(
            cloud.settings, "deployment", lambda: model.deploy(
                endpoint=endpoint, traffic_percentage=100, machine_type=serve.machine_type,
                deployed_model_display_name=cloud.settings.names.model,
                min_replica_count=serve.min_replica_count,
                max_replica_count=serve.max_replica_count),
            cloud.settings.waits.deploy_seconds,
            lambda: "the container is being started", endpoint.resource_name)
    kept = current[:1]  # a deployment that was given up may have come true beside a second one
    for old in deployed:  # also those that an earlier run, stopped here, has left
        if old not in kept:
            endpoint.undeploy(deployed_model_id=old.id)
    return Outcome("reused" if current else "created", endpoint.resource_name, figures)


def _plain(model_name: str) -> str:
    return model_name.split("@")[0]


def connect(cloud: Cloud):
    """The endpoint, ready to predict.

    Raises:
        NotDeployed: no endpoint, or no model on it.
    """
    endpoint = find(cloud)
    if endpoint is None:
        raise NotDeployed(f"the endpoint {cloud.settings.names.endpoint} does not exist",
                          "notebook 06, which makes it", cloud.settings.rerun_command("06"))
    if not endpoint.list_models():
        raise NotDeployed(f"no model is deployed to the endpoint {endpoint.display_name}",
                          "notebook 06, which deploys it", cloud.settings.rerun_command("06"))
    return endpoint


def predict(endpoint, instances: list[dict[str, object]]) -> list[float]:
    """Churn probability, 0 to 1, of each instance ({feature name: value or None})."""
    reply = endpoint.predict(instances=instances)
    return [row["churn_probability"] for row in reply.predictions]


def refusal(endpoint, instances: list[dict[str, object]]) -> str:
    """What the endpoint answers to instances that it must refuse; "" if it takes them."""
    try:
        predict(endpoint, instances)
        return ""
    except GoogleAPICallError as error:
        # The client puts method and URL in front of what the service said.
        return f"{int(error.code)} {re.sub(r'^[A-Z]+ http[^ ]+: ', '', error.message)}"
