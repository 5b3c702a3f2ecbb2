"""What every image must keep to, the template, and the interfaces as kfp reads them."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted(f.parent for f in (ROOT / "lib").glob("**/Dockerfile"))
PARTS = sorted(f.parent for f in (ROOT / "lib" / "components").glob("*/component.yaml"))
by_name = {"argvalues": IMAGES, "ids": [folder.name for folder in IMAGES]}


def pins(path: Path) -> dict[str, str]:
    """Package -> version of a requirements file; every line must be an exact pin."""
    found = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;*]+)(?:\s*;.*)?", line)
            assert match, f"{path}: not an exact pin: {line}"
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def test_the_images_are_these():
    assert {f.name for f in IMAGES} >= {"_template", "data_load", "eval", "train", "serving"}


@pytest.mark.parametrize("folder", **by_name)
def test_dockerfile(folder):
    text = (folder / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines()
             if line and not line.startswith("#")]
    last = dict(steps)  # of a repeated instruction, the one that holds
    assert json.loads(last["ENTRYPOINT"]) == ["python", "src/main.py"]
    assert (folder / "src" / "main.py").is_file()
    assert last["USER"].split(":")[0] not in ("root", "0")
    assert [name for name, _ in steps].index("USER") > max(
        i for i, (name, _) in enumerate(steps) if name in ("RUN", "COPY"))
    assert steps[0] == ["ARG", "BASE_IMAGE=python:3.11-slim"]
    assert "--no-cache-dir" in last["RUN"]
    assert "--no-deps --require-hashes --requirement requirements.lock" in last["RUN"]
    assert "pip check" in last["RUN"]
    for label, argument in (("revision", "REVISION"), ("version", "VERSION")):
        assert f'org.opencontainers.image.{label}="${{{argument}}}"' in last["LABEL"]
        assert ["ARG", f"{argument}=unknown"] in steps


@pytest.mark.parametrize("folder", **by_name)
def test_pins_are_those_that_are_tested_here(folder):
    own = pins(folder / "requirements.txt")
    for package, version in own.items():
        assert metadata.version(package) == version, package
    root = ROOT / "requirements.txt"
    if root.is_file():
        common = pins(root)
        assert {p: v for p, v in own.items() if p in common} == {
            p: common[p] for p in own if p in common}


@pytest.mark.parametrize("folder", **by_name)
def test_locks_are_the_pins_with_hashes(folder):
    """scripts/lock.sh was run after the last change."""
    lock = (folder / "requirements.lock").read_text().replace("\\\n", " ")
    locked = dict(re.sub(r"\[.*\]", "", line).split(maxsplit=1) for line in lock.splitlines())
    assert set(locked) == {f"{name}=={version}" for name, version in
                           pins(folder / "requirements.txt").items()}
    assert all(re.fullmatch(r"(--hash=sha256:[0-9a-f]{64}\s*)+", hashes)
               for hashes in locked.values())


def test_train_eval_and_serving_agree_on_what_a_model_is():
    images = [pins(ROOT / "lib" / name / "requirements.txt")
              for name in ("components/train", "components/eval", "serving")]
    for package in ("scikit-learn", "numpy", "scipy", "joblib", "pandas"):
        assert len({image[package] for image in images}) == 1, package


@pytest.mark.parametrize("folder", **by_name)
def test_image_imports_nothing_of_the_library(folder):
    for file in (folder / "src").glob("**/*.py"):
        assert not re.search(r"^\s*(from|import)\s+lib\b", file.read_text(), re.MULTILINE), file


@pytest.mark.parametrize("folder", PARTS, ids=[folder.name for folder in PARTS])
def test_component_yaml_and_program_have_the_same_options(started, folder):
    done = started(folder, "--help")
    assert done.returncode == 0, done.stderr
    usage = done.stdout.split("\n\n")[0]
    options = set(re.findall(r"--(\w+)", usage))
    container = yaml.safe_load((folder / "component.yaml").read_text())["implementation"]
    passed = re.findall(r"--(\w+)", json.dumps(container))
    assert len(passed) == len(set(passed)) and set(passed) == options - {"help"}


@pytest.mark.parametrize("file", sorted((ROOT / "lib" / "components").glob("*/*.yaml")),
                         ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_interface_names_the_command_of_the_image(file):
    """KFP's open executor refuses a container without one (kubeflow/pipelines#6335). An interface
    may name a second program of the image, beside that of its entrypoint."""
    container = yaml.safe_load(file.read_text())["implementation"]["container"]
    entrypoint = re.search(r"ENTRYPOINT (.*)", (file.parent / "Dockerfile").read_text())[1]
    program = f"src/{file.stem}.py"
    second = (file.parent / program).exists()
    assert container.get("command") == (["python", program] if second else json.loads(entrypoint))


@pytest.mark.parametrize("folder", PARTS, ids=[folder.name for folder in PARTS])
def test_a_container_that_may_not_write_says_what_to_change(
        folder, loaded, refusal, monkeypatch):
    """Images run as user 10001, whom Vertex AI's mount of Cloud Storage may refuse."""
    module, denied = loaded(folder.name), "[Errno 13] Permission denied: '/gcs/b/x'"

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/gcs/b/x")

    for name in ("read_table", "run", "count_rows"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, refuse)
    given = {"label_col": "y", "time_col": "t", "id_col": "id", "feature_cols": "a",
             "table": "p.d.t", "gap_days": 1, "split_ratios": "0.6,0.2,0.2",
             "model_type": "random_forest"}
    container = yaml.safe_load((folder / "component.yaml").read_text())["implementation"]
    passed = re.findall(r"--(\w+)", json.dumps(container))
    words = [word for key in passed if key in given or key.startswith(("input_", "output_"))
             for word in (f"--{key}", given.get(key, "/gcs/b/x"))]
    status, line = refusal(module, *words)
    assert status == 1 and f": {denied}: " in line
    assert "may not write below /gcs" in line and "delete the USER line" in line


def test_kfp_wires_the_three_components(tmp_path):
    from kfp import compiler, components, dsl

    load, train, evaluate = (
        components.load_component_from_file(
            str(ROOT / "lib" / "components" / name / "component.yaml"))
        for name in ("data_load", "train", "eval"))

    @dsl.pipeline(name="churn")
    def pipeline(table: str):
        names = {"label_col": "y", "feature_cols": "a,b"}
        data = load(table=table, time_col="t", id_col="id", gap_days=60, **names)
        data = data.outputs["output_dataset"]
        model = train(input_dataset=data, model_type="random_forest", **names)
        evaluate(input_dataset=data, input_model=model.outputs["output_model"], label_col="y")

    compiler.Compiler().compile(pipeline, str(tmp_path / "churn.yaml"))
    spec = next(yaml.safe_load_all((tmp_path / "churn.yaml").read_text()))
    containers = [e["container"] for e in spec["deploymentSpec"]["executors"].values()]
    assert all(set(container) == {"image", "command", "args"} for container in containers)
    outputs = {name: {key: value["artifactType"]["schemaTitle"]
                      for key, value in part["outputDefinitions"]["artifacts"].items()}
               for name, part in spec["components"].items()}
    assert outputs == {
        "comp-data-load": {"output_dataset": "system.Dataset"},
        "comp-train": {"output_model": "system.Model"},
        "comp-eval": {"output_metrics": "system.Metrics", "output_curves": "system.Artifact"},
    }
