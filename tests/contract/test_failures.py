"""Google refuses, in the middle of a run: what the run says, and that it completes afterwards.

The local cloud fails on demand (tests/support/README.md). The tests of this file build on each
other: each notebook meets its refusals, one after the other, and then runs to its end on what the
failed runs left. Notebooks run in this process, without copies of the tables; that ./run_all.sh
prints such an error and ends with status 1 is shown by tests/operate/test_run.py.
"""

import pytest

from tests.contract.conftest import TARGET
from tests.support.walk import NO_COPIES

pytestmark = pytest.mark.skipif(TARGET == "gcp", reason="Google cannot be told to fail")
ALWAYS = 999
IMPATIENT = {"waits": {"sync_seconds": 1, "progress_seconds": 0.3}}
NO_ROOM = {
    "method": "vertex.CreateFeatureOnlineStore", "operation": True, "times": ALWAYS,
    "status": "RESOURCE_EXHAUSTED",
    "message": "Quota exceeded: at most 10 online stores in a project and region."}
SYNC_FAILS = {
    "method": "sync", "times": ALWAYS, "status": "INTERNAL",
    "message": "Failed to read from BigQuery: table churn_dev.features_customer"}
# Notebooks 01 and 04 only start the store and the sync: that they come to nothing is told where
# they are waited for.
MEANWHILE = {"01": [NO_ROOM], "04": [SYNC_FAILS]}

# notebook -> name of the refusal -> (rules, what the run says, settings)
FAILURES = {
    "01": {
        "no permission to make a dataset": (
            {"method": "bigquery.datasets.insert", "status": "PERMISSION_DENIED",
             "message": "Access Denied: Project local-demo: User does not have "
                        "bigquery.datasets.create permission in project local-demo."},
            ("attempted: dataset", "bigquery.datasets.create", "roles/bigquery.user",
             "gcloud projects add-iam-policy-binding local-demo"), {}),
        "the online store's API is not enabled": (
            {"method": "vertex.CreateFeatureOnlineStore", "status": "PERMISSION_DENIED",
             "reason": "SERVICE_DISABLED",
             "message": "Vertex AI API has not been used in project 100000000001 before or it is "
                        "disabled. Enable it by visiting https://console.developers.google.com/"
                        "apis/api/aiplatform.googleapis.com/overview then retry."},
            ("attempted: online store", "has not been used", "the API aiplatform.googleapis.com",
             "gcloud services enable aiplatform.googleapis.com --project local-demo"), {}),
    },
    "02": {
        "a statement over the cap": (
            {"method": "bigquery.jobs.insert", "call": 2, "status": "INVALID_ARGUMENT",
             "message": "Query exceeded limit for bytes billed: 20000000000. 30000000000 or "
                        "higher required."},
            ("attempted: sql/02_build_features.sql", "limit for bytes billed",
             "costs.max_bytes_billed", "--from 02"), {}),
        "the dataset in another location": (
            {"method": "bigquery.jobs.insert", "call": 2, "status": "NOT_FOUND",
             "message": "Not found: Dataset local-demo:churn_dev was not found in location EU"},
            ("not found in location EU", "existing resources in their places", "bq ls"), {}),
    },
    "03": {
        "the bucket's name is somebody else's": (
            {"method": "storage.buckets.insert", "status": "ALREADY_EXISTS",
             "message": "The requested bucket name is not available. The bucket namespace is "
                        "shared by all users of the system."},
            ("attempted: training", "bucket name is not available", "a free name",
             "lib.operate.teardown"), {}),
        "the service is away": (
            {"method": "vertex.CreatePipelineJob", "times": ALWAYS, "status": "UNAVAILABLE",
             "message": "The service is currently unavailable."},
            ("attempted: training", "currently unavailable", "2 attempts failed",
             "what was made so far is kept", "--from 03"), {"retries": {"attempts": 2}}),
    },
    "04": {
        "no room for another online store": (
            NO_ROOM,
            ("attempted: online store", "resource:", "featureOnlineStores/churn_dev_store",
             "at most 10 online stores", "free quota", "iam-admin/quotas"), {}),
        "too many requests, and no end of it": (
            {"method": "vertex.CreateFeatureGroup", "times": ALWAYS,
             "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded for write requests."},
            ("attempted: feature group", "Quota exceeded for write requests",
             "5 attempts failed", "iam-admin/quotas"), {}),
        "no permission to make a view": (
            {"method": "vertex.CreateFeatureView", "status": "PERMISSION_DENIED",
             "message": "Permission 'aiplatform.featureViews.create' denied on resource "
                        "'//aiplatform.googleapis.com/projects/local-demo' (or it may not exist)."},
            ("attempted: feature view", "aiplatform.featureViews.create", "roles/aiplatform.user",
             "gcloud projects add-iam-policy-binding"), {}),
    },
    "05": {
        "the serving image is not there": (
            {"method": "vertex.UploadModel", "operation": True, "status": "FAILED_PRECONDITION",
             "message": "Image us-central1-docker.pkg.dev/local-demo/churn-dev/serving not found."},
            ("attempted: model", "serving not found", "lib/images.lock.json",
             "scripts/build_push_all.sh"), {}),
    },
    "06": {
        "credentials have expired": (
            {"method": "vertex.CreateEndpoint", "times": ALWAYS, "status": "UNAUTHENTICATED",
             "message": "Request had invalid authentication credentials."},
            ("attempted: endpoint", "these have expired",
             "gcloud auth application-default login"), {}),
        "the container never gets healthy": (
            {"method": "vertex.DeployModel", "operation": True, "status": "FAILED_PRECONDITION",
             "message": "Model server never became healthy: the health check timed out."},
            ("attempted: deployment", "resource:", "never became healthy",
             "a serving container that starts", "gcloud logging read"), {}),
    },
    "07": {
        "a sync that fails": (
            SYNC_FAILS,
            ("attempted: sync", "failed with status 13: Failed to read from BigQuery",
             "BigQuery Data Viewer", "--from 07"), {}),
        "a sync that never ends": (
            {"method": "sync", "hang": True},
            ("attempted: sync", "is not ready after 1 s; last state: 0 rows", "more time",
             "console.cloud.google.com/vertex-ai/feature-store"), IMPATIENT),
        "fetching is not allowed": (
            {"method": "vertex.FetchFeatureValues", "times": ALWAYS, "status": "PERMISSION_DENIED",
             "message": "Permission 'aiplatform.featureViews.fetchFeatureValues' denied."},
            ("attempted: one customer", "fetchFeatureValues", "roles/aiplatform.user"), {}),
        "the endpoint does not answer in time": (
            {"method": "vertex.FetchFeatureValues", "times": ALWAYS, "seconds": 3},
            ("attempted: one customer", "a network", "--from 07"),
            {"predict": {"fetch_timeout_seconds": 0.5}}),
    },
}


@pytest.mark.parametrize("missing, rule, says", [
    ("permissions", {"missing_permissions": ["aiplatform.endpoints.deploy",
                                             "aiplatform.featureViews.sync"]},
     ("aiplatform.endpoints.deploy", "aiplatform.featureViews.sync", "roles/aiplatform.user",
      "gcloud projects add-iam-policy-binding local-demo")),
    ("an API", {"disabled_apis": ["aiplatform.googleapis.com"]},
     ("gcloud services enable aiplatform.googleapis.com",)),
])
def test_preflight_stops_the_run_before_anything_is_made(project, missing, rule, says):
    project.fail(rule)
    done = project.run("tests.support.plain_run")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert_told(done.stdout + done.stderr, "00_preflight", says)
    assert [s["name"] for s in project.summary()["stages"]] == ["00_preflight"]


@pytest.mark.parametrize("notebook", ["01", "02", "03", "04", "05", "06", "07"])
def test_each_refusal_is_told_and_the_notebook_completes_afterwards(project, notebook):
    for name, (rule, says, settings) in FAILURES.get(notebook, {}).items():
        project.fail(rule, *MEANWHILE.get(notebook, []))
        assert_told(project.notebook(notebook, **NO_COPIES, **settings), f"{notebook}_", says, name)
    project.fail(*MEANWHILE.get(notebook, []))
    assert project.notebook(notebook, **NO_COPIES) == ""


def assert_told(error, stage, says, name=""):
    """All that somebody needs to know."""
    for part in (f"stage:     {stage}", "attempted:", "cause:", "needed:", "command:", *says):
        assert part in error, (name, part, error)


def test_refusals_that_pass_and_slow_answers_are_outlived(project):
    project.fail(
        {"method": "vertex.ListFeatureViewSyncs", "times": 2, "status": "UNAVAILABLE",
         "message": "The service is currently unavailable."},
        {"method": "vertex.GetFeatureOnlineStore", "times": 2, "status": "RESOURCE_EXHAUSTED",
         "message": "Slow down."},
        {"method": "bigquery.jobs.query", "status": "UNAVAILABLE", "message": "Try again."},
        {"method": "vertex.GetFeatureView", "seconds": 1.5})
    project.forget()
    assert project.notebook("04") == ""
    statuses = {method: [r["status"] for r in project.requests() if r["method"] == method][:3]
                for method in ("vertex.ListFeatureViewSyncs", "vertex.GetFeatureOnlineStore",
                               "bigquery.jobs.query")}
    assert list(statuses.values()) == [[503, 503, 200], [429, 429, 200], [503, 200, 200]]
    # A query that is sent again has its first requestId, by which BigQuery runs it only once.
    first, again = [r["body"]["requestId"] for r in project.requests()
                    if r["method"] == "bigquery.jobs.query"][:2]
    assert first == again
