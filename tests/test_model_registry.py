"""A model version is reused only if it has this file and this serving image."""

import dataclasses
from types import SimpleNamespace

import pytest

from lib import config, images, model_registry, waiting
from lib.localcloud.vertex.base.rules import check_labels
from lib.training.training import Training

TRAINED = Training(
    "gs://bucket/model", "projects/p/locations/r/pipelineJobs/job", states={}, split={},
    meta={"sha256": "0" * 64, "model_type": "random_forest"},
    metrics={"roc_auc": 0.7, "pr_auc": 0.9, "split": "test"}, curves={}, model_uri="")


def test_a_table_with_capitals_makes_a_valid_label(settings, monkeypatch):
    tables = settings.tables.model_copy(update={"train": "Train_" + "X" * 80})
    cloud = SimpleNamespace(settings=settings.model_copy(update={"tables": tables}))
    check_labels(model_registry.model_message(cloud, TRAINED).labels)


@pytest.mark.parametrize(("built", "sha256", "status"), [
    ("sha256:1", "0" * 64, "reused"), ("sha256:2", "0" * 64, "created"),
    ("sha256:1", "1" * 64, "created")])
def test_a_version_is_reused_if_file_and_image_are_the_same(monkeypatch, built, sha256, status):
    settings = config.load(target="gcp", env="dev", overrides={
        "targets": {"gcp": {"project": "some-project-1"}}, "waits": {"first_pause_seconds": 0.01}})
    lock = {settings.serve.image_repository: {"serving": "sha256:1"}}
    monkeypatch.setattr(images, "read_lock", lambda: lock)
    cloud = SimpleNamespace(settings=settings, parent="projects/p/locations/r")
    existing = model_registry.model_message(cloud, TRAINED)
    existing.name, existing.version_id = f"{cloud.parent}/models/7", "1"
    lists, uploaded = [existing] * 3, []  # the list shows the new version only after a while
    cloud.models = SimpleNamespace(
        list_models=lambda request: [lists.pop() if lists else uploaded[0]],
        upload_model=lambda request: uploaded.append(request.model),
        list_model_evaluations=lambda parent: [1])
    monkeypatch.setattr(waiting, "operation", lambda *_: None)
    lock[settings.serve.image_repository]["serving"] = built
    trained = dataclasses.replace(TRAINED, meta=TRAINED.meta | {"sha256": sha256})
    outcome = model_registry.upload(cloud, trained)
    assert outcome.status == status
    assert outcome.value.container_spec.image_uri.endswith(built)  # as the next notebook finds it
