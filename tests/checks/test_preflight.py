"""Preflight: what is missing is found before anything is made, all of it, with the command."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import requests
from google.api_core.exceptions import Forbidden, NotFound

from lib import cloud as clouds
from lib import config, images, warehouse
from lib.checks import preflight
from lib.config import ROOT
from lib.localcloud import process
from lib.stages import Needed

SMALL = {"thelook": {"users": 1000}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A local cloud with its admin routes, empty; the settings and the addresses."""
    state = tmp_path_factory.mktemp("preflight")
    settings = config.load(target="local", env="dev", overrides=SMALL)
    running, _ = process.start(
        settings.project, settings.thelook.model_dump(mode="json"), state=state, admin=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, key in zip(clouds.EMULATOR_VARIABLES, ("bigquery", "bigquery_grpc", "storage"),
                             strict=True):
            patch.setenv(name, running[key])
        yield settings, running, state
    process.stop(state)


@pytest.fixture
def cloud(place):
    """Google's clients for it; nothing is refused at the end."""
    settings, running, _ = place
    yield clouds.Cloud(
        settings, clouds.AnonymousCredentials(), running["vertex"], running["bigquery"],
        running["bigquery_grpc"], running["platform"],
        project_number=running["project_number"])
    requests.delete(running["admin"] + "/admin/faults", timeout=10)


@pytest.fixture
def refuse(place):
    """Tell the local cloud what to refuse."""
    return lambda *rules: requests.post(
        place[1]["admin"] + "/admin/faults", json=rules, timeout=10).raise_for_status()


def changed(cloud, **blocks):
    """The cloud with other settings: block -> keys of it."""
    settings = cloud.settings
    updates = {k: getattr(settings, k).model_copy(update=v) if isinstance(v, dict) else v
               for k, v in blocks.items()}
    return dataclasses.replace(cloud, settings=settings.model_copy(update=updates))


def placed(cloud, **changes):
    """The cloud with another project, region or the like."""
    targets = {"local": cloud.settings.place.model_copy(update=changes)}
    return dataclasses.replace(
        cloud, settings=cloud.settings.model_copy(update={"targets": targets}))


def found(cloud, name):
    return [f for f in preflight.check(cloud) if f.name == name]


def test_with_everything_there_all_is_ok(cloud, capsys):
    findings = preflight.check(cloud)
    assert {f.level for f in findings} == {"ok"}
    assert {f.name for f in findings} == {*preflight.CHECKS, "source"}
    assert preflight.run(cloud).figures == {"checks ok": len(findings), "warnings": 0}
    assert capsys.readouterr().out == ""


def test_everything_that_is_missing_is_told_at_once(cloud, refuse, capsys):
    refuse({"missing_permissions": ["bigquery.jobs.create", "aiplatform.models.upload"]},
           {"disabled_apis": ["storage.googleapis.com", "aiplatform.googleapis.com"]},
           {"method": "storage.buckets.get", "times": 99, "status": "PERMISSION_DENIED",
            "message": "no"})
    with pytest.raises(Needed) as caught:
        preflight.run(cloud)
    told = capsys.readouterr().out
    assert told.count("BLOCK") == 4
    for part in ("roles/bigquery.jobUser", "roles/aiplatform.user", "somebody else's",
                 "gcloud services enable aiplatform.googleapis.com storage.googleapis.com "
                 "--project local-demo"):
        assert part in told and part in caught.value.cause + caught.value.need + caught.value.command


def test_missing_permissions_are_grouped_by_the_smallest_role(cloud, refuse):
    refuse({"missing_permissions": [
        "bigquery.jobs.create", "bigquery.datasets.create", "storage.objects.get",
        "aiplatform.endpoints.deploy", "aiplatform.featureViews.sync"]})
    blockers = found(cloud, "permissions")
    assert {f.need: f.found for f in blockers} == {
        "roles/aiplatform.user on project local-demo":
            "missing aiplatform.endpoints.deploy, aiplatform.featureViews.sync",
        "roles/bigquery.user on project local-demo":
            "missing bigquery.datasets.create, bigquery.jobs.create",
        "roles/storage.objectUser on project local-demo": "missing storage.objects.get"}
    assert all(f.command.endswith("--role " + f.need.split()[0]) for f in blockers)
    assert all("--member user:YOU@EXAMPLE.COM" in f.command for f in blockers)


def test_a_service_account_is_named_in_the_command(cloud):
    robot = SimpleNamespace(service_account_email="robot@p.iam.gserviceaccount.com")
    assert preflight.member(dataclasses.replace(cloud, credentials=robot)) == (
        "serviceAccount:robot@p.iam.gserviceaccount.com")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_other_roles_have_the_missing_permissions_with_less_besides(count):
    """Against every set of roles there is: none that covers them holds fewer permissions."""
    names = sorted({p.name for p in preflight.PERMISSIONS if p.name.split(".")[0] in
                    ("bigquery", "storage", "serviceusage")})
    roles = [r for r, has in preflight.ROLES.items() if has & set(names)]
    held = {s: set().union(*(preflight.ROLES[r] for r in s))
            for n in range(1, len(roles) + 1) for s in itertools.combinations(roles, n)}
    for missing in itertools.combinations(names, count):
        chosen = preflight.smallest_roles(set(missing))
        covered = set().union(*(preflight.ROLES[r] for r in chosen))
        assert set(missing) <= covered
        assert len(covered) == min(len(h) for h in held.values() if set(missing) <= h)


def test_every_permission_is_in_some_role_and_every_role_is_of_use():
    names = {p.name for p in preflight.PERMISSIONS}
    assert names == set().union(*preflight.ROLES.values())


def test_what_stands_already_changes_what_is_needed(cloud, refuse):
    refuse({"missing_permissions": ["bigquery.datasets.create", "storage.buckets.create"]})
    assert [f.level for f in found(cloud, "permissions")] == ["blocker", "blocker"]
    own = changed(cloud, names={"dataset": "churn_dev_stands", "bucket": "x-churn-dev-stands"})
    warehouse.create_dataset(own)
    own.storage.create_bucket(own.settings.names.bucket)
    assert [f.level for f in found(own, "permissions")] == ["ok"]
    refuse({"missing_permissions": ["bigquery.tables.create"]})
    (finding,) = found(own, "permissions")
    assert finding.need.startswith("roles/bigquery.dataEditor")


def test_what_the_bucket_or_a_table_grants_is_not_missing(cloud, refuse):
    own = changed(cloud, names={"dataset": "churn_dev_granted", "bucket": "x-churn-dev-granted"})
    warehouse.create_dataset(own)
    own.storage.create_bucket(own.settings.names.bucket)
    own.bigquery.query(f"create table `{own.settings.dataset}.t` as select 1 as x").result()
    # The emulator has no tables.testIamPermissions.
    own.bigquery.test_iam_permissions = lambda table, asked: {"permissions": asked}
    refuse({"missing_permissions": ["storage.objects.get", "bigquery.tables.getData",
                                    "bigquery.tables.updateData", "bigquery.tables.create"]})
    assert [f.level for f in found(own, "permissions")] == ["ok"]


def test_a_project_that_is_not_there(cloud):
    (finding,) = found(placed(cloud, project="someone-else"), "project")
    assert (finding.level, finding.command) == ("blocker", "gcloud projects list")
    assert "someone-else does not exist" in finding.found


def test_when_even_asking_is_disabled_that_is_said(cloud, refuse):
    refuse({"method": "cloudresourcemanager.projects.*", "times": 99,
            "status": "PERMISSION_DENIED", "reason": "SERVICE_DISABLED",
            "message": "Cloud Resource Manager API has not been used in project 1 before; see "
                       "https://console.developers.google.com/apis/api/"
                       "cloudresourcemanager.googleapis.com/overview"})
    for name in ("project", "permissions"):
        (finding,) = found(cloud, name)
        assert finding.level == "blocker"
        assert finding.command.startswith("gcloud services enable cloudresourcemanager")


def test_a_region_without_the_feature_store_names_the_nearest(monkeypatch):
    with pytest.raises(config.ConfigError, match="nearest region that has it is asia-northeast1"):
        config.load(target="local", overrides={"targets": {"local": {
            "region": "asia-northeast3", "location": "asia-northeast3"}}})


def test_things_in_another_location(cloud):
    own = changed(cloud, names={"bucket": "x-churn-dev-eu"})
    own.storage.create_bucket("x-churn-dev-eu", location="EU")
    (finding,) = found(own, "bucket")
    assert finding.level == "blocker" and "stands in EU, not in US" in finding.found
    # The emulator's datasets all stand in US: so the data are wanted elsewhere.
    warehouse.create_dataset(cloud)
    (finding,) = found(placed(cloud, location="EU"), "dataset")
    assert finding.level == "blocker" and "stands in US, not in EU" in finding.found
    assert finding.command == "bq rm -r -d local-demo:churn_dev"
    cloud.bigquery.delete_dataset(cloud.settings.dataset)
    findings = found(placed(cloud, location="EU"), "source")
    assert [f.level for f in findings] == ["blocker"]


def test_quotas_are_counted_before_they_are_met(cloud, place):
    there = placed(cloud, region="us-east1")
    bigtable = {"bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}
    for number in range(preflight.STORES):
        there.online_admin.create_feature_online_store(
            parent=there.parent, feature_online_store_id=f"other{number}",
            feature_online_store=bigtable).result()
        if number == preflight.STORES - 2:
            assert [f.level for f in found(there, "quotas")] == ["ok", "ok"]
    stores, views = found(there, "quotas")
    assert stores.level == "blocker" and "10 of 10 online stores" in stores.found
    assert views.level == "ok"
    names = {"online_store": "other3"}  # ours stands: no other is made
    assert [f.level for f in found(changed(there, names=names), "quotas")] == ["ok", "ok"]


def test_a_view_with_an_account_of_its_own_takes_time(cloud):
    (finding,) = found(changed(cloud, feature_view={"service_agent": "view"}), "service agent")
    assert finding.level == "warning" and "2 to 10 minutes" in finding.found


@pytest.fixture
def pinned(cloud, tmp_path, monkeypatch):
    """Images are wanted by digest; a lock of the test's own; a registry that is a set."""
    monkeypatch.setattr(images, "LOCK", tmp_path / "lock.json")
    there = placed(cloud, pinned_images=True, billed=True)
    registry = set()

    def get(name):
        if name not in registry:
            raise NotFound(name)

    there.__dict__["artifacts"] = SimpleNamespace(get_repository=get, get_docker_image=get)
    parent = "projects/local-demo/locations/us-central1/repositories/churn-dev"
    return there, registry, parent


def test_images_are_looked_for_by_digest(pinned, monkeypatch):
    there, registry, parent = pinned
    (finding,) = found(there, "images")
    assert finding.level == "blocker"
    assert finding.command.startswith("gcloud artifacts repositories create churn-dev ")
    registry.add(parent)
    monkeypatch.setattr(preflight.shutil, "which", {"docker": "/bin/docker"}.get)
    (finding,) = found(there, "images")
    assert finding.level == "warning" and "the run starts with building" in finding.need
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    (finding,) = found(there, "images")
    assert finding.level == "blocker" and "scripts/build_push_all.sh" in finding.command
    digests = {name: "sha256:" + "1" * 64 for name in images.names()}
    images.LOCK.write_text(json.dumps({there.settings.serve.image_repository: digests}))
    (finding,) = found(there, "images")  # pinned, but gone from the registry
    assert finding.level == "blocker" and "serving" in finding.found
    registry |= {f"{parent}/dockerImages/{name}@{digest}" for name, digest in digests.items()}
    assert [f.level for f in found(there, "images")] == ["ok"]


def test_the_cost_of_the_snapshot_is_told_in_bytes_and_dollars(pinned, monkeypatch):
    there, *_ = pinned
    monkeypatch.setattr(warehouse, "estimate", lambda cloud, query: 2 * 10**9)
    (finding,) = found(there, "cost")
    assert "scans 10.00 GB" in finding.found and "$0.0568" in finding.found
    assert "1 Bigtable node, 1 n1-standard-2" in finding.found


def test_a_check_that_cannot_be_made_is_a_finding(cloud):
    def denied(**_):
        raise Forbidden("Permission 'aiplatform.featureOnlineStores.list' denied")

    cloud.__dict__["online_admin"] = SimpleNamespace(list_feature_online_stores=denied)
    (finding,) = found(cloud, "quotas")
    assert finding.level == "blocker" and "featureOnlineStores.list" in finding.found
    assert len(preflight.check(cloud)) > 8


def test_the_readme_has_the_table():
    text = (ROOT / "README.md").read_text()
    kept = re.search(r"<!-- permissions -->\n(.*?)\n<!-- /permissions -->", text, re.S)
    assert kept and kept[1] == preflight.permission_table()


def test_it_is_a_command_with_a_status(place, refuse, cloud, tmp_path):
    def command(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "lib.checks.preflight", *arguments], cwd=ROOT, text=True,
            capture_output=True, timeout=60, env={
                **os.environ, "LOCALCLOUD_STATE": str(place[2]),
                config.SETTINGS_VARIABLE: json.dumps(SMALL), **variables})

    assert command("--permissions").stdout.strip() == preflight.permission_table()
    assert command("--target", "aws").returncode == 2
    (tmp_path / "bad.yaml").write_text("app: 1")
    assert command(CHURN_DEMO_CONFIG=str(tmp_path / "bad.yaml")).returncode == 2
    done = command()
    assert done.returncode == 0 and "0 in the way" in done.stdout
    refuse({"disabled_apis": ["storage.googleapis.com"]})
    done = command()
    assert done.returncode == 1 and "BLOCK APIs: not enabled: storage" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
