"""What is sent to an endpoint, and what is taken for its answer."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from google.cloud import aiplatform_v1 as vertex

from lib import endpoint, waiting
from lib.errors import Needed


@pytest.fixture
def answering(settings):
    """answering(predictions) -> a Cloud whose endpoint answers that."""
    def cloud(predictions):
        def predict(**request):
            return SimpleNamespace(predictions=predictions)

        return SimpleNamespace(settings=settings, predictions=SimpleNamespace(predict=predict))

    return cloud


SERVICE = vertex.Endpoint(name="projects/1/locations/r/endpoints/2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_json_does_not_have_is_named(answering, value):
    with pytest.raises(Needed, match=f"tenure_days of instance 1 is {value}"):
        endpoint.predict(answering([]), SERVICE, [{"tenure_days": 1.0}, {"tenure_days": value}])


@pytest.mark.parametrize("predictions", [
    [], [None], [0.5], [{}], [{"churn_probability": None}], [{"churn_probability": "NaN"}],
    [{"churn_probability": "high"}], [{"churn_probability": 1.5}],
    [{"churn_probability": 0.5}] * 2])
def test_an_answer_without_a_probability_is_an_error_of_the_model_server(answering, predictions):
    with pytest.raises(Needed, match="model server behind .*endpoints/2"):
        endpoint.predict(answering(predictions), SERVICE, [{"tenure_days": 1}])


def test_a_probability_is_returned(answering):
    answers = [{"churn_probability": 0.25}, {"churn_probability": 1}]
    assert endpoint.predict(answering(answers), SERVICE, [{"a": 1}, {"a": None}]) == [0.25, 1.0]


def test_of_two_endpoints_the_one_that_serves_is_found(settings):
    """A create that was answered 503 may have taken effect, and the next one makes a second."""
    def made(name, day, *deployed):
        return vertex.Endpoint(name=name, create_time=datetime(2026, 1, day, tzinfo=UTC),
                               deployed_models=[{"id": id_} for id_ in deployed])

    def find(*listed):
        return endpoint.find(SimpleNamespace(
            settings=settings, parent="projects/p/locations/r", endpoints=SimpleNamespace(
                list_endpoints=lambda request: listed)))

    old, new, serving = made("old", 1), made("new", 2), made("serving", 3, "1")
    assert find() is None
    assert [find(new, old), find(new, serving, old)] == [old, serving]


@pytest.mark.parametrize(("machine", "replicas", "status"), [
    ("small-2", 1, "reused"), ("large-8", 1, "created"), ("small-2", 3, "created")])
def test_other_machines_are_another_deployment(settings, monkeypatch, machine, replicas, status):
    """The older one is removed after it, as an older version is."""
    serve = settings.serve.model_copy(
        update={"machine_type": machine, "max_replica_count": replicas})
    model = vertex.Model(name="projects/p/locations/r/models/m", version_id="1")
    service = vertex.Endpoint(name=SERVICE.name, deployed_models=[{
        "id": "old", "model": model.name, "model_version_id": "1",
        "dedicated_resources": {"machine_spec": {"machine_type": "small-2"},
                                "min_replica_count": 1}}])  # the most is the same, if left out

    def deploy(deployed_model, **_):
        deployed_model.id, deployed_model.model_version_id = "new", "1"
        service.deployed_models.append(deployed_model)

    def undeploy(deployed_model_id, **_):
        kept = [d for d in service.deployed_models if d.id != deployed_model_id]
        service.deployed_models = kept

    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    cloud = SimpleNamespace(
        settings=settings.model_copy(update={"serve": serve}), endpoints=SimpleNamespace(
            get_endpoint=lambda name: service, deploy_model=deploy, undeploy_model=undeploy))
    outcome = endpoint.deploy(cloud, service, model)
    (left,) = service.deployed_models
    assert left.dedicated_resources.machine_spec.machine_type == machine
    assert (left.dedicated_resources.max_replica_count or 1) == replicas
    assert (outcome.status, outcome.figures["machine"]) == (status, machine)
