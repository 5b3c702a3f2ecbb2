"""Each way in which the stand-in may answer, through Google's own clients and as plain JSON.

The whole walk under these answers: tests/test_strange_answers.py.
"""

import contextlib

import pytest
import requests
from google.api_core import exceptions as errors
from google.cloud import aiplatform_v1
from google.protobuf.unknown_fields import UnknownFieldSet

from lib.localcloud import ledger
from lib.localcloud.__main__ import main
from lib.localcloud.vertex import app
from lib.localcloud.vertex.base import listing
from lib.localcloud.vertex.base.answering import NEW_LABEL, PATIENCE, open_statuses
from lib.localcloud.vertex.base.answers import POINTS, Answers
from tests.localcloud.conftest import PROJECT

NUMBER, LOCATION = str(app.PROJECT_NUMBER), f"projects/{app.PROJECT_NUMBER}/locations/here"
MODEL = {"display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}
NO_CHOICE = {  # unverified rules that are no choice point: why none is needed
    "every.image-missing": "the walk stops with the text of the operation or task",
    "registry.batch-atomic": "register_features goes by the list, whatever the batch has made",
    "registry.group-in-use": "a walk deletes a view before its group",
    "sync.ties": "features_customer has one row for a customer and a time",
    "sync.several-groups": "the view has one group",
    "models.default-alias": "an upload sets its aliases, `default` among them",
    "models.version-number": "a walk deletes no version",
    "endpoints.unhealthy": "the walk stops with the text of the operation",
    "pipelines.artifact-path": "addresses of artifacts are read from the job",
    "pipelines.bucket": "the walk makes the bucket first",
    "pipelines.missing-output": "the components write all their outputs",
    "pipelines.missing-input": "the pipeline gives all inputs",
    "pipelines.command-lines": "the components read numbers in any form of JSON",
    "pipelines.not-triggered": "a task that is not listed counts as one that has not run",
    "pipelines.errors": "the walk stops with the text of the job",
    "jobs.cancel-pending": "teardown waits for any state that is an end",
    "jobs.timeout": "the walk sets no timeout",
    "jobs.exit-status": "the walk stops with the text of the job",
    "platform.project-name": "preflight reads the project alone",
    "platform.enabled": "preflight asks for APIs that exist",
    "fresh.apis": "preflight lists what is not enabled, whichever that is",
    "fresh.no-agent": "any step may be told so, and says that it takes some minutes",
    "registry.feature-type": "all features have types that are accepted",
    "every.not-found": "only the wording is open", "every.busy": "it is the point `busy`",
}
BIGTABLE = {"bigtable": {"auto_scaling": {"min_node_count": 1, "max_node_count": 1}}}


def test_usual_takes_the_first_way_and_strange_none_of_them_but_where_a_walk_would_end():
    usual, strange = Answers("usual"), Answers("strange")
    for name, point in POINTS.items():
        assert {usual.take(name, "x") for _ in range(9)} == {point.ways[0]}, name
        taken = [strange.take(name, "x") for _ in range(9)]
        if point.ends:
            assert set(taken) == {point.ways[0]}, name
        elif point.rare:
            assert taken[0] in point.ways[1:] and set(taken[1:]) == {point.ways[0]}, name
        else:
            assert set(taken) <= set(point.ways[1:]), name


def test_a_seed_always_chooses_the_same_and_another_seed_something_else():
    def taken(seed):
        answers = Answers(f"random:{seed}")
        return [answers.take(name, about) for name in POINTS for about in "xyz" for _ in range(9)]

    assert taken(1) == taken(1) != taken(2)
    for name, point in POINTS.items():
        seen = {Answers(f"random:{seed}").take(name, "x") for seed in range(400)}
        assert seen == set(point.ways), name


def test_what_one_call_is_asked_does_not_change_the_choices_of_another():
    alone, between = Answers("random:3"), Answers("random:3")
    expected = [alone.take("operation_polls", "CreateModel") for _ in range(20)]
    found = []
    for _ in range(20):
        between.take("operation_polls", "CreateEndpoint")
        found.append(between.take("operation_polls", "CreateModel"))
    assert found == expected and len(set(expected)) > 1


def test_every_unverified_rule_has_a_choice_or_says_why_none_is_needed():
    pointed = {rule for point in POINTS.values() for rule in point.rules}
    rules = ledger.load().rules
    assert pointed | set(NO_CHOICE) <= set(rules)
    unverified = {r.id for r in rules.values() if r.area not in ("storage", "bigquery")
                  and (r.level == "unverified" or r.open) and r.open != "wording"}
    other_status = {r.id for r in rules.values() if r.status[:3].isdigit()
                    and (r.raises or r.id in open_statuses())}  # or the status of that other rule
    assert unverified - pointed - other_status - set(NO_CHOICE) == set()
    assert set(NO_CHOICE) - unverified == set()


def test_a_refusal_of_an_unverified_status_may_have_another(answering):
    vertex = answering("refusal=another status")
    refused = requests.post(f"{vertex.url}/v1/{LOCATION}/models:upload",
                            json={"model": {"displayName": "m"}}).json()["error"]
    assert (refused["status"], "image_uri is required" in refused["message"]) == (
        "FAILED_PRECONDITION", True)


@pytest.mark.parametrize("given", ["odd", "random", "random:x", "usual:1", "usual,pages=two",
                                   "usual,none=one"])
def test_other_words_are_refused_by_the_command(given, capsys):
    with pytest.raises(SystemExit) as caught:
        main_with("start", "--answers", given)
    assert caught.value.code == 2 and given in capsys.readouterr().err


def main_with(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["localcloud", *arguments])
        return main()


@pytest.fixture
def answering(start_vertex, tmp_path):
    """answering("pages=one") -> a stand-in with that choice."""
    with contextlib.ExitStack() as running:
        yield lambda choice: running.enter_context(
            start_vertex(tmp_path, answers=f"usual,{choice}"))


def endpoints(vertex, count):
    return [vertex.endpoints.create_endpoint(
        parent=LOCATION, endpoint={"display_name": f"e{n}", "labels": {"n": str(n)}},
        endpoint_id=f"e{n}").result() for n in range(count)]


def get(vertex, name):
    return requests.get(f"{vertex.url}/v1/{name}").json()


def listed(vertex):
    return [e.display_name for e in vertex.endpoints.list_endpoints(parent=LOCATION)]


@pytest.mark.parametrize(("choice", "holds"), [
    ("unknown_fields=some", lambda made: "newerThanThePackage" in made),
    ("project=id", lambda made: made["name"] == f"projects/{PROJECT}/locations/here/endpoints/e0"),
    ("defaults=sent", lambda made: made["description"] == "" and made["deployedModels"] == []),
    ("defaults=null", lambda made: made["description"] is None and made["trafficSplit"] is None),
    ("labels=more", lambda made: made["labels"] == {"n": "0", **NEW_LABEL})])
def test_a_resource_in_each_form_is_read_alike(answering, choice, holds):
    vertex = answering(choice)
    (made,) = endpoints(vertex, 1)
    assert holds(get(vertex, made.name))
    read = vertex.endpoints.get_endpoint(name=made.name)
    assert (read.display_name, read.description, read.labels["n"]) == ("e0", "", "0")
    assert listed(vertex) == ["e0"]


def test_lists_in_another_order_and_in_pages_of_one(answering):
    vertex = answering("order=reversed,pages=one")
    endpoints(vertex, 3)
    assert listed(vertex) == ["e2", "e1", "e0"]
    page = requests.get(f"{vertex.url}/v1/{LOCATION}/endpoints?pageSize=2").json()
    assert len(page["endpoints"]) == 1 and page["nextPageToken"]


def test_a_list_of_more_than_one_largest_page_is_complete(answering, monkeypatch):
    monkeypatch.setattr(listing, "MAX_PAGE", 2)
    vertex = answering("order=reversed")
    endpoints(vertex, 5)
    assert sorted(listed(vertex)) == ["e0", "e1", "e2", "e3", "e4"]


@pytest.mark.parametrize("polls", [0, 1, 3])
def test_an_operation_ends_at_the_poll_that_was_chosen(answering, polls):
    vertex = answering(f"operation_polls={polls}")
    made = requests.post(f"{vertex.url}/v1/{LOCATION}/endpoints", json={"displayName": "e"}).json()
    seen = [made, *(get(vertex, made["name"]) for _ in range(3))]
    assert [bool(operation.get("done")) for operation in seen] == [n >= polls for n in range(4)]
    assert ["response" in operation for operation in seen] == [n >= polls for n in range(4)]


@pytest.mark.parametrize(("choice", "holds"), [
    ("operation_types=v1beta1", lambda op: ".v1beta1." in op["response"]["@type"]),
    ("operation_types=unknown", lambda op: op["response"]["@type"].endswith("OfTheFuture")),
    ("operation_result=whole", lambda op: op["response"]["displayName"] == "e"),
    ("operation_name=location", lambda op: op["name"].startswith(f"{LOCATION}/operations/"))])
def test_an_operation_in_each_form_can_be_polled(answering, choice, holds):
    vertex = answering(choice)
    made = requests.post(f"{vertex.url}/v1/{LOCATION}/endpoints", json={"displayName": "e"}).json()
    assert holds(made) and get(vertex, made["name"]) == made


def test_what_was_just_made_is_not_found_for_two_calls(answering):
    vertex = answering("visible=late")
    (made,) = endpoints(vertex, 1)
    assert listed(vertex) == []
    with pytest.raises(errors.NotFound):
        vertex.endpoints.get_endpoint(name=made.name)
    assert vertex.endpoints.get_endpoint(name=made.name).display_name == "e0"
    vertex.endpoints.create_endpoint(
        parent=LOCATION, endpoint={"display_name": "e1"}, endpoint_id="e1").result()
    for _ in range(PATIENCE):  # of other calls
        vertex.models.list_models(parent=LOCATION)
    assert listed(vertex) == ["e0", "e1"]


@pytest.mark.parametrize(("choice", "shown"), [
    ("UPDATING", ["UPDATING", "UPDATING", "STABLE"]), ("unknown", ["UPDATING", 99, "STABLE"])])
def test_a_store_is_stable_later_than_its_operation_says(answering, choice, shown):
    vertex = answering(f"store_state={choice}")
    name = vertex.admin.create_feature_online_store(
        parent=LOCATION, feature_online_store_id="s", feature_online_store=BIGTABLE).result().name
    assert [get(vertex, name)["state"] for _ in shown] == shown


@pytest.mark.parametrize(("choice", "error", "made"), [
    ("429", errors.TooManyRequests, 0), ("503", errors.ServiceUnavailable, 0),
    ("503 after", errors.ServiceUnavailable, 1)])
def test_a_busy_service_refuses_the_first_call_of_each_method(answering, choice, error, made):
    vertex = answering(f"busy={choice}")
    with pytest.raises(error):
        endpoints(vertex, 1)
    with pytest.raises(error):
        listed(vertex)
    assert len(listed(vertex)) == made


def test_values_that_are_left_out_or_empty(answering, table):
    uri = table("""select 'a' as id, 1 as f0, cast(null as int64) as f1,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp""")
    vertex = answering("nulls=empty value,feature_timestamp=missing,nothing_served=no features,"
                       "sync_result=left out")
    view = serve(vertex, uri)

    def fetch(entity):
        found = requests.post(f"{vertex.url}/v1/{view}:fetchFeatureValues", json={
            "dataKey": {"key": entity}, "dataFormat": "KEY_VALUE"})
        assert found.status_code == 200, found.text
        return found.json().get("keyValues", {}).get("features", [])

    assert fetch("a") == []  # before the first sync
    sync = synced(vertex, view)
    assert set(sync["runTime"]) == {"endTime"} and not {"finalStatus", "syncSummary"} & set(sync)
    assert fetch("a") == [{"name": "f0", "value": {"int64Value": "1"}}, {"name": "f1", "value": {}}]
    assert fetch("b") == []


def test_an_answer_by_grpc_may_have_a_field_that_the_package_does_not_know(answering, table):
    uri = table("""select 'a' as id, 1 as f0, 2 as f1,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp""")
    vertex = answering("unknown_fields=some")
    view = serve(vertex, uri)
    synced(vertex, view)
    asked, answered = (kind.pb() for kind in (
        aiplatform_v1.FetchFeatureValuesRequest, aiplatform_v1.FetchFeatureValuesResponse))
    answer = vertex.channel.unary_unary(
        f"/{app.GRPC_SERVICE}/FetchFeatureValues", asked.SerializeToString, answered.FromString)(
        asked(feature_view=view, data_key={"key": "a"}))
    assert [field.field_number for field in UnknownFieldSet(answer)] == [1000]
    assert [pair.name for pair in answer.key_values.features] == ["f0", "f1", "feature_timestamp"]


def test_a_view_that_was_never_synced_may_answer_400(answering, table):
    uri = table("""select 'a' as id, 1 as f0, 2 as f1,
        timestamp '2024-01-01 00:00:00+00' as feature_timestamp""")
    vertex = answering("nothing_served=400 before the first sync")
    view = serve(vertex, uri)
    request = {"feature_view": view, "data_key": {"key": "b"}}
    with pytest.raises(errors.BadRequest, match="never synced"):
        vertex.online.fetch_feature_values(request=request)
    synced(vertex, view)
    with pytest.raises(errors.NotFound):
        vertex.online.fetch_feature_values(request=request)


def test_dense_may_be_ignored(answering, table):
    uri = table("""select 'a' as id, cast(null as int64) as f0, 1 as f1,
        timestamp '2024-01-02 00:00:00+00' as feature_timestamp
        union all select 'a', 7, 2, timestamp '2024-01-01 00:00:00+00'""")
    vertex = answering("dense=ignored")
    view = serve(vertex, uri)
    synced(vertex, view)
    answer = vertex.online.fetch_feature_values(
        request={"feature_view": view, "data_key": {"key": "a"}})
    values = {f.name: f.value.int64_value for f in answer.key_values.features}
    assert (values["f0"], values["f1"]) == (7, 1)


def serve(vertex, uri):
    """A dense group, a store and a view of f0 and f1; the view's name."""
    group = vertex.registry.create_feature_group(
        parent=LOCATION, feature_group_id="g", feature_group={"big_query": {
            "big_query_source": {"input_uri": uri}, "entity_id_columns": ["id"],
            "dense": True}}).result()
    for feature in ("f0", "f1"):
        vertex.registry.create_feature(
            parent=group.name, feature_id=feature, feature={}).result()
    store = vertex.admin.create_feature_online_store(
        parent=LOCATION, feature_online_store_id="s", feature_online_store=BIGTABLE).result()
    return vertex.admin.create_feature_view(
        parent=store.name, feature_view_id="v", feature_view={
            "sync_config": {"cron": "0 3 * * 1"}, "feature_registry_source": {"feature_groups": [
                {"feature_group_id": "g", "feature_ids": ["f0", "f1"]}]}}).result().name


def synced(vertex, view):
    name = vertex.admin.sync_feature_view(feature_view=view).feature_view_sync
    vertex.vertex.syncs.close()  # waits for it
    return get(vertex, name)


def test_a_model_on_an_endpoint_is_named_with_its_version(answering):
    vertex = answering("deployed_model=model@version")
    model = vertex.models.upload_model(parent=LOCATION, model=MODEL).result().model
    (endpoint,) = endpoints(vertex, 1)
    vertex.endpoints.deploy_model(endpoint=endpoint.name, deployed_model={
        "model": model, "dedicated_resources": {
            "machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}},
        traffic_split={"0": 100}).result()
    (deployed,) = vertex.endpoints.get_endpoint(name=endpoint.name).deployed_models
    assert deployed.model == f"{model}@1"


def test_a_job_may_have_a_state_that_the_package_does_not_know(answering):
    vertex = answering("job_state=unknown")
    spec = {"schemaVersion": "2.1.0", "sdkVersion": "kfp-2.17.0", "pipelineInfo": {"name": "p"},
            "root": {"dag": {"tasks": {}}}, "components": {}, "deploymentSpec": {"executors": {}}}
    made = requests.post(f"{vertex.url}/v1/{LOCATION}/pipelineJobs", json={
        "displayName": "j", "pipelineSpec": spec,
        "runtimeConfig": {"gcsOutputDirectory": "gs://b/p"}}).json()
    jobs = vertex.client(aiplatform_v1.PipelineServiceClient)
    with pytest.warns(UserWarning, match="99"):
        read = [jobs.get_pipeline_job(name=made["name"]).state for _ in range(2)]
    assert (made["state"], read[0]) == (99, 99) and read[1] in set(aiplatform_v1.PipelineState)
