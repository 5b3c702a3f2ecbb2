"""The parts of smoke_test.sh that need Python: tiny inputs, command lines, checks.

The container gets the arguments that its interface file (component.yaml) describes, and must
write every output that it names. File names in an output's description ("model.pkl,
model_meta.json") are checked too: the files in that folder, or the file itself.

Exit status: 0 done, 1 with the reason in one line, 2 a bad command line.
"""

import argparse
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = "smoke-project.smoke.train_dataset"
FEATURES = ["orders_90d", "avg_order_value_90d", "tenure_days"]
INPUTS, OUTPUTS = "/tmp/smoke/in", "/tmp/smoke-out"  # in the container; it may write in /tmp
# Values of parameters that have no default, by name.
VALUES = {
    "table": TABLE, "id_col": "customer_id", "time_col": "label_timestamp", "label_col": "churned",
    "feature_cols": ",".join(FEATURES), "gap_days": "14", "model_type": "random_forest",
    "min_roc_auc": "0.5",
}
FILE_NAME = re.compile(r"[\w-]+\.(?:parquet|json|pkl|csv|txt|html|png)\b")


class Broken(Exception):
    """The component does not do what its interface file says; the message is one line."""


# --- inputs -----------------------------------------------------------------------------------


def customers(weeks: int, each: int, seed: int) -> pd.DataFrame:
    """`each` customers in each week; more orders_90d, less churn."""
    rng = np.random.default_rng(seed)
    rows = weeks * each
    orders = rng.integers(0, 4, rows)
    first = pd.Timestamp("2026-01-04", tz="UTC")
    return pd.DataFrame({
        "customer_id": np.tile(np.arange(each), weeks).astype(str),
        "label_timestamp": np.repeat(
            [first + pd.Timedelta(weeks=week) for week in range(weeks)], each),
        "churned": (rng.random(rows) < 0.9 - 0.2 * orders).astype("int64"),
        "orders_90d": orders,
        "avg_order_value_90d": np.where(orders > 0, rng.gamma(2, 40, rows).round(2), np.nan),
        "tenure_days": rng.integers(1, 1500, rows),
    })


def make_inputs(folder: Path, model: bool) -> None:
    """folder/dataset with the three splits; with `model` also folder/model, from train."""
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    for seed, split in enumerate(("train", "valid", "test")):
        customers(6, 100, seed).to_parquet(dataset / f"{split}.parquet", index=False)
    (dataset / "split.json").write_text('{"table": "smoke", "gap_days": 14, "splits": {}}\n')
    if model:
        done = subprocess.run(
            [sys.executable, ROOT / "lib/components/train/src/main.py", "--input_dataset", dataset,
             "--output_model", folder / "model", "--model_type", "random_forest", "--label_col",
             VALUES["label_col"], "--feature_cols", VALUES["feature_cols"],
             "--params", '{"n_estimators": 10}'], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(f"no model to test with: {done.stderr.strip()}")


def serve_table(ready: Path) -> None:
    """A BigQuery on loopback with TABLE in it, until SIGTERM; its addresses go into `ready`."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    from lib.localcloud.bigquery import BigQueryServer

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    project, dataset = TABLE.split(".")[0], TABLE.rpartition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        server = BigQueryServer(Path(folder), project)
        server.start()
        client = bigquery.Client(project=project, credentials=AnonymousCredentials(),
                                 client_options={"api_endpoint": server.rest})
        client.create_dataset(dataset)
        kinds = {"customer_id": "STRING", "label_timestamp": "TIMESTAMP", "churned": "INT64",
                 "orders_90d": "INT64", "avg_order_value_90d": "FLOAT64", "tenure_days": "INT64"}
        client.create_table(bigquery.Table(TABLE, schema=[
            bigquery.SchemaField(name, kind) for name, kind in kinds.items()]))
        file = io.BytesIO(customers(20, 50, 7).to_parquet(index=False))
        client.load_table_from_file(
            file, TABLE, size=None, job_config=bigquery.LoadJobConfig(source_format="PARQUET")
        ).result()
        draft = ready.with_suffix(".draft")
        draft.write_text(f"BIGQUERY_EMULATOR_HOST={server.rest}\n"
                         f"BIGQUERY_STORAGE_GRPC_ENDPOINT={server.grpc}\n"
                         # An engine may give its containers a proxy.
                         "NO_PROXY=127.0.0.1\nno_proxy=127.0.0.1\n")
        draft.replace(ready)
        signal.sigwait([signal.SIGTERM])
        server.stop()


# --- command lines ----------------------------------------------------------------------------


def read_interface(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Broken(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def arguments(path: Path, given: dict[str, str]) -> list[str]:
    """The container's arguments by its interface file; values in `given` take precedence.

    Raises:
        Broken: a required parameter has no value, or a placeholder is not known.
    """
    interface = read_interface(path)
    values = {**VALUES, **given}
    known = {}
    for entry in interface.get("inputs", []):
        name, default = entry["name"], entry.get("default")
        value = values.get(name, default)
        if entry["type"] == "Dataset":
            value = f"{INPUTS}/dataset"
        elif entry["type"] == "Model":
            value = f"{INPUTS}/model"
        elif name.startswith("input_"):  # written by an earlier interface of this image
            value = f"{INPUTS}/{name.replace('input_', 'output_', 1)}"
        if value is not None:
            known[name] = str(value)
        elif not entry.get("optional"):
            raise Broken(f"{path.name}: input {name} has no default; give --set {name}=VALUE")

    def fill(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        kind, what = next(iter(part.items()))
        if kind in ("inputValue", "inputPath"):
            return [known[what]]
        if kind == "outputPath":
            return [f"{OUTPUTS}/{what}"]
        if kind == "if":
            return fill_all(what["then"] if what["cond"]["isPresent"] in known
                            else what.get("else", []))
        raise Broken(f"{path.name}: the smoke test does not know the placeholder {kind}")

    def fill_all(parts: list) -> list[str]:
        return [text for part in parts for text in fill(part)]

    return fill_all(interface["implementation"]["container"]["args"])


# --- checks -----------------------------------------------------------------------------------


def check(path: Path, folder: Path) -> list[str]:
    """Check that `folder` has every output that the interface names; return a line per file.

    Raises:
        Broken: the first one that is missing, empty, or not of the type its name says.
    """
    found = []
    for output in read_interface(path).get("outputs", []):
        promised = FILE_NAME.findall(output.get("description", ""))
        place = folder / output["name"]
        if not place.exists():
            raise Broken(f"{output['name']} was not written"
                         + (f" (promised: {', '.join(promised)})" if promised else ""))
        if place.is_dir():
            files = [place / name for name in promised]
            if not any(place.rglob("*")):
                raise Broken(f"{output['name']} is an empty folder")
        else:
            files = [place]
        for file in files:
            kind = Path(promised[0]).suffix if file == place and promised else file.suffix
            found.append(f"{output['name']}: {file.name} {check_file(file, kind, output['name'])}")
    return found


def check_file(file: Path, kind: str, output: str) -> str:
    """Size or number of rows, for the report; raises Broken."""
    if not file.is_file():
        raise Broken(f"{output}: {file.name} was not written")
    if not file.stat().st_size:
        raise Broken(f"{output}: {file.name} is empty")
    try:
        if kind == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        rows = pq.read_metadata(file).num_rows if kind == ".parquet" else None
    except Exception as error:
        raise Broken(f"{output}: {file.name} is not {kind[1:]}: {error}") from None
    if rows == 0:
        raise Broken(f"{output}: {file.name} has no rows")
    return f"{file.stat().st_size} bytes" if rows is None else f"{rows} rows"


def call(url: str, body: object = None) -> tuple[int, dict]:
    """(status, answer)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def check_serving(url: str, seconds: float) -> list[str]:
    """Call /health, /predict, and /predict with a malformed instance; raises Broken."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status, answer = call(f"{url}/health")
            break
        except (OSError, ValueError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise Broken(f"/health did not answer within {seconds:.0f} s: {error}") from None
            time.sleep(0.2)
    if status != 200:
        raise Broken(f"/health answered {status}: {answer}")
    instance = {"orders_90d": 1, "avg_order_value_90d": None, "tenure_days": 300}
    status, answer = call(f"{url}/predict", {"instances": [instance]})
    try:
        probability = answer["predictions"][0]["churn_probability"]
        good = status == 200 and 0 <= probability <= 1
    except (KeyError, IndexError, TypeError):
        good = False
    if not good:
        raise Broken(f"/predict answered {status}: {answer}")
    refused, answer = call(f"{url}/predict", {"instances": [{"orders_90d": "many"}]})
    if refused != 400 or not answer.get("error"):
        raise Broken(f"/predict answered a malformed instance with {refused}: {answer}")
    return ["/health: 200", f"/predict: 200, churn_probability {probability:.3f}",
            f"/predict, malformed: 400, {answer['error']}"]


# --- the command ------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="smoke.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    inputs = commands.add_parser("inputs", help="write a tiny dataset, and with --model a model")
    inputs.add_argument("folder", type=Path)
    inputs.add_argument("--model", action="store_true")
    table = commands.add_parser("table", help="serve a tiny BigQuery table until SIGTERM")
    table.add_argument("ready", type=Path)
    line = commands.add_parser("arguments", help="print the container's arguments, one a line")
    line.add_argument("interface", type=Path)
    line.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    written = commands.add_parser("check", help="check what the container wrote")
    written.add_argument("interface", type=Path)
    written.add_argument("folder", type=Path)
    serving = commands.add_parser("serving", help="check a running prediction container")
    serving.add_argument("url")
    serving.add_argument("--seconds", type=float, default=60, help="to wait for /health")
    given = parser.parse_args(argv)
    try:
        if given.command == "inputs":
            make_inputs(given.folder, given.model)
        elif given.command == "table":
            serve_table(given.ready)
        else:
            lines = {
                "arguments": lambda: arguments(
                    given.interface, dict(pair.partition("=")[::2] for pair in given.set)),
                "check": lambda: check(given.interface, given.folder),
                "serving": lambda: check_serving(given.url, given.seconds),
            }[given.command]()
            print(*lines, sep="\n")
    except Broken as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
