"""Each recorded request, with the permissions that Google documents for its method: the table in
lib/operate/permissions.py must have them all, nothing without a use, and for each a role that
grants it.

aiplatform.*: Google's access-control page for Vertex AI. BigQuery, Cloud Storage, Resource
Manager, Service Usage: the IAM sections of their references, from memory, not read again here.
"""

from pathlib import Path

import pytest

from lib.operate.permissions import INCLUDES, PERMISSIONS, WHEN, by_role

LIST = Path(__file__).with_name("requests.txt")
PUBLIC = "bigquery-public-data"  # everybody may read it: no permission in our project is needed
# The statements of sql/ make and replace tables.
STATEMENTS = ("bigquery.jobs.create bigquery.tables.create bigquery.tables.getData "
              "bigquery.tables.update bigquery.tables.updateData")

METHODS = {
    "bigquery.datasets.delete": "bigquery.datasets.delete bigquery.tables.delete",
    "bigquery.datasets.get": "bigquery.datasets.get",
    "bigquery.datasets.insert": "bigquery.datasets.create",
    "bigquery.jobs.getQueryResults": "bigquery.jobs.create",  # of one's own job
    "bigquery.jobs.insert": STATEMENTS,
    "bigquery.jobs.query": STATEMENTS,
    "bigquery.tabledata.list": "bigquery.tables.getData",
    "bigquery.tables.get": "bigquery.tables.get",
    "bigquery.tables.list": "bigquery.tables.list",
    "bigquery.tables.patch": "bigquery.tables.update bigquery.tables.get",
    "bigquerystorage.CreateReadSession": "bigquery.readsessions.create bigquery.tables.getData",
    "bigquerystorage.ReadRows": "bigquery.readsessions.getData",
    "cloudresourcemanager.projects.get": "resourcemanager.projects.get",
    "cloudresourcemanager.projects.getIamPolicy": "resourcemanager.projects.getIamPolicy",
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
    "vertex.ListSchedules": "aiplatform.schedules.list",
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
    "own_account: the account of training and serving": "iam.serviceAccounts.get "
        "iam.serviceAccounts.create iam.serviceAccounts.delete "
        "resourcemanager.projects.setIamPolicy",
    "images by Cloud Build": "cloudbuild.builds.create cloudbuild.builds.get",
    "features, a store or a view that are not as configured": "aiplatform.features.update "
        "aiplatform.featureOnlineStores.update aiplatform.featureViews.update",
    "service_agent: view": "bigquery.datasets.update",
    "runner: custom_job": "aiplatform.customJobs.create aiplatform.customJobs.get",
    "the schedule of the weekly refresh": "aiplatform.schedules.create aiplatform.schedules.get "
        "aiplatform.schedules.update aiplatform.schedules.delete",
    "teardown of jobs, also of those that go on": "aiplatform.pipelineJobs.cancel "
        "aiplatform.customJobs.cancel aiplatform.customJobs.delete",
}
TABLE = {p.name for p in PERMISSIONS}


def names(prefix: str) -> set[str]:
    return {name for name in TABLE if name.startswith(prefix)}


# Predefined roles, with those of our permissions that each has. aiplatform.*: Google's
# access-control page for Vertex AI. The others: the role references of BigQuery, Cloud Storage,
# Artifact Registry, Cloud Build, IAM, Resource Manager and Service Usage, from memory, not read
# again here.
READ = {"bigquery.readsessions.create", "bigquery.readsessions.getData"}
LIST_TABLES = {"bigquery.datasets.get", "bigquery.tables.list"}
REGISTRY = {"artifactregistry.repositories.get", "artifactregistry.dockerimages.get"}
ROLES = {
    "roles/aiplatform.user": names("aiplatform.") | {"resourcemanager.projects.get"},
    "roles/aiplatform.featurestoreDataViewer": {"aiplatform.featureViews.fetchFeatureValues"},
    "roles/bigquery.jobUser": {"bigquery.jobs.create"},
    "roles/bigquery.readSessionUser": READ,
    "roles/bigquery.user":
        {"bigquery.jobs.create", "bigquery.datasets.create"} | READ | LIST_TABLES,
    "roles/bigquery.metadataViewer": {"bigquery.tables.get"} | LIST_TABLES,
    "roles/bigquery.dataViewer": {"bigquery.tables.get", "bigquery.tables.getData"} | LIST_TABLES,
    "roles/bigquery.dataEditor":
        {"bigquery.datasets.create"} | LIST_TABLES | names("bigquery.tables."),
    "roles/bigquery.dataOwner": names("bigquery.datasets.") | names("bigquery.tables."),
    "roles/storage.objectUser": names("storage.objects."),
    # Can be granted on a bucket only: so it is named only where a bucket exists.
    "roles/storage.legacyBucketReader": {"storage.buckets.get"},
    "roles/storage.admin": names("storage."),
    "roles/artifactregistry.reader": REGISTRY,
    "roles/artifactregistry.writer":
        {"artifactregistry.repositories.uploadArtifacts"} | REGISTRY,
    "roles/cloudbuild.builds.editor": names("cloudbuild."),
    "roles/cloudbuild.builds.viewer": {"cloudbuild.builds.get"},
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs", "iam.serviceAccounts.get"},
    "roles/iam.serviceAccountViewer": {"iam.serviceAccounts.get"},
    "roles/iam.serviceAccountCreator": {"iam.serviceAccounts.create", "iam.serviceAccounts.get"},
    "roles/iam.serviceAccountDeleter": {"iam.serviceAccounts.delete", "iam.serviceAccounts.get"},
    "roles/resourcemanager.projectIamAdmin": names("resourcemanager."),
    "roles/serviceusage.serviceUsageViewer": {"serviceusage.services.get"},
    "roles/serviceusage.serviceUsageConsumer": names("serviceusage."),
    "roles/browser": {"resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"},
}


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
    assert {p.when for p in PERMISSIONS} - {""} == set(WHEN)
    assert set(METHODS) == {method for method, _ in recorded()}


@pytest.mark.parametrize("permission", PERMISSIONS, ids=lambda p: f"{p.step}: {p.name}")
def test_the_named_role_has_the_permission_and_the_least_besides(permission):
    assert permission.name in ROLES[permission.role]
    fewest = min(len(has) for has in ROLES.values() if permission.name in has)
    assert len(ROLES[permission.role]) == fewest


def test_a_larger_role_replaces_only_roles_that_it_includes():
    for larger, smaller in INCLUDES.items():
        for role in smaller:
            assert ROLES[role] < ROLES[larger], (larger, role)
    for missing in ({p.name for p in PERMISSIONS}, *({name} for name in TABLE),
                    names("bigquery."), names("storage."), names("serviceusage.")):
        roles = by_role(missing)
        assert {name for found in roles.values() for name in found} == missing
        assert all(set(found) <= ROLES[role] for role, found in roles.items())
        assert not any(ROLES[a] < ROLES[b] for a in roles for b in roles)
