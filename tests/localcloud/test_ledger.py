"""The ledger, lib/localcloud/rules.toml: whole, held by tests, and the only source of refusals.

Here too: the tests of rules that no other test holds.
"""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest
import requests
from google.api_core import exceptions as errors

from lib.localcloud import __main__ as command
from lib.localcloud import ledger, platform, process
from lib.localcloud.errors import MARK
from lib.localcloud.vertex import app

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "lib" / "localcloud"
LEDGER = ledger.load()
IDS = LEDGER.rules | LEDGER.divergences
# What makes an error, in lib/localcloud/errors.py; its first argument is the id of a rule.
MAKERS = ("refused", "invalid", "precondition", "unsupported", "by_rule", "_error", "check_id")
WITHOUT_RULE = ("not_found", "already_exists", "defect")  # name theirs in errors.py, or have none
INTERNAL = {"process.py", "thelook", "errors.py", "ledger.py"}  # no answers are made there
# Caught, or no answer to a request.
NO_REFUSALS = {("rest.py", "ValueError"), ("runner.py", "ValueError"),
               ("listing.py", "ValueError"), ("answers.py", "ValueError"),
               ("__main__.py", "ArgumentTypeError"), ("lazily.py", "AttributeError"),
               ("forks.py", "TimeoutExpired")}


def trees():
    for path in sorted(CODE.rglob("*.py")):
        if not INTERNAL & {*path.relative_to(CODE).parts}:
            yield path, ast.parse(path.read_text())


def name_of(call):
    return getattr(call.func, "id", getattr(call.func, "attr", "")) if isinstance(
        call, ast.Call) else ""


def literals():
    """Every string in the code of the stand-in."""
    return {node.value for path in CODE.rglob("*.py") for node in ast.walk(ast.parse(
        path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


# -- the file ------------------------------------------------------------------------------------


def test_each_rule_says_what_it_rests_on():
    served = {*app.METHODS, *platform.METHODS, "*", "sync", "pipeline"}
    for rule in LEDGER.rules.values():
        assert rule.level in ledger.LEVELS, rule.id
        assert bool(rule.source) == (rule.level != "unverified"), rule.id
        keys = [re.match(r"\w+", part)[0] for part in filter(None, rule.source.split("; "))]
        assert {*keys} <= {*LEDGER.sources}, rule.id
        assert rule.methods and all(m in served or "." in m for m in rule.methods), rule.id
        assert not rule.raises or rule.raises in IDS, rule.id


def test_each_source_has_the_day_on_which_it_was_read():
    assert all(re.search(r", 20\d\d-\d\d-\d\d$", text) for text in LEDGER.sources.values())
    used = " ".join([*(rule.source for rule in LEDGER.rules.values()), *LEDGER.sources.values()])
    assert not [key for key in LEDGER.sources if not re.search(rf"\b{key}\b", used)]


def test_the_counts_are_those_of_the_file():
    text = ledger.FILE.read_text()
    number = {level: len(re.findall(rf'^level = "{level}"$', text, re.MULTILINE))
              for level in ledger.LEVELS}
    assert ledger.counts() == (
        f"{sum(number.values())} rules: {number['recorded']} recorded, {number['documented']} "
        f"documented, {number['package']} from the package, {number['unverified']} unverified; "
        f"{len(re.findall(r'^.divergence[.]', text, re.MULTILINE))} known divergences")


def test_the_counts_are_in_the_readmes_and_in_status(monkeypatch, capsys):
    monkeypatch.setattr(process, "status", lambda: {"pid": 1})
    monkeypatch.setattr(sys, "argv", ["localcloud", "status"])
    assert command.main() == 0
    assert ledger.counts() in capsys.readouterr().out
    for name in ("README.md", "lib/localcloud/README.md"):
        text = " ".join((ROOT / name).read_text().split())
        assert all(part in text for part in ledger.counts().split("; ")), name


# -- the tests that hold the rules -----------------------------------------------------------------


@functools.cache
def collected(file):
    """The tests that pytest finds in a file -> their decorators."""
    return {node.name: " ".join(map(ast.unparse, node.decorator_list))
            for node in ast.parse((ROOT / file).read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_a_test_holds_each_rule_and_each_divergence_that_is_refused():
    in_code = literals()
    for one in IDS.values():
        if isinstance(one, ledger.Divergence) and not one.test:
            assert one.id not in in_code, f"{one.id} is refused, and has no test"
            continue
        file, name = one.test.split("::")
        assert file.startswith("tests/") and Path(file).name.startswith("test_"), one.id
        assert name in collected(file), f"{one.id}: {one.test} does not exist"
        may_not_run = re.search(r"mark\.(skip|xfail)", collected(file)[name])
        assert not may_not_run, f"{one.id}: {one.test}"


# -- the refusals in the code ----------------------------------------------------------------------


def test_every_refusal_names_its_rule():
    """With a literal, or with what its function was given as `rule` or `id_rule`."""
    found = []
    for path, tree in trees():
        where = path.relative_to(ROOT)
        for node in ast.walk(tree):
            if name_of(node) == "ApiError":
                found.append(f"{where}:{node.lineno}: ApiError, instead of refused()")
            if name_of(node) in MAKERS:
                first = node.args[0]
                given = getattr(first, "id", getattr(first, "attr", ""))
                if getattr(first, "value", None) not in IDS and given not in (
                        "rule", "id_rule") and not isinstance(first, ast.Subscript):
                    found.append(f"{where}:{node.lineno}: {ast.unparse(first)} is no rule")
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = name_of(node.exc)
                if name not in (*MAKERS, *WITHOUT_RULE) and (
                        path.name, name) not in NO_REFUSALS and not name.startswith("_"):
                    found.append(f"{where}:{node.lineno}: raises {name} without a rule")
    assert not found, "\n".join(found)


def test_every_refusal_of_the_ledger_is_in_the_code():
    """So that a rule does not outlive its code."""
    named = {rule.refusal for rule in LEDGER.rules.values() if rule.refusal}
    assert not named - literals()


def test_an_answer_is_marked_with_the_rule_that_it_follows(vertex, location):
    url = f"{vertex.url}/v1/{location}/models"
    assert requests.get(url).headers[MARK] == "ok"
    assert requests.get(f"{url}?nope=1").headers[MARK] == "every.unknown-field"
    assert requests.get(f"{vertex.url}/nowhere").headers[MARK] == "divergence.methods"


def test_answers_of_bigquery_and_storage_are_marked_too(bq, gcs):
    base = f"{bq._connection.API_BASE_URL}/bigquery/v2/projects/{bq.project}"
    assert requests.get(f"{base}/datasets").headers[MARK] == "ok"
    export = {"query": "export data options(uri='gs://b/*', format='CSV') as select 1"}
    assert requests.post(f"{base}/queries", json=export).headers[MARK] == "divergence.export"
    storage = gcs._connection.API_BASE_URL
    assert requests.get(f"{storage}/storage/v1/b?project=p1").headers[MARK] == "ok"


# -- rules that no other test holds ----------------------------------------------------------------

ROW = "select 'a' as id, 'b' as other, 1 as f0, timestamp '2024-01-01 00:00:00+00' as {}"


def test_a_page_token_that_no_list_gave(vertex, location):
    with pytest.raises(errors.BadRequest, match="page_token"):
        vertex.models.list_models(request={"parent": location, "page_token": "x"})


def test_a_batch_has_one_parent(vertex, group, table):
    name = group(table(ROW.format("feature_timestamp")), [])
    with pytest.raises(errors.BadRequest, match="parent"):
        vertex.registry.batch_create_features(parent=name, requests=[
            {"parent": name + "x", "feature_id": "f0", "feature": {}}])


def test_a_group_that_a_view_uses_may_be_deleted(vertex, group, view, sync, table):
    name = group(table(ROW.format("feature_timestamp")), ["f0"])
    of_group = view(["f0"])
    vertex.registry.delete_feature_group(request={"name": name, "force": True}).result()
    assert "FeatureGroup does not exist" in sync(of_group).final_status.message


def test_the_groups_of_a_view_have_the_same_entity(group, view, table):
    uri = table(ROW.format("feature_timestamp"))
    group(uri, ["f0"])
    group(uri, ["f0"], group_id="by_other", entity_id_columns=["other"])
    with pytest.raises(errors.BadRequest, match="same entity_id_columns"):
        view(["f0"], groups=["fg", "by_other"])


def test_a_view_with_an_account_of_its_own_needs_access(vertex, group, store, sync, table):
    group(table(ROW.format("feature_timestamp")), ["f0"])
    name = vertex.admin.create_feature_view(
        parent=store, feature_view_id="v", feature_view={
            "service_agent_type": "SERVICE_AGENT_TYPE_FEATURE_VIEW",
            "feature_registry_source": {"feature_groups": [
                {"feature_group_id": "fg", "feature_ids": ["f0"]}]}}).result().name
    ended = sync(name).final_status
    assert (ended.code, "v@feature-view.local" in ended.message) == (7, True)


def test_views_that_are_not_served(vertex, group, store, table):
    group(table(ROW.format("feature_timestamp")), ["f0"])
    groups = [{"feature_group_id": "fg", "feature_ids": ["f0"]}]
    for spec, says in (
        ({"index_config": {}}, "Vector search"),
        ({"vertex_rag_source": {}}, "vertex_rag_source"),
        ({"feature_registry_source": {"feature_groups": groups, "project_number": 5}}, "project"),
    ):
        with pytest.raises(errors.BadRequest, match=f"{says}.* is not supported"):
            vertex.admin.create_feature_view(
                parent=store, feature_view_id="v", feature_view=spec)


def test_a_version_is_deleted_by_its_number(vertex, location):
    model = {"display_name": "m", "container_spec": {"image_uri": "r/echo:1"}}
    name = vertex.models.upload_model(parent=location, model=model).result().model
    with pytest.raises(errors.BadRequest, match="must name a version id"):
        vertex.models.delete_model_version(name=f"{name}@default")


def test_a_new_endpoint_has_no_models(vertex, location):
    with pytest.raises(errors.BadRequest, match="set by deployModel"):
        vertex.endpoints.create_endpoint(
            parent=location, endpoint={"display_name": "e", "traffic_split": {"1": 100}})


def test_a_pipeline_job_has_a_root(vertex, location):
    answer = requests.post(f"{vertex.url}/v1/{location}/pipelineJobs", json={
        "displayName": "j", "pipelineSpec": {"schemaVersion": "2.1.0"}})
    assert answer.status_code == 400
    assert "gcs_output_directory is required" in answer.json()["error"]["message"]


def test_a_custom_job_has_at_most_100_variables(vertex, location):
    answer = requests.post(f"{vertex.url}/v1/{location}/customJobs", json={
        "displayName": "j", "jobSpec": {"workerPoolSpecs": [{"containerSpec": {
            "imageUri": "r/echo:1", "env": [{"name": f"V{n}"} for n in range(101)]}}]}})
    assert answer.status_code == 400 and "at most 100" in answer.json()["error"]["message"]
