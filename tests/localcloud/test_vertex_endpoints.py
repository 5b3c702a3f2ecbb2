"""Endpoints: deploying a container as a process, predicting, and what can go wrong."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from google.api_core import exceptions as errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

from lib.localcloud.vertex.endpoints import predicting
from lib.localcloud.vertex.programs import servers
from lib.localcloud.vertex.programs.images import image_name, read_dockerfile

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}


@pytest.fixture
def model(vertex, location):
    """Upload a model with an image; returns its name."""

    def make(image="echo", model_id="m", **container):
        return vertex.models.upload_model(parent=location, model={
            "display_name": "churn", "artifact_uri": "gs://b/m", "container_spec": {
                "image_uri": f"us-docker.pkg.dev/p1/repo/{image}@sha256:0a", **container},
        }).result().model

    return make


@pytest.fixture
def endpoint(vertex, location):
    created = vertex.endpoints.create_endpoint(
        parent=location, endpoint={"display_name": "e"}).result()
    return created.name


@pytest.fixture
def deploy(vertex, endpoint):
    def run(model_name, traffic=(("0", 100),), **deployed):
        return vertex.endpoints.deploy_model(
            endpoint=endpoint, traffic_split=dict(traffic), deployed_model={
                "model": model_name, "dedicated_resources": RESOURCES, **deployed},
        ).result(timeout=20).deployed_model

    return run


def undeploy_all(vertex, endpoint):
    for deployed in vertex.endpoints.get_endpoint(name=endpoint).deployed_models:
        vertex.endpoints.undeploy_model(
            endpoint=endpoint, deployed_model_id=deployed.id, traffic_split={}).result()


def processes(vertex):
    return vertex.vertex.servers.processes()


def test_deploy_predict_undeploy(vertex, endpoint, model, deploy):
    name = model()
    deployed = deploy(name)
    assert deployed.model == name and deployed.model_version_id == "1"
    found = vertex.endpoints.get_endpoint(name=endpoint)
    assert found.traffic_split == {deployed.id: 100}
    refs = vertex.models.get_model(name=name).deployed_models
    assert [(r.endpoint, r.deployed_model_id) for r in refs] == [(endpoint, deployed.id)]

    answer = vertex.predictions.predict(endpoint=endpoint, instances=[[1, 2.5], [3, 4]])
    assert list(answer.predictions) == [3.5, 7.0]
    assert (answer.deployed_model_id, answer.model, answer.model_version_id) == (
        deployed.id, name, "1")
    assert answer.model_display_name == "churn"

    with pytest.raises(errors.BadRequest, match="deployed"):
        vertex.endpoints.delete_endpoint(name=endpoint)
    with pytest.raises(errors.BadRequest, match="deployed"):
        vertex.models.delete_model(name=name)
    process = processes(vertex)[deployed.id]
    vertex.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=deployed.id).result()
    assert process.poll() is not None
    with pytest.raises(errors.BadRequest, match="traffic"):
        vertex.predictions.predict(endpoint=endpoint, instances=[[1]])
    with pytest.raises(errors.NotFound):
        vertex.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=deployed.id)
    vertex.endpoints.delete_endpoint(name=endpoint).result()
    with pytest.raises(errors.NotFound):
        vertex.predictions.predict(endpoint=endpoint, instances=[[1]])


def test_the_container_contract(vertex, endpoint, model, deploy):
    deployed = deploy(model(
        health_route="/live", predict_route="/score", env=[
            {"name": "THRESHOLD", "value": "0.5"}, {"name": "NO_PROXY", "value": "corp"}]))
    seen = dict(vertex.predictions.predict(
        endpoint=endpoint, instances=["environment"]).predictions[0])
    assert seen["AIP_HEALTH_ROUTE"] == "/live" and seen["AIP_PREDICT_ROUTE"] == "/score"
    assert seen["AIP_STORAGE_URI"] == "gs://b/m" and seen["THRESHOLD"] == "0.5"
    assert seen["AIP_MODE"] == "PREDICTION" and seen["AIP_DEPLOYED_MODEL_ID"] == deployed.id
    assert seen["AIP_ENDPOINT_ID"] == endpoint.rsplit("/")[-1]
    assert seen["STORAGE_EMULATOR_HOST"].startswith("http") and seen["AIP_HTTP_PORT"].isdecimal()
    assert seen["no_proxy"] == seen["NO_PROXY"] == "corp,127.0.0.1,localhost"
    assert not [key for key in seen if key.startswith("PYTEST")]  # nothing of the host's
    undeploy_all(vertex, endpoint)


def test_deployments_that_are_refused(vertex, endpoint, model, deploy, location):
    name = model()
    with pytest.raises(errors.NotFound):
        deploy(f"{location}/models/other")
    with pytest.raises(errors.NotFound):
        deploy(name + "@2")
    for traffic in ({"0": 50}, {"0": 50, "77": 50}, {"0": 150, "1": -50}):
        with pytest.raises(errors.BadRequest, match="traffic_split"):
            deploy(name, traffic.items())
    with pytest.raises(errors.BadRequest, match="dedicated_resources"):
        vertex.endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": name})
    with pytest.raises(errors.NotFound):
        vertex.endpoints.deploy_model(endpoint=endpoint + "9", deployed_model={"model": name})


@pytest.mark.parametrize(("image", "says"), [
    ("unknown", "repo/unknown"), ("broken", "no model.joblib in gs://b/m"),
    ("deaf", "loading...")])
def test_deployments_that_fail(vertex, endpoint, model, image, says):
    name = model(image, deployment_timeout={"seconds": 1})
    operation = vertex.endpoints.deploy_model(
        endpoint=endpoint, traffic_split={"0": 100},
        deployed_model={"model": name, "dedicated_resources": RESOURCES})
    assert image == "unknown" or not operation.done()
    with pytest.raises(errors.GoogleAPICallError, match=says):
        operation.result(timeout=20)
    assert not vertex.endpoints.get_endpoint(name=endpoint).deployed_models
    assert not [p for p in processes(vertex).values() if p.poll() is None]


def test_what_the_container_answers(vertex, endpoint, model, deploy):
    deploy(model())
    with pytest.raises(errors.BadRequest, match="feature revenue_90d is missing"):
        vertex.predictions.predict(endpoint=endpoint, instances=["bad"])
    with pytest.raises(errors.InternalServerError, match="predictions"):
        vertex.predictions.predict(endpoint=endpoint, instances=["nonsense"])
    for constant in ("NaN", "Infinity"):
        with pytest.raises(errors.InternalServerError, match="The model server .* finite"):
            vertex.predictions.predict(endpoint=endpoint, instances=[constant])
    undeploy_all(vertex, endpoint)


def test_a_container_that_died_is_restarted(vertex, endpoint, model, deploy):
    deployed = deploy(model())
    process = processes(vertex)[deployed.id]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    answer = vertex.predictions.predict(endpoint=endpoint, instances=[[1, 2]])
    assert list(answer.predictions) == [3]
    with pytest.raises(errors.ServiceUnavailable):  # the request ends the server, each time
        vertex.predictions.predict(endpoint=endpoint, instances=["die"], retry=None)
    answer = vertex.predictions.predict(endpoint=endpoint, instances=[[1, 2]])
    assert list(answer.predictions) == [3]
    undeploy_all(vertex, endpoint)


def test_no_caller_loses_a_request_when_the_model_server_dies(vertex, endpoint, model, deploy):
    """Killed twice under 8 callers: each request waits for the new server, and has its answer."""
    deployed = deploy(model(env=[{"name": "LOADING_SECONDS", "value": "0.5"}]))
    killed = threading.Event()

    def call(caller):
        """Requests until the second kill is over, and some after it."""
        answers, left = [], 5
        while left:
            left -= killed.is_set()
            answers.append(list(vertex.predictions.predict(
                endpoint=endpoint, instances=[[caller, len(answers)]], retry=None).predictions))
        return answers

    with ThreadPoolExecutor(8) as callers:
        running = [callers.submit(call, n) for n in range(8)]
        try:
            for _ in range(2):
                process = processes(vertex)[deployed.id]
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                assert list(vertex.predictions.predict(
                    endpoint=endpoint, instances=[[1]], retry=None).predictions) == [1]
        finally:
            killed.set()
        for caller, future in enumerate(running):
            answers = future.result()
            assert answers == [[caller + n] for n in range(len(answers))]
    assert processes(vertex)[deployed.id].pid != process.pid
    undeploy_all(vertex, endpoint)


def test_a_model_server_that_dies_while_it_starts_again_is_started_once_more(
        vertex, endpoint, model, deploy, wait_for):
    deployed = deploy(model(env=[{"name": "LOADING_SECONDS", "value": "0.5"}]))
    first = processes(vertex)[deployed.id]

    def kill(process):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    kill(first)
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(
            vertex.predictions.predict, endpoint=endpoint, instances=[[1, 2]], retry=None)
        wait_for(lambda: processes(vertex)[deployed.id] is not first)
        kill(processes(vertex)[deployed.id])
        assert list(answer.result().predictions) == [3]
    undeploy_all(vertex, endpoint)


def test_a_model_that_is_undeployed_under_a_request_is_not_started_again(
        vertex, endpoint, model, deploy, monkeypatch):
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.1)
    deployed = deploy(model())
    with ThreadPoolExecutor(1) as caller:
        running = processes(vertex)[deployed.id]
        os.kill(running.pid, signal.SIGSTOP)  # the request is in it
        answer = caller.submit(vertex.predictions.predict, endpoint=endpoint, instances=[[1]],
                               retry=None)
        undeploy_all(vertex, endpoint)
        with pytest.raises(errors.BadRequest, match="no deployed model that receives traffic"):
            answer.result()
    assert not processes(vertex)


def test_a_model_that_is_undeployed_just_before_its_server_is_asked_for_is_not_started_again(
        vertex, endpoint, model, deploy, monkeypatch):
    deploy(model())
    running, asked = vertex.vertex.servers.running, []

    def undeploy_before_the_first(deployed_model_id):
        asked.append(deployed_model_id)
        if len(asked) == 1:
            undeploy_all(vertex, endpoint)
        return running(deployed_model_id)

    monkeypatch.setattr(vertex.vertex.servers, "running", undeploy_before_the_first)
    with pytest.raises(errors.BadRequest, match="no deployed model that receives traffic"):
        vertex.predictions.predict(endpoint=endpoint, instances=[[1]], retry=None)
    assert not processes(vertex)


def test_two_models_share_the_traffic(vertex, endpoint, model, deploy):
    name = model()
    first = deploy(name)
    second = deploy(name, ((first.id, 50), ("0", 50)))
    seen = {
        vertex.predictions.predict(endpoint=endpoint, instances=[[1]]).deployed_model_id
        for _ in range(60)}
    assert seen == {first.id, second.id}
    with pytest.raises(errors.BadRequest, match="traffic"):
        vertex.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=first.id)
    vertex.endpoints.undeploy_model(
        endpoint=endpoint, deployed_model_id=first.id, traffic_split={second.id: 100}).result()
    assert vertex.endpoints.get_endpoint(name=endpoint).traffic_split == {second.id: 100}
    undeploy_all(vertex, endpoint)
    assert not vertex.endpoints.get_endpoint(name=endpoint).traffic_split


def test_the_id_of_a_deployed_model_is_used_once(vertex, endpoint, model, deploy):
    name = model()
    deploy(name, id="7")
    with pytest.raises(errors.Conflict, match="'7' is in use"):
        deploy(name, id="7")
    undeploy_all(vertex, endpoint)


def test_endpoints_that_are_refused(vertex, location):
    def create(endpoint_id="", **endpoint):
        return vertex.endpoints.create_endpoint(request={
            "parent": location, "endpoint": {"display_name": "e"} | endpoint,
            "endpoint_id": endpoint_id}).result()

    assert create("my-endpoint").name == f"{location}/endpoints/my-endpoint"
    with pytest.raises(errors.Conflict):
        create("my-endpoint")
    for endpoint_id in ("Mine", "with_underscore", "ends-", "012", "1234567890"):
        with pytest.raises(errors.BadRequest):
            create(endpoint_id)
    for endpoint in ({"display_name": ""}, {"display_name": "x" * 129},
                     {"dedicated_endpoint_enabled": True}):
        with pytest.raises(errors.BadRequest):
            create(**endpoint)


def test_a_restart_restarts_the_model_and_a_stop_stops_it(start_vertex, tmp_path, wait_for):
    parent = "projects/p1/locations/us-central1"
    with start_vertex(tmp_path) as first:
        model = first.models.upload_model(parent=parent, model={
            "display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}).result().model
        name = first.endpoints.create_endpoint(
            parent=parent, endpoint={"display_name": "e"}).result().name
        first.endpoints.deploy_model(
            endpoint=name, traffic_split={"0": 100},
            deployed_model={"model": model, "dedicated_resources": RESOURCES}).result()
        (process,) = processes(first).values()
    assert process.poll() is not None
    with start_vertex(tmp_path) as second:
        assert predicting.deployed_images(second.vertex.state) == {"r/echo:1"}
        predicting.start_servers(second.vertex)  # as the local cloud's process does
        wait_for(lambda: processes(second))
        (process,) = processes(second).values()
        assert list(second.predictions.predict(
            endpoint=name, instances=[[2, 3]]).predictions) == [5]
        assert list(processes(second).values()) == [process]
    assert process.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("forks", ["Forks()", "None"])
def test_a_model_server_dies_with_a_local_cloud_that_is_killed(images, tmp_path, wait_for, forks):
    program = f"""
import pathlib, time
from lib.localcloud.vertex.programs.forks import Forks
from lib.localcloud.vertex.programs.images import Images
from lib.localcloud.vertex.programs.servers import Servers, Spec
images = Images({{"echo": pathlib.Path({str(images["echo"])!r})}}, {forks})
servers = Servers(images, pathlib.Path({str(tmp_path)!r}))
environment = {{"AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p", "AIP_STORAGE_URI": ""}}
print(servers.start(Spec("1", "echo", "/h", "/p", environment)).process.pid, flush=True)
time.sleep(60)"""
    host = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(host.stdout.readline())
    assert alive(pid)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_for(lambda: not alive(pid))


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_high_level_classes(vertex):
    aiplatform.init(
        project="p1", location="us-east4", credentials=AnonymousCredentials(),
        api_endpoint=vertex.url, api_transport="rest", staging_bucket="gs://b")
    model = aiplatform.Model.upload(
        display_name="churn", artifact_uri="gs://b/m", serving_container_image_uri="r/echo:1")
    endpoint = aiplatform.Endpoint.create(display_name="churn")
    endpoint.deploy(model, machine_type="n1-standard-2")
    assert endpoint.predict([[1, 2]]).predictions == [3.0]
    (found,) = aiplatform.Endpoint.list(filter='display_name="churn"')
    assert found.resource_name == endpoint.resource_name
    assert [m.model_version_id for m in found.list_models()] == ["1"]
    second = aiplatform.Model.upload(
        parent_model=model.resource_name, artifact_uri="gs://b/m2", display_name="churn",
        serving_container_image_uri="r/echo:2")
    endpoint.deploy(second, traffic_percentage=100)
    assert endpoint.predict([[1, 2]]).model_version_id == "2"
    endpoint.undeploy_all()
    endpoint.delete()
    model.delete()


def test_image_names_and_dockerfiles(tmp_path):
    assert image_name("us-docker.pkg.dev/p/r/serving:abc") == "serving"
    assert image_name("localhost:5000/serving@sha256:0a") == "serving"
    assert image_name("serving") == "serving"
    file = tmp_path / "Dockerfile"
    file.write_text(
        'FROM a AS build\nCMD ["make"]\nFROM b\n# ENTRYPOINT ["no"]\n'
        'ENTRYPOINT ["python", \\\n  "-m", "src.main"]\nCMD ["--port", "8080"]\n')
    assert read_dockerfile(file) == (["python", "-m", "src.main"], ["--port", "8080"])


def test_predict_body_is_checked(vertex, endpoint):
    answer = requests.post(f"{vertex.url}/v1/{endpoint}:predict", json={"rows": []})
    assert answer.status_code == 400 and "rows" in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "9" * 400])
def test_numbers_that_json_does_not_have_are_refused(vertex, endpoint, value):
    answer = requests.post(
        f"{vertex.url}/v1/{endpoint}:predict", data=f'{{"instances": [[{value}]]}}')
    assert answer.status_code == 400 and value[:20] in answer.json()["error"]["message"]
