"""Missing images are built in the background; a stage waits for those it needs."""

import json
import os
import signal
import subprocess

import pytest

from lib import images
from lib.errors import Needed
from tests.scripts.conftest import make_project

HOST = "us-central1-docker.pkg.dev"


@pytest.fixture
def pinned(settings, tmp_path, monkeypatch):
    """Settings that want images by digest, an empty lock, and short pauses."""
    monkeypatch.setattr(images, "LOCK", tmp_path / "images.lock.json")
    place = settings.target_settings.model_copy(update={"pinned_images": True})
    waits = settings.waits.model_copy(update={
        "first_pause_seconds": 0.02, "longest_pause_seconds": 0.05, "image_build_seconds": 20})
    return settings.model_copy(update={"targets": {"local": place}, "waits": waits})


@pytest.fixture
def build(pinned, tmp_path, monkeypatch):
    """Replace scripts/build_push_all.sh by a script that prints, waits, and pins or fails."""
    def script(pins: bool, seconds: float = 0.3, says: str = "serving: building"):
        lock = {pinned.serve.image_repository: dict.fromkeys(images.names(), "sha256:1")}
        path = tmp_path / "build.sh"
        path.write_text(
            f'#!/usr/bin/env bash\necho "$@" >>{tmp_path}/calls\necho {says!r}\nsleep {seconds}\n'
            + (f"echo '{json.dumps(lock)}' >{images.LOCK}\n" if pins else "exit 3\n"))
        path.chmod(0o755)
        monkeypatch.setattr(images, "BUILD", path)

    return script


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Only these commands exist, beside bash's own: name -> its script."""
    def only(**commands):
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name in ("bash", "env", "sleep"):
            (folder / name).symlink_to(f"/usr/bin/{name}")
        for name, does in commands.items():
            (folder / name).write_text(f"#!/bin/sh\n{does}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_there_is_an_image_for_each_component_and_serving():
    assert set(images.names()) >= {"data_load", "train", "eval", "serving"}
    assert "_template" not in images.names()


def test_where_folders_are_run_nothing_is_built(settings, tmp_path):
    assert images.start_build(settings, tmp_path).status == "done"
    assert images.wait_build(settings, tmp_path).status == "done"
    assert list(tmp_path.iterdir()) == []


def test_a_build_goes_on_behind_and_is_waited_for_once(pinned, build, tmp_path):
    build(pins=True)
    assert images.start_build(pinned, tmp_path).status == "started"
    assert set(images.missing(pinned)) == set(images.names())  # still going on
    assert images.wait_build(pinned, tmp_path).status == "created"
    assert images.missing(pinned) == []
    assert calls(tmp_path)[0].startswith("--target local --env dev")
    assert images.start_build(pinned, tmp_path).status == "reused"
    assert images.wait_build(pinned, tmp_path).status == "reused"
    assert len(calls(tmp_path)) == 1


def test_a_later_stage_alone_builds_what_is_missing(pinned, build, tmp_path):
    build(pins=True, seconds=0)
    assert images.wait_build(pinned, tmp_path).status == "created"


def test_a_second_start_leaves_the_build_that_is_running(pinned, build, tmp_path):
    build(pins=True)
    for _ in range(2):
        assert images.start_build(pinned, tmp_path).status == "started"
    assert images.wait_build(pinned, tmp_path).status == "created"
    assert len(calls(tmp_path)) == 1


def test_a_build_that_ended_with_its_machine_is_started_again(pinned, build, tmp_path, monkeypatch):
    """It left a log and no status: waiting for it would last waits.image_build_seconds."""
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    build(pins=True, seconds=30)
    images.start_build(pinned, tmp_path)
    os.killpg(started[-1].pid, signal.SIGKILL)
    started[-1].wait()
    build(pins=True, seconds=0)
    assert images.wait_build(pinned, tmp_path).status == "created"


def test_the_training_does_not_wait_for_the_serving_image(pinned, build, tmp_path, monkeypatch):
    build(pins=True)
    path, repository = tmp_path / "build.sh", pinned.serve.image_repository
    first = json.dumps({repository: dict.fromkeys(images.TRAINING, "sha256:1")})
    pins_first = "\n".join([
        f"until [ -e {tmp_path}/awaited ]; do sleep 0.02; done", f"echo '{first}' >{images.LOCK}",
        f"until [ -e {tmp_path}/seen ]; do sleep 0.02; done"])
    path.write_text(path.read_text().replace("sleep 0.3", pins_first))
    images.start_build(pinned, tmp_path)
    start, signs = images.start_build, iter(("awaited", "seen"))

    def start_and_tell(*given):  # called once an image is found missing: it goes on only then
        start(*given)
        (tmp_path / next(signs)).touch()

    monkeypatch.setattr(images, "start_build", start_and_tell)
    assert images.wait_build(pinned, tmp_path, images.TRAINING).status == "created"
    assert images.missing(pinned) == ["serving"]  # still going on
    assert images.wait_build(pinned, tmp_path, images.TRAINING).status == "reused"
    assert images.wait_build(pinned, tmp_path).status == "created"
    assert images.missing(pinned) == [] and len(calls(tmp_path)) == 1


def test_the_build_ends_with_what_is_needed_last():
    listed = subprocess.run([images.BUILD, "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split()[-1] == "serving"
    assert set(images.TRAINING) < set(listed.stdout.split())


def test_a_failed_build_says_its_last_lines_and_a_second_try_completes(pinned, build, tmp_path):
    build(pins=False, says="cause: denied: repository churn-dev not found")
    images.start_build(pinned, tmp_path)
    with pytest.raises(Needed) as caught:
        images.wait_build(pinned, tmp_path)
    assert "status 3" in caught.value.cause and "churn-dev not found" in caught.value.cause
    assert "scripts/build_push_all.sh --target local" in caught.value.command
    build(pins=True)
    assert images.wait_build(pinned, tmp_path).status == "created"


@pytest.mark.parametrize(("commands", "engine", "elsewhere"), [
    ({"docker": '[ "$*" = info ]', "gcloud": ""}, "docker", "docker"),
    ({"docker": "exit 1", "gcloud": ""}, "gcloud", ""),  # a command, and no daemon behind it
    ({"docker": "exec sleep 60", "gcloud": ""}, "gcloud", ""),
    ({"gcloud": ""}, "gcloud", ""), ({"docker": "exit 1"}, "", ""), ({}, "", "")])
def test_docker_builds_only_where_its_daemon_answers(
    pinned, tools, monkeypatch, commands, engine, elsewhere
):
    monkeypatch.setattr(images, "DOCKER_SECONDS", 0.5)
    tools(**commands)
    assert images.engine(pinned) == engine
    assert ("--cloud-build" in images.build_command(pinned, engine)) == (engine == "gcloud")
    # Cloud Build pushes to Google's registry alone.
    serve = pinned.serve.model_copy(update={"image_repository": "localhost:5000/churn"})
    assert images.engine(pinned.model_copy(update={"serve": serve})) == elsewhere


def test_the_run_starts_the_build_that_preflight_tells_of(pinned, build, tools, tmp_path):
    build(pins=True, seconds=0)
    tools(docker="exit 1", gcloud="")
    images.wait_build(pinned, tmp_path)
    assert calls(tmp_path) == ["--target local --env dev --cloud-build"]


@pytest.mark.parametrize(("text", "known"), [
    (f'{{"credHelpers": {{"{HOST}": "gcloud"}}}}', True),
    (f'{{"auths": {{"https://{HOST}": {{}}}}}}', True),
    ('{"credHelpers": {"europe-docker.pkg.dev": "gcloud"}, "auths": null}', False),
    ("{", False), (None, False)])
def test_dockers_configuration_names_the_registry_or_not(tmp_path, monkeypatch, text, known):
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    if text:
        (tmp_path / ".docker" / "config.json").write_text(text)
    assert images.logged_in(HOST) is known


def test_the_scripts_own_rule_tells_what_would_not_be_built(tmp_path, monkeypatch):
    project = make_project(tmp_path)
    monkeypatch.setattr(images, "ROOT", project.root)
    assert images.source_refused() is None
    project.touch("train")
    refused = images.source_refused()
    assert refused.cause == "uncommitted changes: M lib/components/train/src/main.py"
    assert "--allow-dirty" in refused.need and refused.command == "git add --all && git commit"
    (project.root / ".git").rename(tmp_path / "away")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    refused = images.source_refused()
    assert "not a git clone" in refused.cause and refused.command.startswith("git init")
