"""The permissions of the flow, step by step, each with the smallest predefined role that has it.

Preflight checks them; `python -m lib.operate.preflight --permissions` prints the table.
tests/contract/test_permissions.py compares it with every recorded request.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Permission:
    """One permission of the flow, and a role that has it. when: needed only then (see WHEN)."""

    step: str
    name: str
    role: str
    when: str = ""


# What `when` may say, in words.
WHEN = {
    "dataset": "the dataset exists",
    "new dataset": "a dataset is still to be created",
    "bucket": "the bucket exists",
    "new bucket": "no bucket yet",
    "own view": "the dataset exists, and `service_agent: view`",
    "quota project": "the credentials have a quota project",
    "Cloud Build": "Cloud Build builds the images",
    "accounts": "without it preflight only warns about other accounts",
    "own account": "training and serving run as an account of their own",
    "administrator": "for whoever runs `lib.operate.service_account`",
}
VERTEX = "roles/aiplatform.user"
ACT_AS_ROLE = "roles/iam.serviceAccountUser"


def _of(step: str, role: str, *names: str, when: str = "") -> tuple[Permission, ...]:
    return tuple(Permission(step, name, role, when) for name in names)


PERMISSIONS = (
    *_of("preflight", "roles/browser", "resourcemanager.projects.get"),
    *_of("preflight", "roles/browser", "resourcemanager.projects.getIamPolicy", when="accounts"),
    *_of("preflight", "roles/iam.serviceAccountViewer", "iam.serviceAccounts.get",
         when="own account"),
    *_of("service account", "roles/iam.serviceAccountCreator", "iam.serviceAccounts.create",
         when="administrator"),
    *_of("service account", "roles/resourcemanager.projectIamAdmin",
         "resourcemanager.projects.setIamPolicy", when="administrator"),
    *_of("preflight", "roles/serviceusage.serviceUsageViewer", "serviceusage.services.get"),
    *_of("preflight", VERTEX, "aiplatform.featureOnlineStores.list",
         "aiplatform.featureViews.list"),
    *_of("every call", "roles/serviceusage.serviceUsageConsumer", "serviceusage.services.use",
         when="quota project"),
    *_of("BigQuery tables", "roles/bigquery.jobUser", "bigquery.jobs.create"),
    *_of("BigQuery tables", "roles/bigquery.readSessionUser", "bigquery.readsessions.create",
         "bigquery.readsessions.getData"),
    # An account that creates a dataset owns it, and needs nothing else for it.
    *_of("BigQuery tables", "roles/bigquery.user", "bigquery.datasets.create",
         when="new dataset"),
    *_of("BigQuery tables", "roles/bigquery.metadataViewer", "bigquery.datasets.get",
         "bigquery.tables.get", when="dataset"),
    *_of("BigQuery tables", "roles/bigquery.dataViewer", "bigquery.tables.getData",
         when="dataset"),
    *_of("BigQuery tables", "roles/bigquery.dataEditor", "bigquery.tables.create",
         "bigquery.tables.update", "bigquery.tables.updateData", when="dataset"),
    *_of("images", "roles/artifactregistry.reader", "artifactregistry.repositories.get",
         "artifactregistry.dockerimages.get"),
    *_of("images", "roles/artifactregistry.writer",
         "artifactregistry.repositories.uploadArtifacts"),
    # gcloud starts the build and waits for it.
    *_of("images", "roles/cloudbuild.builds.editor", "cloudbuild.builds.create",
         when="Cloud Build"),
    *_of("images", "roles/cloudbuild.builds.viewer", "cloudbuild.builds.get",
         when="Cloud Build"),
    *_of("feature store", VERTEX, "aiplatform.featureGroups.create",
         "aiplatform.featureGroups.get", "aiplatform.features.create", "aiplatform.features.list",
         "aiplatform.features.update", "aiplatform.featureOnlineStores.create",
         "aiplatform.featureOnlineStores.get", "aiplatform.featureOnlineStores.update",
         "aiplatform.featureViews.create", "aiplatform.featureViews.get",
         "aiplatform.featureViews.update", "aiplatform.featureViews.sync",
         "aiplatform.featureViewSyncs.get", "aiplatform.featureViewSyncs.list"),
    # The run adds the view's account to the dataset's access list.
    *_of("feature store", "roles/bigquery.dataOwner", "bigquery.datasets.update",
         when="own view"),
    *_of("training", VERTEX, "aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get",
         "aiplatform.pipelineJobs.list", "aiplatform.customJobs.create",
         "aiplatform.customJobs.get", "aiplatform.customJobs.list",
         "aiplatform.metadataStores.get", "aiplatform.metadataStores.create"),
    *_of("training", ACT_AS_ROLE, "iam.serviceAccounts.actAs"),
    *_of("training", "roles/storage.objectUser", "storage.objects.create", "storage.objects.get"),
    *_of("training", "roles/storage.legacyBucketReader", "storage.buckets.get", when="bucket"),
    *_of("training", "roles/storage.admin", "storage.buckets.create", when="new bucket"),
    *_of("registry and endpoint", VERTEX, "aiplatform.models.upload", "aiplatform.models.get",
         "aiplatform.models.list", "aiplatform.modelEvaluations.import",
         "aiplatform.modelEvaluations.list", "aiplatform.endpoints.create",
         "aiplatform.endpoints.get", "aiplatform.endpoints.list", "aiplatform.endpoints.deploy",
         "aiplatform.endpoints.undeploy"),
    *_of("prediction", "roles/aiplatform.featurestoreDataViewer",
         "aiplatform.featureViews.fetchFeatureValues"),
    *_of("prediction", VERTEX, "aiplatform.endpoints.predict"),
    *_of("weekly refresh", VERTEX, "aiplatform.schedules.create", "aiplatform.schedules.get",
         "aiplatform.schedules.update"),
    *_of("teardown", VERTEX, "aiplatform.schedules.list", "aiplatform.schedules.delete",
         "aiplatform.featureGroups.delete", "aiplatform.features.delete",
         "aiplatform.featureOnlineStores.delete", "aiplatform.featureViews.delete",
         "aiplatform.models.delete", "aiplatform.endpoints.delete",
         "aiplatform.pipelineJobs.cancel", "aiplatform.pipelineJobs.delete",
         "aiplatform.customJobs.cancel", "aiplatform.customJobs.delete"),
    *_of("teardown", "roles/storage.objectUser", "storage.objects.list",
         "storage.objects.delete"),
    *_of("teardown", "roles/storage.admin", "storage.buckets.delete"),
    *_of("teardown", "roles/iam.serviceAccountDeleter", "iam.serviceAccounts.delete",
         when="own account"),
    *_of("teardown", "roles/bigquery.dataOwner", "bigquery.datasets.delete", when="dataset"),
    *_of("teardown", "roles/bigquery.metadataViewer", "bigquery.tables.list", when="dataset"),
    *_of("teardown", "roles/bigquery.dataEditor", "bigquery.tables.delete", when="dataset"),
)

# Role -> smaller roles whose permissions, of ours, it has too: where both are missing, only the
# larger one is asked for. The largest come first.
INCLUDES = {
    VERTEX: {"roles/aiplatform.featurestoreDataViewer"},
    "roles/resourcemanager.projectIamAdmin": {"roles/browser"},
    "roles/iam.serviceAccountCreator": {"roles/iam.serviceAccountViewer"},
    "roles/iam.serviceAccountDeleter": {"roles/iam.serviceAccountViewer"},
    ACT_AS_ROLE: {"roles/iam.serviceAccountViewer"},
    "roles/bigquery.dataOwner": {"roles/bigquery.dataEditor", "roles/bigquery.dataViewer",
                                 "roles/bigquery.metadataViewer"},
    "roles/bigquery.dataEditor": {"roles/bigquery.dataViewer", "roles/bigquery.metadataViewer"},
    "roles/bigquery.dataViewer": {"roles/bigquery.metadataViewer"},
    "roles/bigquery.user": {"roles/bigquery.jobUser", "roles/bigquery.readSessionUser"},
    "roles/storage.admin": {"roles/storage.objectUser", "roles/storage.legacyBucketReader"},
    "roles/artifactregistry.writer": {"roles/artifactregistry.reader"},
    "roles/cloudbuild.builds.editor": {"roles/cloudbuild.builds.viewer"},
    "roles/serviceusage.serviceUsageConsumer": {"roles/serviceusage.serviceUsageViewer"},
}


def by_role(names: Iterable[str]) -> dict[str, list[str]]:
    """The roles that together have these permissions, each with those that it is needed for."""
    roles = {p.name: p.role for p in PERMISSIONS}
    needed = {roles[name] for name in names}
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        role = roles[name]
        larger = (r for r in INCLUDES if r in needed and role in INCLUDES[r])
        found.setdefault(next(larger, role), []).append(name)
    return dict(sorted(found.items()))


def permission_table() -> str:
    """The least-privilege table, as Markdown: step, permission, smallest predefined role."""
    lines = ["| step | permission | smallest predefined role |", "|---|---|---|"]
    for p in PERMISSIONS:
        when = f" ({WHEN[p.when]})" if p.when else ""
        lines.append(f"| {p.step} | `{p.name}`{when} | `{p.role}` |")
    return "\n".join(lines)
