"""The pipeline's spec: what kfp compiles from it, with no cloud and no engine."""

import json
import subprocess
import sys

import pytest
import yaml

from lib import config, images
from lib.config import ROOT
from lib.errors import Needed
from lib.training import custom_jobs
from lib.training.compile import compile_to
from tests.support import forked

DIGEST = "sha256:" + "ab" * 32


def gcp(**overrides):
    return config.load(target="gcp", env="dev", overrides={
        "targets": {"gcp": {"project": "some-project-1"}}, **overrides})


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock file in which every image of the gcp target has a digest."""
    names = ("data_load", "train", "eval", "serving")
    repository = gcp().serve.image_repository
    monkeypatch.setattr(images, "LOCK", tmp_path / "images.lock.json")
    images.LOCK.write_text(json.dumps({repository: dict.fromkeys(names, DIGEST)}))
    return repository


def spec(settings, folder):
    path, _ = compile_to(settings, folder)
    return json.loads(path.read_text())


def executors(compiled):
    return {name: e["container"] for name, e in compiled["deploymentSpec"]["executors"].items()}


def test_json_and_yaml_hold_the_same_and_a_second_compile_the_same_bytes(settings, tmp_path):
    first = [p.read_bytes() for p in compile_to(settings, tmp_path / "a")]
    second = [p.read_bytes() for p in compile_to(settings, tmp_path / "b")]
    assert first == second
    assert json.loads(first[0]) == yaml.safe_load(first[1])


def test_compiling_needs_no_cloud_and_no_engine(tmp_path):
    bare = {"PATH": "/nowhere", "HOME": str(tmp_path), "LOCALCLOUD_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "lib.training.compile", "--output", str(tmp_path / "out")],
        cwd=ROOT, env=bare, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "training.json", "training.yaml"]
    assert not (tmp_path / "state").exists()


def test_every_image_is_pinned_by_digest_and_never_by_a_tag_too(lock, tmp_path):
    for container in executors(spec(gcp(), tmp_path)).values():
        assert container["image"].startswith(lock + "/")
        name, digest = container["image"].split("@")
        assert digest == DIGEST and ":" not in name.rsplit("/", 1)[1]
        assert container["command"] == ["python", "src/main.py"]


def test_an_image_that_was_not_pushed_is_named_with_the_command(lock, tmp_path):
    images.LOCK.write_text("{}")
    with pytest.raises(Needed, match=r"data_load is not in lib/images.lock.json.*build_push_all"):
        spec(gcp(), tmp_path)


def test_steps_pass_artifacts_and_only_a_passing_model_is_approved(settings, tmp_path):
    root = spec(settings, tmp_path)["root"]["dag"]["tasks"]
    assert set(root) == {"data-load", "train", "eval", "condition-1"}
    assert root["train"]["dependentTasks"] == ["data-load"]
    assert set(root["eval"]["dependentTasks"]) == {"data-load", "train"}
    condition = root["condition-1"]["triggerPolicy"]["condition"]
    assert "output_verdict" in condition and "'pass'" in condition
    for name in ("data-load", "train", "eval"):
        assert root[name]["cachingOptions"] == {"enableCache": True}


def test_each_step_asks_for_its_resources(settings, tmp_path):
    for container in executors(spec(settings, tmp_path)).values():
        assert container["resources"]["resourceCpuLimit"]
        assert container["resources"]["resourceMemoryLimit"]


def test_the_custom_jobs_get_the_arguments_that_the_pipeline_gives(settings, tmp_path):
    """Two ways to run the same programs: neither may forget an argument of the other."""
    compiled = spec(settings, tmp_path)
    given = custom_jobs.arguments(
        dict.fromkeys(compiled["root"]["inputDefinitions"]["parameters"], "x"), "/gcs/b/f")
    for executor, container in executors(compiled).items():
        step = executor.removeprefix("exec-").replace("-", "_")
        text = json.dumps(container["args"])
        flags = {f for f in text.replace('\\"', '"').split('"') if f.startswith("--")}
        # The program's default suits both.
        assert {f"--{name}" for name in given[step]} == flags - {"--n_jobs"}, step


def test_a_bad_config_ends_with_status_2():
    done = forked.run("lib.training.compile", "--target", "gcp")
    assert done.returncode == 2 and "targets.gcp.project" in done.stderr
