"""References from the lock file (lib.images), and writing it (scripts/pin.py)."""

import json
import threading

import pytest

from lib import config, images
from lib.errors import Needed
from scripts import pin

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def lock_file(tmp_path, monkeypatch):
    for module in (images, pin):
        monkeypatch.setattr(module, "LOCK", tmp_path / "images.lock.json")
    return images.LOCK


def test_the_committed_lock_file_holds_nothing_of_this_machine():
    locked = images.read_lock()
    assert not [name for name in locked if name.startswith(("127.", "localhost"))]
    assert images.LOCK.read_text() == json.dumps(locked, indent=2, sort_keys=True) + "\n"


def test_reference_is_by_digest_and_never_by_tag(settings, lock_file):
    repository = settings.serve.image_repository
    assert pin.main([f"{repository}/train@{ONE}"]) == 0
    assert images.reference(settings, "train") == f"{repository}/train@{ONE}"
    assert images.reference(settings, "eval", required=False) == f"{repository}/eval"


@pytest.mark.parametrize("text", [None, "{}\n", f'{{"elsewhere/x": {{"eval": "{ONE}"}}}}'])
def test_reference_says_what_is_needed(settings, lock_file, monkeypatch, text):
    monkeypatch.setattr(images, "engine", lambda _: "gcloud")
    if text:
        lock_file.write_text(text)
    with pytest.raises(Needed, match="eval is not in lib/images.lock.json") as caught:
        images.reference(settings, "eval")
    assert caught.value.command == (
        "scripts/build_push_all.sh --target local --env dev --cloud-build")


def test_the_build_command_carries_the_configuration(settings, monkeypatch):
    monkeypatch.setenv(config.CONFIG_VARIABLE, "/my files/mine.yaml")
    assert settings.build_options == "--target local --env dev --config '/my files/mine.yaml'"
    assert images.build_command(settings, "docker")[-2:] == ["--config", "/my files/mine.yaml"]
    with pytest.raises(Needed) as caught:
        images.reference(settings, "no-such-image")
    assert "--config '/my files/mine.yaml'" in caught.value.command


def test_damaged_lock_file(settings, lock_file):
    lock_file.write_text("<<<<<<< HEAD\n")
    with pytest.raises(Needed, match="is not JSON"):
        images.reference(settings, "eval")
    assert pin.main([f"r/p/eval@{ONE}"]) == 1
    assert lock_file.read_text() == "<<<<<<< HEAD\n"


def test_lock_keeps_the_other_entries_and_sorts(lock_file):
    for references in ([f"b.example/p/train@{ONE}", f"b.example/p/eval@{ONE}"],
                       [f"a.example:5000/p/eval@{ONE}"], [f"b.example/p/eval@{TWO}"]):
        assert pin.main(references) == 0
    assert lock_file.read_text() == json.dumps({
        "a.example:5000/p": {"eval": ONE},
        "b.example/p": {"eval": TWO, "train": ONE}}, indent=2) + "\n"
    assert [file.name for file in lock_file.parent.iterdir()] == [lock_file.name]


@pytest.mark.parametrize("text", ["r/p/eval", "r/p/eval:tag", f"r/p/eval:tag@{ONE}", "eval@" + ONE,
                                  "r/p/eval@sha256:12", f"r/p/Eval@{ONE}"])
def test_lock_refuses_what_is_no_digest(lock_file, capsys, text):
    with pytest.raises(SystemExit) as caught:
        pin.main([f"r/p/train@{ONE}", text])
    assert caught.value.code == 2 and "is not REPOSITORY/NAME@sha256" in capsys.readouterr().err
    assert not lock_file.exists()


def test_two_builds_that_end_at_once_both_stay(lock_file):
    threads = [threading.Thread(target=pin.main, args=([f"r/p/image{n}@{ONE}"],))
               for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images.read_lock()["r/p"]) == 20
