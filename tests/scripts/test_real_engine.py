"""The image scripts with a real Docker engine and a registry: build, push, read back, run.

Skipped when no engine answers, or with CONTAINER_TESTS=0. REGISTRY=host:port names a registry
that takes pushes without a log-in (default 127.0.0.1:5000); without one the pushes are skipped.
"""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from types import SimpleNamespace

import pytest

NAMES = ["data_load", "eval", "train", "serving"]
REGISTRY = os.environ.get("REGISTRY", "127.0.0.1:5000")
MANIFESTS = ("application/vnd.docker.distribution.manifest.v2+json, "
             "application/vnd.oci.image.manifest.v1+json")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True,
                          timeout=60).stdout.strip()


def engine_answers() -> bool:
    if os.environ.get("CONTAINER_TESTS") == "0" or not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False


pytestmark = pytest.mark.skipif(
    not engine_answers(), reason="`docker info` does not answer, or CONTAINER_TESTS=0")


def ask_registry(path: str, **headers: str):
    """The registry's answer to a HEAD or GET of /v2/<path>, or None."""
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return SimpleNamespace(headers=answer.headers, body=answer.read())
    except (urllib.error.URLError, OSError):
        return None


def digest_of(path: str, name: str, tag: str) -> str | None:
    answer = ask_registry(f"{path}/{name}/manifests/{tag}", Accept=MANIFESTS)
    return answer and answer.headers["Docker-Content-Digest"]


def smoke_leftovers() -> set[str]:
    """Containers and images of smoke tests; others may use the engine at the same time."""
    names = (docker("ps", "--all", "--format", "{{.ID}} {{.Image}}").splitlines()
             + docker("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines())
    return {name for name in names if "churn-smoke/" in name}


@pytest.fixture
def nothing_left():
    before = smoke_leftovers()
    yield
    assert smoke_leftovers() - before == set()


@pytest.fixture
def repository():
    """A repository for this test; its local tags are removed at the end."""
    if ask_registry("") is None:
        pytest.skip(f"no registry answers at {REGISTRY}")
    path = f"churn-test-{uuid.uuid4().hex[:8]}"
    yield f"{REGISTRY}/{path}"
    tags = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    mine = [tag for tag in tags if tag.startswith(f"{REGISTRY}/{path}/")]
    if mine:
        docker("image", "rm", *mine)


def test_push_all_then_only_what_changed(real_project, repository):
    project, path = real_project, repository.partition("/")[2]
    done = project.run("build_push_all.sh", "--registry", repository, "--version", "0.1.0",
                       timeout=280)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    sha = project.git("rev-parse", "HEAD")
    first = json.loads(project.lock)[repository]
    assert list(first) == sorted(NAMES)
    for name, digest in first.items():
        assert digest == digest_of(path, name, sha[:12]) == digest_of(path, name, "0.1.0")
        labels = json.loads(docker("image", "inspect", "--format", "{{json .Config}}",
                                   f"{repository}/{name}:0.1.0"))["Labels"]
        assert labels == {"org.opencontainers.image.title": name,
                          "org.opencontainers.image.revision": sha,
                          "org.opencontainers.image.version": "0.1.0"}

    project.commit("pin the images")
    project.touch("train")
    project.commit()
    done = project.run("build_push_all.sh", "--registry", repository, "--changed-since", "HEAD^",
                       timeout=200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    second = json.loads(project.lock)[repository]
    assert {name for name in NAMES if first[name] != second[name]} == {"train"}
    tag = project.git("rev-parse", "HEAD")[:12]
    assert digest_of(path, "train", tag) == second["train"]
    assert [digest_of(path, name, tag) for name in NAMES if name != "train"] == [None] * 3

    # What the pipeline will run: the reference by digest, as the script printed it last.
    reference = re.search(r"^\S+/train@sha256:\S+$", done.stdout, re.MULTILINE)[0]
    docker("image", "rm", f"{repository}/train:{tag}")
    assert "--input_dataset" in docker("run", "--rm", reference, "--help")
    docker("image", "rm", reference)


@pytest.mark.parametrize("name", NAMES)
def test_smoke_test_passes(real_project, nothing_left, name):
    done = real_project.run("smoke_test.sh", name, timeout=200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert re.search(rf"smoke {name}: passed in \d+ s\n$", done.stdout)
    assert real_project.git("status", "--porcelain") == ""


def test_smoke_test_of_a_new_component(real_project, nothing_left):
    assert real_project.run("new_component.sh", "mine").returncode == 0
    done = real_project.run("smoke_test.sh", "mine", timeout=200)
    assert done.returncode == 0, done.stderr
    assert "output_dataset: row_counts.json" in done.stdout


def break_dockerfile(folder):
    with (folder / "Dockerfile").open("a") as file:
        file.write("COPY no_such_file .\n")


def run_as_root(folder):
    path = folder / "Dockerfile"
    path.write_text(path.read_text().replace("USER 10001\n", ""))


def change_main(old: str, new: str):
    def change(folder):
        path = folder / "src" / "main.py"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    return change


WRITE = 'write_json(options.output_dataset / "row_counts.json", counts)'


@pytest.mark.parametrize("change, stage, cause", [
    (break_dockerfile, "build of mine", "no_such_file"),
    (run_as_root, "smoke test of mine: build", "the image runs as root"),
    (change_main("    options = parse_arguments(argv)", "    return 1"),
     "smoke test of mine: --help", "--help ended with an error"),
    (change_main(WRITE, "raise InputError('no luck today')"),
     "smoke test of mine: run", "mine: no luck today"),
    (change_main(WRITE, "pass"),
     "smoke test of mine: outputs", "output_dataset was not written (promised: row_counts.json)"),
    (change_main('"row_counts.json", counts', '"counts.json", counts'),
     "smoke test of mine: outputs", "output_dataset: row_counts.json was not written"),
    (change_main(WRITE, "import time; time.sleep(60)"),
     "smoke test of mine: run", "still running after 3 s"),
], ids=["Dockerfile", "root", "help", "exits 1", "no output", "wrong file", "endless"])
def test_smoke_test_fails_and_says_why(real_project, nothing_left, change, stage, cause):
    assert real_project.run("new_component.sh", "mine").returncode == 0
    change(real_project.root / "lib" / "components" / "mine")
    done = real_project.run("smoke_test.sh", "mine", "--seconds", "3", timeout=200)
    assert done.returncode == 1 and "passed" not in done.stdout
    assert done.stderr.startswith(f"stage:     {stage}\n"), done.stderr
    assert cause in done.stderr, done.stderr
    print(done.stderr)


@pytest.mark.parametrize("old, new, stage, cause", [
    ('return {"status": "healthy"}', 'return JSONResponse({}, status_code=503)',
     "answers", "/health answered 503"),
    ('{"churn_probability": float(p)}', '{"probability": float(p)}',
     "answers", "/predict answered 200"),
    ("status_code=400", "status_code=200",
     "answers", "/predict answered a malformed instance with 200"),
    ("        given = settings()", "        raise StartError('no model today')",
     "run", "serving: no model today"),
], ids=["health", "predict", "refusal", "start"])
def test_smoke_test_of_serving_fails_and_says_why(
        real_project, nothing_left, old, new, stage, cause):
    change_main(old, new)(real_project.root / "lib" / "serving")
    done = real_project.run("smoke_test.sh", "serving", "--seconds", "20", timeout=200)
    assert done.returncode == 1
    assert done.stderr.startswith(f"stage:     smoke test of serving: {stage}\n"), done.stderr
    assert cause in done.stderr, done.stderr
