"""Log lines, summary.json, and what a failure says to whoever started the run."""

import json

import pytest
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors

from lib import stages
from lib.source import SourceError

SCHEMA = {"run_id", "target", "env", "started_at", "seconds", "stages", "labels", "metrics",
          "leakage", "parity", "freshness", "latency_ms", "predictions"}


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_step_logs_start_and_end_and_keeps_what_it_made(settings, tmp_path, capsys):
    run = stages.open_run("02_features", settings, tmp_path)
    value = run.step("features", lambda: stages.Outcome(
        "created", "p.d.features", {"rows": 1234567, "rate": 0.91234}, "the value"))
    run.finish()
    assert value == "the value"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "features: started"
    assert lines[1].startswith("features: created in ")
    assert "p.d.features" in lines[1] and "1,234,567" in lines[1] and "0.9123" in lines[1]
    (stage,) = read(tmp_path)["stages"]
    assert (stage["name"], stage["status"]) == ("02_features", "created")
    assert stage["resources"] == {"features": "p.d.features"}
    assert "features: created" in (tmp_path / "run.log").read_text()


def test_summary_has_every_key_from_the_start_and_only_those(settings, tmp_path):
    run = stages.open_run("01_data", settings, tmp_path)
    assert set(read(tmp_path)) == SCHEMA
    with pytest.raises(ValueError, match="nonsense"):
        run.finish(nonsense=1)
    run.finish(labels={"column": "c", "rows": 1, "positive_rate": 0.5})
    assert set(read(tmp_path)) == SCHEMA
    assert read(tmp_path)["labels"]["rows"] == 1


def test_a_stage_run_again_replaces_its_entry(settings, tmp_path):
    for status in ("created", "reused"):
        run = stages.open_run("01_data", settings, tmp_path)
        run.step("x", lambda s=status: stages.Outcome(s, "r"))
        run.finish()
    (stage,) = read(tmp_path)["stages"]
    assert stage["status"] == "reused"


@pytest.mark.parametrize(
    ("error", "cause", "need", "command"),
    [
        (stages.Needed("the table is gone", "the table", "make it"), "the table is gone",
         "the table", "make it"),
        (auth_errors.DefaultCredentialsError("none found"), "none found",
         "application default credentials", "gcloud auth application-default login"),
        (google_errors.Forbidden("Permission 'aiplatform.featureGroups.create' denied"),
         "aiplatform.featureGroups.create", "roles/aiplatform.user on project local-demo",
         "add-iam-policy-binding"),
        (google_errors.Forbidden("Vertex AI API has not been used in project 1 before"),
         "has not been used", "the APIs", "gcloud services enable"),
        (google_errors.NotFound("Not found: Table x"), "Not found: Table x", "an earlier stage",
         "./run_all.sh"),
        (google_errors.TooManyRequests("Quota exceeded"), "Quota exceeded", "free quota",
         "quotas"),
        (google_errors.BadRequest("Syntax error"), "Syntax error", "the service to accept", ""),
    ],
)
def test_a_failure_names_stage_attempt_cause_need_and_command(
    settings, tmp_path, error, cause, need, command
):
    run = stages.open_run("04_feature_store", settings, tmp_path)

    def fail():
        raise error

    with pytest.raises(stages.StageError) as caught:
        run.step("feature group", fail)
    told = str(caught.value)
    for part in ("stage:     04_feature_store", "attempted: feature group", cause, need, command):
        assert part in told
    assert read(tmp_path)["stages"][0]["status"] == "failed"
    assert cause in (tmp_path / "run.log").read_text()
    assert "Traceback" not in "".join(caught.value._render_traceback_())


def test_a_bad_export_is_told_without_a_traceback(settings, tmp_path):
    run = stages.open_run("01_data", settings, tmp_path)

    def fail():
        raise SourceError(tmp_path, ["table users: there is no users.csv"])

    with pytest.raises(stages.StageError, match="there is no users.csv"):
        run.step("source", fail)


def test_a_bug_of_ours_keeps_its_traceback(settings, tmp_path):
    run = stages.open_run("01_data", settings, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run.step("oops", lambda: 1 / 0)
    assert "FAILED" in (tmp_path / "run.log").read_text()
