"""serving: the model over HTTP, by the contract of a Vertex AI custom prediction container.

Settings, all from the environment:
  AIP_STORAGE_URI    gs://bucket/folder (or a local folder) with model.pkl and model_meta.json
  MODEL_SHA256       SHA-256 of model.pkl, as the Model Registry recorded it at the upload
  AIP_HTTP_PORT      8080
  AIP_HEALTH_ROUTE   /health
  AIP_PREDICT_ROUTE  /predict
  SERVING_HOST       0.0.0.0
  STORAGE_EMULATOR_HOST  http://host:port instead of Google's Cloud Storage

GET health -> 200 {"status": "healthy"}
POST predict {"instances": [{feature: number or null, ...}, ...]}
          -> 200 {"predictions": [{"churn_probability": p}, ...]}, in the same order
          -> 400 {"error": reason}
          -> 500 {"error": reason} if the model gives a probability that is no number
An instance has every feature of the model by name, in any order, and nothing else; null means no
value. A list of values is refused, because only names identify the values.

A pickle can run any program while it is loaded. So a model in a bucket needs MODEL_SHA256, and is
loaded only if it has that SHA-256: whoever can write to the bucket cannot exchange the model.

It does not start either, and says why in one line, if the model does not have the sha256 in
model_meta.json or was written by another version of scikit-learn: it might load and be wrong.
"""

import argparse
import hashlib
import json
import math
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

MAX_INSTANCES = 1000  # in one request; Vertex AI itself stops at 1.5 MB
FEW = 10  # instances that are predicted faster than a thread takes over
DOWNLOAD_SECONDS = 60
LOOPBACK = ("127.0.0.1", "localhost")
# The classes of the steps that train builds, in order (build_pipeline there).
KNOWN_PIPELINES = [["SimpleImputer", "RandomForestClassifier"],
                   ["SimpleImputer", "StandardScaler", "LogisticRegression"]]
# Rows as float64, the features in the model's order, NaN for no value -> probability of each row.
Score = Callable[[np.ndarray], np.ndarray]


class StartError(RuntimeError):
    """The container cannot serve; the message is one line."""


class BadRequest(ValueError):
    """The request is not valid; its message is returned with status 400."""


# --- the model --------------------------------------------------------------------------------


def read_files(uri: str) -> tuple[bytes, bytes]:
    """(model.pkl, model_meta.json) of a gs:// or local folder; raises StartError."""
    try:
        if not uri.startswith("gs://"):
            folder = Path(uri)
            return (folder / "model.pkl").read_bytes(), (folder / "model_meta.json").read_bytes()
        return download(uri)
    except OSError as error:
        raise StartError(f"the model in {uri} cannot be read: {one_line(error)}") from None


def download(uri: str) -> tuple[bytes, bytes]:
    """As `read_files`, from Cloud Storage."""
    # Imported here: a local folder does not need them.
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    bucket, _, folder = uri.removeprefix("gs://").partition("/")
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    retry = DEFAULT_RETRY.with_timeout(DOWNLOAD_SECONDS)
    try:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            client = storage.Client(project="local", credentials=AnonymousCredentials())
        else:
            client = storage.Client()
        model, meta = (
            client.bucket(bucket).blob(prefix + name).download_as_bytes(
                timeout=DOWNLOAD_SECONDS, retry=retry)
            for name in ("model.pkl", "model_meta.json"))
    except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
        raise StartError(f"the model in {uri} cannot be read: {one_line(error)}") from None
    return model, meta


def load(uri: str, recorded: str = "") -> tuple[Score, dict]:
    """(the model's probabilities of rows, model_meta.json as a dict), checked.

    Args:
        recorded: the SHA-256 that the registry recorded; a gs:// folder needs it.

    Raises:
        StartError: no such files, another SHA-256 than recorded, a damaged file, another
            scikit-learn, another feature order.
    """
    if uri.startswith("gs://") and not recorded:
        raise StartError(f"MODEL_SHA256 is not set: the SHA-256 of model.pkl in {uri}")
    content, meta_text = read_files(uri)
    found = hashlib.sha256(content).hexdigest()
    if recorded and found != recorded:
        raise StartError(f"model.pkl in {uri} has the sha256 {found}, the registry recorded "
                         f"{recorded}: it was changed after its upload, and is not loaded")
    try:
        meta = json.loads(meta_text)
        digest, features = meta["sha256"], meta["features"]
        version = meta["versions"]["scikit-learn"]
    except (ValueError, KeyError, TypeError):
        raise StartError(f"model_meta.json in {uri} is not what train writes") from None
    if found != digest:
        raise StartError(f"model.pkl in {uri} does not have the sha256 in model_meta.json")
    if version != sklearn.__version__:
        raise StartError(f"the model was trained with scikit-learn {version}, this image has "
                         f"{sklearn.__version__}: build it with the version of the model")
    pipeline = pickle.loads(content)
    takes = pipeline[0].transformers_[0][2]
    if takes != features:
        raise StartError(f"the model takes {takes}, but model_meta.json says {features}")
    if list(pipeline.classes_) != [0, 1]:
        raise StartError(f"the model has classes {list(pipeline.classes_)}, not 0 and 1")
    return scorer(pipeline, features), meta


def scorer(pipeline, features: list[str]) -> Score:
    """`pipeline.predict_proba(rows)[:, 1]`, to the bit, in a tenth of the time for one row.

    A pipeline as train writes it is computed here: the time goes into the DataFrame, and into
    checking and scheduling each step and each tree. Any other pipeline is called itself.
    """
    def by_pipeline(rows: np.ndarray) -> np.ndarray:
        return pipeline.predict_proba(pd.DataFrame(rows, columns=features))[:, 1]

    steps = getattr(pipeline[0].transformers_[0][1], "steps", None)
    if not steps:
        return by_pipeline
    fill, *scale = (step for _, step in steps)
    model = pipeline[-1]
    names = [type(part).__name__ for part in (fill, *scale, model)]
    if names not in KNOWN_PIPELINES or not fill.add_indicator or not fill.keep_empty_features:
        return by_pipeline

    def vector(rows: np.ndarray) -> np.ndarray:
        missing = np.isnan(rows)
        built = np.hstack([np.where(missing, fill.statistics_, rows),
                           missing[:, fill.indicator_.features_]])
        for step in scale:
            built = (built - step.mean_) / step.scale_
        return built

    def by_forest(rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = vector(rows).astype(np.float32)
        if not np.isfinite(values).all():
            return by_pipeline(rows)  # which says why it refuses them
        total = np.zeros(len(rows))
        for tree in trees:
            total += tree.predict(values)[:, 1]
        return total / len(trees)

    def by_regression(rows: np.ndarray) -> np.ndarray:
        # Of several rows the order in memory decides the last bit: that one is scikit-learn's.
        return model.predict_proba(vector(rows))[:, 1] if len(rows) == 1 else by_pipeline(rows)

    trees = [tree.tree_ for tree in getattr(model, "estimators_", ())]
    fast = by_forest if trees else by_regression
    # Also lets scikit-learn import now what it needs at its first prediction.
    places = np.arange(1.0, len(features) + 1).reshape(1, -1)  # another value in each column
    sample = [places * value for value in (np.nan, 0.0, 1.0, 1000.0)]
    return fast if all(fast(row) == by_pipeline(row) for row in sample) else by_pipeline


# --- one request ------------------------------------------------------------------------------


def parse(body: bytes, features: list[str]) -> np.ndarray:
    """The instances as float64, one row each, in the order of `features`, null as NaN; raises
    BadRequest."""
    try:
        request = json.loads(body, parse_constant=refuse_constant)
    except BadRequest:
        raise
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequest('the body must be {"instances": [...]} with at least one instance')
    if len(instances) > MAX_INSTANCES:
        raise BadRequest(f"{len(instances)} instances are more than {MAX_INSTANCES}")
    for position, instance in enumerate(instances):
        check(position, instance, features)
    return np.array([[one[name] for name in features] for one in instances], dtype="float64")


def refuse_constant(name: str):
    raise BadRequest(f"{name} is not JSON; a missing value is null")


def check(position: int, instance: object, features: list[str]) -> None:
    """Raises BadRequest unless the instance has every feature, no other, and only numbers."""
    if not isinstance(instance, dict):
        raise BadRequest(f"instance {position} is not an object {{feature: value}}")
    missing = [name for name in features if name not in instance]
    if missing:
        raise BadRequest(f"instance {position} lacks {', '.join(missing)}")
    extra = sorted(set(instance) - set(features))
    if extra:
        raise BadRequest(f"instance {position} has unknown {', '.join(extra)}")
    for name, value in instance.items():
        if value is not None and not is_number(value):
            raise BadRequest(f"instance {position}: {name} is neither a number nor null")


def is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def create_app(
    score: Score, meta: dict, health_route: str, predict_route: str, host: str = "0.0.0.0"
) -> FastAPI:
    """The two routes; any other answers 404."""
    app = FastAPI(openapi_url=None)
    if host in LOOPBACK:  # on a user's machine: no web page may ask under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))

    @app.get(health_route)
    async def health() -> dict:
        return {"status": "healthy"}

    @app.post(predict_route)
    async def predict(request: Request) -> JSONResponse:
        try:
            rows = parse(await request.body(), meta["features"])
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        # Many rows in a thread, so that /health answers meanwhile.
        try:
            found = score(rows) if len(rows) <= FEW else await run_in_threadpool(score, rows)
            probabilities = found.tolist()
        except ValueError as error:  # such as a number that is too large for the model's float32
            reason = f"the model refuses these values: {one_line(error)}"
            return JSONResponse({"error": reason}, status_code=400)
        for position, probability in enumerate(probabilities):
            if not math.isfinite(probability):  # JSON has no such number
                reason = f"the model's probability for instance {position} is not finite"
                return JSONResponse({"error": reason}, status_code=500)
        return JSONResponse({"predictions": [
            {"churn_probability": p} for p in probabilities]})

    return app


# --- the program ------------------------------------------------------------------------------


def settings() -> dict:
    """The settings from the environment; raises StartError."""
    value = os.environ.get
    uri = value("AIP_STORAGE_URI", "")
    if not uri:
        raise StartError("AIP_STORAGE_URI is not set: the folder of model.pkl and model_meta.json")
    port = value("AIP_HTTP_PORT") or "8080"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise StartError(f"AIP_HTTP_PORT {port!r} is not a port")
    routes = value("AIP_HEALTH_ROUTE") or "/health", value("AIP_PREDICT_ROUTE") or "/predict"
    for route in routes:
        if not route.startswith("/"):
            raise StartError(f"the route {route!r} does not start with /")
    return {"uri": uri, "sha256": value("MODEL_SHA256") or "", "port": int(port),
            "health_route": routes[0], "predict_route": routes[1],
            "host": value("SERVING_HOST") or "0.0.0.0"}


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def main(argv: list[str] | None = None) -> int:
    """Load the model, then serve until SIGTERM; returns the exit status."""
    argparse.ArgumentParser(
        prog="serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    try:
        given = settings()
        score, meta = load(given["uri"], given["sha256"])
    except StartError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    print(f"serving: {meta['model_type']} {meta['sha256'][:16]} on "
          f"{given['host']}:{given['port']}{given['predict_route']}", flush=True)
    app = create_app(score, meta, given["health_route"], given["predict_route"], given["host"])
    uvicorn.run(app, host=given["host"], port=given["port"], access_log=False,
                log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
