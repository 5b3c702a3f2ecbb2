"""Images that are missing are built in the background, and waited for where they are needed."""

import json

import pytest

from lib import images
from lib.stages import Needed


@pytest.fixture
def pinned(settings, tmp_path, monkeypatch):
    """Settings that want images by digest, an empty lock, and short pauses."""
    monkeypatch.setattr(images, "LOCK", tmp_path / "images.lock.json")
    place = settings.place.model_copy(update={"pinned_images": True})
    waits = settings.waits.model_copy(update={
        "first_pause_seconds": 0.02, "longest_pause_seconds": 0.05, "image_build_seconds": 20})
    return settings.model_copy(update={"targets": {"local": place}, "waits": waits})


@pytest.fixture
def build(pinned, tmp_path, monkeypatch):
    """Stand in for scripts/build_push_all.sh: it says, waits, and pins or fails."""
    def script(pins: bool, seconds: float = 0.3, says: str = "serving: building"):
        lock = {pinned.serve.image_repository: dict.fromkeys(images.names(), "sha256:1")}
        path = tmp_path / "build.sh"
        path.write_text(
            f'#!/usr/bin/env bash\necho "$@" >>{tmp_path}/calls\necho {says!r}\nsleep {seconds}\n'
            + (f"echo '{json.dumps(lock)}' >{images.LOCK}\n" if pins else "exit 3\n"))
        path.chmod(0o755)
        monkeypatch.setattr(images, "BUILD", path)

    return script


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


def test_a_failed_build_says_its_last_lines_and_a_second_try_completes(pinned, build, tmp_path):
    build(pins=False, says="cause: denied: repository churn-dev not found")
    images.start_build(pinned, tmp_path)
    with pytest.raises(Needed) as caught:
        images.wait_build(pinned, tmp_path)
    assert "status 3" in caught.value.cause and "churn-dev not found" in caught.value.cause
    assert "scripts/build_push_all.sh --target local" in caught.value.command
    build(pins=True)
    assert images.wait_build(pinned, tmp_path).status == "created"
