"""The permissions of the flow, step by step, and the smallest predefined roles that have them.

Preflight asks for them; `python -m lib.operate.preflight --permissions` prints the table. The
tests hold every recorded request against it.
"""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Permission:
    """One permission of the flow. with_: it is needed only then (a key of WHEN)."""

    step: str
    name: str
    with_: str = ""


# What `with_` may say, in words.
WHEN = {
    "dataset": "the dataset stands",
    "new dataset": "a dataset is still to be made",
    "bucket": "the bucket stands",
    "new bucket": "no bucket yet",
    "own view": "the dataset stands, and `service_agent: view`",
    "quota project": "the credentials have a quota project",
    "Cloud Build": "Cloud Build builds the images",
}


def _of(step: str, *names: str, **when: str) -> tuple[Permission, ...]:
    return tuple(Permission(step, name, **when) for name in names)


PERMISSIONS = (
    *_of("preflight", "resourcemanager.projects.get", "serviceusage.services.get",
         "aiplatform.featureOnlineStores.list", "aiplatform.featureViews.list"),
    *_of("every call", "serviceusage.services.use", with_="quota project"),
    *_of("BigQuery tables", "bigquery.jobs.create", "bigquery.readsessions.create",
         "bigquery.readsessions.getData"),
    # Who makes a dataset owns it, and may do all the rest inside.
    *_of("BigQuery tables", "bigquery.datasets.create", with_="new dataset"),
    *_of("BigQuery tables", "bigquery.datasets.get", "bigquery.tables.create",
         "bigquery.tables.get", "bigquery.tables.getData", "bigquery.tables.update",
         "bigquery.tables.updateData", with_="dataset"),
    *_of("images", "artifactregistry.repositories.get", "artifactregistry.dockerimages.get",
         "artifactregistry.repositories.uploadArtifacts"),
    # gcloud starts the build and waits for it.
    *_of("images", "cloudbuild.builds.create", "cloudbuild.builds.get", with_="Cloud Build"),
    *_of("feature store", "aiplatform.featureGroups.create", "aiplatform.featureGroups.get",
         "aiplatform.features.create", "aiplatform.features.list",
         "aiplatform.featureOnlineStores.create", "aiplatform.featureOnlineStores.get",
         "aiplatform.featureViews.create", "aiplatform.featureViews.get",
         "aiplatform.featureViews.update", "aiplatform.featureViews.sync",
         "aiplatform.featureViewSyncs.get", "aiplatform.featureViewSyncs.list"),
    # The run writes the view's account into the dataset's access list.
    *_of("feature store", "bigquery.datasets.update", with_="own view"),
    *_of("training", "aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get",
         "aiplatform.pipelineJobs.list", "aiplatform.customJobs.create",
         "aiplatform.customJobs.get", "aiplatform.customJobs.list",
         "aiplatform.metadataStores.get", "aiplatform.metadataStores.create",
         "iam.serviceAccounts.actAs", "storage.objects.create", "storage.objects.get"),
    *_of("training", "storage.buckets.get", with_="bucket"),
    *_of("training", "storage.buckets.create", with_="new bucket"),
    *_of("registry and endpoint", "aiplatform.models.upload", "aiplatform.models.get",
         "aiplatform.models.list", "aiplatform.modelEvaluations.import",
         "aiplatform.modelEvaluations.list", "aiplatform.endpoints.create",
         "aiplatform.endpoints.get", "aiplatform.endpoints.list", "aiplatform.endpoints.deploy",
         "aiplatform.endpoints.undeploy"),
    *_of("prediction", "aiplatform.featureViews.fetchFeatureValues",
         "aiplatform.endpoints.predict"),
    *_of("teardown", "aiplatform.featureGroups.delete", "aiplatform.features.delete",
         "aiplatform.featureOnlineStores.delete", "aiplatform.featureViews.delete",
         "aiplatform.models.delete", "aiplatform.endpoints.delete",
         "aiplatform.pipelineJobs.cancel", "aiplatform.pipelineJobs.delete",
         "aiplatform.customJobs.cancel", "aiplatform.customJobs.delete",
         "storage.objects.list", "storage.objects.delete", "storage.buckets.delete"),
    *_of("teardown", "bigquery.datasets.delete", "bigquery.tables.list", "bigquery.tables.delete",
         with_="dataset"),
)

# Predefined roles, with those of our permissions that each has. aiplatform.*: Google's
# access-control page for Vertex AI. The others: the role references of BigQuery, Cloud Storage,
# Artifact Registry, Cloud Build, IAM, Resource Manager and Service Usage, from memory, not read
# again here.
_VERTEX = {p.name for p in PERMISSIONS if p.name.startswith("aiplatform.")}
_READ = {"bigquery.readsessions.create", "bigquery.readsessions.getData"}
_TABLES = {p.name for p in PERMISSIONS if p.name.startswith("bigquery.tables.")}
_SEEN = {"bigquery.datasets.get", "bigquery.tables.list"}
_OBJECTS = {p.name for p in PERMISSIONS if p.name.startswith("storage.objects.")}
_IMAGES = {"artifactregistry.repositories.get", "artifactregistry.dockerimages.get"}
ROLES: dict[str, set[str]] = {
    "roles/aiplatform.user": _VERTEX | {"resourcemanager.projects.get"},
    "roles/aiplatform.featurestoreDataViewer": {"aiplatform.featureViews.fetchFeatureValues"},
    "roles/bigquery.jobUser": {"bigquery.jobs.create"},
    "roles/bigquery.readSessionUser": _READ,
    "roles/bigquery.user":
        {"bigquery.jobs.create", "bigquery.datasets.create"} | _READ | _SEEN,
    "roles/bigquery.metadataViewer": {"bigquery.tables.get"} | _SEEN,
    "roles/bigquery.dataViewer": {"bigquery.tables.get", "bigquery.tables.getData"} | _SEEN,
    "roles/bigquery.dataEditor": {"bigquery.datasets.create"} | _SEEN | _TABLES,
    "roles/bigquery.dataOwner":
        {"bigquery.datasets.create", "bigquery.datasets.update", "bigquery.datasets.delete"}
        | _SEEN | _TABLES,
    "roles/storage.objectUser": _OBJECTS,
    # Can be given on a bucket only: so it has here what is asked only where a bucket stands.
    "roles/storage.legacyBucketReader": {"storage.buckets.get"},
    "roles/storage.admin":
        {"storage.buckets.create", "storage.buckets.get", "storage.buckets.delete"} | _OBJECTS,
    "roles/artifactregistry.reader": _IMAGES,
    "roles/artifactregistry.writer": {"artifactregistry.repositories.uploadArtifacts"} | _IMAGES,
    "roles/cloudbuild.builds.editor": {"cloudbuild.builds.create", "cloudbuild.builds.get"},
    "roles/cloudbuild.builds.viewer": {"cloudbuild.builds.get"},
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/serviceusage.serviceUsageViewer": {"serviceusage.services.get"},
    "roles/serviceusage.serviceUsageConsumer":
        {"serviceusage.services.get", "serviceusage.services.use"},
    "roles/browser": {"resourcemanager.projects.get"},
}


def smallest_roles(permissions: set[str]) -> list[str]:
    """The predefined roles that together have these permissions, and the least besides.

    Raises:
        KeyError: a permission that no role of ROLES has.
    """
    left = set(permissions)
    chosen: list[str] = []
    for service in sorted({name.split(".")[0] for name in left}):
        wanted = {name for name in left if name.startswith(service + ".")}
        held = set().union(*(ROLES[role] for role in chosen)) if chosen else set()
        if wanted <= held:
            continue
        roles = [role for role, has in ROLES.items() if has & wanted]
        sets = [s for n in range(1, len(roles) + 1) for s in itertools.combinations(roles, n)
                if wanted <= set().union(*(ROLES[role] for role in s))]
        if not sets:
            raise KeyError(f"no role for all of {sorted(wanted)}")
        # Few permissions first, then few roles.
        chosen += min(sets, key=lambda s: (len(set().union(*(ROLES[r] for r in s))), len(s)))
    return sorted(set(chosen))


def permission_table() -> str:
    """The least-privilege table, as Markdown: step, permission, smallest predefined role."""
    lines = ["| step | permission | smallest predefined role |", "|---|---|---|"]
    for step in dict.fromkeys(p.step for p in PERMISSIONS):
        for permission in (p for p in PERMISSIONS if p.step == step):
            (role,) = smallest_roles({permission.name})
            lines.append(f"| {step} | `{permission.name}`{_when(permission)} | `{role}` |")
    return "\n".join(lines)


def _when(permission: Permission) -> str:
    return f" ({WHEN[permission.with_]})" if permission.with_ else ""
