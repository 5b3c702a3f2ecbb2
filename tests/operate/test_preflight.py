"""Preflight: all that is missing is found before anything is created, with the command."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import requests
from google.api_core.exceptions import BadRequest, Forbidden
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud.bigquery import AccessEntry

from lib import cloud as clouds
from lib import config, images, source, warehouse
from lib.config import ROOT
from lib.errors import Needed
from lib.localcloud import process
from lib.operate import (
    accounts,
    inventory,
    permissions,
    preflight,
    preflight_machine,
    preflight_resources,
    schedule,
    service_account,
    teardown,
)
from lib.operate.finding import UNKNOWN, member
from tests.contract import schema
from tests.support import forked, local_cloud
from tests.test_source import write_csv

SMALL = {"thelook": {"users": 1000}}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """An empty local cloud with its admin routes: settings, addresses, state folder."""
    state = tmp_path_factory.mktemp("preflight")
    settings = config.load(target="local", env="dev", overrides=SMALL)
    running = local_cloud.start(
        settings.project, settings.thelook.model_dump(mode="json"), state=state)
    with pytest.MonkeyPatch.context() as patch:
        for name, key in zip(clouds.EMULATOR_VARIABLES, ("bigquery", "bigquery_grpc", "storage"),
                             strict=True):
            patch.setenv(name, running[key])
        yield settings, running, state
    process.stop(state)


@pytest.fixture
def cloud(emulator):
    """Google's clients for it; at the end nothing is refused any more."""
    settings, running, _ = emulator
    yield clouds.Cloud(
        settings, clouds.AnonymousCredentials(), running["vertex"], running["bigquery"],
        running["bigquery_grpc"], running["platform"],
        project_number=running["project_number"])
    requests.delete(running["admin"] + "/admin/faults", timeout=10)


@pytest.fixture
def refuse(emulator):
    """Rules for what the local cloud refuses."""
    return lambda *rules: requests.post(
        emulator[1]["admin"] + "/admin/faults", json=rules, timeout=10).raise_for_status()


def changed(cloud, **blocks):
    """The cloud with other settings: block -> keys of it."""
    settings = cloud.settings
    updates = {k: getattr(settings, k).model_copy(update=v) if isinstance(v, dict) else v
               for k, v in blocks.items()}
    return dataclasses.replace(cloud, settings=settings.model_copy(update=updates))


def with_target(cloud, **changes):
    """The cloud with another project, region or the like."""
    targets = {"local": cloud.settings.target_settings.model_copy(update=changes)}
    return dataclasses.replace(
        cloud, settings=cloud.settings.model_copy(update={"targets": targets}))


def found(cloud, name):
    """The findings of one check."""
    return preflight.check(cloud, {name: preflight.CHECKS[name]})


def with_data(cloud, name):
    """The cloud with a new, empty dataset and bucket."""
    own = changed(cloud, names={"dataset": f"churn_dev_{name}", "bucket": f"x-churn-dev-{name}"})
    warehouse.create_dataset(own)
    own.storage.create_bucket(own.settings.names.bucket)
    return own


def test_with_nothing_missing_all_is_ok(cloud, capsys):
    findings = preflight.check(cloud)
    assert {f.level for f in findings} == {"ok"}
    assert {f.name for f in findings} == {*preflight.CHECKS}
    assert preflight.require(cloud).figures == {"checks ok": len(findings), "warnings": 0}
    assert capsys.readouterr().out == ""


def test_everything_that_is_missing_is_reported_together(cloud, refuse, capsys):
    refuse({"missing_permissions": ["bigquery.jobs.create", "aiplatform.models.upload"]},
           {"disabled_apis": ["storage.googleapis.com", "aiplatform.googleapis.com"]},
           {"method": "storage.buckets.get", "times": 99, "status": "PERMISSION_DENIED",
            "message": "no"})
    with pytest.raises(Needed) as caught:
        preflight.require(cloud)
    printed = capsys.readouterr().out
    lines, _, details = printed.partition("\n\n")
    assert lines.count("BLOCK ") == 4 and len(lines.splitlines()) == len(preflight.CHECKS) + 2
    assert details.count("BLOCK ") == details.count("needed: ") == details.count("command: ") == 4
    assert caught.value.cause.startswith("4 blockers: ")
    for part in ("roles/bigquery.jobUser", "roles/aiplatform.user", "another project",
                 "gcloud services enable aiplatform.googleapis.com storage.googleapis.com "
                 "--project local-demo"):
        error = caught.value
        assert part in printed and part in error.cause + error.need + error.command


def test_missing_permissions_are_grouped_by_the_smallest_role(cloud, refuse):
    refuse({"missing_permissions": [
        "bigquery.jobs.create", "bigquery.datasets.create", "artifactregistry.repositories.get",
        "aiplatform.endpoints.deploy", "aiplatform.featureViews.sync"]})
    blockers = found(cloud, "permissions")
    assert {f.need: f.found for f in blockers} == {
        "roles/aiplatform.user on project local-demo":
            "missing aiplatform.endpoints.deploy, aiplatform.featureViews.sync",
        "roles/bigquery.user on project local-demo":
            "missing bigquery.datasets.create, bigquery.jobs.create",
        "roles/artifactregistry.reader on project local-demo":
            "missing artifactregistry.repositories.get"}
    assert all(f.command.endswith("--role " + f.need.split()[0]) for f in blockers)
    assert all("--member user:YOU@EXAMPLE.COM" in f.command for f in blockers)


def test_what_only_teardown_needs_can_wait_unless_it_is_billed(cloud, refuse):
    refuse({"missing_permissions": ["storage.buckets.delete"]})
    (finding,) = found(cloud, "permissions")
    assert finding.level == "warning" and finding.found == "missing storage.buckets.delete"
    assert finding.need == "nothing for the run; for lib.operate.teardown roles/storage.admin"
    assert finding.command.endswith("--role roles/storage.admin")
    refuse({"missing_permissions": ["aiplatform.featureOnlineStores.delete"]})
    assert "blocker" in {f.level for f in found(cloud, "permissions")}


def test_an_owner_gets_the_objects_with_the_bucket(cloud, refuse):
    """Basic roles have no storage.objects.* on the project, and all on each bucket made in it."""
    objects = {p.name for p in permissions.PERMISSIONS if p.name.startswith("storage.objects.")}
    refuse({"missing_permissions": sorted(objects)})
    (finding,) = found(cloud, "permissions")
    assert finding.level == "warning" and all(name in finding.found for name in objects)
    assert "they get them on a bucket that they create" in finding.need
    assert finding.command == ("gcloud projects add-iam-policy-binding local-demo "
                               "--member user:YOU@EXAMPLE.COM --role roles/storage.objectUser")
    refuse({"missing_permissions": ["storage.buckets.create"]})  # who cannot create one gets none
    (finding,) = found(cloud, "permissions")
    assert finding.level == "blocker" and finding.need.startswith("roles/storage.admin ")


class Counted(clouds.AnonymousCredentials):
    """Credentials whose calls are billed to a project."""

    quota_project_id = "local-demo"


def test_a_quota_project_needs_one_more_permission(cloud, refuse):
    refuse({"missing_permissions": ["serviceusage.services.use"]})
    assert [f.level for f in found(cloud, "permissions")] == ["ok"]
    (finding,) = found(dataclasses.replace(cloud, credentials=Counted()), "permissions")
    assert (finding.level, finding.found) == ("blocker", "missing serviceusage.services.use")
    assert finding.command.endswith("--role roles/serviceusage.serviceUsageConsumer")


@pytest.mark.parametrize(("message", "reason", "command"), [
    ("Caller does not have required permission to use project local-demo. Grant the caller the "
     "roles/serviceusage.serviceUsageConsumer role, or a custom role with the "
     "serviceusage.services.use permission.", "USER_PROJECT_DENIED",
     "gcloud projects add-iam-policy-binding local-demo --member user:YOU@EXAMPLE.COM "
     "--role roles/serviceusage.serviceUsageConsumer"),
    ("Your application is authenticating by using local Application Default Credentials. The "
     "cloudresourcemanager.googleapis.com API requires a quota project, which is not set by "
     "default.", "SERVICE_DISABLED",
     "gcloud auth application-default set-quota-project local-demo")])
def test_a_quota_project_that_is_refused_ends_the_checks(cloud, refuse, message, reason, command):
    """Every other call would end in the same error."""
    refuse({"method": "cloudresourcemanager.projects.get", "times": 9,
            "status": "PERMISSION_DENIED", "message": message, "reason": reason})
    credentials, project = preflight.check(cloud)
    assert (credentials.level, project.level) == ("ok", "blocker")
    assert project.command == command


class Credentials(SimpleNamespace):
    """Credentials that are valid after a refresh, or raise `error` in it."""

    valid, error = False, None

    def refresh(self, _request):
        self.valid = True
        if self.error:
            raise self.error


@pytest.mark.parametrize(("fields", "who"), [
    ({"service_account_email": "robot@p.iam.gserviceaccount.com"},
     "serviceAccount:robot@p.iam.gserviceaccount.com"),
    ({"service_account_email": "default"}, "user:YOU@EXAMPLE.COM"),
    ({"account": "ann@example.com"}, "user:ann@example.com"), ({"account": ""}, UNKNOWN)])
def test_the_commands_name_the_account_of_the_credentials(cloud, fields, who):
    own = dataclasses.replace(cloud, credentials=Credentials(**fields))
    assert member(own) == who
    (finding,) = found(own, "credentials")
    assert finding.level == "ok"
    assert who == UNKNOWN or who in finding.found


def test_expired_credentials_end_the_checks(cloud):
    old = Credentials(error=RefreshError("Reauthentication is needed."))
    (finding,) = preflight.check(dataclasses.replace(cloud, credentials=old))
    assert (finding.name, finding.level) == ("credentials", "blocker")
    assert "Reauthentication" in finding.found
    assert finding.command == "gcloud auth application-default login"


def test_without_credentials_the_command_says_how_to_get_them(monkeypatch, capsys):
    def none(*_):
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(clouds, "connect", none)
    assert preflight.main(["--target", "local"]) == 1
    assert "gcloud auth application-default login" in capsys.readouterr().err


def test_what_exists_changes_what_is_needed(cloud, refuse):
    refuse({"missing_permissions": ["bigquery.datasets.create", "storage.buckets.create"]})
    assert [f.level for f in found(cloud, "permissions")] == ["blocker", "blocker"]
    own = with_data(cloud, "exists")
    # The copies that the checks make are datasets too.
    assert [f.found for f in found(own, "permissions")] == ["missing bigquery.datasets.create"]
    own = with_target(own, planted_faults=False, freshness=False)
    assert [f.level for f in found(own, "permissions")] == ["ok"]
    folder = changed(own, source=str(ROOT))  # a folder is loaded into another dataset
    assert [f.level for f in found(folder, "permissions")] == ["blocker"]
    own.bigquery.query(f"create table `{own.settings.dataset}.t` as select 1 as x").result()
    own.bigquery.test_iam_permissions = lambda table, names: {}
    refuse({"missing_permissions": ["bigquery.tables.create"]})
    (finding,) = found(own, "permissions")
    assert finding.need == "roles/bigquery.dataEditor on project local-demo"


def test_what_the_bucket_or_a_table_grants_is_not_missing(cloud, refuse):
    own = with_data(cloud, "granted")
    own.bigquery.query(f"create table `{own.settings.dataset}.t` as select 1 as x").result()
    # The emulator has no tables.testIamPermissions.
    own.bigquery.test_iam_permissions = lambda table, names: {"permissions": names}
    refuse({"missing_permissions": ["storage.objects.get", "bigquery.tables.getData",
                                    "bigquery.tables.updateData", "bigquery.tables.create"]})
    assert [f.level for f in found(own, "permissions")] == ["ok"]


def test_what_a_bucket_does_not_grant_must_be_granted_on_it(cloud, refuse):
    own = with_data(cloud, "denied")
    refuse({"missing_permissions": ["storage.objects.get", "storage.buckets.get"]},
           {"method": "storage.buckets.testIamPermissions", "times": 9,
            "status": "PERMISSION_DENIED"})
    reader, user = sorted(found(own, "permissions"), key=lambda f: f.need)
    assert reader.need == "roles/storage.legacyBucketReader on gs://x-churn-dev-denied"
    assert user.command == (
        "gcloud storage buckets add-iam-policy-binding gs://x-churn-dev-denied "
        "--member user:YOU@EXAMPLE.COM --role roles/storage.objectUser")


def test_the_creator_of_an_empty_dataset_may_fill_it(cloud, refuse):
    """It has no table whose permissions could be tested; its creator owns it."""
    own = with_data(cloud, "empty")
    refuse({"missing_permissions": ["bigquery.tables.create", "bigquery.tables.getData"]})
    (finding,) = found(own, "permissions")
    assert finding.level == "warning" and "for the account that created the dataset" in finding.need
    assert "bigquery.tables.create, bigquery.tables.getData" in finding.found
    refuse({"method": "bigquery.tables.list", "times": 9, "status": "PERMISSION_DENIED"})
    (finding,) = found(own, "permissions")  # who may not list its tables has not created it
    assert finding.level == "blocker" and finding.need.startswith("roles/bigquery.dataEditor")


def test_an_account_that_may_fill_a_dataset_may_not_own_it(cloud, refuse):
    """Get and list are tried; only its creator or a data owner may delete it."""
    own = with_data(cloud, "filled")
    own.bigquery.query(f"create table `{own.settings.dataset}.t` as select 1 as x").result()
    own.bigquery.test_iam_permissions = lambda table, names: {"permissions": names}
    refuse({"missing_permissions": ["bigquery.datasets.get", "bigquery.tables.list",
                                    "bigquery.datasets.delete"]})
    (finding,) = found(own, "permissions")
    assert finding.level == "warning" and finding.found.endswith(": bigquery.datasets.delete")
    assert finding.need.endswith("for others roles/bigquery.dataOwner")


def test_a_view_of_its_own_needs_one_more_permission(cloud, refuse):
    refuse({"missing_permissions": ["bigquery.datasets.update"]})
    own = with_data(cloud, "ownview")
    assert [f.level for f in found(own, "permissions")] == ["ok"]
    (finding,) = found(changed(own, feature_view={"service_agent": "view"}), "permissions")
    assert finding.level == "warning"
    assert finding.command.endswith("--role roles/bigquery.dataOwner")


def test_a_permission_that_google_does_not_know_hides_no_other(cloud, refuse):
    refuse({"missing_permissions": ["aiplatform.models.upload"]})
    ask = cloud.projects.test_iam_permissions

    def strict(resource, permissions):
        if "bigquery.readsessions.getData" in permissions:
            raise BadRequest("Permission bigquery.readsessions.getData is not valid")
        return ask(resource=resource, permissions=permissions)

    cloud.projects.test_iam_permissions = strict
    blocker, warning = found(cloud, "permissions")
    assert blocker.found == "missing aiplatform.models.upload"
    assert warning.level == "warning" and warning.need.endswith("roles/bigquery.readSessionUser")
    assert "bigquery.readsessions.getData" in warning.found


def test_a_project_that_does_not_exist(cloud):
    (finding,) = found(with_target(cloud, project="someone-else"), "project")
    assert (finding.level, finding.command) == ("blocker", "gcloud projects list")
    assert "someone-else does not exist" in finding.found


@pytest.mark.parametrize(("api", "checks"), [
    ("cloudresourcemanager.googleapis.com", ("project", "permissions")),
    ("serviceusage.googleapis.com", ("APIs",))])
def test_a_disabled_api_is_named_where_a_check_needs_it(cloud, refuse, api, checks):
    refuse({"disabled_apis": [api]})
    for name in checks:
        (finding,) = found(cloud, name)
        assert (finding.level, finding.found) == (
            "blocker", f"cannot be checked: {api} is not enabled")
        assert finding.command == f"gcloud services enable {api} --project local-demo"


def test_a_disabled_storage_api_is_not_taken_for_a_foreign_bucket(cloud, refuse):
    refuse({"method": "storage.buckets.get", "times": 9, "status": "PERMISSION_DENIED",
            "reason": "accessNotConfigured", "message": "Cloud Storage JSON API has not been used "
            "in project 1 before or it is disabled. Enable it by visiting https://console."
            "developers.google.com/apis/api/storage.googleapis.com/overview?project=1"})
    (finding,) = found(cloud, "bucket")
    assert finding.command == "gcloud services enable storage.googleapis.com --project local-demo"
    assert [f.level for f in found(cloud, "permissions")] == ["ok"]
    refuse({"missing_permissions": ["storage.buckets.create"]})  # it may have to be created
    assert [f.level for f in found(cloud, "permissions")] == ["blocker"]


def test_a_bucket_that_we_may_not_see_is_not_to_be_created(cloud, refuse):
    refuse({"missing_permissions": ["storage.buckets.create"]},
           {"method": "storage.buckets.get", "times": 9, "status": "PERMISSION_DENIED"})
    assert [f.level for f in found(cloud, "permissions")] == ["ok"]
    (finding,) = found(cloud, "bucket")
    assert finding.level == "blocker" and "another project" in finding.found


def test_a_region_without_the_feature_store_names_the_nearest(cloud):
    with pytest.raises(config.ConfigError, match="nearest region that has it is asia-northeast1"):
        config.load(target="local", overrides={"targets": {"local": {
            "region": "asia-northeast3", "location": "asia-northeast3"}}})
    assert [f.level for f in found(cloud, "region")] == ["ok"]


def test_resources_in_another_location(cloud):
    own = changed(cloud, names={"bucket": "x-churn-dev-eu"})
    own.storage.create_bucket("x-churn-dev-eu", location="EU")
    (finding,) = found(own, "bucket")
    assert finding.level == "blocker" and "exists in EU, not in us-central1" in finding.found
    # All datasets of the emulator are in US: so config.yaml asks for another location.
    warehouse.create_dataset(cloud)
    (finding,) = found(with_target(cloud, location="EU"), "dataset")
    assert finding.level == "blocker" and "exists in US, not in EU" in finding.found
    assert finding.command == "bq rm -r -d local-demo:churn_dev"
    cloud.bigquery.delete_dataset(cloud.settings.dataset)
    (finding,) = found(with_target(cloud, location="EU"), "source")
    assert finding.level == "blocker" and "cannot query across locations" in finding.found


def test_a_source_that_we_may_not_read(cloud, refuse):
    refuse({"method": "bigquery.tabledata.list", "times": 9, "status": "PERMISSION_DENIED",
            "message": "Access Denied: Permission bigquery.tables.getData denied on table orders"})
    (finding,) = found(cloud, "source")
    assert finding.level == "blocker" and "bigquery.tables.getData" in finding.found


def test_a_folder_as_source_needs_nothing_of_bigquery_before_the_run(cloud, tmp_path):
    own = changed(cloud, source=str(write_csv(tmp_path)))
    assert {f.level for f in preflight.check(own)} == {"ok"}
    (finding,) = found(own, "source")
    assert finding.found.endswith(
        "users 2, orders 2, order_items 3, products 3 rows; orders from 2022-08-01 to 2023-02-01")
    (finding,) = found(changed(cloud, source=str(tmp_path / "gone")), "source")
    assert finding.level == "blocker" and "there is no folder" in finding.found
    (finding,) = found(with_target(own, billed=True), "cost")
    assert finding.level == "ok" and "without a charge" in finding.found


def test_an_export_that_cannot_be_used_is_a_blocker(cloud, tmp_path):
    write_csv(tmp_path, products=["id,category", "ten,Jeans"])
    (tmp_path / "orders.csv").rename(tmp_path / "order.csv")
    (tmp_path / "users.csv").write_text("version https://git-lfs.github.com/spec/v1\n")
    (finding,) = found(changed(cloud, source=str(tmp_path)), "source")
    assert finding.level == "blocker"
    for part in ("3 problems", "is order.csv meant?", "users.csv cannot be read: it is a Git LFS",
                 "column id: INT64 expected, but data row 1 has 'ten'"):
        assert part in finding.found
    assert finding.need.startswith("a folder with one file each for users, orders")


@pytest.mark.parametrize(("millions", "percent", "level", "help_"), [
    (1, 100, "ok", ""),
    (2, 100, "warning", "sample_percent: 92,"),      # 2 + 16 GB of 21: (0.8 x 21 - 2) / 16
    (5, 100, "warning", "sample_percent: 37,"),      # 2 + 40 GB: DuckDB goes on from disk
    (5, 30, "ok", ""),                               # 2 + 12 GB
    (100_000, 100, "warning", "a machine with")])    # no percent is small enough
def test_what_the_data_need_of_this_machine_is_said_early(
    cloud, monkeypatch, tmp_path, millions, percent, level, help_
):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 21_000, "SC_PAGE_SIZE": 10**6}.get)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**18))
    monkeypatch.setattr(preflight_machine, "MEMORY", 2.0)
    monkeypatch.setattr(preflight_machine, "MEMORY_OF_MILLION", 8.0)
    monkeypatch.setattr(preflight_machine, "customers", lambda _: millions * 10**6)
    own = changed(dataclasses.replace(cloud, data_folder=tmp_path),
                  snapshots={"sample_percent": percent, "history_days": 360, "step_days": 7})
    memory, disk = found(own, "machine")
    assert (memory.level, disk.level) == (level, "ok")
    assert help_ in memory.need and "21.0 GB" in memory.found


@pytest.mark.parametrize(("limits", "found_gb"), [
    (["3000000000\n"], 3), (["max\n"], 21), ([], 21), ([None, "3000000000\n"], 3),
    ([None, "9223372036854771712\n"], 21)])  # v2, v1, and each without a limit
def test_the_memory_is_that_of_the_container(cloud, monkeypatch, tmp_path, limits, found_gb):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 21_000, "SC_PAGE_SIZE": 10**6}.get)
    files = [tmp_path / "v2", tmp_path / "v1"]
    for file, text in zip(files, limits, strict=False):
        if text:
            file.write_text(text)
    monkeypatch.setattr(preflight_machine, "LIMITS", files)
    (memory,) = found(cloud, "machine")
    assert f"there are {found_gb}.0 GB" in memory.found


def test_a_disk_that_is_too_small_is_found_and_on_google_only_the_memory_counts(
    cloud, monkeypatch, tmp_path
):
    there = dataclasses.replace(cloud, data_folder=tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9 // 2))
    _, disk = found(there, "machine")
    assert disk.level == "blocker" and "GB of disk" in disk.found  # with 1,000 customers
    (memory,) = found(cloud, "machine")  # no data folder, as on Google
    assert "memory" in memory.found
    _, disk = found(changed(there, source=str(write_csv(tmp_path))), "machine")
    assert "needs about 0.5 GB of disk" in disk.found


def test_the_customers_of_an_export_are_counted_without_reading_it(tmp_path):
    assert source.count_customers(tmp_path) == 0
    write_csv(tmp_path)
    assert source.count_customers(tmp_path) == 2
    (tmp_path / "users.csv").unlink()
    frame = pd.DataFrame({"order_id": [1, 2, 3]})
    (tmp_path / "orders.csv").unlink()
    frame.to_parquet(tmp_path / "orders.parquet")
    assert source.count_customers(tmp_path) == 3


def test_a_quota_that_would_be_exceeded_is_found_before_the_run(cloud, emulator):
    east = with_target(cloud, region="us-east1")
    bigtable = {"bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}
    for number in range(preflight_resources.STORES):
        east.online_admin.create_feature_online_store(
            parent=east.parent, feature_online_store_id=f"other{number}",
            feature_online_store=bigtable).result()
        if number in (preflight_resources.STORES - 4, preflight_resources.STORES - 2):
            expected = "ok" if number == preflight_resources.STORES - 4 else "warning"
            assert [f.level for f in found(east, "quotas")] == [expected, "ok"]
    stores, views = found(east, "quotas")
    assert stores.level == "blocker" and "10 of 10 online stores" in stores.found
    assert views.level == "ok"
    names = {"online_store": "other3"}  # ours exists: no other is created
    assert [f.level for f in found(changed(east, names=names), "quotas")] == ["warning", "ok"]


@pytest.mark.parametrize(("ours", "others", "level"), [
    ([], 24, "ok"), ([], 25, "warning"), ([], 28, "warning"), ([], 29, "blocker"),
    (["churn_dev_customer_view"], 28, "warning"), (["churn_dev_customer_view"], 29, "blocker"),
    (["churn_dev_customer_view", "churn_dev_customer_view_freshness"], 28, "warning"),
    # Google gave a larger quota: nothing is to be created, so nothing is blocked.
    (["churn_dev_customer_view", "churn_dev_customer_view_freshness"], 40, "warning")])
def test_views_count_with_the_copy_that_a_run_creates(cloud, ours, others, level):
    parent = "projects/1/locations/us-central1/featureOnlineStores/churn_dev_store"
    views = [SimpleNamespace(name=f"{parent}/featureViews/{view}")
             for view in [*ours, *(f"other{n}" for n in range(others))]]
    cloud.__dict__["online_admin"] = SimpleNamespace(
        list_feature_online_stores=lambda parent: [SimpleNamespace(name="x/churn_dev_store")],
        list_feature_views=lambda parent: views)
    assert found(cloud, "quotas")[1].level == level


def test_without_copies_a_run_creates_one_view(cloud):
    (_, views) = found(with_target(cloud, planted_faults=False, freshness=False), "quotas")
    assert "1 more to be created" in views.found
    (_, views) = found(with_target(cloud, planted_faults=True, freshness=False), "quotas")
    assert "2 more to be created" in views.found


def test_a_view_with_an_account_of_its_own_takes_time(cloud):
    finding, _ = found(changed(cloud, feature_view={"service_agent": "view"}), "service agent")
    assert finding.level == "warning" and "2 to 10 minutes" in finding.found


@pytest.fixture
def pinned(cloud, emulator, tmp_path, monkeypatch):
    """Images are wanted by digest: the cloud, how to put images into the registry, its parent."""
    monkeypatch.setattr(images, "LOCK", tmp_path / "lock.json")
    monkeypatch.setattr(images, "source_refused", lambda: None)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"credHelpers": {"us-central1-docker.pkg.dev": "gcloud"}}')
    registry = emulator[2] / "artifactregistry.json"
    yield (with_target(cloud, pinned_images=True, billed=True),
           lambda *names: registry.write_text(json.dumps(names)),
           "projects/local-demo/locations/us-central1/repositories/churn-dev")
    registry.unlink(missing_ok=True)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Only these commands exist on the PATH: name -> its exit status."""
    def only(**commands):
        folder = tmp_path / f"tools{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, status in commands.items():
            (folder / name).write_text(f"#!/bin/sh\nexit {status}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def test_images_are_looked_for_by_digest(pinned, tools):
    cloud, put, parent = pinned
    tools(docker=0)
    finding, _ = found(cloud, "images")
    assert finding.level == "blocker"
    assert finding.command == (
        "gcloud artifacts repositories create churn-dev --repository-format docker "
        "--location us-central1 --project local-demo")
    put(parent)
    (finding,) = found(cloud, "images")
    assert finding.level == "warning" and finding.need.endswith("of the run, by docker")
    tools(docker=1)
    (finding,) = found(cloud, "images")
    assert finding.level == "blocker"
    assert finding.command == "scripts/build_push_all.sh --target local --env dev"
    digests = {name: "sha256:" + "1" * 64 for name in images.names()}
    images.LOCK.write_text(json.dumps({cloud.settings.serve.image_repository: digests}))
    (finding,) = found(cloud, "images")  # pinned, but not in the registry
    assert finding.level == "blocker" and "serving" in finding.found
    put(parent, *(f"{parent}/dockerImages/{name}@{digest}" for name, digest in digests.items()))
    assert [f.found for f in found(cloud, "images")] == [
        "all 4 in us-central1-docker.pkg.dev/local-demo/churn-dev, by digest"]


def test_where_docker_does_not_answer_cloud_build_is_checked(pinned, tools, refuse):
    cloud, put, parent = pinned
    put(parent)
    refuse({"missing_permissions": ["cloudbuild.builds.create"]},
           {"disabled_apis": ["cloudbuild.googleapis.com"]})
    tools(docker=0, gcloud=0)
    assert [found(cloud, name)[0].level for name in ("APIs", "permissions")] == ["ok", "ok"]
    tools(docker=1, gcloud=0)
    ((api,), (right,)) = [found(cloud, name) for name in ("APIs", "permissions")]
    assert api.command == "gcloud services enable cloudbuild.googleapis.com --project local-demo"
    assert right.command.endswith("--role roles/cloudbuild.builds.editor")
    build, *of_accounts = found(cloud, "images")
    assert build.level == "warning" and build.need.endswith("by Cloud Build")
    assert build.command.endswith("--env dev --cloud-build")
    assert [f.level for f in of_accounts] == ["ok", "ok"]
    digests = dict.fromkeys(images.names(), "sha256:" + "1" * 64)
    images.LOCK.write_text(json.dumps({cloud.settings.serve.image_repository: digests}))
    # Nothing is left to build.
    assert [found(cloud, name)[0].level for name in ("APIs", "permissions")] == ["ok", "ok"]


def test_a_build_that_would_fail_late_is_reported_early(pinned, tools, monkeypatch):
    cloud, put, _ = pinned
    tools(docker=0)
    monkeypatch.setattr(images, "source_refused", lambda: Needed(
        "uncommitted changes: M lib/serving/Dockerfile", "a commit, or --allow-dirty for an image",
        "git commit"))
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    repository, _, dirty, login = found(cloud, "images")  # also without a repository
    assert repository.command.startswith("gcloud artifacts repositories create")
    assert dirty.level == "blocker" and "lib/serving/Dockerfile" in dirty.found
    assert dirty.command == ("git commit; or scripts/build_push_all.sh --target local --env dev "
                             "--allow-dirty")
    assert (login.level, login.command) == (
        "warning", "gcloud auth configure-docker us-central1-docker.pkg.dev")


def test_another_registry_than_googles_is_not_checked(pinned):
    cloud, *_ = pinned
    cloud = changed(cloud, serve={"image_repository": "localhost:5000/churn"})
    digests = {name: "sha256:" + "1" * 64 for name in images.names()}
    images.LOCK.write_text(json.dumps({"localhost:5000/churn": digests}))
    (finding,) = found(cloud, "images")
    assert finding.level == "warning" and "not in Artifact Registry" in finding.found


def test_a_damaged_lock_is_a_finding(pinned):
    cloud, put, parent = pinned
    put(parent)
    images.LOCK.write_text("<<<<")
    (finding,) = found(cloud, "images")
    assert finding.command == "git checkout -- lib/images.lock.json"


def test_the_cost_of_the_snapshot_is_given_in_bytes_and_dollars(pinned, monkeypatch, refuse):
    cloud, *_ = pinned
    assert "scans 0.00 GB" in found(cloud, "cost")[0].found  # dry runs of the emulator: 0
    monkeypatch.setattr(warehouse, "estimate", lambda cloud, query: 2 * 10**9)
    (finding,) = found(cloud, "cost")
    assert "scans 10.00 GB" in finding.found and "$0.0568" in finding.found
    assert f"price of {preflight_resources.PRICE_READ}" in finding.found
    assert "1 Bigtable node, 1 n1-standard-2" in finding.found
    monkeypatch.undo()
    refuse({"method": "bigquery.jobs.insert", "times": 9, "status": "PERMISSION_DENIED",
            "message": "Access Denied: Permission bigquery.jobs.create denied"})
    assert [f.level for f in found(cloud, "cost")] == ["blocker"]


def test_the_price_was_read_when_config_yaml_says_so():
    line = next(line for line in (ROOT / "config.yaml").read_text().splitlines()
                if "usd_per_tib_scanned:" in line)
    assert f"read {preflight_resources.PRICE_READ}" in line


def test_a_check_that_cannot_be_made_is_a_finding(cloud):
    def denied(**_):
        raise Forbidden("Permission 'aiplatform.featureOnlineStores.list' denied")

    cloud.__dict__["online_admin"] = SimpleNamespace(list_feature_online_stores=denied)
    (finding,) = found(cloud, "quotas")
    assert finding.level == "blocker" and "featureOnlineStores.list" in finding.found
    assert len(preflight.check(cloud)) > 8


def test_a_bug_in_one_check_stops_neither_the_others_nor_a_run(cloud, monkeypatch):
    def broken(_cloud):
        raise ValueError("not enough values to unpack")

    monkeypatch.setitem(preflight.CHECKS, "images", broken)
    findings = preflight.check(cloud)
    assert [f.level for f in findings if f.name == "images"] == ["warning"]
    assert len(findings) == len(preflight.CHECKS) + 1  # quotas has two
    assert preflight.require(cloud).figures["warnings"] == 1


@pytest.mark.parametrize(("verb", "path", "body", "status", "says"), [
    ("GET", "/v3/projects/local-demo?bogus=1", None, 400, "bogus"),
    ("GET", "/v3/projects/local-demo", "{}", 200, "local-demo"),
    ("GET", "/v3/projects/100000000001", None, 200, "local-demo"),
    ("GET", "/v3/projects/another", None, 403, "PERMISSION_DENIED"),
    ("POST", "/v3/projects/local-demo:testIamPermissions", "{bad", 400, "Invalid JSON"),
    ("POST", "/v3/projects/local-demo:testIamPermissions", "[1]", 400, "object"),
    ("POST", "/v3/projects/local-demo:testIamPermissions", '{"nope": 1}', 400, "nope"),
    ("POST", "/v3/projects/local-demo:testIamPermissions", '{"permissions": ["a.*"]}', 400,
     "wildcards"),
    ("GET", "/v1/projects/local-demo/services:batchGet", None, 400, "names"),
    ("GET", "/v1/projects/local-demo/services:batchGet?names=projects/x/services/y", None, 400,
     "projects/x/services/y"),
    ("GET", "/v1/projects/local-demo/locations/us/repositories/r", None, 404, "NOT_FOUND"),
    ("GET", "/v1/projects/local-demo/locations/us/repositories/r/dockerImages/a@sha256:1", None,
     404, "NOT_FOUND"),
    ("GET", "/v1/projects/another/locations/us/repositories/r", None, 403, "PERMISSION_DENIED"),
    ("POST", "/v1/projects/local-demo/serviceAccounts", '{"accountId": "short"}', 400,
     "6 to 30 characters"),
    ("POST", "/v1/projects/local-demo/serviceAccounts", '{"accountId": "two-of-it"}', 200,
     "two-of-it@local-demo.iam.gserviceaccount.com"),
    ("POST", "/v1/projects/local-demo/serviceAccounts", '{"accountId": "two-of-it"}', 409,
     "ALREADY_EXISTS"),
    ("GET", "/v1/projects/local-demo/serviceAccounts/no@local-demo.iam.gserviceaccount.com", None,
     404, "NOT_FOUND"),
    ("POST", "/v3/projects/local-demo:setIamPolicy", '{"policy": {"bindings": [{"role": "r", '
     '"members": ["serviceAccount:no@local-demo.iam.gserviceaccount.com"]}]}}', 400,
     "does not exist"),
    ("POST", "/v3/projects/local-demo:setIamPolicy", '{"policy": {"etag": "AAAA"}}', 409,
     "ABORTED")])
def test_the_stand_in_keeps_googles_rules(emulator, verb, path, body, status, says):
    answer = requests.request(verb, emulator[1]["platform"] + path, data=body, timeout=10)
    assert answer.status_code == status and says in answer.text


def test_it_is_a_command_with_a_status(emulator, refuse, cloud, tmp_path):
    def command(*arguments, **variables):
        return forked.run("lib.operate.preflight", *arguments, **{
            "LOCALCLOUD_STATE": str(emulator[2]), config.SETTINGS_VARIABLE: json.dumps(SMALL),
            **variables})

    (tmp_path / "bad.yaml").write_text("app: 1")
    assert command("--target", "aws").returncode == 2
    assert command(CHURN_DEMO_CONFIG=str(tmp_path / "bad.yaml")).returncode == 2
    good = command()
    assert good.returncode == 0 and "0 blockers" in good.stdout
    refuse({"disabled_apis": ["storage.googleapis.com"]})
    stopped = command()
    assert stopped.returncode == 1
    assert re.search(r"^BLOCK APIs: +not enabled: storage.googleapis.com$", stopped.stdout, re.M)
    assert "Traceback" not in stopped.stdout + stopped.stderr


def test_the_table_is_printed_without_a_connection(monkeypatch, capsys):
    monkeypatch.setattr(clouds, "connect", None)
    assert preflight.main(["--permissions"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == permissions.permission_table()
    assert "| prediction | `aiplatform.endpoints.predict` | `roles/aiplatform.user` |" in printed


# -- other accounts -------------------------------------------------------------------------------

RUNNER = "churn-dev-runner@local-demo.iam.gserviceaccount.com"


@pytest.fixture
def without_roles(cloud):
    """without_roles(text): accounts whose e-mail has this text lose all roles, until the end."""
    name, before = f"projects/{cloud.settings.project}", accounts.policy(cloud)

    def take(text):
        policy = accounts.policy(cloud)
        for binding in policy.bindings:
            for named in [m for m in binding.members if text in m]:
                binding.members.remove(named)
        cloud.projects.set_iam_policy(request={"resource": name, "policy": policy})

    yield take
    before.etag = b""
    cloud.projects.set_iam_policy(request={"resource": name, "policy": before})


@pytest.mark.parametrize(("email", "project"), [
    ("trainer@other-project-7.iam.gserviceaccount.com", "other-project-7"),
    ("7-compute@developer.gserviceaccount.com", "local-demo")])
def test_an_account_of_another_project_is_looked_up_there(cloud, email, project):
    asked = []

    def iam(method, path, body=None):
        asked.append(path)
        return {"permissions": ["iam.serviceAccounts.actAs"]}

    own = SimpleNamespace(
        settings=changed(cloud, train={"service_account": email}).settings, iam=iam)
    assert service_account.find(own) and service_account.may_act_as(own)
    name = f"projects/{project}/serviceAccounts/{email}"
    assert asked == [name, f"{name}:testIamPermissions"]


def test_training_and_serving_run_as_an_account_that_one_command_makes(
        cloud, refuse, without_roles):
    own = with_target(cloud, own_account=True)
    command = ".venv/bin/python -m lib.operate.service_account --target local --env dev"
    (finding,) = found(own, "service account")
    assert (finding.level, finding.command) == ("blocker", command)
    assert f"{RUNNER}, as which training and serving run, does not exist" in finding.found

    made = service_account.make(own)
    assert (made.status, made.resource) == ("created", RUNNER)
    assert [f.level for f in found(own, "service account")] == ["ok"]
    assert service_account.make(own).figures == {"new roles": "none"}
    without_roles("runner")
    (finding,) = found(own, "service account")
    assert (finding.level, finding.command) == ("blocker", command)
    assert finding.need == ", ".join(service_account.ROLES) + " for it"
    assert service_account.make(own).status == "reused"
    assert accounts.roles(own)[RUNNER] == set(service_account.ROLES)

    refuse({"missing_permissions": ["iam.serviceAccounts.actAs"]})
    assert [f.level for f in found(own, "permissions")] == ["ok"]  # the account may grant it
    finding, _ = found(own, "service account")
    assert (finding.level, finding.command) == (
        "blocker", f"gcloud iam service-accounts add-iam-policy-binding {RUNNER} --member "
        "user:YOU@EXAMPLE.COM --role roles/iam.serviceAccountUser --project local-demo")

    service_account.delete(own, RUNNER)
    assert service_account.find(own) is None and RUNNER not in accounts.roles(own)


def test_the_weekly_refresh_runs_only_as_an_account_that_may_write_the_tables(cloud):
    """That of training, with two roles more; the second may be granted on the dataset alone."""
    own = with_target(cloud, own_account=True)

    def refused(action=schedule.create):
        with pytest.raises(Needed) as error:
            action(own)
        assert schedule.find(own) == []
        assert own.storage.lookup_bucket(own.settings.names.bucket) is None
        return error.value.command.split()

    grant = "gcloud projects add-iam-policy-binding local-demo " \
        f"--member serviceAccount:{RUNNER} --role "
    queries, writes = "roles/bigquery.jobUser", "roles/bigquery.dataEditor"
    both = f"{grant}{queries} && {grant}{writes}".split()
    assert refused() == [*own.settings.command(service_account.MODULE).split(), *both]
    service_account.make(own)
    assert refused() == refused(schedule.run) == both
    policy = accounts.policy(own)
    policy.bindings.add(role=queries, members=[f"serviceAccount:{RUNNER}"])
    own.projects.set_iam_policy(request={"resource": "projects/local-demo", "policy": policy})
    assert refused() == f"{grant}{writes}".split()
    warehouse.create_dataset(own)
    dataset = own.bigquery.get_dataset(own.settings.dataset)
    dataset.access_entries = [AccessEntry("WRITER", "userByEmail", RUNNER)]
    own.bigquery.update_dataset(dataset, ["access_entries"])
    schedule.create(own)
    assert teardown.run(own, delete=True) == 0


def test_an_account_of_its_name_that_we_did_not_make_is_left_alone(cloud):
    own = with_target(cloud, own_account=True)
    own.iam("POST", "projects/local-demo/serviceAccounts", {"accountId": "churn-dev-runner"})
    (listed,) = inventory.KINDS["service account"].list(own)
    assert (listed.name, listed.not_ours) == (RUNNER, "its description does not say so")
    service_account.delete(own, RUNNER)
    assert list(inventory.KINDS["service account"].list(own)) == []


def test_two_who_change_the_policy_at_once_lose_nothing(cloud, monkeypatch):
    own = with_target(cloud, own_account=True)
    write, tried = own.projects.set_iam_policy, []

    def second(request):
        if not tried:  # somebody else is quicker
            tried.append(request)
            other = accounts.policy(own)
            other.bindings.add(role="roles/viewer", members=["user:ann@example.com"])
            write(request={"resource": request["resource"], "policy": other})
        return write(request=request)

    monkeypatch.setattr(own.projects, "set_iam_policy", second)
    service_account.make(own)
    assert tried and accounts.roles(own)[RUNNER] == set(service_account.ROLES)
    assert "roles/viewer" in {binding.role for binding in accounts.policy(own).bindings}
    service_account.delete(own, RUNNER)


def test_who_may_not_make_the_account_is_told_who_may(cloud, refuse, monkeypatch, capsys):
    refuse({"missing_permissions": ["iam.serviceAccounts.create"]})
    own = with_target(cloud, own_account=True)
    monkeypatch.setattr(service_account, "connected", lambda _: contextlib.nullcontext(own))
    assert service_account.main(["--target", "local", "--env", "dev"]) == 1
    message = capsys.readouterr().err
    for part in ("iam.serviceAccounts.create", "roles/iam.serviceAccountCreator",
                 "roles/resourcemanager.projectIamAdmin", "let an owner run this command"):
        assert part in message


def test_googles_own_accounts_are_checked_before_a_run(pinned, tools, without_roles):
    """With `own_account: false`, and those of Vertex AI and Cloud Build in any case."""
    cloud, put, parent = pinned
    put(parent)
    tools(docker=1, gcloud=0)
    number = cloud.project_number
    checks = ("service agent", "service account", "images")
    assert {f.level for f in found(cloud, "service account")} == {"ok"}
    job = changed(cloud, train={"runner": "custom_job"})
    without_roles("@")
    agent, training, (_, cloud_build, builder), custom = [
        *(found(cloud, name)[0] if name != "images" else found(cloud, name) for name in checks),
        found(job, "service account")[0]]
    grant = "gcloud projects add-iam-policy-binding local-demo --member serviceAccount:"
    create = "gcloud beta services identity create --service"
    assert agent.command == (
        f"{create} aiplatform.googleapis.com --project local-demo && {grant}service-{number}"
        "@gcp-sa-aiplatform.iam.gserviceaccount.com --role roles/aiplatform.serviceAgent")
    assert cloud_build.command.startswith(f"{create} cloudbuild.googleapis.com")
    compute = f"{number}-compute@developer.gserviceaccount.com"
    enable = "gcloud services enable compute.googleapis.com --project local-demo && "
    assert builder.command == (
        f"{enable}{grant}{compute} --role roles/cloudbuild.builds.builder")
    assert training.command.startswith(f"{enable}{grant}{compute} --role ")
    assert all(role in training.command for role in service_account.ROLES)
    assert f"{number}@gcp-sa-aiplatform-cc.iam" in custom.found  # a CustomJob's real default
    assert {f.level for f in (agent, training, cloud_build, builder, custom)} == {"blocker"}


def test_who_may_not_read_the_policy_is_warned(pinned, tools, refuse):
    cloud, put, parent = pinned
    put(parent)
    tools(docker=1, gcloud=0)
    refuse({"missing_permissions": ["resourcemanager.projects.getIamPolicy"]})
    every = [f for name in ("permissions", "service agent", "service account", "images")
             for f in found(cloud, name)]
    assert {f.level for f in every} == {"ok", "warning"}
    assert sum("resourcemanager.projects.getIamPolicy" in f.found for f in every) == 4


def test_the_requests_for_the_account_fit_googles_descriptions(cloud, emulator):
    own, admin = with_target(cloud, own_account=True), emulator[1]["admin"]
    requests.delete(admin + "/admin/requests", timeout=10).raise_for_status()
    service_account.make(own)
    assert service_account.may_act_as(own)
    service_account.delete(own, RUNNER)
    sent = requests.get(admin + "/admin/requests", timeout=10).json()
    assert {"iam.projects.serviceAccounts.create", "iam.projects.serviceAccounts.get",
            "iam.projects.serviceAccounts.testIamPermissions",
            "iam.projects.serviceAccounts.delete", "cloudresourcemanager.projects.getIamPolicy",
            "cloudresourcemanager.projects.setIamPolicy"} == {r["method"] for r in sent}
    assert [problem for r in sent for problem in schema.problems(
        r["verb"], r["path"], r["query"], r["body"], r["service"])] == []
