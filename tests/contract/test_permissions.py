"""Each recorded request, with the permissions that Google documents for its method: the table in
lib/operate/permissions.py must have them all, and nothing without a use.

aiplatform.*: Google's access-control page for Vertex AI. BigQuery, Cloud Storage, Resource
Manager, Service Usage: the IAM sections of their references, from memory, not read again here.
"""

from pathlib import Path

import pytest

from lib.operate.permissions import PERMISSIONS, WHEN

LIST = Path(__file__).with_name("requests.txt")
PUBLIC = "bigquery-public-data"  # may be read by everybody: nothing of our project is asked

METHODS = {
    "bigquery.datasets.delete": "bigquery.datasets.delete bigquery.tables.delete",
    "bigquery.datasets.get": "bigquery.datasets.get",
    "bigquery.datasets.insert": "bigquery.datasets.create",
    "bigquery.jobs.getQueryResults": "bigquery.jobs.create",  # of one's own job
    # The queries of sql/ make and replace tables.
    "bigquery.jobs.insert": "bigquery.jobs.create bigquery.tables.create bigquery.tables.getData "
                            "bigquery.tables.update bigquery.tables.updateData",
    "bigquery.tabledata.list": "bigquery.tables.getData",
    "bigquery.tables.get": "bigquery.tables.get",
    "bigquery.tables.list": "bigquery.tables.list",
    "bigquery.tables.patch": "bigquery.tables.update bigquery.tables.get",
    "bigquerystorage.CreateReadSession": "bigquery.readsessions.create bigquery.tables.getData",
    "bigquerystorage.ReadRows": "bigquery.readsessions.getData",
    "cloudresourcemanager.projects.get": "resourcemanager.projects.get",
    "cloudresourcemanager.projects.testIamPermissions": "",  # anybody may ask
    "serviceusage.services.batchGet": "serviceusage.services.get",
    "storage.buckets.delete": "storage.buckets.delete",
    "storage.buckets.get": "storage.buckets.get",
    "storage.buckets.insert": "storage.buckets.create",
    "storage.objects.delete": "storage.objects.delete",
    "storage.objects.get": "storage.objects.get",
    "storage.objects.insert": "storage.objects.create storage.objects.delete",  # to replace one
    "storage.objects.list": "storage.objects.list",
    "vertex.BatchCreateFeatures": "aiplatform.features.create",
    "vertex.CreateEndpoint": "aiplatform.endpoints.create",
    "vertex.CreateFeatureGroup": "aiplatform.featureGroups.create",
    "vertex.CreateFeatureOnlineStore": "aiplatform.featureOnlineStores.create",
    "vertex.CreateFeatureView": "aiplatform.featureViews.create",
    # The run needs a metadata store, and lets the containers act as their account.
    "vertex.CreatePipelineJob": "aiplatform.pipelineJobs.create aiplatform.metadataStores.get "
                                "aiplatform.metadataStores.create iam.serviceAccounts.actAs",
    "vertex.DeleteEndpoint": "aiplatform.endpoints.delete",
    "vertex.DeleteFeatureGroup": "aiplatform.featureGroups.delete aiplatform.features.delete",
    "vertex.DeleteFeatureOnlineStore": "aiplatform.featureOnlineStores.delete",
    "vertex.DeleteFeatureView": "aiplatform.featureViews.delete",
    "vertex.DeleteModel": "aiplatform.models.delete",
    "vertex.DeletePipelineJob": "aiplatform.pipelineJobs.delete",
    "vertex.DeployModel": "aiplatform.endpoints.deploy",
    "vertex.FetchFeatureValues": "aiplatform.featureViews.fetchFeatureValues",
    "vertex.GetEndpoint": "aiplatform.endpoints.get",
    "vertex.GetFeatureGroup": "aiplatform.featureGroups.get",
    "vertex.GetFeatureOnlineStore": "aiplatform.featureOnlineStores.get",
    "vertex.GetFeatureView": "aiplatform.featureViews.get",
    "vertex.GetFeatureViewSync": "aiplatform.featureViewSyncs.get",
    "vertex.GetModel": "aiplatform.models.get",
    # An operation has no permission of its own in that page: who may start it may ask for it.
    "vertex.GetOperation": "",
    "vertex.GetPipelineJob": "aiplatform.pipelineJobs.get",
    "vertex.ImportModelEvaluation": "aiplatform.modelEvaluations.import",
    "vertex.ListCustomJobs": "aiplatform.customJobs.list",
    "vertex.ListEndpoints": "aiplatform.endpoints.list",
    "vertex.ListFeatureOnlineStores": "aiplatform.featureOnlineStores.list",
    "vertex.ListFeatureViewSyncs": "aiplatform.featureViewSyncs.list",
    "vertex.ListFeatureViews": "aiplatform.featureViews.list",
    "vertex.ListFeatures": "aiplatform.features.list",
    "vertex.ListModelEvaluations": "aiplatform.modelEvaluations.list",
    "vertex.ListModelVersions": "aiplatform.models.list",
    "vertex.ListModels": "aiplatform.models.list",
    "vertex.ListPipelineJobs": "aiplatform.pipelineJobs.list",
    "vertex.Predict": "aiplatform.endpoints.predict",
    "vertex.SyncFeatureView": "aiplatform.featureViews.sync",
    "vertex.UndeployModel": "aiplatform.endpoints.undeploy",
    "vertex.UploadModel": "aiplatform.models.upload",
}
# What the recorded run did not come to, and another may.
BESIDE = {
    "every call of credentials with a quota project": "serviceusage.services.use",
    "images in Artifact Registry": "artifactregistry.repositories.get "
        "artifactregistry.dockerimages.get artifactregistry.repositories.uploadArtifacts",
    "images by Cloud Build": "cloudbuild.builds.create cloudbuild.builds.get",
    "a view that is not as configured": "aiplatform.featureViews.update",
    "service_agent: view": "bigquery.datasets.update",
    "runner: custom_job": "aiplatform.customJobs.create aiplatform.customJobs.get",
    "teardown of jobs, also of those that go on": "aiplatform.pipelineJobs.cancel "
        "aiplatform.customJobs.cancel aiplatform.customJobs.delete",
}
TABLE = {p.name for p in PERMISSIONS}


def recorded() -> list[tuple[str, str]]:
    """(method, request) of every line."""
    found, method = [], ""
    for line in LIST.read_text().splitlines():
        if line.startswith("    "):
            found.append((method, line.strip()))
        elif line and not line.startswith("#"):
            method = line
    return found


@pytest.mark.parametrize("method", sorted({method for method, _ in recorded()}))
def test_what_a_request_needs_is_in_the_table(method):
    assert method in METHODS, f"which permissions does Google document for {method}?"
    own = [line for name, line in recorded() if name == method and PUBLIC not in line]
    assert not own or set(METHODS[method].split()) <= TABLE


def test_nothing_is_in_the_table_without_a_use():
    used = {name for names in [*METHODS.values(), *BESIDE.values()] for name in names.split()}
    assert TABLE - used == set()
    assert {p.with_ for p in PERMISSIONS} - {""} == set(WHEN)
    assert set(METHODS) == {method for method, _ in recorded()}
