"""Log lines, summary.json, and the messages of failures."""

import json
import re
import time

import pytest
import requests
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors

from lib import errors, stages
from lib.source import SourceError

SCHEMA = {"run_id", "target", "env", "language", "source", "started_at", "seconds", "stages",
          "background", "labels", "metrics", "leakage", "parity", "freshness", "latency_ms",
          "predictions"}
URL = "https://us-central1-aiplatform.googleapis.com/v1/projects/local-demo/locations/us-central1"


@pytest.fixture
def impatient(settings):
    """Settings that retry within milliseconds."""
    return settings.model_copy(update={"retries": settings.retries.model_copy(
        update={"first_pause_seconds": 0.01, "longest_pause_seconds": 0.02})})


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_step_prints_its_end_and_keeps_what_it_made(settings, tmp_path, capsys):
    run = stages.open_stage("02_features", settings, tmp_path)
    value = run.step("features", lambda: stages.Outcome(
        "created", "p.d.features", {"rows": 1234567, "rate": 0.91234}, "the value"))
    run.finish()
    assert value == "the value"
    line, _ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"features: created in \d+\.\d s \| features \| rows 1,234,567, rate 0\.9123", line)
    log = (tmp_path / "run.log").read_text()
    assert "features: started\n" in log and "features: p.d.features\n" in log and line in log
    (stage,) = read(tmp_path)["stages"]
    assert (stage["name"], stage["status"]) == ("02_features", "created")
    assert stage["resources"] == {"features": "p.d.features"}


def test_a_step_in_the_background_says_so(settings, tmp_path, capsys):
    run = stages.open_stage("01_data", settings, tmp_path)
    run.step("online store", lambda: stages.Outcome(
        "started", "projects/p/locations/r/featureOnlineStores/churn_dev_store", {"nodes": 1}))
    assert capsys.readouterr().out == (
        "online store: started, runs in the background | churn_dev_store | nodes 1\n")


@pytest.mark.parametrize(("name", "short"), [
    ("projects/p/locations/r/models/8247321771790154100@1", "8247…4100@1"),
    ("projects/p/locations/r/pipelineJobs/training-20261125174212", "training-20261125174212"),
    ("project.dataset.table", "table"), ("churn_dev_store", "churn_dev_store"), ("", ""),
])
def test_short_names(name, short):
    assert stages.short(name) == short


def test_summary_has_every_key_from_the_start_and_only_those(settings, tmp_path):
    run = stages.open_stage("01_data", settings, tmp_path)
    assert set(read(tmp_path)) == SCHEMA
    with pytest.raises(ValueError, match="nonsense"):
        run.finish(nonsense=1)
    run.finish(labels={"column": "c", "rows": 1, "positive_rate": 0.5})
    assert set(read(tmp_path)) == SCHEMA
    assert read(tmp_path)["labels"]["rows"] == 1


def test_a_stage_that_is_rerun_replaces_its_entry(settings, tmp_path):
    for status in ("created", "reused"):
        run = stages.open_stage("01_data", settings, tmp_path)
        run.step("x", lambda s=status: stages.Outcome(s, "r"))
        run.finish()
    (stage,) = read(tmp_path)["stages"]
    assert stage["status"] == "reused"


# Google's words for each error, as far as they are known; the need and the command after it.
REFUSALS = {
    "a full disk": (
        OSError(28, "No space left on device"), "free space on the disk", "./run_all.sh"),
    "a full disk of the local cloud": (
        google_errors.InternalServerError("OperationalError('database or disk is full')"),
        "free space on the disk", "./run_all.sh"),
    "a folder of another user": (
        PermissionError(13, "Permission denied", "runs/x"), "for this user", "ls -ld runs"),
    "no credentials": (
        auth_errors.DefaultCredentialsError("Your default credentials were not found."),
        "application default credentials", "gcloud auth application-default login"),
    "expired": (
        auth_errors.RefreshError("Reauthentication is needed."),
        "these have expired", "gcloud auth application-default login"),
    "refused": (
        auth_errors.MutualTLSChannelError("The certificate was refused."),
        "credentials that Google accepts", "gcloud auth application-default login"),
    "cannot be renewed": (
        auth_errors.InvalidOperation("Anonymous credentials cannot be refreshed."),
        "these have expired", "gcloud auth application-default login"),
    "not accepted": (
        google_errors.Unauthorized("Request had invalid authentication credentials."),
        "these have expired", "gcloud auth application-default login"),
    "permission": (
        google_errors.Forbidden(
            f"POST {URL}/featureGroups?featureGroupId=g: Permission 'aiplatform.featureGroups"
            ".create' denied on resource (or it may not exist)."),
        "aiplatform.featureGroups.create, as in roles/aiplatform.user on project local-demo",
        "gcloud projects add-iam-policy-binding local-demo"),
    "account": (
        google_errors.BadRequest(
            f"POST {URL}/pipelineJobs: You do not have permission to act as service_account: "
            "churn-dev-runner@p.iam.gserviceaccount.com. (or it may not exist)."),
        "the account that training and serving run as",
        ".venv/bin/python -m lib.operate.service_account --target local --env dev"),
    "API": (
        google_errors.Forbidden(
            f"POST {URL}/featureGroups: Vertex AI API has not been used in project 1 before or "
            "it is disabled. Enable it by visiting https://console.developers.google.com/apis/"
            "api/aiplatform.googleapis.com/overview?project=1 then retry."),
        "the API aiplatform.googleapis.com",
        "gcloud services enable aiplatform.googleapis.com --project local-demo"),
    "quota project": (
        google_errors.Forbidden(
            f"POST {URL}/featureGroups: Caller does not have required permission to use project "
            "other-1. Grant the caller the roles/serviceusage.serviceUsageConsumer role, or a "
            "custom role with the serviceusage.services.use permission, by visiting https://"
            "console.developers.google.com/iam-admin/iam/project?project=other-1 and then retry.",
            error_info={"reason": "USER_PROJECT_DENIED"}),
        "serviceusage.services.use, as in roles/serviceusage.serviceUsageConsumer on project "
        "other-1",
        "gcloud projects add-iam-policy-binding other-1 --member user:YOU@EXAMPLE.COM --role "
        "roles/serviceusage.serviceUsageConsumer"),
    "no quota project": (
        google_errors.Forbidden(
            "Your application is authenticating by using local Application Default Credentials. "
            "The aiplatform.googleapis.com API requires a quota project, which is not set by "
            "default.", details=["reason: SERVICE_DISABLED"]),
        "a quota project in the credentials",
        "gcloud auth application-default set-quota-project local-demo"),
    "first use": (  # a thread of 2025 on a new project: generative-ai issue 1308
        google_errors.BadRequest("Service agents are being provisioned (https://cloud.google.com/"
                                 "vertex-ai/docs). Please try again in a few minutes."),
        "some minutes: Google is creating the service agents", "--from 04"),
    "a policy of the organisation": (
        google_errors.PreconditionFailed(
            "Request violates constraint 'constraints/storage.uniformBucketLevelAccess'"),
        "a resource that the organisation's policies allow", "org-policies list"),
    "BigQuery's quota": (
        google_errors.Forbidden("Quota exceeded: Your project exceeded quota for free query "
                                "bytes scanned."), "more quota", "iam-admin/quotas"),
    "byte cap": (
        google_errors.BadRequest("Query exceeded limit for bytes billed: 1000000. 10485760 or "
                                 "higher required."),
        "snapshots.sample_percent", "./run_all.sh --target local --env dev --from 04"),
    "location": (
        google_errors.NotFound("Not found: Dataset local-demo:churn_dev was not found in location "
                               "EU"), "BigQuery in US, Cloud Storage and Vertex AI in us-central1",
        "bq ls"),
    "two locations": (
        google_errors.BadRequest("Cannot read and write in different locations: source: US, "
                                 "destination: EU"),
        "existing resources in their places", "bq ls"),
    "image": (
        google_errors.FailedPrecondition(
            "Image us-central1-docker.pkg.dev/p/churn-dev/serving@sha256:1 not found."),
        "lib/images.lock.json", "scripts/build_push_all.sh --target local --env dev"),
    "health": (
        google_errors.FailedPrecondition("Model server failed to become healthy: the health check "
                                         "timed out."), "a serving container that starts",
        "gcloud logging read"),
    "not found": (
        google_errors.NotFound("Not found: Table x"), "an earlier stage",
        "./run_all.sh --target local --env dev"),
    "exists": (
        google_errors.Conflict("Already Exists: Dataset local-demo:churn_dev"),
        "a free name", "python -m lib.operate.teardown"),
    "quota": (
        google_errors.TooManyRequests("Quota exceeded for feature online stores"),
        "free quota in local-demo, us-central1; 5 attempts failed", "iam-admin/quotas"),
    "unavailable": (
        google_errors.ServiceUnavailable("The service is currently unavailable."),
        "5 attempts failed, and what was made so far is kept", "--from 04"),
    # The words of gRPC's own library.
    "expired, by gRPC": (
        google_errors.ServiceUnavailable("Getting metadata from plugin failed with error: "
                                         "Reauthentication is needed."),
        "these have expired", "gcloud auth application-default login"),
    "no answer, by gRPC": (
        google_errors.DeadlineExceeded("Deadline Exceeded"), "a network", "./run_all.sh"),
    "no connection, by gRPC": (
        google_errors.ServiceUnavailable("failed to connect to all addresses; last error: x"),
        "a network", "./run_all.sh"),
    "no address, by gRPC": (
        google_errors.ServiceUnavailable("errors resolving us-central1-x:443: y"),
        "a network", "./run_all.sh"),
    "network": (
        requests.ConnectionError("Failed to resolve 'aiplatform.googleapis.com'"), "a network",
        "./run_all.sh"),
    "anything else": (
        google_errors.BadRequest("Syntax error"), "a request that the service accepts",
        "--from 04"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_failure_names_stage_attempt_cause_need_and_command(impatient, tmp_path, kind):
    error, need, command = REFUSALS[kind]
    run = stages.open_stage("04_feature_store", impatient, tmp_path)

    def fail():
        raise error

    with pytest.raises(errors.StageError) as caught:
        run.step("feature group", fail)
    explained = caught.value
    cause = str(error).split(": ", 1)[1] if URL in str(error) else str(error)
    assert (explained.stage, explained.attempted) == ("04_feature_store", "feature group")
    assert cause[:200] in explained.cause
    assert need in explained.need and command in explained.command
    assert read(tmp_path)["stages"][0]["status"] == "failed"
    assert explained.cause in (tmp_path / "run.log").read_text()
    assert "Traceback" not in "".join(explained._render_traceback_())


def test_every_rule_of_the_translation_has_a_refusal_here(settings):
    met = {errors.explain(error, "04_x", "y", settings).need for error, *_ in REFUSALS.values()}
    fixed = [max(re.split(r"{\w+}", rule.need), key=len) for rule in errors.TRANSLATIONS]
    assert [text for text in fixed if not any(text in need for need in met)] == []


def test_the_message_has_the_resource_but_no_url(settings):
    explained = errors.explain(REFUSALS["permission"][0], "04_x", "group", settings)
    assert explained.resource == "projects/local-demo/locations/us-central1/featureGroups"
    assert "http" not in explained.cause and "resource:  projects/" in str(explained)
    error = google_errors.ResourceExhausted("no room")
    error.resource_name = "projects/p/featureOnlineStores/s"
    assert errors.explain(error, "04_x", "store", settings).resource == error.resource_name


@pytest.mark.parametrize("kind", [google_errors.TooManyRequests, google_errors.ServiceUnavailable])
def test_a_transient_error_is_retried_with_a_limit(impatient, tmp_path, capsys, kind):
    tries = []

    def work(fails):
        tries.append(1)
        if len(tries) <= fails:
            raise kind("not now")
        return stages.Outcome("created", "r")

    run = stages.open_stage("01_data", impatient, tmp_path)
    run.step("dataset", work, 3)
    assert len(tries) == 4
    assert "attempt 4 of 5" in capsys.readouterr().out
    tries.clear()
    with pytest.raises(errors.StageError):
        run.step("dataset", work, 99)
    assert len(tries) == impatient.retries.attempts


def test_any_other_error_is_not_retried(impatient, tmp_path):
    tries = []
    run = stages.open_stage("01_data", impatient, tmp_path)
    with pytest.raises(errors.StageError):
        run.step("x", _raise, tries, google_errors.Forbidden("no"))
    assert len(tries) == 1


def _raise(tries, error):
    tries.append(1)
    raise error


def test_a_background_step_is_timed_until_a_later_step_has_waited(settings, tmp_path):
    first = stages.open_stage("01_data", settings, tmp_path)
    first.step("online store", lambda: stages.Outcome("started", "s"))
    first.step("images", lambda: stages.Outcome("started", "i"))
    first.finish()
    later = stages.open_stage("04_feature_store", settings, tmp_path)
    later.step("online store", lambda: (time.sleep(0.05), stages.Outcome("reused", "s"))[1])
    later.finish()
    store, images = read(tmp_path)["background"]
    assert (store["name"], images["name"], images["seconds"]) == ("online store", "images", None)
    assert store["seconds"] >= 0.05
    steps = [step for stage in read(tmp_path)["stages"] for step in stage["steps"]]
    assert [s["name"] for s in steps] == ["online store", "images", "online store"]
    assert steps[2]["started"] >= steps[0]["started"] + steps[0]["seconds"]


def test_a_bad_export_has_no_traceback(settings, tmp_path):
    run = stages.open_stage("01_data", settings, tmp_path)

    def fail():
        raise SourceError(tmp_path, ["table users: there is no users.csv"])

    with pytest.raises(errors.StageError, match="there is no users.csv"):
        run.step("source", fail)


def test_a_bug_of_ours_keeps_its_traceback(settings, tmp_path):
    run = stages.open_stage("01_data", settings, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run.step("oops", lambda: 1 / 0)
    assert "FAILED" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("stage", ["01_data", "05_train", "06_deploy"])
def test_the_command_grants_every_role_that_is_needed(settings, stage):
    error = google_errors.Forbidden("Permission 'bigquery.tables.create' denied")
    explained = errors.explain(error, stage, "a table", settings)
    needed = re.findall(r"roles/[\w.]+", explained.need)
    assert needed and re.findall(r"--role (\S+)", explained.command) == needed
