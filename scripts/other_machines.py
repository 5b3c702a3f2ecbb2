"""Run ./run_all.sh as other machines would, and compare every table and answer to the bit.

    .venv/bin/python -m scripts.other_machines                      each condition by itself
    .venv/bin/python -m scripts.other_machines seoul,lang-c         two conditions at once
    .venv/bin/python -m scripts.other_machines --save state.json    keep what the plain run made
    .venv/bin/python -m scripts.other_machines --against state.json compare with another Python's

Each run is in a copy of this checkout, with its own state, a small theLook and small proofs: half
a minute to a minute. It uses the Python that runs this command, with its packages.

Exit status: 0 all runs passed, 1 one did not (its line says why).
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN_SECONDS = 1200
DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there
SMALL = {
    "thelook": {"users": 1500}, "snapshots": {"history_days": 280},
    "label": {"positive_rate_band": [0.01, 0.999]},
    "train": {"min_roc_auc": 0.0, "params": {
        "random_forest": {"n_estimators": 10, "max_depth": 4, "min_samples_leaf": 20}}},
    "checks": {"max_honest_roc_auc": 1.0, "leakage_groups": 2,
               "parity_customers": 20, "planted_customers": 20, "freshness_customers": 20,
               "latency_callers": 2, "latency_sql_requests": 2},
    "predict": {"customers": 10, "latency_requests": 10}}


@dataclass
class Machine:
    """Where and how a run is started: `folder` may be written to."""

    folder: Path
    name: str = "checkout"
    environment: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / self.name


def korean_path(machine: Machine) -> None:
    """A folder with spaces and Korean letters, as of a user named so."""
    machine.name = "내 문서/check out"


def lang_c(machine: Machine) -> None:
    """No locale, as in containers and cron."""
    machine.environment |= {"LANG": "C", "LC_ALL": "C"}


def seoul(machine: Machine) -> None:
    """UTC+9."""
    machine.environment["TZ"] = "Asia/Seoul"


def new_york(machine: Machine) -> None:
    """UTC-5, and UTC-4 in summer."""
    machine.environment["TZ"] = "America/New_York"


def no_network(machine: Machine) -> None:
    """Nothing but loopback, in a network namespace of its own (Linux, as root or by user)."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    machine.prefix += ["unshare", *user, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]


def foreign_variables(machine: Machine) -> None:
    """Proxies, emulators and settings of Google's clients, as of another project."""
    machine.environment |= dict.fromkeys((
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
        "grpc_proxy", "BIGQUERY_EMULATOR_HOST", "STORAGE_EMULATOR_HOST",
        "BIGQUERY_STORAGE_GRPC_ENDPOINT", "GCE_METADATA_HOST"), DEAD)
    machine.environment |= {
        "NO_PROXY": "example.com", "GOOGLE_CLOUD_PROJECT": "another-project",
        "GOOGLE_CLOUD_QUOTA_PROJECT": "another-project", "GOOGLE_CLOUD_REGION": "asia-east1",
        "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "example.com", "GOOGLE_API_USE_MTLS_ENDPOINT": "always",
        "AIP_STORAGE_URI": "gs://another/model", "MODEL_SHA256": "0" * 64}


def other_lib(machine: Machine) -> None:
    """Another package named lib, and another kfp, first on PYTHONPATH."""
    folder = machine.folder / "elsewhere"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "__init__.py").write_text("raise SystemExit('another lib was imported')\n")
    machine.environment["PYTHONPATH"] = str(folder)


def other_kernel(machine: Machine) -> None:
    """A Jupyter kernel named python3, first in Jupyter's path, that does not start."""
    folder = machine.folder / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(
        {"argv": ["/bin/false"], "display_name": "another", "language": "python"}))
    machine.environment["JUPYTER_PATH"] = str(machine.folder / "jupyter")


CONDITIONS = {function.__name__.replace("_", "-"): function for function in (
    korean_path, lang_c, seoul, new_york, no_network, foreign_variables, other_lib, other_kernel)}


def run(conditions: Sequence[str]) -> tuple[dict, str]:
    """./run_all.sh under these conditions: what it made (see `read_state`), or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="other-machine-") as folder:
        machine = Machine(Path(folder))
        for name in conditions:
            CONDITIONS[name](machine)
        _copy_checkout(machine.root)
        usual = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "CHURN_DEMO_"))}
        environment = usual | {
            "LANG": "C.UTF-8", "TZ": "UTC", "CHURN_DEMO_SET": json.dumps(SMALL),
            "LOCALCLOUD_STATE": str(machine.root / ".localcloud")} | machine.environment

        def command(*words: str) -> subprocess.CompletedProcess:
            return subprocess.run(
                [*machine.prefix, *words], cwd=machine.root, env=environment, text=True,
                encoding="utf-8", errors="replace", capture_output=True, timeout=RUN_SECONDS)

        # One shell, since a network namespace ends with its last process. The local cloud of the
        # run goes on, and is asked what it holds.
        done = command("bash", "-c", """
            status=0
            { ./run_all.sh --keep-running && .venv/bin/python -m scripts.other_machines \\
                --read-state; } || status=$?
            .venv/bin/python -m lib.localcloud stop >/dev/null
            exit $status""")
    if done.returncode:
        return {}, f"status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    if "Traceback" in done.stdout + done.stderr:
        return {}, f"a traceback\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def _copy_checkout(target: Path) -> None:
    """What a clone would have, with the packages of this Python as its .venv."""
    target.mkdir(parents=True)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(sys.prefix)


def read_state() -> dict:
    """What the connected cloud holds: a hash of each table's rows, the model's SHA-256, and the
    features and the churn probability of 20 customers, to the last bit."""
    from lib import config, lookups, model_registry, predict
    from lib.cloud import connect

    cloud = connect(config.load(target="local", env="dev"))
    found = {"model": [v.value for v in model_registry.find(cloud).container_spec.env]}
    for dataset in cloud.bigquery.list_datasets():
        if dataset.dataset_id.startswith("_"):  # a scratch dataset of the local cloud
            continue
        for table in cloud.bigquery.list_tables(dataset.reference):
            if table.table_id == cloud.settings.tables.served:  # each request has its own time
                continue
            rows = cloud.bigquery.list_rows(table.reference).to_arrow(
                bqstorage_client=cloud.bigquery_read).to_pylist()
            lines = sorted(repr(sorted(row.items())) for row in rows)
            found[f"table {table.dataset_id}.{table.table_id}"] = [
                len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()]
    predictor = predict.Predictor(cloud)
    for customer in lookups.served_customers(cloud, 20):
        answer = predictor.predict(customer)
        found[f"customer {customer}"] = [
            str(answer.feature_timestamp), repr(answer.features), repr(answer.churn_probability)]
    return found


def differences(expected: dict, found: dict) -> str:
    """In which parts two states differ; "" if in none."""
    wrong = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    return "; ".join(f"{k}: {expected.get(k)} -> {found.get(k)}" for k in wrong)[:2000]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.other_machines", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conditions", nargs="*", metavar="CONDITION[,CONDITION...]",
                        help="one run each; any of " + ", ".join(CONDITIONS))
    parser.add_argument("--save", type=Path, help="write what the plain run made")
    parser.add_argument("--against", type=Path, help="compare with this instead of a plain run")
    parser.add_argument("--read-state", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read_state:
        print(json.dumps(read_state()))
        return 0
    runs = [text.split(",") for text in options.conditions or (
        [] if options.save or options.against else CONDITIONS)]
    if unknown := sorted({name for names in runs for name in names} - set(CONDITIONS)):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(CONDITIONS)}")
    expected, passed = None, 0
    if options.against:
        expected = json.loads(options.against.read_text())
    # Without conditions that were asked for, the plain run itself is compared with the file.
    for names in [[], *runs] if not options.against or not runs else runs:
        found, wrong = run(names)
        expected = expected or found
        if not wrong and (different := differences(expected, found)):
            wrong = f"other than expected: {different}"
        if not names and options.save and not wrong:
            options.save.write_text(json.dumps(found))
        python = ".".join(map(str, sys.version_info[:2]))
        print(f"Python {python}, {', '.join(names) or 'plain'}: "
              f"{f'FAILED: {wrong}' if wrong else f'passed, {len(found)} parts equal'}", flush=True)
        passed += not wrong
    total = len(runs) + (not options.against or not runs)
    print(f"{passed} of {total} passed")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
