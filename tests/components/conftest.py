"""Each component as a module, and as the process that its image would start."""

import asyncio
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

COMPONENTS = Path(__file__).resolve().parents[2] / "lib" / "components"
FEATURES = ["orders_90d", "avg_order_value_90d", "days_since_last_order", "tenure_days"]
LABEL = "label_churn_60d"


def load_module(name: str):
    path = COMPONENTS / name / "src" / "main.py"
    spec = importlib.util.spec_from_file_location(f"component_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def loaded():
    """loaded(name) -> the program of a component as a module."""
    return load_module


@pytest.fixture(scope="session")
def data_load():
    return load_module("data_load")


@pytest.fixture(scope="session")
def train():
    return load_module("train")


@pytest.fixture(scope="session")
def evaluate():
    return load_module("eval")


def start(folder: Path, *arguments: object, environment: dict | None = None):
    """What the image's ENTRYPOINT does, in its folder; the finished process."""
    keep = {k: v for k, v in os.environ.items() if not k.endswith(("_EMULATOR_HOST", "_ENDPOINT"))}
    return subprocess.run(
        [sys.executable, "src/main.py", *map(str, arguments)], cwd=folder, text=True,
        capture_output=True, timeout=60, env={**keep, **(environment or {})})


@pytest.fixture(scope="session")
def started():
    """started(folder, *arguments) -> the finished process of a component that lies anywhere."""
    return start


@pytest.fixture(scope="session")
def program():
    """program(name, *arguments, environment={}) -> the finished process of a component."""
    return lambda name, *arguments, **options: start(COMPONENTS / name, *arguments, **options)


@pytest.fixture
def called(capsys):
    """called(module, *arguments) -> as the finished process of `program`, but in this one."""

    def call(module, *arguments: object) -> subprocess.CompletedProcess:
        try:
            status = module.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return call


@pytest.fixture
def refusal(capsys):
    """refusal(module, *arguments) -> (exit status, the one line on stderr), in process."""

    def call(module, *arguments: object) -> tuple[int, str]:
        try:
            status = module.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and line.endswith("\n"), line
        return status, line

    return call


def customers(rows: int, seed: int) -> pd.DataFrame:
    """Rows whose churn falls with orders_90d and rises with tenure_days; the rest is noise."""
    rng = np.random.default_rng(seed)
    orders = rng.integers(0, 4, rows)
    tenure = rng.integers(1, 1500, rows)
    value = np.where(orders > 0, rng.gamma(2, 40, rows).round(2), np.nan)
    churns = rng.random(rows) < 1 / (1 + np.exp(orders * 0.8 - tenure / 500))
    return pd.DataFrame({
        "customer_id": rng.integers(0, rows, rows).astype(str),
        "label_timestamp": pd.Timestamp("2026-01-04", tz="UTC"),
        LABEL: churns.astype("int64"),
        "orders_90d": orders,
        "avg_order_value_90d": value,
        "days_since_last_order": rng.integers(0, 90, rows),
        "tenure_days": tenure,
    })


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A folder with the three splits, as data_load writes them. Not to be changed."""
    folder = tmp_path_factory.mktemp("dataset")
    for seed, (split, rows) in enumerate({"train": 4000, "valid": 1500, "test": 1500}.items()):
        customers(rows, seed).to_parquet(folder / f"{split}.parquet", index=False)
    (folder / "split.json").write_text(json.dumps({
        "table": "p.d.train_dataset", "gap_days": 60,
        "splits": {"train": {"first": "2025-05-05T00:00:00+00:00",
                             "last": "2025-09-29T00:00:00+00:00"}}}))
    return folder


@pytest.fixture(scope="session")
def train_arguments(dataset):
    """train_arguments(folder, **changes) -> a command line of train that works."""

    def build(output: Path, **changes: object) -> list[str]:
        options = {"input_dataset": dataset, "output_model": output, "label_col": LABEL,
                   "model_type": "random_forest", "feature_cols": ",".join(FEATURES),
                   "params": '{"n_estimators": 20}', **changes}
        return [part for name, value in options.items() for part in (f"--{name}", str(value))]

    return build


@pytest.fixture(scope="session")
def model(train, train_arguments, tmp_path_factory) -> Path:
    """A folder with a trained random forest. Not to be changed."""
    folder = tmp_path_factory.mktemp("model")
    assert train.main(train_arguments(folder)) == 0
    return folder


@pytest.fixture(scope="session")
def bigquery_server():
    """An emulated BigQuery: environment for a program, and load(name, schema, DataFrame)."""
    import duckdb_extensions
    import pyarrow as pa
    import pyarrow.parquet as pq
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    duckdb_extensions.import_extension("spatial")  # else the emulator would download it
    from bqemulator.config import LogLevel, Settings
    from bqemulator.server import EmulatorServer

    server = EmulatorServer(Settings(
        rest_port=0, grpc_port=0, default_project_id="demo-project",
        enable_format_extensions=False, log_level=LogLevel.WARNING))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
    client = bigquery.Client(project="demo-project", credentials=AnonymousCredentials(),
                             client_options={"api_endpoint": server.rest_url})
    client.create_dataset("demo-project.churn")

    def load(name: str, schema: dict[str, str], rows: pd.DataFrame) -> str:
        full = f"demo-project.churn.{name}"
        client.create_table(bigquery.Table(full, schema=[
            bigquery.SchemaField(column, kind) for column, kind in schema.items()]))
        if len(rows):
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), file)
            file.seek(0)
            config = bigquery.LoadJobConfig(source_format="PARQUET")
            client.load_table_from_file(file, full, size=None, job_config=config).result()
        return full

    yield SimpleNamespace(load=load, environment={
        "BIGQUERY_EMULATOR_HOST": server.rest_url,
        "BIGQUERY_STORAGE_GRPC_ENDPOINT": server.grpc_endpoint})
    client.close()
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
