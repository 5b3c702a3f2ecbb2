"""The rules of the local cloud's ledger as requests: what does a cloud answer to each?

Every request goes through Google's own clients, so the same probes run on Google and on the local
cloud. A probe asks for one thing and notes facts of the answer: status, kind of error, fields; not
its words. conformance.py runs them, compares and records.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2

from lib import cloud as clouds
from lib import feature_store, model_registry, waiting, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, TIMESTAMP
from lib.errors import Needed
from lib.training import inputs, jobs

MONEY = "money"  # a NUMERIC column: no feature may have this type
MISSING = "missing"  # nothing of this name is ever made
CUSTOMERS = ("1", "2")
SPEC = {  # a pipeline of one task that sleeps; Google needs minutes to start it
    "schemaVersion": "2.1.0", "sdkVersion": "kfp-2.17.0", "pipelineInfo": {"name": "conformance"},
    "root": {"inputDefinitions": {"parameters": {"seconds": {"parameterType": "STRING"}}},
             "dag": {"tasks": {"sleep": {
                 "taskInfo": {"name": "sleep"}, "componentRef": {"name": "comp-sleep"},
                 "inputs": {"parameters": {
                     "seconds": {"componentInputParameter": "seconds"}}}}}}},
    "components": {"comp-sleep": {
        "executorLabel": "exec-sleep",
        "inputDefinitions": {"parameters": {"seconds": {"parameterType": "STRING"}}}}},
}


@dataclass(frozen=True)
class Fact:
    """What a cloud answered to the probe of one rule.

    observed: the facts. expected: those that the ledger expects; None: it says nothing.
    mark: of an answer of the local cloud, see `lib.cloud.local_mark`.
    """

    rule: str
    method: str
    observed: dict[str, Any]
    expected: dict[str, Any] | None
    mark: str = ""

    @property
    def verdict(self) -> str:
        """confirmed, refuted, or new if the ledger says nothing about it."""
        if self.expected is None:
            return "new"
        same = all(self.observed.get(key) == value for key, value in self.expected.items())
        return "confirmed" if same else "refuted"


@dataclass
class Asked:
    """The facts of one run of probes, and what each part could not ask.

    last: the newest answer. minutes: of steps of config.yaml's plan.
    """

    cloud: Cloud
    facts: list[Fact] = field(default_factory=list)
    minutes: dict[str, float] = field(default_factory=dict)
    last: requests.Response | None = None

    def refused(
        self, rule: str, method: str, call: Callable[[], Any],
        undo: Callable[[Any], Any] | None = None,
    ) -> None:
        """Ask for what `rule` says is refused; undo: called with the answer if it is accepted.
        What `undo` cannot delete is left to the teardown at the end."""
        status, kind = re.match(r"(\d+) ?(\w*)", clouds.rules()[rule].status).groups()
        expected = {"http": int(status), "error": kind} if kind else {"http": int(status)}
        self.last, answer = None, None
        try:
            answer = call()
        except GoogleAPICallError as error:
            observed = {"http": int(error.code or 0), "error": _kind(self.last)}
        else:
            observed = {"http": 200, "error": ""}
        mark = clouds.local_mark(self.last) if self.last is not None else ""
        self.facts.append(Fact(rule, method, observed, expected, mark))
        if answer is not None and undo:
            with suppress(GoogleAPICallError):
                undo(answer)

    def answered(self, rule: str, method: str, expected: dict | None, **observed: object) -> None:
        """Note facts of an answer; `expected` None: nobody knows, see Fact."""
        mark = clouds.local_mark(self.last) if self.last is not None else ""
        self.facts.append(Fact(rule, method, observed, expected, mark))

    def timed(self, step: str, work: Callable[[Cloud], Any]) -> Any:
        """Do a step of the plan; if it was not there already, its minutes are noted."""
        began = datetime.now(UTC)
        outcome = work(self.cloud)
        if outcome.status != "reused":
            seconds = (datetime.now(UTC) - began).total_seconds()
            self.minutes[step] = round(seconds / 60, 2)
        return outcome


def _kind(response: requests.Response | None) -> str:
    """The kind of an error: google.rpc.Code of Vertex AI, the reason of the older APIs."""
    try:
        error = response.json()["error"]
        return error.get("status") or error["errors"][0]["reason"]
    except (AttributeError, ValueError, KeyError, IndexError, TypeError):
        return ""


# -- cheap: minutes, and near nothing ------------------------------------------------------------


def data(asked: Asked) -> None:
    """A dataset with a table of two customers, and a bucket; preconditions of Cloud Storage."""
    cloud = asked.cloud
    warehouse.create_dataset(cloud)
    warehouse.load_table(cloud, cloud.settings.table("features"), *_rows(cloud))
    blob = inputs.make_bucket(cloud).blob("probe.txt")
    blob.upload_from_string("first")
    old = blob.generation
    asked.refused("storage.precondition", "storage.objects.insert",
                  lambda: blob.upload_from_string("no", if_generation_match=0))
    asked.refused("storage.not-modified", "storage.objects.get",
                  lambda: blob.reload(if_generation_not_match=old))
    blob.upload_from_string("second")
    asked.refused("storage.old-generation", "storage.objects.get",
                  lambda: blob.bucket.blob(blob.name, generation=old).reload())


def _rows(cloud: Cloud) -> tuple[pa.Table, dict[str, str]]:
    """Two rows of each customer, a week apart; in the newer one every nullable feature is null."""
    settings, rows = cloud.settings, []
    for customer in CUSTOMERS:
        for week, day in enumerate((1, 8)):
            row = {ENTITY: int(customer), TIMESTAMP: datetime(2024, 1, day, tzinfo=UTC), MONEY: 1}
            for feature in settings.features:
                empty = feature.nullable and week
                value = int if feature.type == "INT64" else float
                row[feature.name] = None if empty else value(week + 1)
            rows.append(row)
    schema = {ENTITY: "INT64", TIMESTAMP: "TIMESTAMP", MONEY: "NUMERIC",
              **{feature.name: feature.type for feature in settings.features}}
    types = {"INT64": pa.int64(), "FLOAT64": pa.float64(), "NUMERIC": pa.decimal128(38, 9),
             "TIMESTAMP": pa.timestamp("us", tz="UTC")}
    return pa.Table.from_pylist(
        rows, schema=pa.schema([(name, types[kind]) for name, kind in schema.items()])), schema


def statements(asked: Asked) -> None:
    """A dry run, which is free, of the statements that read theLook."""
    cloud = asked.cloud
    if cloud.settings.source_is_folder:
        return
    found = warehouse.render("01_prepare_bq", cloud.settings)
    for statement in found:
        warehouse.estimate(cloud, statement)
    asked.answered("conformance.sql", "bigquery.jobs.insert", None, accepted=len(found))


def registry(asked: Asked) -> None:
    """Feature group and features: what is refused, and what is answered."""
    cloud = asked.cloud
    client, settings = cloud.registry, cloud.settings
    name, group_id = feature_store.group_name(cloud), settings.names.feature_group

    def create(group_id: str = group_id, labels: dict | None = None, **changes: object) -> Any:
        group = feature_store.group_message(cloud)
        uri = changes.pop("uri", None)
        if uri is not None:
            group.big_query.big_query_source.input_uri = uri
        for key, value in changes.items():
            setattr(group.big_query, key, value)
        group.labels.update(labels or {})
        return client.create_feature_group(
            parent=cloud.parent, feature_group_id=group_id, feature_group=group)

    def remove(operation: Any) -> None:
        client.delete_feature_group(name=operation.result().name, force=True).result()

    series = vertex.FeatureGroup.BigQuery.TimeSeries
    for rule, wrong in (
        ("registry.id", {"group_id": "1-Upper"}),
        ("registry.source-exists", {"uri": f"bq://{settings.dataset}.{MISSING}"}),
        ("registry.source-uri", {"uri": settings.table("features")}),
        ("registry.entity-columns", {"entity_id_columns": [MISSING]}),
        ("registry.timestamp-column", {"time_series": series(timestamp_column=MISSING)}),
        ("registry.static-or-series", {"static_data_source": True}),
        ("every.labels", {"labels": {"Upper": "x"}}),
    ):
        asked.refused(rule, "CreateFeatureGroup", lambda wrong=wrong: create(**wrong), remove)
    asked.timed("feature group", feature_store.create_group)
    asked.refused("every.already-exists", "CreateFeatureGroup", create)
    found = client.get_feature_group(name=name)
    asked.answered("every.project-number", "GetFeatureGroup", {"number": True},
                   number=found.name.split("/")[1].isdecimal())
    asked.answered("registry.description", "GetFeatureGroup", {"description": False},
                   description=bool(found.description))
    asked.refused("every.page-token", "ListFeatureGroups",
                  lambda: list(client.list_feature_groups(
                      request={"parent": cloud.parent, "page_token": "x"})))
    ours = f'labels.app="{settings.app}"'
    asked.answered("every.list-filter", "ListFeatureGroups", {"found": True},
                   found=found.name in [g.name for g in client.list_feature_groups(
                       request={"parent": cloud.parent, "filter": ours})])

    def feature(column: str, feature_id: str = "probe") -> Any:
        return client.create_feature(parent=name, feature_id=feature_id,
                                     feature={"version_column_name": column})

    asked.refused("registry.feature-column", "CreateFeature", lambda: feature(MISSING))
    asked.refused("registry.feature-not-entity", "CreateFeature", lambda: feature(ENTITY))
    asked.refused("registry.feature-type", "CreateFeature", lambda: feature(MONEY))
    first = settings.features[0].name
    with suppress(GoogleAPICallError):
        client.batch_create_features(parent=name, requests=[
            {"parent": name, "feature_id": first, "feature": {"version_column_name": first}},
            {"parent": name, "feature_id": MISSING, "feature": {}}]).result()
    made = len(list(client.list_features(parent=name)))
    asked.answered("registry.batch-atomic", "BatchCreateFeatures", {"made": 0}, made=made)
    asked.timed("features", feature_store.register_features)
    asked.refused("registry.delete-group", "DeleteFeatureGroup",
                  lambda: client.delete_feature_group(name=name))
    operation = client.create_feature(parent=name, feature_id="probe", feature={
        "version_column_name": first, "description": "d"})
    made = waiting.operation(settings, "a feature", operation)
    asked.answered("every.stub", "CreateFeature", {"fields": ["name"]},
                   fields=[key.name for key, _ in vertex.Feature.pb(made).ListFields()])
    operation = client.delete_feature(name=f"{name}/features/probe")
    asked.answered("every.delete-operation", "DeleteFeature",
                   {"below": "location", "done": True}, done=operation.operation.done,
                   below="location" if operation.operation.name.count("/") == 5 else "resource")
    waiting.operation(settings, "deleting a feature", operation)
    asked.refused("every.not-found", "GetFeature",
                  lambda: client.get_feature(name=f"{name}/features/probe"))


def models(asked: Asked) -> None:
    """Uploads and versions of a model; nothing runs."""
    cloud = asked.cloud
    client, settings = cloud.models, cloud.settings

    def upload(model_id: str = "", parent_model: str = "", **model: object) -> Any:
        model = {"display_name": settings.names.model, "labels": settings.labels,
                 "container_spec": {"image_uri": settings.conformance.model_image}} | model
        return client.upload_model(request={
            "parent": cloud.parent, "model": model, "model_id": model_id,
            "parent_model": parent_model})

    for rule, wrong in (
        ("models.id", {"model_id": "1Upper"}),
        ("models.image", {"container_spec": None}),
        ("models.alias", {"version_aliases": ["2"]}),
        ("every.display-name", {"display_name": "x" * 129}),
    ):
        asked.refused(rule, "UploadModel", lambda wrong=wrong: upload(**wrong),
                      lambda operation: operation.result())  # then teardown finds it
    done = waiting.operation(settings, "model", upload())
    found = client.get_model(name=done.model)
    asked.answered("models.default-alias", "UploadModel", {"aliases": ["default"]},
                   aliases=list(found.version_aliases))
    asked.refused("models.delete-version", "DeleteModelVersion",
                  lambda: client.delete_model_version(name=f"{done.model}@1"))
    second = waiting.operation(settings, "version", upload(
        parent_model=done.model, version_aliases=["candidate"]))
    asked.answered("models.version-number", "UploadModel", {"version": "2"},
                   version=second.model_version_id)
    asked.refused("models.delete-by-number", "DeleteModelVersion",
                  lambda: client.delete_model_version(name=f"{done.model}@candidate"))
    asked.refused("models.names", "GetModel", lambda: client.get_model(name=f"{done.model}@9"))


def pipelines(asked: Asked) -> None:
    """A pipeline job is created and cancelled before its task runs; no machine is needed."""
    cloud = asked.cloud
    client, settings = cloud.pipeline_jobs, cloud.settings

    def create(job_id: str = "", root: str | None = None, **given: object) -> Any:
        spec = {**SPEC, **given.pop("spec", {}), "deploymentSpec": {"executors": {"exec-sleep": {
            "container": {"image": f"{settings.serve.image_repository}/data_load:probe",
                          "command": ["sh", "-c", "sleep 600"]}}}}}
        runtime = {"parameter_values": {"seconds": "600"}} | given
        runtime["gcs_output_directory"] = (
            f"gs://{settings.names.bucket}/probes" if root is None else root)
        return client.create_pipeline_job(
            parent=cloud.parent, pipeline_job_id=job_id, pipeline_job={
                "display_name": jobs.display_name(settings), "labels": settings.labels,
                "pipeline_spec": spec, "runtime_config": runtime})

    def cancel(job: Any) -> None:
        client.cancel_pipeline_job(name=job.name)

    for rule, wrong in (
        ("pipelines.id", {"job_id": "1Upper"}),
        ("pipelines.root", {"root": ""}),
        ("every.gs-uri", {"root": "/probes"}),
        ("pipelines.parameters", {"parameter_values": {"seconds": "1", MISSING: "x"}}),
        ("pipelines.spec", {"spec": {"components": {}}}),
    ):
        asked.refused(rule, "CreatePipelineJob", lambda wrong=wrong: create(**wrong), cancel)
    job = create()
    created = vertex.PipelineJob.pb(job)
    asked.answered(
        "pipelines.new-job", "CreatePipelineJob",
        {"state": "PIPELINE_STATE_PENDING", "service account": True, "job detail": True,
         "billing label": True}, state=job.state.name,
        **{"service account": bool(job.service_account),
           "job detail": created.HasField("job_detail"),
           "billing label": "vertex-ai-pipelines-run-billing-id" in job.labels})
    asked.refused("jobs.ended", "DeletePipelineJob",
                  lambda: client.delete_pipeline_job(name=job.name))
    cancel(job)
    ended = waiting.until(
        settings, "cancelling the job", lambda: client.get_pipeline_job(name=job.name),
        lambda found: jobs.state(found) in jobs.ENDED, settings.waits.operation_seconds,
        jobs.state)
    asked.answered("jobs.cancel-running", "CancelPipelineJob",
                   {"state": "PIPELINE_STATE_CANCELLED"}, state=ended.state.name)
    asked.answered("conformance.error-of-a-cancelled-job", "CancelPipelineJob", None,
                   code=ended.error.code)


def stores(asked: Asked) -> None:
    """Refusals of online stores and endpoints: nothing is made."""
    cloud = asked.cloud

    def store(store_id: str = MISSING, **scaling: int) -> Any:
        wanted = {"min_node_count": 1, "max_node_count": 1} | scaling
        return cloud.online_admin.create_feature_online_store(
            parent=cloud.parent, feature_online_store_id=store_id, feature_online_store={
                "labels": cloud.settings.labels, "bigtable": {"auto_scaling": wanted}})

    def endpoint(endpoint_id: str = "", **given: object) -> Any:
        return cloud.endpoints.create_endpoint(request={
            "parent": cloud.parent, "endpoint_id": endpoint_id, "endpoint": {
                "display_name": cloud.settings.names.endpoint, "labels": cloud.settings.labels,
                **given}})

    def remove(operation: Any) -> None:
        cloud.online_admin.delete_feature_online_store(name=operation.result().name).result()

    asked.refused("online.id", "CreateFeatureOnlineStore", lambda: store("1-Upper"), remove)
    asked.refused("online.autoscaling", "CreateFeatureOnlineStore",
                  lambda: store(min_node_count=2, max_node_count=1), remove)
    asked.refused("endpoints.id", "CreateEndpoint", lambda: endpoint("1_Upper"),
                  lambda operation: operation.result())  # then teardown finds it
    asked.refused("endpoints.starts-empty", "CreateEndpoint",
                  lambda: endpoint(traffic_split={"1": 100}),
                  lambda operation: operation.result())


# -- full: the store's node is billed by the hour --------------------------------------------------


def serving(asked: Asked) -> None:
    """Online store, view, sync and fetch."""
    cloud = asked.cloud
    admin, settings, name = cloud.online_admin, cloud.settings, feature_store.view_name(cloud)
    parent = feature_store.store_name(cloud)
    asked.timed("online store", feature_store.create_online_store)

    def view(**changes: object) -> Any:
        wanted = feature_store.view_message(cloud)
        for key, value in changes.items():
            setattr(wanted, key, value)
        return admin.create_feature_view(
            parent=parent, feature_view_id=MISSING, feature_view=wanted)

    def remove(operation: Any) -> None:
        admin.delete_feature_view(name=operation.result().name).result()

    source = vertex.FeatureView.FeatureRegistrySource
    other = source(feature_groups=[source.FeatureGroup(
        feature_group_id=MISSING, feature_ids=[MISSING])])
    for rule, wrong in (
        ("online.cron", {"sync_config": {"cron": "hourly"}}),
        ("online.dense-scheduled", {"sync_config": None}),
        ("online.view-source", {"feature_registry_source": None}),
        ("online.view-source-exists", {"feature_registry_source": other}),
    ):
        asked.refused(rule, "CreateFeatureView", lambda wrong=wrong: view(**wrong), remove)
    asked.timed("feature view", feature_store.create_view)
    asked.refused("online.delete-store", "DeleteFeatureOnlineStore",
                  lambda: admin.delete_feature_online_store(name=parent))

    def update(path: str, **fields: object) -> Any:
        return admin.update_feature_view(
            feature_view={"name": name, **fields},
            update_mask=field_mask_pb2.FieldMask(paths=[path]))

    asked.refused("every.etag", "UpdateFeatureView",
                  lambda: update("labels", labels=settings.labels, etag="old"))
    asked.refused("every.update-mask", "UpdateFeatureView", lambda: update("create_time"))

    def fetch(**key: object) -> Any:
        return cloud.online.fetch_feature_values(
            request={"feature_view": name, "data_key": key or None}, retry=None)

    asked.refused("sync.never-synced", "FetchFeatureValues", lambda: fetch(key=CUSTOMERS[0]))
    asked.timed("sync", feature_store.sync)
    asked.refused("sync.entity-missing", "FetchFeatureValues", lambda: fetch(key=MISSING))
    asked.refused("sync.no-key", "FetchFeatureValues", fetch)
    asked.refused("sync.composite-key", "FetchFeatureValues",
                  lambda: fetch(composite_key={"parts": [CUSTOMERS[0], MISSING]}))
    reply = fetch(key=CUSTOMERS[0]).key_values.features
    served = {pair.name: pair.value.int64_value for pair in reply}
    whole = next(f.name for f in settings.features if f.type == "INT64" and not f.nullable)
    asked.answered("sync.sparse-or-dense", "FetchFeatureValues", {"newest": True},
                   newest=served[whole] == 2)
    nullable = next(f.name for f in settings.features if f.nullable)
    asked.answered("sync.null", "FetchFeatureValues", {"left out": True},
                   **{"left out": nullable not in served})
    asked.answered("sync.timestamps", "FetchFeatureValues", {"among features": True},
                   **{"among features": TIMESTAMP in served})


def endpoint(asked: Asked) -> None:
    """An endpoint without a model, which costs nothing: what deploying and predicting refuse."""
    from lib import endpoint as endpoints

    cloud = asked.cloud
    name = asked.timed("endpoint", endpoints.create).resource
    model = model_registry.find(cloud)
    if model is None:
        raise Needed("there is no model to deploy", "the part models, asked without a problem")
    resources = {"machine_spec": {"machine_type": cloud.settings.serve.machine_type},
                 "min_replica_count": 1}

    def deploy(model_name: str = model.name, split: int = 100, **deployed: object) -> Any:
        return cloud.endpoints.deploy_model(
            endpoint=name, traffic_split={"0": split},
            deployed_model={"model": model_name, **deployed})

    asked.refused("endpoints.resources", "DeployModel", deploy)
    asked.refused("endpoints.traffic-split", "DeployModel",
                  lambda: deploy(split=50, dedicated_resources=resources))
    asked.refused("endpoints.model-missing", "DeployModel", lambda: deploy(
        f"{cloud.parent}/models/{MISSING}", dedicated_resources=resources))
    asked.refused("endpoints.no-traffic", "Predict", lambda: cloud.predictions.predict(
        endpoint=name, instances=[{}]))


CHEAP = {"data": data, "statements": statements, "registry": registry, "models": models,
         "pipelines": pipelines, "stores": stores}
LANES = {"cheap": CHEAP, "full": CHEAP | {"serving": serving, "endpoint": endpoint}}
