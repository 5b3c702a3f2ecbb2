"""The training on the local cloud: the gate, the cache, a failing step, CustomJobs."""

import dataclasses
import io
import itertools
import re
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from types import SimpleNamespace

import pytest
from google.cloud.aiplatform_v1.types import PipelineState, PipelineTaskDetail

from lib import config, images, model_registry, warehouse
from lib.errors import Needed
from lib.training import inputs, jobs, pipeline_job, training
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def built(cloud):
    """A Cloud of an app of its own, with its tables built: few snapshots, a small forest."""
    settings = config.load(target="local", env="dev", overrides={
        **SMALL, "app": "trainer", "snapshots": {"history_days": 280},
        "train": {"params": {"random_forest": {"n_estimators": 10}}}})
    own = dataclasses.replace(cloud, settings=settings)
    warehouse.create_dataset(own)
    for file in ("01_prepare_bq", "02_build_features", "03_build_labels_churn", "04_build_train"):
        warehouse.build(own, file)
    return own


def having(cloud, **train):
    """The same cloud with other settings under `train`."""
    changed = cloud.settings.train.model_copy(update=train)
    return dataclasses.replace(
        cloud, settings=cloud.settings.model_copy(update={"train": changed}))


@pytest.fixture(scope="module")
def failed(built):
    """The command, where one step fails: its status, stdout and stderr."""
    training.train(built)
    broken = having(built, params={"random_forest": {"nonsense": 1}})
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(config, "load", lambda **_: broken.settings)
        patch.setattr(pipeline_job, "connect", lambda _: broken)
        status = pipeline_job.main([])
    return status, out.getvalue(), err.getvalue()


def test_a_passing_model_is_approved_and_the_same_training_is_reused(built):
    first = training.train(built)
    assert first.status == "created"
    assert set(first.value.states.values()) == {"SUCCEEDED"}
    assert list(first.value.states) == ["data_load", "train", "eval", "approve"]
    assert first.value.artifact_uri.startswith(f"gs://{built.settings.names.bucket}/pipelines/")
    second = training.train(built)
    assert (second.status, second.resource) == ("reused", first.resource)
    assert second.value == first.value


@pytest.mark.parametrize("needs_the_table", [inputs.parameters, inputs.fingerprint])
def test_without_the_training_table_the_notebook_that_builds_it_is_named(cloud, needs_the_table):
    settings = config.load(target="local", env="dev", overrides={**SMALL, "app": "unbuilt"})
    with pytest.raises(Needed, match="train_dataset is not built. Needed: notebook 03"):
        needs_the_table(dataclasses.replace(cloud, settings=settings))


@pytest.mark.parametrize("action", [training.start, training.train])
def test_tables_of_other_settings_are_not_trained_on(built, action):
    """As with ./run_all.sh --from 05 after a change of config.yaml or of sql/."""
    settings = built.settings
    longer = settings.label.model_copy(update={"horizon_days": 90})
    other = dataclasses.replace(built, settings=settings.model_copy(update={"label": longer}))
    with pytest.raises(Needed, match=r"features_customer was built by another sql/"
                       r"02_build_features\.sql or other settings.* --from 02\)"):
        action(other)


def test_a_training_is_not_reused_for_other_images(monkeypatch):
    """The images may be built after the code in them was changed, and run in between."""
    settings = config.load(target="gcp", env="dev", overrides={
        "targets": {"gcp": {"project": "some-project-1"}}})
    monkeypatch.setattr(warehouse, "built_at", lambda *_: "1")
    cloud, found = SimpleNamespace(settings=settings), set()
    for digest in ("sha256:1", "sha256:2"):
        lock = {settings.serve.image_repository: {"train": digest}}
        monkeypatch.setattr(images, "read_lock", lambda lock=lock: lock)
        found |= {inputs.fingerprint(cloud), inputs.fingerprint(cloud)}
    assert len(found) == 2


def test_below_the_gate_nothing_is_registered(built):
    training.train(built)
    strict = having(built, min_roc_auc=0.99)
    outcome = training.train(strict)
    assert outcome.value.states == {"data_load": "SKIPPED", "train": "SKIPPED",
                                    "eval": "SUCCEEDED", "approve": "NOT_TRIGGERED"}
    assert outcome.value.artifact_uri is None
    with pytest.raises(Needed, match=r"did not pass the gate: roc_auc 0\.\d+ is below 0.99"):
        model_registry.upload(strict, outcome.value)
    assert model_registry.find(strict) is None


def test_a_failing_step_is_named_with_its_last_line_and_a_rerun_resumes(built, failed, capsys):
    assert re.search(r"step train of .* failed: train: --params: .*nonsense", failed[2])
    mended = having(built, params={"random_forest": {"n_estimators": 11}})
    outcome = training.train(mended)
    assert outcome.value.states["data_load"] == "SKIPPED"
    assert outcome.value.states["train"] == "SUCCEEDED"
    assert "data_load: reused from cache" in capsys.readouterr().out.replace("-", "_")


def test_a_submission_that_seemed_to_fail_is_found_by_its_id(built, monkeypatch):
    """The id has the training and the second: a retry at once asks for the same one."""
    now = datetime.now()
    monkeypatch.setattr(pipeline_job, "datetime", SimpleNamespace(now=lambda: now))
    inputs.make_bucket(built)
    first = pipeline_job.submit(built, "one")
    assert pipeline_job.submit(built, "one").name == first.name
    other = pipeline_job.submit(built, "another")
    assert other.name != first.name
    for job in (first, other):
        pipeline_job.wait(built, job)


def test_the_command_exits_non_zero_and_names_the_step(failed):
    status, out, err = failed
    assert status == 1 and "step train" in err and "nonsense" in err
    assert "console.cloud.google.com" in out  # the address of the job


def test_no_cache_runs_every_step_anew(built):
    training.train(built)
    job = pipeline_job.wait(built, pipeline_job.submit(built, "without-cache", cache=False))
    assert set(pipeline_job.states(job).values()) == {"SUCCEEDED"}


@pytest.mark.parametrize("ended_at_first", [0, 1, 2, 3])
def test_every_step_is_printed_though_the_service_moves_on_between_responses(
        built, monkeypatch, ended_at_first):
    """Each response of this service is one step further than the last; none may be skipped."""
    training.train(built)
    job = pipeline_job.find_or_submit(built, inputs.fingerprint(built))[0]
    ended, responses = pipeline_job.wait(built, job), itertools.count(ended_at_first)
    names = [task.task_name for task in ended.job_detail.task_details
             if task.task_name in inputs.STEPS]
    assert len(names) == 4

    def answer(name):
        assert name == job.name
        seen, further = type(ended)(ended), next(responses)
        details = seen.job_detail.task_details
        ours = {task.task_name: task for task in details}
        for running in names[further:]:
            ours[running].state = PipelineTaskDetail.State.RUNNING
        if further < len(names):
            seen.state = PipelineState.PIPELINE_STATE_RUNNING
        return seen

    monkeypatch.setattr(built.pipeline_jobs, "get_pipeline_job", answer)
    printed = []
    pipeline_job.wait(built, job, say=printed.append)
    assert printed == [f"  {name}: succeeded" for name in names]


def test_a_wait_for_a_job_names_its_page_in_the_console():
    page = "https://console.cloud.google.com/agent-platform/locations/r/training/7?project=p"
    assert jobs.console("projects/p/locations/r/customJobs/7") == page


def test_custom_jobs_give_the_same_metrics(built):
    piped = training.train(built).value
    jobs = having(built, runner="custom_job")
    first = training.train(jobs)
    assert first.status == "created"
    assert set(first.value.states.values()) == {"SUCCEEDED"}
    assert first.value.metrics == piped.metrics and first.value.meta == piped.meta
    assert training.train(jobs).status == "reused"


def test_a_failing_custom_job_is_named_with_its_last_line(built):
    broken = having(built, runner="custom_job", params={"random_forest": {"nonsense": 1}})
    with pytest.raises(Needed, match=r"step train .* failed: train: --params: .*nonsense"):
        training.train(broken)


def test_a_training_that_was_started_early_is_not_run_twice(built):
    robot = "robot@trainer.iam.gserviceaccount.com"
    changed = having(built, seed=11, service_account=robot)
    early = training.start(changed)
    assert early.status == "started"
    assert training.start(changed).resource == early.resource  # still running, or just ended
    outcome = training.train(changed)
    assert outcome.resource == early.resource
    assert set(outcome.value.states.values()) <= {"SUCCEEDED", "SKIPPED"}
    jobs = changed.aiplatform.PipelineJob.list(
        filter=f'labels.training="{inputs.fingerprint(changed)}"')
    assert [job.resource_name for job in jobs] == [early.resource]
    assert jobs[0].gca_resource.service_account == robot
    assert training.start(changed).status == "reused"


def test_custom_jobs_are_not_started_early(built):
    changed = having(built, runner="custom_job", seed=12)
    assert training.start(changed).status == "done"
    assert list(changed.aiplatform.CustomJob.list(
        filter=f'labels.training="{inputs.fingerprint(changed)}"')) == []
