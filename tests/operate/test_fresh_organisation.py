"""A first run in a new project of a new organisation: preflight prints what is missing, and a run
passes after those commands, one by one.

The local cloud's project is made new (few APIs enabled, no account of Google's, uniform bucket
access enforced), and a small interpreter of gcloud's lines applies the commands to it.
"""

import json

import pytest
import requests
from google.api_core.exceptions import BadRequest, Forbidden, PreconditionFailed

from lib import cloud as clouds
from lib import config, endpoint, feature_store, images, lookups, model_registry, warehouse
from lib.localcloud import process
from lib.operate import preflight, service_account, teardown
from lib.training import training
from tests.operate.test_teardown import TINY, isolated_sdk
from tests.support import local_cloud

ACCOUNT = "churn-dev-runner@local-demo.iam.gserviceaccount.com"
GCP = config.load(target="local", env="dev").targets["gcp"].model_dump()
# Local, but for what makes a run on Google need accounts and images.
LIKE_GCP = {**TINY, "targets": {"local": {
    key: GCP[key] for key in ("pinned_images", "own_account", "billed", "planted_faults",
                              "freshness")}}}
ROUNDS = 3  # of preflight: without Resource Manager's API it cannot see what else is missing


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A new project: a Cloud for it, the address of its admin routes, and its registry's file."""
    state = tmp_path_factory.mktemp("fresh")
    settings = config.load(target="local", env="dev", overrides=LIKE_GCP)
    running = local_cloud.start(
        settings.project, settings.thelook.model_dump(mode="json"), state=state)
    with pytest.MonkeyPatch.context() as patch:
        isolated_sdk(patch)
        for name, key in zip(clouds.EMULATOR_VARIABLES, ("bigquery", "bigquery_grpc", "storage"),
                             strict=True):
            patch.setenv(name, running[key])
        requests.delete(running["admin"] + "/admin/project", timeout=10).raise_for_status()
        yield (clouds.Cloud(
            settings, clouds.AnonymousCredentials(), running["vertex"], running["bigquery"],
            running["bigquery_grpc"], running["platform"],
            project_number=running["project_number"], vertex_grpc=running["vertex_grpc"]),
            running["admin"],
            state / "artifactregistry.json")
    process.stop(state)


@pytest.fixture
def cloud_build(tmp_path, monkeypatch):
    """There is gcloud and no docker, and no image is built yet."""
    (tmp_path / "gcloud").write_text("#!/bin/sh\n")
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "lock.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(images, "LOCK", tmp_path / "lock.json")
    monkeypatch.setattr(images, "source_refused", lambda: None)


def follow(command, cloud, admin, registry):
    """Do what a printed command says."""
    settings = cloud.settings
    if command == settings.command(service_account.MODULE):
        service_account.make(cloud)
    elif command == " ".join(images.build_command(settings, "gcloud")):
        digests = dict.fromkeys(images.names(), "sha256:" + "1" * 64)
        images.LOCK.write_text(json.dumps({settings.serve.image_repository: digests}))
        (repository,) = json.loads(registry.read_text())
        registry.write_text(json.dumps([repository, *(
            f"{repository}/dockerImages/{name}@{digest}" for name, digest in digests.items())]))
    else:
        answer = requests.post(admin + "/admin/gcloud", data=command, timeout=10)
        assert answer.ok, answer.text


def walk(cloud):
    """A run's resources, in its order; a churn probability at the end."""
    warehouse.create_dataset(cloud)
    feature_store.create_online_store(cloud)
    for file in warehouse.BUILDS:
        warehouse.build(cloud, file)
    trained = training.train(cloud).value
    for step in (feature_store.create_group, feature_store.register_features,
                 feature_store.create_view, feature_store.sync):
        step(cloud)
    model = model_registry.upload(cloud, trained).value
    made = endpoint.create(cloud).value
    endpoint.deploy(cloud, made, model)
    values, _ = feature_store.fetch(cloud, lookups.served_customers(cloud, 1)[0])
    return endpoint.predict(cloud, endpoint.connect(cloud), [values])[0]


def test_what_a_new_project_refuses(project):
    """Each is a refusal that a run met before preflight knew of it. Before the other test."""
    cloud, admin, _ = project
    enable = "gcloud services enable {0} --project local-demo"
    grant = ("gcloud projects add-iam-policy-binding local-demo "
             "--member serviceAccount:{0} --role {1}")
    agent = f"service-{cloud.project_number}@gcp-sa-aiplatform.iam.gserviceaccount.com"
    job = {"display_name": "j", "job_spec": {
        "service_account": f"{cloud.project_number}-compute@developer.gserviceaccount.com",
        "worker_pool_specs": [{"container_spec": {"image_uri": "train"}, "replica_count": 1,
                               "machine_spec": {"machine_type": "n1-standard-4"}}]}}

    def make():
        cloud.custom_jobs.create_custom_job(parent=cloud.parent, custom_job=job)

    with pytest.raises(PreconditionFailed, match="uniformBucketLevelAccess"):
        cloud.storage.create_bucket("a-bucket-of-the-old-kind")
    for refusal, message, command in (
            (Forbidden, "aiplatform.googleapis.com has not been used",
             enable.format("aiplatform.googleapis.com")),
            (BadRequest, "Service agents are being provisioned",
             "gcloud beta services identity create --service aiplatform.googleapis.com "
             f"--project local-demo && {grant.format(agent, 'roles/aiplatform.serviceAgent')}"),
            (BadRequest, "act as service_account.*it may not exist",
             enable.format("compute.googleapis.com")),
            (BadRequest, r"does not have \[storage.objects.get", "")):
        with pytest.raises(refusal, match=message):
            make()
        if command:
            requests.post(admin + "/admin/gcloud", data=command, timeout=10).raise_for_status()
    requests.delete(admin + "/admin/project", timeout=10).raise_for_status()


def test_what_preflight_prints_leads_to_a_run_that_passes(project, cloud_build, capsys):
    cloud, *_ = project
    printed = []
    for _ in range(ROUNDS):
        found = [f for f in preflight.check(cloud) if f.level != "ok"]
        found.sort(key=lambda f: f.level)  # as printed: blockers first, then warnings
        for line in dict.fromkeys(f.command for f in found if f.command):
            printed.append(line)
            follow(line, *project)
        if not found:
            break
    print(*printed, sep="\n")
    assert not found, found
    assert len(printed) == len(set(printed)), "a command did not help"
    everything = "\n".join(printed)
    for part in ("gcloud services enable aiplatform.googleapis.com", "compute.googleapis.com",
                 "gcloud beta services identity create --service aiplatform.googleapis.com",
                 "gcloud beta services identity create --service cloudbuild.googleapis.com",
                 "roles/aiplatform.serviceAgent", "roles/cloudbuild.builds.builder",
                 "gcloud artifacts repositories create churn-dev", "lib.operate.service_account"):
        assert part in everything, everything

    assert 0 <= walk(cloud) <= 1
    (job,) = cloud.pipeline_jobs.list_pipeline_jobs(parent=cloud.parent)
    (deployed,) = endpoint.find(cloud).deployed_models
    assert job.service_account == deployed.service_account == ACCOUNT
    assert teardown.run(cloud, delete=True) == 0
    assert service_account.find(cloud) is None
    assert "gs://local-demo_cloudbuild" in capsys.readouterr().out
