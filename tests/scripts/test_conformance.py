"""The probes of the ledger: on the local cloud here, and held against what Google answered."""

import dataclasses
import json

import google.auth
import pytest
import requests
from google.api_core.exceptions import Forbidden, ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError

from lib import cloud as clouds
from lib import config
from lib.errors import Needed
from lib.operate import teardown
from scripts import conformance
from scripts import conformance_probes as probes
from scripts.conformance_probes import Asked, Fact

GCP = {"targets": {"gcp": {"project": "my-demo-project"}}}
FACT = Fact("models.image", "UploadModel", {"http": 400, "error": "INVALID_ARGUMENT"}, {
    "http": 400, "error": "INVALID_ARGUMENT"})


@pytest.fixture(scope="module")
def own(cloud):
    """The local cloud, under the names of the probes; its clients are not those of other tests."""
    return dataclasses.replace(cloud, settings=conformance.own_settings(cloud.settings))


@pytest.fixture(scope="module")
def lane(own):
    """Facts of the whole lane, and what could not be asked."""
    asked, problems = conformance.ask(own, "full")
    return asked, problems


@pytest.fixture(scope="module")
def gcp():
    return config.load(target="gcp", overrides=GCP)


def test_the_local_cloud_answers_each_probe_as_its_ledger_says(lane):
    asked, problems = lane
    assert not problems
    assert [f"{f.rule}: {f.observed}" for f in asked.facts if f.verdict == "refuted"] == []
    assert len({f.rule for f in asked.facts if f.verdict == "confirmed"}) >= 60
    known = clouds.rules()
    assert {f.rule for f in asked.facts if f.rule not in known} == {
        f.rule for f in asked.facts if f.verdict == "new"}


def test_each_refusal_is_that_of_the_very_rule(lane):
    known = clouds.rules()
    refused = [fact for fact in lane[0].facts if fact.observed.get("http", 200) != 200]
    assert len(refused) > 40
    assert {f.rule: f.mark for f in refused} == {f.rule: known[f.rule].refusal for f in refused}


def test_everything_that_the_probes_made_is_deleted(lane, own):
    assert teardown.find(own).ours == []


def test_the_local_cloud_answers_as_google_was_recorded(lane, own):
    for recording in conformance.recordings():
        assert recording["from"] == "Google"
        assert conformance.differences(recording, lane[0].facts, own.settings) == []


def test_a_difference_to_a_recording_is_named(gcp):
    recording = {"date": "2026-11-25", "facts": [
        {"rule": FACT.rule, "method": FACT.method, "observed": FACT.observed},
        {"rule": "not.asked.here", "method": "X", "observed": {"http": 200}}]}
    assert conformance.differences(recording, [FACT], gcp) == []
    other = dataclasses.replace(FACT, observed={"http": 404, "error": "NOT_FOUND"})
    assert conformance.differences(recording, [other], gcp) == [
        "models.image, UploadModel: Google http 400, error INVALID_ARGUMENT on 2026-11-25, here "
        "http 404, error NOT_FOUND"]


def test_a_rule_is_confirmed_refuted_or_new():
    other = dataclasses.replace(FACT, observed={"http": 200, "error": ""})
    unknown = dataclasses.replace(FACT, rule="conformance.x", expected=None)
    lines = conformance.report([FACT, other, unknown])
    assert [line.split()[0] for line in lines[:3]] == ["confirmed", "refuted", "new"]
    assert lines[1].endswith("http 200, error  | the ledger says http 400, error INVALID_ARGUMENT")
    assert lines[3] == "1 confirmed, 1 refuted, 1 new"


def answer(url, **headers):
    response = requests.Response()
    response.url = url
    response.headers.update(headers)
    return response


def test_nothing_but_google_is_recorded(own, lane, gcp, tmp_path):
    conformance.require_google(answer("https://us-central1-aiplatform.googleapis.com/v1/x"))
    for other in (answer("http://127.0.0.1:8080/v1/x"),
                  answer("https://aiplatform.googleapis.com.example.org/v1/x"),
                  answer("http://bigquery.googleapis.com/x"),
                  answer("https://bigquery.googleapis.com/x", **{"x-local-cloud": "ok"})):
        with pytest.raises(conformance.NotGoogle, match="not Google"):
            conformance.require_google(other)
    # Also if an address were wrong: the local cloud marks its answers.
    for settings in (own.settings, gcp):
        disguised = dataclasses.replace(
            lane[0], cloud=dataclasses.replace(own, settings=settings))
        with pytest.raises(conformance.NotGoogle, match="answers of the local cloud"):
            conformance.record(disguised, "full", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_by_grpc_goes_to_the_regions_address_and_is_watched_with_it(gcp):
    google = clouds.Cloud(gcp, AnonymousCredentials(), "https://us-central1-x.googleapis.com")
    assert google.online.transport.host == "us-central1-x.googleapis.com:443"
    cloud, seen = clouds.Cloud(gcp, AnonymousCredentials(), "https://127.0.0.1:9"), []
    cloud.watch(seen.append)
    with pytest.raises(ServiceUnavailable):  # nothing listens there
        cloud.online.fetch_feature_values({"feature_view": "v"}, timeout=5)
    assert [(each.url, each.json()["error"]["status"]) for each in seen] == [
        ("https://127.0.0.1:9", "UNAVAILABLE")]


def test_a_recording_has_facts_and_no_account_token_or_id(own, gcp, tmp_path):
    fact = Fact("conformance.x", "Get", {
        "says": "sa-1@my-demo-project.iam.gserviceaccount.com may not, ya29.a0Af_bcd-1 Bearer abc",
        "name": "projects/123456789012/locations/r/models/9876543210123456789",
        "bucket": "my-demo-project-churn", "at": "2026-11-25T10:00:00.123Z",
        "digest": "0123456789abcdef0123", "generation": 1764000000000000, "http": 404}, None)
    asked = Asked(dataclasses.replace(own, settings=gcp), [fact], {"sync": 3.2})
    file = conformance.record(asked, "cheap", tmp_path)
    text = file.read_text()
    for secret in ("my-demo-project", "123456789012", "@", "ya29", "abcdef", "T10:00", "1764"):
        assert secret not in text
    kept = json.loads(text)
    assert kept["from"] == "Google" and kept["date"] in file.name and kept["lane"] == "cheap"
    assert kept["minutes"] == {"sync": 3.2}
    assert kept["facts"][0]["observed"]["http"] == 404
    assert kept["facts"][0]["observed"]["name"] == "projects/NUMBER/locations/r/models/ID"


def test_measured_minutes_are_given_as_lines_of_the_plan(gcp, own):
    lines = conformance.measured_lines(gcp, {"online store": 8.24, "sync": 0.01})
    assert "name: online store, minutes: 8.2, basis: measured" in lines[1]
    assert lines[1].endswith("# was 10, documented")
    assert "name: sync, minutes: 0.1, basis: measured" in lines[2]
    assert conformance.measured_lines(own.settings, {"sync": 1.0}) == []


def test_a_part_that_fails_is_named_and_what_it_made_is_deleted(own, monkeypatch):
    def failing(asked):
        probes.warehouse.create_dataset(asked.cloud)
        raise Forbidden("no access")

    def fine(asked):
        asked.facts.append(FACT)

    monkeypatch.setitem(conformance.LANES, "cheap", {"first": failing, "second": fine})
    fresh = dataclasses.replace(own)
    asked, problems = conformance.ask(fresh, "cheap")
    assert problems == ["the rest of first: 403 no access"] and asked.facts == [FACT]
    assert teardown.find(fresh).ours == []
    assert conformance.run(dataclasses.replace(own), "cheap") == 1


def test_existing_resources_of_these_names_end_it_before_anything_is_made(own, lane):
    fresh = dataclasses.replace(own)
    probes.warehouse.create_dataset(fresh)
    try:
        with pytest.raises(Needed, match="dataset .*conformance_dev exists"):
            conformance.ask(dataclasses.replace(own), "cheap")
        assert [r.kind for r in teardown.find(fresh).ours] == ["dataset"]
    finally:
        teardown.remove(fresh, teardown.find(fresh))


def test_the_cost_is_said_and_asked_before_google_is_called(monkeypatch, capsys):
    monkeypatch.setenv(config.SETTINGS_VARIABLE, json.dumps(GCP))
    monkeypatch.setattr(google.auth, "default", lambda **_: pytest.fail("too early"))
    assert conformance.main(["--target", "gcp", "--lane", "full"]) == 2
    said = capsys.readouterr()
    assert "1 Bigtable node" in said.out and "price unverified" in said.out
    assert "scripts/conformance.sh --target gcp --env dev --lane full --yes" in said.err


def test_without_credentials_it_says_how_to_get_them(monkeypatch, capsys):
    def none(**_):
        raise DefaultCredentialsError("no credentials")

    monkeypatch.setenv(config.SETTINGS_VARIABLE, json.dumps(GCP))
    monkeypatch.setattr(google.auth, "default", none)
    for lane in (["--lane", "cheap"], ["--lane", "full", "--yes"]):
        assert conformance.main(["--target", "gcp", *lane]) == 1
        said = capsys.readouterr().err
        assert "stage:     conformance" in said and "application-default login" in said
