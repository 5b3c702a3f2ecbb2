"""Pipeline jobs and custom jobs: kfp's own compiler and Google's own clients against the stand-in.

Images are folders with a Dockerfile and a script of the standard library. Where a test states a
rule, its source is in lib/localcloud/README.md.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from typing import Optional

import pytest
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, aiplatform_v1, storage
from google.cloud.aiplatform_v1.types import JobState, PipelineState, PipelineTaskDetail
from kfp import compiler, components, dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output, OutputPath

from lib.localcloud.server import listen
from lib.localcloud.storage import StorageServer
from lib.localcloud.vertex import app
from lib.localcloud.vertex.app import PROJECT_NUMBER
from tests.support.serving import ServedVertex

PROJECT, LOCATION, BUCKET = "p1", "us-central1", "b1"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
ROOT = f"gs://{BUCKET}/root"
ENDED = (PipelineState.PIPELINE_STATE_SUCCEEDED, PipelineState.PIPELINE_STATE_FAILED,
         PipelineState.PIPELINE_STATE_CANCELLED)
_numbers = itertools.count()

# One program for every image. Its arguments say what to do, in order.
PROGRAM = '''
import json, os, pathlib, sys, time
words = iter(sys.argv[1:])
for word in words:
    if word == "write":          # write PATH TEXT
        path = pathlib.Path(next(words))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(next(words))
    elif word == "copy":         # copy FROM TO: file or folder, with a mark
        source, target = map(pathlib.Path, (next(words), next(words)))
        files = [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            (target / file.name).write_text("copied " + file.read_text())
    elif word == "say":
        print(next(words))
    elif word == "environment":  # environment PATH
        pathlib.Path(next(words)).write_text(json.dumps(dict(os.environ)))
    elif word == "sleep":
        time.sleep(float(next(words)))
    elif word == "fail":
        for n in range(20):
            print("line", n)
        print(next(words), file=sys.stderr)
        sys.exit(3)
    elif word == "fail-first":   # fails unless the marker exists
        marker = pathlib.Path(next(words))
        if not marker.exists():
            marker.write_text("")
            sys.exit("the first attempt fails")
    elif word:
        sys.exit(f"unknown word {word!r}")
'''


class Lab:
    """A stand-in with Cloud Storage over a folder, and clients for it."""

    def __init__(self, folder, images, storage_url, runner="process"):
        self.vertex = app.start(folder, PROJECT, {
            "bigquery": "http://127.0.0.1:1", "bigquery_grpc": "127.0.0.1:2",
            "storage": storage_url}, images, runner)
        self.folder, self.storage_url = folder, storage_url
        self._served = ServedVertex(self.vertex)
        self.url = self._served.url
        self.service = self.client(aiplatform_v1.PipelineServiceClient)
        self.jobs = self.client(aiplatform_v1.JobServiceClient)
        self.storage = storage.Client(
            PROJECT, credentials=AnonymousCredentials(),
            client_options={"api_endpoint": storage_url})

    def client(self, kind):
        return kind(credentials=AnonymousCredentials(), transport="rest",
                    client_options=ClientOptions(api_endpoint=self.url))

    def close(self):
        app.stop(self.vertex)
        self._served.close()
        self.storage.close()

    def spec(self, pipeline, tmp_path):
        """The compiled spec of a pipeline."""
        file = tmp_path / f"{next(_numbers)}.json"
        compiler.Compiler().compile(pipeline, str(file))
        return json.loads(file.read_text())

    def create(self, spec, parameters=None, job_id=None, root=ROOT, **fields):
        runtime = {"gcs_output_directory": root, "parameter_values": parameters or {},
                   **fields.pop("runtime", {})}
        return self.service.create_pipeline_job(
            parent=PARENT, pipeline_job_id=job_id or f"job-{next(_numbers)}",
            pipeline_job={"pipeline_spec": spec, "runtime_config": runtime, **fields})

    def wait(self, name, seconds=20):
        deadline = time.monotonic() + seconds
        while (job := self.service.get_pipeline_job(name=name)).state not in ENDED:
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def run(self, *arguments, **fields):
        return self.wait(self.create(*arguments, **fields).name)

    def wait_for_job(self, name, seconds=20):
        deadline = time.monotonic() + seconds
        while (job := self.jobs.get_custom_job(name=name)).state < JobState.JOB_STATE_SUCCEEDED:
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def read(self, uri):
        bucket, key = uri.removeprefix("gs://").split("/", 1)
        return self.storage.bucket(bucket).blob(key).download_as_text()

    def names(self, prefix=""):
        return [blob.name for blob in self.storage.list_blobs(BUCKET, prefix=prefix)]


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory):
    server = StorageServer(tmp_path_factory.mktemp("storage"), listen(), PROJECT_NUMBER)
    server.start()
    client = storage.Client(PROJECT, credentials=AnonymousCredentials(),
                            client_options={"api_endpoint": server.url})
    client.create_bucket(BUCKET)
    client.close()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    """The folder of the image `tool`."""
    folder = tmp_path_factory.mktemp("images") / "tool"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    (folder / "Dockerfile").write_text(
        'FROM python:3.11-slim\nCOPY main.py .\nENTRYPOINT ["python", "main.py"]\n')
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tool, storage_url):
    running = Lab(tmp_path_factory.mktemp("vertex"), {"tool": tool}, storage_url)
    yield running
    running.close()


@pytest.fixture
def sdk(lab, monkeypatch):
    """The high-level SDK, pointed at the stand-in."""
    config = aiplatform.initializer.global_config
    before = dict(vars(config))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", lab.storage_url)
    for module in (aiplatform.pipeline_jobs, aiplatform.jobs):
        monkeypatch.setattr(module, "_JOB_WAIT_TIME", 0.05)  # it polls every 5 s
    # submit() calls cloudresourcemanager.googleapis.com in spite of api_endpoint.
    monkeypatch.setattr(aiplatform.utils.resource_manager_utils, "get_project_number",
                        lambda *_: PROJECT_NUMBER)
    aiplatform.init(
        project=PROJECT, location=LOCATION, credentials=AnonymousCredentials(),
        api_endpoint=lab.url, api_transport="rest", staging_bucket=f"gs://{BUCKET}")
    yield aiplatform
    vars(config).clear()
    vars(config).update(before)


def tasks(job):
    """Task name -> detail."""
    return {task.task_name: task for task in job.job_detail.task_details}


def states(job):
    return {name: PipelineTaskDetail.State(task.state).name for name, task in tasks(job).items()}


# The components that the pipelines are made of


@dsl.container_component
def make(text: str, out: Output[Dataset], word: OutputPath(str), number: OutputPath(int),
         score: OutputPath(float), value: float = 0.5):
    return dsl.ContainerSpec(image="host/repo/tool:1", args=[
        "write", dsl.ConcatPlaceholder([out.path, "/data.txt"]), text,
        "write", word, text, "write", number, "3", "write", score, value])


@dsl.container_component
def copy(source: Input[Dataset], model: Output[Model]):
    return dsl.ContainerSpec(
        image="tool@sha256:" + "0" * 64, args=["copy", source.path, model.path])


@dsl.container_component
def say(text: str):
    return dsl.ContainerSpec(image="tool", args=["say", text])


@dsl.container_component
def do(word: str, argument: str):
    return dsl.ContainerSpec(image="tool", args=[word, argument])


@dsl.container_component
def join(a: Input[Dataset], b: Input[Dataset], out: Output[Metrics]):
    return dsl.ContainerSpec(
        image="tool", args=["copy", a.path, dsl.ConcatPlaceholder([out.path, "/a"]),
                            "copy", b.path, dsl.ConcatPlaceholder([out.path, "/b"])])


@dsl.pipeline(name="linear")
def linear(text: str = "hello", value: float = 0.75):
    made = make(text=text, value=value)
    copied = copy(source=made.outputs["out"])
    say(text=made.outputs["word"]).after(copied)


def test_linear_pipeline_with_the_sdk(lab, sdk, tmp_path):
    file = tmp_path / "linear.yaml"
    compiler.Compiler().compile(linear, str(file))
    job = sdk.PipelineJob(
        display_name="My run", template_path=str(file), pipeline_root=ROOT, job_id="linear-sdk",
        parameter_values={"text": "hi"}, enable_caching=False, labels={"env": "test"})
    job.run()
    assert job.state == PipelineState.PIPELINE_STATE_SUCCEEDED and job.done()
    details = {task.task_name: task for task in job.task_details}
    assert list(details) == ["make", "copy", "say"]
    made = details["make"]
    assert made.state == PipelineTaskDetail.State.SUCCEEDED
    assert [s.state.name for s in made.pipeline_task_status] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert made.start_time <= made.end_time and made.task_id > 0
    assert made.task_unique_name == "make" and not made.parent_task_id
    assert dict(made.execution.metadata) == {
        "input:text": "hi", "input:value": 0.75, "output:word": "hi", "output:number": 3,
        "output:score": 0.75}
    assert made.execution.state.name == "COMPLETE"
    [out] = made.outputs["out"].artifacts
    assert (out.schema_title, out.display_name) == ("system.Dataset", "out")
    # {job_id}/{task_id}/{output_key}: PipelineJob.RuntimeConfig
    assert re.fullmatch(rf"{ROOT}/\d+/linear-sdk/make_{made.task_id}/out", out.uri)
    assert lab.read(f"{out.uri}/data.txt") == "hi"
    copied = details["copy"]
    assert copied.inputs["source"].artifacts[0] == out
    [model] = copied.outputs["model"].artifacts
    assert model.schema_title == "system.Model"
    assert lab.read(f"{model.uri}/data.txt") == "copied hi"
    assert details["say"].execution.metadata["input:text"] == "hi"
    assert job.gca_resource.labels["env"] == "test"
    assert not (lab.folder / "scratch").exists() or not any((lab.folder / "scratch").iterdir())

    same = sdk.PipelineJob.get("linear-sdk")
    assert same.display_name == "My run" and same.resource_name.endswith("pipelineJobs/linear-sdk")
    listed = sdk.PipelineJob.list(filter='labels.env="test"', order_by="create_time desc")
    assert [j.name for j in listed] == ["linear-sdk"]
    [brief] = sdk.PipelineJob.list(filter='display_name="My run"', enable_simple_view=True)
    assert brief.gca_resource.pipeline_spec["pipelineInfo"]["name"] == "linear"
    logs = lab.folder / "logs" / job.resource_name.replace("/", ".")
    assert (logs / "say.log").read_text() == "hi\n"
    same.delete()
    assert not logs.exists()
    with pytest.raises(exceptions.NotFound):
        sdk.PipelineJob.get("linear-sdk")


def test_defaults_and_the_order_of_lists(lab, tmp_path):
    spec = lab.spec(linear, tmp_path)
    first = lab.run(spec, job_id="order-1", display_name="step one")
    second = lab.run(spec, job_id="order-2", display_name="step two")
    made = tasks(first)["make"].execution.metadata
    assert (made["input:text"], made["input:value"]) == ("hello", 0.75)

    def listed(**request):
        pages = lab.service.list_pipeline_jobs(request={"parent": PARENT, **request})
        return [job.name for job in pages if "/order-" in job.name]

    newest_first = [second.name, first.name]  # ListPipelineJobsRequest.order_by
    assert listed() == listed(page_size=1) == newest_first
    assert listed(filter='state="PIPELINE_STATE_SUCCEEDED"') == newest_first
    assert listed(filter='display_name="step one"') == [first.name]
    for wrong in ({"order_by": "create_time"}, {"filter": 'pipeline_name="linear"'}):
        with pytest.raises(exceptions.BadRequest, match="not supported"):
            listed(**wrong)
    # "Not available in the list view."
    [job] = [j for j in lab.service.list_pipeline_jobs(parent=PARENT) if j.name == first.name]
    assert not job.job_detail.task_details


def test_component_yaml_with_structures_constants_and_types(lab, tmp_path):
    echo = components.load_component_from_text("""
name: echo
inputs:
- {name: whole, type: Integer}
- {name: real, type: Float}
- {name: flag, type: Boolean}
- {name: things, type: JsonArray}
- {name: default, type: String, default: "a b"}
- {name: absent, type: String, optional: true}
- {name: given, type: String, optional: true}
implementation:
  container:
    image: tool
    args:
    - say
    - {inputValue: whole}
    - say
    - {inputValue: real}
    - say
    - {inputValue: flag}
    - say
    - {inputValue: things}
    - say
    - concat: [{inputValue: default}, "=", {inputValue: whole}]
    - if: {cond: {isPresent: absent}, then: [say, {inputValue: absent}], else: [say, nothing]}
    - if: {cond: {isPresent: given}, then: [say, {inputValue: given}]}
""")

    @dsl.pipeline(name="types")
    def types(whole: int):
        task = echo(whole=whole, real=2.0, flag=True, things=["x", {"y": 1}],
                    given="given '\" $(HOME)")
        task.set_cpu_limit("2").set_memory_limit("4G").set_env_variable("KEY", "value")

    job = lab.run(lab.spec(types, tmp_path), {"whole": 7}, "types-1")
    assert states(job) == {"echo": "SUCCEEDED"}, job.error
    log = lab.folder / "logs" / job.name.replace("/", ".") / "echo.log"
    assert log.read_text().splitlines() == [
        "7", "2.0", "true", '["x", {"y": 1.0}]', "a b=7", "nothing", "given '\" $(HOME)"]


def test_a_value_that_looks_like_a_placeholder_is_only_a_value(lab, tmp_path):
    @dsl.pipeline(name="inject")
    def inject(text: str):
        say(text=text)

    text = "{{$.pipeline_root}} {{$.inputs.artifacts['x'].path}}"
    job = lab.run(lab.spec(inject, tmp_path), {"text": text})
    folder = lab.folder / "logs" / job.name.replace("/", ".")
    assert (folder / "say.log").read_text() == f"{text}\n"


def test_the_environment_is_that_of_a_container_with_the_local_endpoints(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-the-host")

    @dsl.container_component
    def show(out: Output[Dataset]):
        return dsl.ContainerSpec(image="tool", args=["environment", out.path])

    @dsl.pipeline(name="environment")
    def environment():
        show().set_env_variable("MINE", "1").set_env_variable("no_proxy", "corp")

    job = lab.run(lab.spec(environment, tmp_path))
    found = json.loads(lab.read(tasks(job)["show"].outputs["out"].artifacts[0].uri))
    assert found["STORAGE_EMULATOR_HOST"] == lab.storage_url and found["MINE"] == "1"
    assert found["BIGQUERY_EMULATOR_HOST"] == "http://127.0.0.1:1"
    assert found["BIGQUERY_STORAGE_GRPC_ENDPOINT"] == "127.0.0.1:2"
    assert found["no_proxy"] == found["NO_PROXY"] == "corp,127.0.0.1,localhost"
    assert "GOOGLE_CLOUD_PROJECT" not in found


def test_command_replaces_the_entrypoint(lab, tmp_path):
    @dsl.container_component
    def shell(out: Output[Dataset]):
        return dsl.ContainerSpec(
            image="tool", command=["sh", "-c", 'echo "$0 in $(ls)" > "$1"'], args=["a", out.path])

    @dsl.pipeline(name="shell")
    def pipeline():
        shell()

    job = lab.run(lab.spec(pipeline, tmp_path))
    assert lab.read(tasks(job)["shell"].outputs["out"].artifacts[0].uri) == \
        "a in Dockerfile\nmain.py\n"


# Branches


@dsl.pipeline(name="branches")
def branches(value: float, limit: float = 0.5, name: str = "x", flag: bool = True):
    made = make(text="t", value=value)
    with dsl.If(made.outputs["score"] >= limit, name="gate"):
        good = copy(source=made.outputs["out"])
        good.set_display_name("approve")
        with dsl.If(name == "x", name="inner"):
            say(text="x").set_display_name("named-x")
    with dsl.If(flag == True, name="flagged"):  # noqa: E712
        say(text="flag").set_display_name("said-flag")


def test_the_branch_that_is_true_runs_and_the_others_do_not(lab, tmp_path):
    spec = lab.spec(branches, tmp_path)
    above = lab.run(spec, {"value": 0.5})
    assert above.state == PipelineState.PIPELINE_STATE_SUCCEEDED
    assert states(above) == {
        "make": "SUCCEEDED", "gate": "SUCCEEDED", "approve": "SUCCEEDED", "inner": "SUCCEEDED",
        "named-x": "SUCCEEDED", "flagged": "SUCCEEDED", "said-flag": "SUCCEEDED"}
    found = tasks(above)
    assert found["approve"].parent_task_id == found["gate"].task_id
    # "constructed by concatenating all the parent tasks name with the task name"
    assert found["named-x"].task_unique_name == "gate.inner.named-x"
    assert found["approve"].outputs["model"].artifacts[0].schema_title == "system.Model"

    below = lab.run(spec, {"value": 0.49, "name": "y", "flag": False})
    assert below.state == PipelineState.PIPELINE_STATE_SUCCEEDED
    assert {n for n, s in states(below).items() if s == "NOT_TRIGGERED"} == {
        "gate", "approve", "inner", "named-x", "flagged", "said-flag"}
    assert tasks(below)["gate"].start_time is None


def test_a_diamond_runs_its_arms_before_it_joins_them(lab, tmp_path):
    @dsl.container_component
    def arm(source: Input[Dataset], out: Output[Dataset], name: str):
        return dsl.ContainerSpec(image="tool", args=[
            "copy", source.path, out.path, "say", name])

    @dsl.pipeline(name="diamond")
    def diamond():
        top = make(text="d")
        left = arm(source=top.outputs["out"], name="left")
        right = arm(source=top.outputs["out"], name="right")
        join(a=left.outputs["out"], b=right.outputs["out"])

    job = lab.run(lab.spec(diamond, tmp_path))
    found = tasks(job)
    left, right, joined = found["arm"], found["arm-2"], found["join"]
    assert joined.start_time >= max(left.end_time, right.end_time)
    uri = joined.outputs["out"].artifacts[0].uri
    for side in "ab":
        assert lab.read(f"{uri}/{side}/data.txt") == "copied copied d"


# Failures


@dsl.pipeline(name="failing")
def failing(word: str, text: str = "kept"):
    made = make(text=text)
    failed = do(word=word, argument="the reason is here").after(made)
    say(text="after").after(failed)
    beside = say(text="beside").after(made)
    say(text="after beside").after(beside)


def test_a_failing_task_fails_the_job_and_the_next_run_resumes(lab, tmp_path):
    spec = lab.spec(failing, tmp_path)
    job = lab.run(spec, {"word": "fail"})
    assert job.state == PipelineState.PIPELINE_STATE_FAILED
    # Fail slow, the default: "until no more tasks can be executed".
    assert states(job) == {"make": "SUCCEEDED", "do": "FAILED", "say": "NOT_TRIGGERED",
                           "say-2": "SUCCEEDED", "say-3": "SUCCEEDED"}
    error = tasks(job)["do"].error
    assert "status 3" in error.message
    lines = error.message.splitlines()
    assert lines[-1] == "the reason is here" and lines[1] == "line 11" and len(lines) == 11
    assert "[do]" in job.error.message
    assert job.error.message.splitlines()[-1] == "do: the reason is here"
    again = lab.run(spec, {"word": "say"})
    assert states(again) == {"make": "SKIPPED", "do": "SUCCEEDED", "say": "SUCCEEDED",
                             "say-2": "SKIPPED", "say-3": "SKIPPED"}
    assert tasks(again)["make"].outputs == tasks(job)["make"].outputs
    assert tasks(again)["make"].execution.state.name == "CACHED"
    # A failed task is never taken from the cache.
    assert states(lab.run(spec, {"word": "fail"}))["do"] == "FAILED"


def test_outputs_that_a_task_does_not_write(lab, tmp_path):
    @dsl.container_component
    def lazy(artifact: Output[Dataset], number: OutputPath(int), text: str):
        return dsl.ContainerSpec(image="tool", args=["write", number, text])

    @dsl.container_component
    def silent(word: OutputPath(str)):
        return dsl.ContainerSpec(image="tool", args=["say", word])

    @dsl.pipeline(name="lazy")
    def pipeline(text: str):
        lazy(text=text)
        silent()

    job = lab.run(lab.spec(pipeline, tmp_path), {"text": "5"})
    assert states(job) == {"lazy": "SUCCEEDED", "silent": "FAILED"}
    assert tasks(job)["silent"].error.message == "The task wrote no output 'word'."
    job = lab.run(lab.spec(pipeline, tmp_path), {"text": "many"})
    assert "'many' is no NUMBER_INTEGER" in tasks(job)["lazy"].error.message


def test_a_task_without_a_required_input_fails(lab, tmp_path):
    @dsl.pipeline(name="optional")
    def pipeline(text: Optional[str] = None):  # noqa: UP045 - as kfp reads it
        say(text=text)

    job = lab.run(lab.spec(pipeline, tmp_path))
    assert states(job) == {"say": "FAILED"}
    assert tasks(job)["say"].error.message == "Input 'text' has no parameter."


def test_a_condition_compares_values_of_the_same_type(lab, tmp_path):
    spec = lab.spec(branches, tmp_path)
    flagged = next(task for task in spec["root"]["dag"]["tasks"].values()
                   if task["taskInfo"]["name"] == "flagged")
    condition = flagged["triggerPolicy"]["condition"]
    flagged["triggerPolicy"]["condition"] = condition.replace("true", "'yes'")
    job = lab.run(spec, {"value": 0.5})
    assert states(job)["flagged"] == "FAILED"
    assert "True and 'yes' cannot be compared" in tasks(job)["flagged"].error.message


def test_an_unknown_image_fails_its_task(lab, tmp_path):
    @dsl.container_component
    def other():
        return dsl.ContainerSpec(image="host/repo/unknown:1", args=["x"])

    @dsl.pipeline(name="unknown")
    def pipeline():
        other()

    job = lab.run(lab.spec(pipeline, tmp_path))
    assert "'host/repo/unknown:1' was not found (known here: tool)" in job.error.message


def test_a_missing_bucket_fails_the_task(lab, tmp_path):
    job = lab.run(lab.spec(linear, tmp_path), {"text": "no bucket"}, root="gs://missing/root")
    assert states(job)["make"] == "FAILED" and "gs://missing" in job.error.message


# The cache


def test_the_cache_is_by_inputs_code_and_pipeline(lab, tmp_path, tool):
    def run(pipeline=linear, **parameters):
        return states(lab.run(lab.spec(pipeline, tmp_path), {"text": "cache", **parameters}))

    all_new = {"make": "SUCCEEDED", "copy": "SUCCEEDED", "say": "SUCCEEDED"}
    all_old = dict.fromkeys(all_new, "SKIPPED")
    assert run() == all_new
    assert run() == all_old
    # Another value of a parameter; what it writes is the same, so the others are not run again.
    assert run(value=0.6) == {"make": "SUCCEEDED", "copy": "SKIPPED", "say": "SKIPPED"}

    @dsl.pipeline(name="another-name")
    def renamed(text: str, value: float = 0.75):
        made = make(text=text, value=value)
        copied = copy(source=made.outputs["out"])
        say(text=made.outputs["word"]).after(copied)

    assert run(renamed) == all_new
    program = (tool / "main.py").read_text()
    try:
        (tool / "main.py").write_text(program + "# changed\n")
        assert run() == all_new
    finally:
        (tool / "main.py").write_text(program)
    assert run() == all_old


def test_the_cache_is_used_only_where_it_is_enabled(lab, sdk, tmp_path):
    @dsl.pipeline(name="some-cached")
    def pipeline():
        say(text="cached")
        say(text="never").set_caching_options(False)

    def run(enable_caching):
        file = tmp_path / "p.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        job = sdk.PipelineJob(
            display_name="d", template_path=str(file), pipeline_root=ROOT,
            enable_caching=enable_caching, job_id=f"caching-{next(_numbers)}")
        job.submit()
        return states(lab.wait(job.resource_name))

    run(None)
    assert run(None) == {"say": "SKIPPED", "say-2": "SUCCEEDED"}
    assert run(False) == {"say": "SUCCEEDED", "say-2": "SUCCEEDED"}


def test_deleted_or_changed_outputs_are_computed_again(lab, tmp_path):
    spec = lab.spec(linear, tmp_path)
    job = lab.run(spec, {"text": "gone"})
    uri = tasks(job)["make"].outputs["out"].artifacts[0].uri
    blob = lab.storage.bucket(BUCKET).blob(f"{uri.removeprefix(f'gs://{BUCKET}/')}/data.txt")
    blob.delete()
    again = lab.run(spec, {"text": "gone"})
    assert states(again) == {"make": "SUCCEEDED", "copy": "SKIPPED", "say": "SKIPPED"}
    uri = tasks(again)["make"].outputs["out"].artifacts[0].uri
    blob = lab.storage.bucket(BUCKET).blob(f"{uri.removeprefix(f'gs://{BUCKET}/')}/data.txt")
    blob.upload_from_string("tampered")
    assert states(lab.run(spec, {"text": "gone"}))["make"] == "SUCCEEDED"


# Cancelling, deleting, restarting


@dsl.pipeline(name="sleeping")
def sleeping():
    first = do(word="sleep", argument="60")
    say(text="never").after(first)


def running_task(lab, job, name="do"):
    deadline = time.monotonic() + 10
    while states(lab.service.get_pipeline_job(name=job.name)).get(name) != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def no_process_is_left():
    """Whether no child of this process runs the tool."""
    found = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())],
                           capture_output=True, text=True).stdout
    return "main.py sleep" not in found


def test_a_cancelled_job_ends_its_tasks(lab, sdk, tmp_path):
    job = lab.create(lab.spec(sleeping, tmp_path))
    running_task(lab, job)
    with pytest.raises(exceptions.BadRequest, match="still running"):
        lab.service.delete_pipeline_job(name=job.name)
    sdk.PipelineJob.get(job.name).cancel()
    ended = lab.wait(job.name, 8)
    assert ended.state == PipelineState.PIPELINE_STATE_CANCELLED
    assert ended.error.code == 1  # "Code.CANCELLED"
    assert states(ended) == {"do": "CANCELLED", "say": "CANCELLED"}
    assert no_process_is_left()
    with pytest.raises(exceptions.BadRequest, match="is over"):
        lab.service.cancel_pipeline_job(name=job.name)


def test_a_restart_fails_what_ran_and_keeps_the_cache(tmp_path, tool, storage_url):
    folder = tmp_path / "vertex"
    lab = Lab(folder, {"tool": tool}, storage_url)
    try:
        spec = lab.spec(linear, tmp_path)
        kept = lab.run(spec, {"text": "restart"})
        job = lab.create(lab.spec(sleeping, tmp_path))
        custom = lab.jobs.create_custom_job(parent=PARENT, custom_job=custom_job(
            args=["sleep", "60"]))
        running_task(lab, job)
    finally:
        lab.close()
    assert no_process_is_left()
    lab = Lab(folder, {"tool": tool}, storage_url)
    try:
        job = lab.service.get_pipeline_job(name=job.name)
        assert job.state == PipelineState.PIPELINE_STATE_FAILED
        assert "was stopped" in job.error.message
        assert states(job) == {"do": "CANCELLED", "say": "CANCELLED"}
        assert lab.jobs.get_custom_job(name=custom.name).state == JobState.JOB_STATE_FAILED
        assert lab.service.get_pipeline_job(name=kept.name) == kept
        assert set(states(lab.run(spec, {"text": "restart"})).values()) == {"SKIPPED"}
    finally:
        lab.close()


# What is refused


def test_unserved_features_are_refused_by_name(lab, tmp_path):
    @dsl.component
    def lightweight():
        pass

    @dsl.pipeline(name="p")
    def loop():
        with dsl.ParallelFor(["a", "b"]) as item:
            say(text=item)

    @dsl.pipeline(name="p")
    def handler():
        with dsl.ExitHandler(say(text="exit")):
            say(text="body")

    @dsl.pipeline(name="p")
    def importing():
        copy(source=dsl.importer("gs://b/x", Dataset).output)

    @dsl.pipeline(name="p")
    def python():
        lightweight()

    @dsl.pipeline(name="p")
    def ignoring():
        say(text="a").after(do(word="fail", argument="x")).ignore_upstream_failure()

    @dsl.pipeline(name="p")
    def otherwise(flag: bool):
        with dsl.If(flag == True):  # noqa: E712
            say(text="yes")
        with dsl.Else():
            say(text="no")

    @dsl.pipeline(name="inner")
    def inner() -> Dataset:
        return make(text="x").outputs["out"]

    @dsl.pipeline(name="p")
    def nested():
        copy(source=inner().output)

    @dsl.pipeline(name="p")
    def fstring(text: str):
        say(text=f"<{text}>")

    @dsl.pipeline(name="p")
    def retried():
        say(text="a").set_retry(1)

    for pipeline, words in {
        otherwise: "dsl.Else", nested: "an output of a branch or of a pipeline",
        fstring: "f-string", retried: "set_retry",
        loop: "loop", handler: "dsl.ExitHandler", importing: "dsl.importer",
        python: "lightweight Python components", ignoring: "ignore_upstream_failure",
    }.items():
        with pytest.raises(exceptions.BadRequest, match=words):
            lab.create(lab.spec(pipeline, tmp_path))
    with pytest.raises(exceptions.BadRequest, match="fail fast"):
        lab.create(lab.spec(linear, tmp_path), runtime={"failure_policy": 2})


def test_what_is_wrong_is_refused_by_name(lab, tmp_path):
    spec = lab.spec(branches, tmp_path)

    def refused(match, change=None, parameters=None, **fields):
        changed = json.loads(json.dumps(spec))
        if change:
            change(changed)
        with pytest.raises(exceptions.BadRequest, match=match):
            lab.create(changed, {"value": 1} if parameters is None else parameters, **fields)

    root = ("root", "dag", "tasks")
    refused("'value' is required", parameters={})
    refused("nosuch: no such parameter", parameters={"value": 1, "nosuch": 2})
    refused("'value': 'one' is not of type NUMBER_DOUBLE", parameters={"value": "one"})
    refused("schemaVersion '2.0.0'", lambda s: s.update(schemaVersion="2.0.0"))
    refused("novelty: this field", lambda s: s["root"]["dag"]["tasks"]["make"].update(novelty=1))
    refused("refers to no component", lambda s: s["components"].pop("comp-make"))
    refused("no container image", lambda s: s["deploymentSpec"]["executors"].pop("exec-make"))
    refused("no such task", lambda s: s[root[0]][root[1]][root[2]]["make"].update(
        dependentTasks=["ghost"]))
    refused("wait for each other", lambda s: s["root"]["dag"]["tasks"]["make"].update(
        dependentTasks=["condition-1"]))
    refused("condition", lambda s: s["root"]["dag"]["tasks"]["condition-1"][
        "triggerPolicy"].update(condition="size(inputs.parameter_values['x']) > 1"))
    refused("gs://", root="/tmp/here")
    refused("pipeline_job_id", job_id="Upper")
    refused("labels", labels={"Key": "x"})
    lab.create(spec, {"value": 1}, job_id="taken")
    with pytest.raises(exceptions.Conflict):
        lab.create(spec, {"value": 1}, job_id="taken")


# Custom jobs


def custom_job(image="host/tool:1", command=(), args=(), env=None, **spec):
    return {"display_name": "train", "labels": {"training": "abc"}, "job_spec": {
        "worker_pool_specs": [{
            "machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": 1,
            "container_spec": {
                "image_uri": image, "command": list(command), "args": list(args),
                "env": [{"name": k, "value": v} for k, v in (env or {}).items()]}}],
        **spec}}


def test_custom_job_with_the_sdk(lab, sdk):
    job = sdk.CustomJob(
        display_name="train", base_output_dir=f"gs://{BUCKET}/jobs/1", labels={"step": "train"},
        worker_pool_specs=custom_job(args=["environment", f"/gcs/{BUCKET}/env.json"],
                                     env={"MINE": "1"})["job_spec"]["worker_pool_specs"])
    job.run()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    found = json.loads(lab.read(f"gs://{BUCKET}/env.json"))
    # CustomJobSpec.base_output_directory
    assert found["AIP_MODEL_DIR"] == f"gs://{BUCKET}/jobs/1/model/"
    assert found["AIP_CHECKPOINT_DIR"] == f"gs://{BUCKET}/jobs/1/checkpoints/"
    assert found["AIP_TENSORBOARD_LOG_DIR"] == f"gs://{BUCKET}/jobs/1/logs/"
    assert found["MINE"] == "1" and found["STORAGE_EMULATOR_HOST"] == lab.storage_url
    [listed] = sdk.CustomJob.list(filter='labels.step="train" AND state="JOB_STATE_SUCCEEDED"')
    assert listed.resource_name == job.resource_name
    job.delete()
    with pytest.raises(exceptions.NotFound):
        lab.jobs.get_custom_job(name=job.resource_name)


def test_gcs_paths_are_read_and_written_through_storage(lab):
    lab.storage.bucket(BUCKET).blob("in/a.txt").upload_from_string("A")
    lab.storage.bucket(BUCKET).blob("in/sub/b.txt").upload_from_string("B")
    lab.storage.bucket(BUCKET).blob("inside.txt").upload_from_string("not this")
    job = lab.jobs.create_custom_job(parent=PARENT, custom_job=custom_job(
        command=["sh", "-c"], env={"OUT": f"/gcs/{BUCKET}/out"},
        args=[f'cp -r "/gcs/{BUCKET}/in" "$OUT" && find "$(dirname "$OUT")" -type f | wc -l']))
    ended = lab.wait_for_job(job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED, ended.error
    assert ended.start_time <= ended.end_time
    assert lab.read(f"gs://{BUCKET}/out/a.txt") == "A"
    assert lab.read(f"gs://{BUCKET}/out/sub/b.txt") == "B"
    log = lab.folder / "logs" / job.name.replace("/", ".") / "workerpool0-0.log"
    assert log.read_text().strip() == "4"


def test_pipeline_tasks_may_name_gcs_paths_too(lab, tmp_path):
    @dsl.pipeline(name="gcs")
    def pipeline(path: str):
        do(word="environment", argument=path)

    job = lab.run(lab.spec(pipeline, tmp_path), {"path": f"/gcs/{BUCKET}/task-env.json"})
    assert states(job) == {"do": "SUCCEEDED"}
    assert "PATH" in json.loads(lab.read(f"gs://{BUCKET}/task-env.json"))


def test_custom_job_failure_timeout_and_cancellation(lab):
    def create(**spec):
        return lab.jobs.create_custom_job(parent=PARENT, custom_job=custom_job(**spec)).name

    failed = lab.wait_for_job(create(
        args=["write", f"/gcs/{BUCKET}/partial/p.txt", "p", "fail", "no rows"]))
    assert failed.state == JobState.JOB_STATE_FAILED
    assert failed.error.message.splitlines()[-1] == "no rows"
    assert lab.read(f"gs://{BUCKET}/partial/p.txt") == "p"  # as a mount would keep it
    unknown = lab.wait_for_job(create(image="nothing"))
    assert "'nothing' was not found" in unknown.error.message
    late = lab.wait_for_job(create(args=["sleep", "60"], scheduling={"timeout": "0.3s"}))
    assert late.state == JobState.JOB_STATE_FAILED and "0.3 s" in late.error.message
    name = create(args=["sleep", "60"])
    deadline = time.monotonic() + 30  # a job that is still pending is cancelled without an error
    while lab.jobs.get_custom_job(name=name).state != JobState.JOB_STATE_RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lab.jobs.cancel_custom_job(name=name)
    cancelled = lab.wait_for_job(name)
    assert (cancelled.state, cancelled.error.code) == (JobState.JOB_STATE_CANCELLED, 1)
    assert no_process_is_left()


def test_custom_jobs_that_cannot_run_here_are_refused_by_name(lab):
    pool = custom_job()["job_spec"]["worker_pool_specs"][0]
    python = {"machine_spec": pool["machine_spec"], "python_package_spec": {
        "executor_image_uri": "x", "package_uris": ["gs://b/p"], "python_module": "m"}}
    for match, spec in {
        "more than one worker pool": {"worker_pool_specs": [pool, pool]},
        "python_package_spec": {"worker_pool_specs": [python]},
        "more than one replica": {"worker_pool_specs": [{**pool, "replica_count": 2}]},
        "first pool is required": {"worker_pool_specs": []},
        "tensorboard": {"worker_pool_specs": [pool], "tensorboard": "t"},
        "image_uri is required": {"worker_pool_specs": [{**pool, "container_spec": {}}]},
    }.items():
        with pytest.raises(exceptions.BadRequest, match=match):
            lab.jobs.create_custom_job(
                parent=PARENT, custom_job={"display_name": "d", "job_spec": spec})


# Containers


def test_without_an_engine_the_job_says_so(tmp_path, tool, storage_url, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    lab = Lab(tmp_path / "vertex", {"tool": tool}, storage_url, runner="container")
    try:
        job = lab.run(lab.spec(linear, tmp_path), {"text": "no engine"})
        assert "no Docker engine answers at unix:///nowhere/docker.sock" in job.error.message
        assert "--runner process" in job.error.message
    finally:
        lab.close()


def docker(*words):
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def image(tool):
    """The image `tool`, built on a real engine for an unprivileged user."""
    if not shutil.which("docker") or docker("info").returncode:
        pytest.skip("no Docker engine answers `docker info`")
    known = docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    base = next((name for name in known if re.search(r"(^|/)python:3\.11", name)), None)
    if base is None:
        pytest.skip("the Docker engine has no python:3.11 image, and tests pull nothing")
    name = "localcloud-test/tool:1"
    built = subprocess.run(
        ["docker", "build", "--tag", name, "--file", "-", str(tool)], text=True, timeout=120,
        input=f'FROM {base}\nCOPY main.py .\nUSER 10001\nENTRYPOINT ["python", "main.py"]\n',
        capture_output=True)
    assert built.returncode == 0, built.stderr
    yield name
    docker("rmi", "--force", name)


def test_in_containers_the_results_are_the_same(image, tmp_path, tool, storage_url):
    @dsl.container_component
    def work(text: str, out: Output[Dataset], word: OutputPath(str)):
        return dsl.ContainerSpec(image=image, args=[
            "write", dsl.ConcatPlaceholder([out.path, "/sub/data.txt"]), text, "write", word, text])

    @dsl.container_component
    def again(source: Input[Dataset], model: Output[Model], word: str):
        return dsl.ContainerSpec(image=image, args=["copy", source.path, model.path, word, word])

    @dsl.pipeline(name="in-containers")
    def pipeline(word: str = "say"):
        made = work(text="c")
        again(source=made.outputs["out"], word=word)

    found = []
    for runner in ("process", "container"):
        lab = Lab(tmp_path / runner, {"tool": tool}, storage_url, runner)
        with contextlib.closing(lab):
            spec = lab.spec(pipeline, tmp_path)
            job = lab.wait(lab.create(spec).name, 60)
            assert set(states(job).values()) == {"SUCCEEDED"}, job.error
            uri = tasks(job)["again"].outputs["model"].artifacts[0].uri
            found.append((lab.read(f"{uri}/data.txt"),
                          dict(tasks(job)["work"].execution.metadata)))
            if runner == "container":
                failed = lab.wait(lab.create(spec, {"word": "fail"}).name, 60)
                assert failed.error.message.splitlines()[-1] == "again: fail"
                assert states(failed) == {"work": "SKIPPED", "again": "FAILED"}
                job = lab.jobs.create_custom_job(parent=PARENT, custom_job=custom_job(
                    image=image, args=["sleep", "600"])).name
                deadline = time.monotonic() + 30
                while not docker("ps", "--quiet", "--filter", f"ancestor={image}").stdout:
                    assert time.monotonic() < deadline
                lab.jobs.cancel_custom_job(name=job)
                assert lab.wait_for_job(job).state == JobState.JOB_STATE_CANCELLED
                assert not docker("ps", "--quiet", "--filter", f"ancestor={image}").stdout
    assert found[0] == found[1]
