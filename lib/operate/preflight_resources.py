"""Checks of preflight: region, dataset, source, bucket, quotas, and what a run costs."""

from collections.abc import Iterator

import sqlglot
from google.api_core import exceptions as google_errors
from sqlglot import exp

from lib import warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, TIMESTAMP, Settings
from lib.errors import Needed, wrong_location
from lib.operate import finding
from lib.operate.finding import Finding
from lib.proof import freshness, planted
from lib.source import describe, read_export

STORES, VIEWS = 10, 30  # quotas of a project and region: Google's "Agent Platform quotas" page
NEAR = 0.9  # of a quota: from here on there is a warning
PRICE_READ = "2026-09-28"  # when costs.usd_per_tib_scanned of config.yaml was read
# The files that compute every feature: for each snapshot, and for one customer at one time.
FEATURE_FILES = ("02_build_features", "request_time_features")


def region(cloud: Cloud) -> Iterator[Finding]:
    """Only says where: config.load refuses a region without the Feature Store, and a location
    that does not contain the region."""
    settings = cloud.settings
    yield Finding("ok", f"{settings.region} offers the Feature Store, and is in "
                  f"{settings.target_settings.location}")


def find_bucket(cloud: Cloud):
    """The app's bucket (storage.Bucket); None if it does not exist."""
    return cloud.storage.lookup_bucket(cloud.settings.names.bucket)


def dataset(cloud: Cloud) -> Iterator[Finding]:
    """The app's dataset does not exist, or exists in the right location."""
    yield _place("dataset", cloud.settings.dataset, warehouse.find_dataset(cloud),
                 cloud.settings.target_settings.location)


def bucket(cloud: Cloud) -> Iterator[Finding]:
    """The app's bucket does not exist, or is ours and in the right location."""
    name = f"gs://{cloud.settings.names.bucket}"
    try:
        yield _place("bucket", name, find_bucket(cloud), cloud.settings.region)
    except google_errors.Forbidden as error:
        if finding.disabled_api(error) or finding.about_quota_project(error):
            raise
        yield Finding(
            "blocker", f"{name} exists, and we may not see it: it may belong to another project, "
            "since names are unique in the world",
            "another names.bucket in config.yaml; or, if it is yours, access to it",
            finding.grant_on_bucket(cloud, "roles/storage.legacyBucketReader"))


def _place(kind: str, name: str, found, wanted: str) -> Finding:
    if found is not None and found.location.upper() != wanted.upper():
        error = wrong_location(kind, name, found.location, wanted)
        return Finding("blocker", error.cause, error.need, error.command)
    return Finding("ok", f"{name} {'exists' if found else 'will be created'} in {wanted}")


def source(cloud: Cloud) -> Iterator[Finding]:
    """A row can be read, and the source is in the location of our tables; an export's files,
    columns, types and keys are right (all of it is read, which takes seconds)."""
    settings = cloud.settings
    if settings.source_is_folder:
        if settings.source_folder.exists():
            tables = read_export(settings.source_folder)  # SourceError: preflight reports it
            yield Finding("ok", f"a folder: {settings.source}: {describe(tables)}")
        else:
            yield Finding("blocker", f"there is no folder {settings.source_folder}",
                          "a folder with orders there, or another `source`",
                          "edit config.yaml")
        return
    orders = cloud.bigquery.get_table(f"{settings.source_dataset}.orders")
    list(cloud.bigquery.list_rows(orders, max_results=1))
    location = orders.location or cloud.bigquery.get_dataset(settings.source_dataset).location
    wanted = settings.target_settings.location
    if location.upper() == wanted.upper():
        yield Finding("ok", f"{settings.source} can be read, in {location}")
        return
    yield Finding(
        "blocker", f"{settings.source} is in {location}, and our tables are to be in {wanted}: "
        "BigQuery cannot query across locations",
        f"targets.{settings.target}.location: {location}, and a region inside it",
        "edit config.yaml")


def quotas(cloud: Cloud) -> Iterator[Finding]:
    """There is room for the online store and the views that the run will create."""
    names, target = cloud.settings.names, cloud.settings.target_settings
    stores = list(cloud.online_admin.list_feature_online_stores(parent=cloud.parent))
    views = [v for store in stores
             for v in cloud.online_admin.list_feature_views(parent=store.name)]
    # Without the project, which Google gives by its number: store, "featureViews", view.
    existing = {tuple(v.name.split("/")[-3:]) for v in views}
    wanted = {names.feature_view}
    if target.planted_faults or target.freshness:
        # Copies are created one at a time: one view beside the run's own.
        wanted.add(planted.beside(cloud, freshness.NAME).settings.names.feature_view)
    new_views = sum((names.online_store, "featureViews", view) not in existing for view in wanted)
    new_stores = int(names.online_store not in {s.name.rsplit("/", 1)[1] for s in stores})
    yield _room(cloud, "online stores", len(stores), new_stores, STORES)
    yield _room(cloud, "feature views", len(views), new_views, VIEWS)


def _room(cloud: Cloud, kind: str, count: int, new: int, limit: int) -> Finding:
    """Is there room for `new` more beside `count`?"""
    settings = cloud.settings
    found = f"{count} of {limit} {kind} exist in {settings.region}, {new} more to be created"
    page = f"https://console.cloud.google.com/iam-admin/quotas?project={settings.project}"
    if new and count + new > limit:
        need = f"room for {new} more: delete one, or ask for more quota"
        return Finding("blocker", found, need, page)
    if count + new >= NEAR * limit:
        return Finding("warning", found, "nothing yet: the limit is near", page)
    return Finding("ok", found)


def features(cloud: Cloud) -> Iterator[Finding]:
    """config.yaml and sql/ name the same features."""
    problems = missing_features(cloud.settings)
    for problem in problems:
        yield Finding("blocker", problem.cause, problem.need, problem.command)
    if not problems:
        yield Finding("ok", f"{len(cloud.settings.features)}, the same in config.yaml and sql/")


def _selected(sql: str) -> list[str]:
    """The names of the columns that a query, or `create table ... as` a query, results in."""
    statement = sqlglot.parse_one(sql, read="bigquery")
    query = statement.expression if isinstance(statement, exp.Create) else statement
    return query.named_selects


def missing_features(settings: Settings) -> list[Needed]:
    """Every disagreement between the list and a file: what is missing where, and what to write.
    Empty if they agree.

    Raises:
        sqlglot.errors.ParseError: a file is not BigQuery SQL.
    """
    found = []
    for file in FEATURE_FILES:
        path = f"sql/{file}.sql"
        (statement,) = warehouse.render(file, settings)
        columns = [name for name in _selected(statement) if name not in (ENTITY, TIMESTAMP)]
        found += [Needed(
            f"feature {name} is in config.yaml, but {path} does not select it",
            f"a line `... as {name},` in the last select of {path}, or no {name} under "
            "features in config.yaml", f"edit {path}")
            for name in settings.feature_names if name not in columns]
        found += [Needed(
            f"{path} selects {name}, which is not a feature in config.yaml",
            f"a line `- {{name: {name}, type: ..., unit: ..., description: ...}}` under features "
            f"in config.yaml, or no {name} in the last select of {path}", "edit config.yaml")
            for name in columns if name not in settings.feature_names]
    return found


def cost(cloud: Cloud) -> Iterator[Finding]:
    """What sql/01 would scan, by a dry run of its queries without the table that they create."""
    settings = cloud.settings
    scans = "a folder is loaded without a charge"
    if not settings.source_is_folder:  # a folder is loaded in the run: there is no table yet
        queries = map(warehouse.select_in, warehouse.render("01_prepare_bq", settings))
        scanned = sum(warehouse.estimate(cloud, query) for query in queries)
        scans = (f"sql/01 scans {scanned / 1e9:.2f} GB of the source, at most "
                 f"${warehouse.dollars(settings, scanned):.4f} "
                 f"(${settings.costs.usd_per_tib_scanned}/TiB, price of {PRICE_READ}; the first "
                 "TiB a month is free)")
    if not settings.target_settings.billed:
        yield Finding("ok", "nothing is billed here")
        return
    yield Finding(
        "ok", f"{scans}; by the hour until deleted: {settings.online_store.min_node_count} "
        f"Bigtable node, {settings.serve.min_replica_count} {settings.serve.machine_type}")
