"""Every request of a whole run and of its teardown, as it goes over the wire.

requests.txt holds them all, one a line; it is written anew by
    UPDATE_REQUESTS=1 scripts/test.sh tests/contract/test_wire.py
and each line of it is held against Google's own descriptions (see schema.py).
"""

import json
import os
import re
from pathlib import Path

import pytest

from lib.localcloud import thelook
from tests.contract import schema
from tests.contract.conftest import TARGET
from tests.sql.googlesql import declared

LIST = Path(__file__).with_name("requests.txt")
# Answers that are no mistake of ours: what is looked for and is not there yet; the first
# look at a bucket; instances that notebook 06 sends to be refused, and an unknown customer.
EXPECTED_REFUSALS = {
    404: r"\.(Get\w+|Fetch\w+|get|list|Delete\w+|delete|ListOperations)$", 400: r"\.Predict$"}
# What differs from run to run.
CHANGING = (
    # Answers name the project by its number, so later requests do.
    (r"(projects/)100000000001(?=/locations/)", r"\1PROJECT"),
    (r"(?<=training-)[0-9a-f]+-(?=\d{14})", ""),
    (r"\d{8}-\d{6}-\w+-\w+", "RUN"), (r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID"),
    (r"(?<=/)(?=\d*[a-f])[0-9a-f]{16,64}\b", "DIGEST"), (r"\d{12,}", "NUMBER"),
    (r"(projects/)local-demo", r"\1PROJECT"), (r"local-demo", "PROJECT"))


def line(request: dict) -> str:
    """verb path?query {fields of the body}, with what changes from run to run left out."""
    path = request["path"]
    for found, name in CHANGING:
        path = re.sub(found, name, path)
    query = "&".join(sorted({key for key, _ in request["query"]}))
    fields = sorted(set(leaves(request["body"])))
    told = f"{request['verb']} {path}{query and '?' + query}"
    return told + (f" {{{', '.join(fields)}}}" if fields else "")


def leaves(body: object, at: str = "") -> list[str]:
    """Paths of a body's fields; maps with keys of our own (labels, parameters) end at the map."""
    if body is None:
        return []
    if isinstance(body, list):
        return [path for part in body for path in leaves(part, f"{at}[]")]
    if isinstance(body, dict) and at.rsplit(".", 1)[-1] not in OPEN:
        return [path for key, part in body.items()
                for path in leaves(part, f"{at}.{key}" if at else key)]
    return [at]


OPEN = {"labels", "parameterValues", "pipelineSpec", "metrics", "instances[]", "trafficSplit"}


@pytest.fixture(scope="module")
def flow(project):
    """A run from nothing and the teardown after it: the processes, the run's summary, and the
    requests of each (none on gcp)."""
    recording = project.running is not None
    if recording:
        project.forget()
    run = project.run()
    summary, asked = project.summary(), {}
    if recording:
        asked["a run"] = project.requests()
        project.forget()
    gone = project.command("lib.operate.teardown", "--target", TARGET, "--env", "dev", "--yes",
                           timeout=3600)
    if recording:
        asked["its teardown"] = project.requests()
    return run, gone, summary, asked


@pytest.fixture
def recorded(flow):
    if TARGET == "gcp":
        pytest.skip("requests are recorded on the local cloud only")
    return flow[3]


def test_a_run_completes_and_its_teardown_leaves_nothing(flow, project):
    run, gone, summary, _ = flow
    assert run.returncode == 0, run.stdout + run.stderr
    assert [s["name"][:2] for s in summary["stages"]] == [f"0{n}" for n in range(8)]
    assert all(s["status"] in ("created", "done") for s in summary["stages"])
    assert summary["parity"]["mismatches"] == 0
    assert len(summary["predictions"]) >= 10
    assert {b["name"] for b in summary["background"]} >= {"online store"}
    assert gone.returncode == 0, gone.stdout + gone.stderr
    left = project.command("lib.operate.teardown", "--target", TARGET, "--env", "dev")
    assert left.returncode == 0 and "nothing to delete" in left.stdout


def test_the_requests_are_those_of_the_list(recorded):
    text = ""
    for part, requests in recorded.items():
        found = {request["method"]: set() for request in requests}
        for request in requests:
            found[request["method"]].add(line(request))
        text += f"# {part}\n" + "".join(
            f"{method}\n" + "".join(f"    {each}\n" for each in sorted(found[method]))
            for method in sorted(found)) + "\n"
    if os.environ.get("UPDATE_REQUESTS"):
        LIST.write_text(text)
    assert text == LIST.read_text()


def test_google_would_take_every_one(recorded):
    wrong = {}
    for request in [r for requests in recorded.values() for r in requests]:
        found = schema.problems(request["verb"], request["path"], request["query"],
                                request["body"], request["service"])
        if found:
            wrong.setdefault(line(request), found)
    assert wrong == {}


def test_nothing_was_refused_but_what_was_looked_for(recorded):
    refused = {(r["status"], r["method"]) for requests in recorded.values() for r in requests
               if r["status"] >= 400}
    assert {(status, method) for status, method in refused
            if not re.search(EXPECTED_REFUSALS.get(status, "$^"), method)} == set()


def test_every_service_is_in_it(recorded):
    services = {request["service"] for request in recorded["a run"]}
    assert services == {"vertex", "platform", "bigquery", "bigquery_storage", "storage"}


def test_every_job_and_resource_is_labelled(recorded):
    made = [r for r in recorded["a run"] if re.search(
        r"^vertex\.(Create(Feature|Endpoint|Pipeline|Custom)\w*|BatchCreateFeatures|UploadModel)$"
        r"|bigquery\.(jobs\.(insert|query)|datasets\.insert)$|storage\.buckets\.insert$",
        r["method"]) and r["body"]]
    assert len({r["method"] for r in made}) >= 9
    bare = [line(r) for r in made if not _labels(r["body"])]
    assert bare == []


def _labels(body: object) -> bool:
    """True if app, env, owner and run_id are somewhere in it, as labels."""
    if isinstance(body, dict):
        own = body.get("labels")
        if isinstance(own, dict) and {"app", "env", "owner", "run_id"} <= set(own):
            return True
        return any(_labels(part) for part in body.values())
    return isinstance(body, list) and any(_labels(part) for part in body)


@pytest.fixture
def queries(recorded):
    """configuration of every job of the run that is a query, in order."""
    return [each for each in _jobs(recorded) if "query" in each]


@pytest.fixture
def loads(recorded):
    """configuration.load of every job of the run that loads a file."""
    return [each["load"] for each in _jobs(recorded) if "load" in each]


def _jobs(recorded):
    bodies = [(r["method"], r["body"]) for r in recorded["a run"] if r["body"]]
    return [body.get("configuration", {}) if method == "bigquery.jobs.insert" else {"query": body}
            for method, body in bodies
            if method in ("bigquery.jobs.insert", "bigquery.jobs.query")]


def test_every_query_that_runs_has_a_cap_on_its_bytes(queries):
    running = [q["query"] for q in queries if not q.get("dryRun")]
    assert running and all(int(q["maximumBytesBilled"]) > 0 for q in running)
    estimates = [q["query"] for q in queries if q.get("dryRun")]
    assert estimates and not any("maximumBytesBilled" in q for q in estimates)


def test_google_analyzes_every_statement_that_was_sent(queries, loads, google):
    name = "bigquery-public-data.thelook_ecommerce"
    tables = {f"{name}.{table}": dict(columns) for table, columns in thelook.SCHEMAS.items()}
    for load in loads:
        table = ".".join(load["destinationTable"][part] for part in (
            "projectId", "datasetId", "tableId"))
        tables[table] = {field["name"]: field["type"] for field in load["schema"]["fields"]}
    different = {json.dumps(q["query"]): q["query"] for q in queries}
    for query in different.values():
        named = {name: columns for name, columns in tables.items() if name in query["query"]}
        found = google.analyze(query["query"], named, declared(query))
        if found.table:
            tables[found.table] = found.columns
