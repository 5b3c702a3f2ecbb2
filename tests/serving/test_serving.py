"""The prediction container as a process: the contract, every 400, every refusal to start."""

import asyncio
import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

LIB = Path(__file__).resolve().parents[2] / "lib"
FEATURES = ["orders_90d", "avg_order_value_90d", "tenure_days"]
LABEL = "label_churn_60d"
GOOD = {"orders_90d": 1, "avg_order_value_90d": 40.5, "tenure_days": 300}


@pytest.fixture(scope="module")
def model(tmp_path_factory, train) -> Path:
    """A folder with a model that the train component made. Not to be changed."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.integers(0, 1000, 3000) for name in FEATURES}, dtype="float64")
    rows.loc[::5, "avg_order_value_90d"] = np.nan
    rows[LABEL] = (rng.random(3000) < rows["tenure_days"] / 1000).astype("int64")
    rows.to_parquet(data / "train.parquet")
    assert train.main([
        "--input_dataset", str(data), "--output_model", str(folder), "--model_type",
        "random_forest", "--label_col", LABEL, "--feature_cols", ",".join(FEATURES),
        "--params", '{"n_estimators": 20}']) == 0
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(uri: object, port: int, **environment: str) -> dict:
    """Arguments of subprocess for the container's ENTRYPOINT, as Vertex AI would start it."""
    keep = {k: v for k, v in os.environ.items() if not k.endswith("_EMULATOR_HOST")}
    return {"args": [sys.executable, "src/main.py"], "cwd": LIB / "serving", "env": {
        **keep, "AIP_STORAGE_URI": str(uri), "AIP_HTTP_PORT": str(port),
        "SERVING_HOST": "127.0.0.1", **environment}}


class Server:
    """The running container; a context manager."""

    def __init__(self, uri: object, **environment: str):
        self.port = free_port()
        self.health = environment.get("AIP_HEALTH_ROUTE", "/health")
        self.route = environment.get("AIP_PREDICT_ROUTE", "/predict")
        self.process = subprocess.Popen(
            **command(uri, self.port, **environment), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.call(self.health)[0] == 200:
                    return self
            except OSError:
                time.sleep(0.02)
        self.process.kill()
        raise AssertionError(self.process.communicate()[1])

    def __exit__(self, *_):
        self.process.terminate()
        self.output, self.errors = self.process.communicate(timeout=20)

    def call(self, route: str, body: object = None) -> tuple[int, dict]:
        """(status, JSON answer); bytes are posted as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{route}", data)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def predict(self, body: object) -> tuple[int, dict]:
        return self.call(self.route, body)


@pytest.fixture(scope="module")
def server(model):
    with Server(model) as running:
        yield running


def load_program(name: str):
    import importlib.util

    spec = importlib.util.spec_from_file_location("program", LIB / name / "src/main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def serving():
    """The program as a module: what needs no process of its own."""
    module = load_program("serving")
    module.uvicorn = None  # a refusal that is missed must fail here, not serve for ever
    return module


@pytest.fixture(scope="module")
def train():
    """The program that makes the models."""
    return load_program("components/train")


def expected(model: Path, instances: list[dict]) -> list[float]:
    pipeline = pickle.loads((model / "model.pkl").read_bytes())
    rows = pd.DataFrame(instances, columns=FEATURES, dtype="float64")
    return pipeline.predict_proba(rows)[:, 1].tolist()


def test_health(server):
    assert server.call("/health") == (200, {"status": "healthy"})


def test_predictions_are_those_of_the_model(server, model):
    instances = [
        GOOD,
        {"tenure_days": 5, "orders_90d": 0, "avg_order_value_90d": None},
        {"tenure_days": 999.5, "orders_90d": None, "avg_order_value_90d": None},
    ]
    status, answer = server.predict({"instances": instances, "parameters": {}})
    assert status == 200 and set(answer) == {"predictions"}
    assert all(set(one) == {"churn_probability"} for one in answer["predictions"])
    assert [one["churn_probability"] for one in answer["predictions"]] == expected(
        model, instances)


def test_order_of_names_does_not_matter(server):
    turned = dict(reversed(GOOD.items()))
    answers = [server.predict({"instances": [one]}) for one in (GOOD, turned)]
    assert answers[0] == answers[1] and answers[0][0] == 200


def test_most_instances_at_once(server):
    status, answer = server.predict({"instances": [GOOD] * 1000})
    assert status == 200 and len(answer["predictions"]) == 1000


@pytest.mark.parametrize("body, reason", [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    ([GOOD], '{"instances": [...]}'),
    ({}, '{"instances": [...]}'),
    ({"instances": []}, "at least one instance"),
    ({"instances": None}, '{"instances": [...]}'),
    ({"instances": GOOD}, '{"instances": [...]}'),
    ({"instances": [GOOD] * 1001}, "1001 instances are more than 1000"),
    ({"instances": [GOOD, [1, 40.5, 300]]}, "instance 1 is not an object"),
    ({"instances": [None]}, "instance 0 is not an object"),
    ({"instances": [GOOD, {"orders_90d": 1}]},
     "instance 1 lacks avg_order_value_90d, tenure_days"),
    ({"instances": [{**GOOD, "country": 1, "age": 2}]}, "instance 0 has unknown age, country"),
    ({"instances": [{**GOOD, "tenure_days": "300"}]}, "tenure_days is neither a number nor null"),
    ({"instances": [{**GOOD, "tenure_days": True}]}, "tenure_days is neither a number nor null"),
    ({"instances": [{**GOOD, "tenure_days": [1]}]}, "tenure_days is neither a number nor null"),
    ({"instances": [{**GOOD, "tenure_days": float("nan")}]}, "NaN is not JSON"),
    ({"instances": [{**GOOD, "tenure_days": float("-inf")}]}, "-Infinity is not JSON"),
    ({"instances": [{**GOOD, "tenure_days": 10**400}]}, "tenure_days is neither a number"),
    (json.dumps({"instances": [GOOD]}).replace("300", "1e999").encode(), "neither a number"),
    (json.dumps({"instances": [GOOD]}).replace("300", "1" * 5000).encode(), "not JSON"),
    # Finite, but the model reads its input as float32.
    ({"instances": [{**GOOD, "tenure_days": 1e300}]}, "the model refuses these values"),
])
def test_requests_that_are_refused(server, body, reason):
    status, answer = server.predict(body)
    assert status == 400 and list(answer) == ["error"] and reason in answer["error"]
    assert server.predict({"instances": [GOOD]})[0] == 200  # and it still serves


@pytest.mark.parametrize("nulls", [True, False])
@pytest.mark.parametrize("model_type", ["random_forest", "logistic_regression"])
def test_scores_equal_the_pipeline_s_own_to_the_bit(serving, train, model_type, nulls):
    assert sorted(train.MODELS) == ["logistic_regression", "random_forest"]
    rng = np.random.default_rng(1)
    rows = pd.DataFrame(rng.gamma(2, 50, (2000, 3)), columns=FEATURES)
    if nulls:
        rows = rows.mask(rng.random(rows.shape) < 0.2)
    labels = pd.Series((rng.random(2000) < 0.5 + 0.4 * np.sin(rows["tenure_days"])) * 1)
    pipeline = train.build_pipeline(model_type, FEATURES, train.MODELS[model_type], 7, 1)
    train.fit(pipeline, rows, labels)
    score = serving.scorer(pipeline, FEATURES)
    assert score.__name__ != "by_pipeline"
    asked = rows.mask(rng.random(rows.shape) < 0.2).to_numpy()
    for count in (2, 10, 2000):
        own = pipeline.predict_proba(pd.DataFrame(asked[:count], columns=FEATURES))[:, 1]
        assert score(asked[:count]).tolist() == own.tolist()
    for row in asked[:100]:
        own = pipeline.predict_proba(pd.DataFrame([row], columns=FEATURES))[:, 1]
        assert score(row[None]).tolist() == own.tolist()


def test_another_pipeline_is_called_itself(serving, train):
    from sklearn.preprocessing import MinMaxScaler

    rows = pd.DataFrame(np.arange(60.0).reshape(20, 3), columns=FEATURES)
    pipeline = train.build_pipeline("logistic_regression", FEATURES, {}, 7, 1)
    pipeline[0].transformers[0][1].steps[1] = ("scale", MinMaxScaler())
    pipeline.fit(rows, np.arange(20) > 9)
    score = serving.scorer(pipeline, FEATURES)
    assert score.__name__ == "by_pipeline"
    assert score(rows.to_numpy()).tolist() == pipeline.predict_proba(rows)[:, 1].tolist()


@pytest.mark.parametrize("fill", ["no pipeline", "no indicator"])
def test_a_pipeline_that_fills_in_otherwise_is_called_itself(serving, train, fill):
    from sklearn.impute import SimpleImputer

    rows = pd.DataFrame(np.arange(60.0).reshape(20, 3), columns=FEATURES)
    pipeline = train.build_pipeline("logistic_regression", FEATURES, {}, 7, 1)
    name, steps, columns = pipeline[0].transformers[0]
    steps.steps[0] = ("fill", SimpleImputer(keep_empty_features=True))
    if fill == "no pipeline":
        pipeline[0].transformers[0] = (name, SimpleImputer(), columns)
    pipeline.fit(rows, np.arange(20) > 9)
    score = serving.scorer(pipeline, FEATURES)
    assert score.__name__ == "by_pipeline"
    assert score(rows.to_numpy()).tolist() == pipeline.predict_proba(rows)[:, 1].tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_probability_that_is_no_number_is_an_error_of_the_model(serving, value):
    class Request:
        async def body(self):
            return json.dumps({"instances": [GOOD, GOOD]})

    app = serving.create_app(
        lambda rows: np.array([0.5, value]), {"features": FEATURES}, "/health", "/predict")
    predict = next(route.endpoint for route in app.routes if route.path == "/predict")
    answer = asyncio.run(predict(Request()))
    assert answer.status_code == 500
    assert json.loads(answer.body) == {
        "error": "the model's probability for instance 1 is not finite"}


def test_other_routes_are_not_served(server):
    assert server.call("/")[0] == 404 and server.call("/docs")[0] == 404
    assert server.call("/predict")[0] == 405


def test_routes_and_port_of_vertex_and_a_clean_end(model):
    routes = {"AIP_HEALTH_ROUTE": "/v1/up", "AIP_PREDICT_ROUTE": "/v1/models/1:predict"}
    with Server(model, **routes) as running:
        assert running.predict({"instances": [GOOD]})[0] == 200
        assert running.call("/health")[0] == 404
    assert running.process.returncode in (0, -15)
    assert running.errors == "" and running.output.count("\n") == 1
    assert "random_forest" in running.output and str(running.port) in running.output


def test_a_name_of_a_web_page_is_refused_on_loopback(server):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/health", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_model_in_cloud_storage(model, serving, monkeypatch):
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    port = free_port()
    emulator = create_server("127.0.0.1", port, in_memory=True)
    emulator.start()
    try:
        url = f"http://127.0.0.1:{port}"
        client = storage.Client(project="p", credentials=AnonymousCredentials(),
                                client_options={"api_endpoint": url})
        bucket = client.create_bucket("models")
        for name in ("model.pkl", "model_meta.json"):
            bucket.blob(f"churn/7/{name}").upload_from_filename(model / name)
        digest = hashlib.sha256((model / "model.pkl").read_bytes()).hexdigest()
        with Server("gs://models/churn/7/", STORAGE_EMULATOR_HOST=url,
                    MODEL_SHA256=digest) as running:
            status, answer = running.predict({"instances": [GOOD]})
            assert status == 200
            assert answer["predictions"][0]["churn_probability"] == expected(model, [GOOD])[0]
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        for absent in ("gs://models/other", "gs://no-such-bucket/churn/7"):
            with pytest.raises(serving.StartError, match=f"the model in {absent} cannot be read"):
                serving.load(absent, digest)
        # Somebody exchanges both files, so that they agree with each other.
        content = pickle.dumps(pickle.loads((model / "model.pkl").read_bytes()), protocol=4)
        meta = json.loads((model / "model_meta.json").read_text())
        meta["sha256"] = hashlib.sha256(content).hexdigest()
        bucket.blob("churn/7/model.pkl").upload_from_string(content)
        bucket.blob("churn/7/model_meta.json").upload_from_string(json.dumps(meta))
        monkeypatch.setattr(serving.pickle, "loads", lambda _: pytest.fail("it was loaded"))
        with pytest.raises(serving.StartError, match=f"the registry recorded {digest}"):
            serving.load("gs://models/churn/7", digest)
        with pytest.raises(serving.StartError, match="MODEL_SHA256 is not set"):
            serving.load("gs://models/churn/7")
    finally:
        emulator.stop()


def test_version_mismatch_ends_the_process(model, tmp_path):
    other = changed(model, tmp_path / "m", versions={"scikit-learn": "1.0.2"})
    done = subprocess.run(
        **command(other, free_port()), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("serving: ")
    assert "with scikit-learn 1.0.2, this image has" in done.stderr


def changed(model: Path, folder: Path, **changes: object) -> Path:
    """A copy of the model with other values in its meta file."""
    shutil.copytree(model, folder)
    meta = json.loads((model / "model_meta.json").read_text())
    (folder / "model_meta.json").write_text(json.dumps({**meta, **changes}))
    return folder


def test_models_that_are_refused(serving, model, tmp_path, capsys, monkeypatch):
    def message(uri: object) -> str:
        monkeypatch.setenv("AIP_STORAGE_URI", str(uri))
        assert serving.main([]) == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    assert "does not have the sha256" in message(changed(model, tmp_path / "a", sha256="0" * 64))
    turned = message(changed(model, tmp_path / "b", features=FEATURES[::-1]))
    assert "the model takes ['orders_90d'" in turned and "says ['tenure_days'" in turned
    assert "not what train writes" in message(changed(model, tmp_path / "c", versions=[]))
    assert "AIP_STORAGE_URI is not set" in message("")
    assert f"the model in {tmp_path} cannot be read" in message(tmp_path)

    # A model of other classes, with a meta file that vouches for it.
    pipeline = pickle.loads((model / "model.pkl").read_bytes())
    pipeline[-1].classes_ = np.array([1, 2])
    content = pickle.dumps(pipeline)
    digest = hashlib.sha256(content).hexdigest()
    other = changed(model, tmp_path / "d", sha256=digest)
    (other / "model.pkl").write_bytes(content)
    assert "classes" in message(other)


@pytest.mark.parametrize("variable, value", [
    ("AIP_HTTP_PORT", "http"), ("AIP_HTTP_PORT", "70000"), ("AIP_PREDICT_ROUTE", "predict")])
def test_settings_that_are_refused(serving, model, monkeypatch, capsys, variable, value):
    monkeypatch.setenv("AIP_STORAGE_URI", str(model))
    monkeypatch.setenv(variable, value)
    assert serving.main([]) == 1
    assert value in capsys.readouterr().err


def test_help(serving, capsys):
    with pytest.raises(SystemExit) as end:
        serving.main(["--help"])
    assert end.value.code == 0 and "AIP_STORAGE_URI" in capsys.readouterr().out
