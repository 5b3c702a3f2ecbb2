"""The image scripts without an engine: command lines, tags, the lock file, each refusal."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "ab" * 32  # the answer of the fakes in conftest.py
REGISTRY = "127.0.0.1:5000/churn-dev"
GOOGLE = "us-central1-docker.pkg.dev/some-project/churn-dev"
ALL = ["data_load", "eval", "train", "serving"]
SCRIPTS = ["build_push.sh", "build_push_all.sh", "build_serving_container.sh", "smoke_test.sh",
           "new_component.sh"]


def refusal(done) -> dict[str, str]:
    """The failure message as a dict; the status must be 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    message = dict(line.split(":", 1) for line in done.stderr.splitlines()
                   if line.startswith(("stage:", "cause:", "needed:", "command:")))
    assert {"stage", "cause", "needed"} <= set(message), done.stderr
    return {key: value.strip() for key, value in message.items()}


# --- what each script understands -------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_bad_flags(project, script):
    done = project.run(script, "--help")
    assert done.returncode == 0 and "scripts/" in done.stdout and not done.stderr
    done = project.run(script, "--no-such-flag")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not project.calls


@pytest.mark.parametrize("script, arguments", [
    ("build_push.sh", []), ("build_push.sh", ["nope"]), ("build_push.sh", ["_template"]),
    ("build_push.sh", ["train", "eval"]), ("build_push.sh", ["train", "--registry"]),
    ("build_push.sh", ["train", "--version", "latest"]),
    ("build_push.sh", ["train", "--version", "1.2.3", "--allow-dirty"]),
    ("build_push.sh", ["train", "--registry", "Not a registry"]),
    ("build_push.sh", ["train", "--registry", REGISTRY, "--cloud-build"]),
    ("build_push_all.sh", ["train"]), ("build_push_all.sh", ["--env"]),
    ("build_push_all.sh", ["--changed-since"]),
    ("smoke_test.sh", []), ("smoke_test.sh", ["nope"]), ("smoke_test.sh", ["train", "--set", "x"]),
    ("smoke_test.sh", ["train", "--seconds", "soon"]),
    ("new_component.sh", []), ("new_component.sh", ["Bad-Name"]), ("new_component.sh", ["a__b"]),
    ("new_component.sh", ["a", "b"]),
])
def test_a_bad_command_line_ends_with_status_2(project, script, arguments):
    done = project.run(script, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert not project.calls


@pytest.mark.parametrize("script, arguments", [
    ("build_push.sh", ["train", "--registry", REGISTRY]),
    ("build_push.sh", ["train", "--registry", GOOGLE, "--cloud-build"]),
    ("build_push_all.sh", ["--registry", REGISTRY]),
    ("build_serving_container.sh", ["--registry", REGISTRY]),
    ("smoke_test.sh", ["eval"]), ("smoke_test.sh", ["serving"]),
    ("new_component.sh", ["mine"]),
])
def test_dry_run_touches_nothing_and_needs_no_engine(project, script, arguments):
    before = project.files()
    done = project.run(script, *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would" in done.stdout
    assert project.files() == before and not project.calls


def test_the_smoke_test_runs_the_interfaces_of_the_program_only(project):
    """data_load's refresh.yaml is of another program, whose plan a smoke test does not have."""
    for name, expected in {"data_load": {"component"}, "eval": {"component", "approve"}}.items():
        done = project.run("smoke_test.sh", name, "--dry-run")
        assert set(re.findall(r"(\w+)\.yaml, on a tiny data set", done.stdout)) == expected


# --- build_push.sh ----------------------------------------------------------------------------


def test_build_push(project):
    sha = project.git("rev-parse", "HEAD")
    done = project.run("build_push.sh", "train", "--registry", REGISTRY)
    assert done.returncode == 0, done.stderr
    image = f"{REGISTRY}/train:{sha[:12]}"
    assert [call for call in project.calls if "inspect" not in call] == [
        "docker info",
        f"docker build --platform linux/amd64 --build-arg REVISION={sha} "
        f"--build-arg VERSION={sha[:12]} --tag {image} lib/components/train",
        f"docker push {image}",
        f"docker pull --platform linux/amd64 {image}",
    ]
    assert done.stdout.splitlines()[-1] == f"{REGISTRY}/train@{DIGEST}"
    assert json.loads(project.lock) == {REGISTRY: {"train": DIGEST}}
    assert project.git("status", "--porcelain") == "M lib/images.lock.json"

    done = project.run("build_serving_container.sh", "--registry", REGISTRY)
    assert done.returncode == 0, done.stderr
    assert json.loads(project.lock) == {REGISTRY: {"serving": DIGEST, "train": DIGEST}}
    assert any(call.endswith(" lib/serving") for call in project.calls)


def test_release_tag(project):
    sha = project.git("rev-parse", "--short=12", "HEAD")
    done = project.run("build_push.sh", "eval", "--registry", REGISTRY, "--version", "1.2.3",
                       BASE_IMAGE="mirror.example/python:3.11-slim")
    assert done.returncode == 0, done.stderr
    build = next(call for call in project.calls if call.startswith("docker build"))
    assert "--build-arg VERSION=1.2.3" in build
    assert "--build-arg BASE_IMAGE=mirror.example/python:3.11-slim" in build
    assert [call for call in project.calls if call.startswith("docker push")] == [
        f"docker push {REGISTRY}/eval:{sha}", f"docker push {REGISTRY}/eval:1.2.3"]
    assert list(json.loads(project.lock)[REGISTRY]) == ["eval"]


@pytest.mark.parametrize("change", ["the component", "a script", "a new file"])
def test_a_dirty_tree_is_refused(project, change):
    if change == "the component":
        project.touch("train")
    elif change == "a script":
        (project.root / "scripts" / "images.sh").open("a").write("# changed\n")
    else:
        (project.root / "lib" / "components" / "train" / "src" / "new.py").write_text("")
    message = refusal(project.run("build_push.sh", "train", "--registry", REGISTRY))
    assert message["stage"] == "tag of train" and "uncommitted" in message["cause"]
    assert "--allow-dirty" in message["needed"]
    assert not project.calls and project.lock == "{}\n"

    done = project.run("build_push.sh", "train", "--registry", REGISTRY, "--allow-dirty")
    assert done.returncode == 0, done.stderr
    sha = project.git("rev-parse", "HEAD")
    build = next(call for call in project.calls if call.startswith("docker build"))
    assert f"REVISION={sha}-dirty " in build and f"train:{sha[:12]}-dirty " in build


def test_dirt_elsewhere_does_not_matter(project):
    project.touch("eval")
    (project.root / "notes.txt").write_text("x")
    done = project.run("build_push.sh", "train", "--registry", REGISTRY)
    assert done.returncode == 0 and "dirty" not in done.stdout
    # With all of them, none is built before the dirty one is found.
    project.calls_file.unlink()
    message = refusal(project.run("build_push_all.sh", "--registry", REGISTRY))
    assert message["stage"] == "tag of eval" and not project.calls


def test_without_git(project):
    shutil.rmtree(project.root / ".git")
    message = refusal(project.run("build_push.sh", "train", "--registry", REGISTRY,
                                  GIT_CEILING_DIRECTORIES=str(project.root.parent)))
    assert message["cause"] == "this is not a git clone with a commit"


def test_repository_comes_from_the_configuration(project):
    message = refusal(project.run("build_push.sh", "train"))
    assert message["stage"] == "registry" and "targets.gcp.project" in message["cause"]
    assert message["command"] == "edit config.yaml"
    message = refusal(project.run("build_push.sh", "train", "--target", "local"))
    assert message["cause"].startswith("--target local has no registry")

    config = yaml.safe_load((project.root / "config.yaml").read_text())
    config["targets"]["gcp"]["project"] = "some-project"
    (project.root / "config.yaml").write_text(yaml.safe_dump(config))
    done = project.run("build_push.sh", "train", "--target", "gcp")
    assert done.returncode == 0, done.stderr
    done = project.run("build_push.sh", "train", "--env", "prod")
    assert done.returncode == 0, done.stderr
    assert json.loads(project.lock) == {
        GOOGLE: {"train": DIGEST}, GOOGLE.replace("-dev", "-prod"): {"train": DIGEST}}


def test_no_engine(project):
    message = refusal(project.run("build_push.sh", "train", "--registry", REGISTRY,
                                  FAKE_FAIL="info", FAKE_SAYS="Cannot connect to the daemon"))
    assert message["stage"] == "engine" and "Cannot connect" in message["cause"]
    assert "--cloud-build" in message["needed"]
    assert refusal(project.run("smoke_test.sh", "train", FAKE_FAIL="info"))["stage"] == "engine"


def test_no_docker_command(project, tmp_path):
    tools = tmp_path / "few"
    tools.mkdir()
    for tool in ("bash", "env", "git", "awk", "sed", "tail", "mktemp", "rm", "dirname", "basename",
                 "grep", "paste"):
        (tools / tool).symlink_to(shutil.which(tool))
    message = refusal(project.run("build_push.sh", "train", "--registry", REGISTRY,
                                  PATH=str(tools)))
    assert message["cause"] == "there is no docker command"
    message = refusal(project.run("build_push.sh", "train", "--registry", GOOGLE, "--cloud-build",
                                  PATH=str(tools)))
    assert message["cause"] == "there is no gcloud command"


def test_a_build_that_fails(project):
    done = project.run("build_push.sh", "train", "--registry", REGISTRY,
                       FAKE_FAIL="build", FAKE_SAYS="no such package")
    message = refusal(done)
    assert message["stage"] == "build of train" and "no such package" in done.stderr
    assert "lib/components/train/Dockerfile" in message["needed"]
    assert project.lock == "{}\n"


# What Artifact Registry and other registries answer.
@pytest.mark.parametrize("repository, says, needed, command", [
    (GOOGLE, 'denied: Unauthenticated request. Unauthenticated requests do not have permission '
     '"artifactregistry.repositories.uploadArtifacts"', "docker to log in",
     "gcloud auth configure-docker us-central1-docker.pkg.dev"),
    (GOOGLE, 'name unknown: Repository "churn-dev" not found',
     "the repository churn-dev in project some-project, us-central1",
     "gcloud artifacts repositories create churn-dev --repository-format docker "
     "--location us-central1 --project some-project"),
    (GOOGLE, 'denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on '
     'resource "x" (or it may not exist)', "roles/artifactregistry.writer",
     "gcloud artifacts repositories create churn-dev --repository-format docker "
     "--location us-central1 --project some-project"),
    ("registry.example/churn", "no basic auth credentials", "docker to be logged in",
     "docker login registry.example"),
    ("registry.example/churn", "denied: requested access to the resource is denied",
     "the right to push to registry.example/churn", None),
    (REGISTRY, "dial tcp 127.0.0.1:5000: connect: connection refused",
     "a registry that answers at 127.0.0.1:5000", "docker push"),
])
def test_a_push_that_is_refused(project, repository, says, needed, command):
    message = refusal(project.run("build_push.sh", "train", "--registry", repository,
                                  FAKE_FAIL="push", FAKE_SAYS=says))
    assert message["stage"].startswith("push of train:")
    assert message["needed"].startswith(needed)
    assert message.get("command", "").startswith(command or "")
    assert project.lock == "{}\n"


def test_a_digest_that_is_not_that_of_what_was_pushed(project):
    run = ("build_push.sh", "train", "--registry", REGISTRY)
    assert "another image" in refusal(project.run(*run, FAKE_MOVED="1"))["cause"]
    assert "another image" in refusal(project.run(*run, FAKE_DIGEST="sha256:12"))["cause"]
    assert refusal(project.run(*run, FAKE_FAIL="pull"))["stage"].startswith("digest of train:")
    assert project.lock == "{}\n"


def test_cloud_build(project):
    sha = project.git("rev-parse", "HEAD")
    done = project.run("build_push.sh", "train", "--registry", GOOGLE, "--cloud-build",
                       "--version", "1.2.3")
    assert done.returncode == 0, done.stderr
    calls = project.calls
    assert re.fullmatch(r"gcloud builds submit \S+/source --project some-project --config \S+",
                        calls[0])
    described = next(call for call in calls if call.startswith("gcloud artifacts"))
    assert described == (f"gcloud artifacts docker images describe {GOOGLE}/train:{sha[:12]} "
                         "--project some-project --format value(image_summary.digest)")
    tags = [f"{GOOGLE}/train:{sha[:12]}", f"{GOOGLE}/train:1.2.3"]
    assert yaml.safe_load("\n".join(calls[1:calls.index(described)])) == {
        "steps": [{"id": "train", "name": "gcr.io/cloud-builders/docker", "dir": "train",
                   "waitFor": ["-"], "args": [
            "build", "--build-arg", f"REVISION={sha}", "--build-arg", "VERSION=1.2.3",
            "--tag", tags[0], "--tag", tags[1], "."]}],
        "images": tags}
    assert json.loads(project.lock) == {GOOGLE: {"train": DIGEST}}
    assert not any(call.startswith("docker") for call in calls)

    message = refusal(project.run("build_push.sh", "train", "--registry", GOOGLE, "--cloud-build",
                                  FAKE_FAIL="builds", FAKE_SAYS="PERMISSION_DENIED"))
    assert message["command"].startswith("gcloud services enable cloudbuild.googleapis.com")
    message = refusal(project.run("build_push.sh", "train", "--registry", GOOGLE, "--cloud-build",
                                  FAKE_FAIL="artifacts"))
    assert message["stage"] == "digest of train"


@pytest.mark.parametrize("script, name", [
    ("build_push.sh", ["train"]), ("build_push_all.sh", []), ("build_serving_container.sh", [])])
def test_another_configuration(project, tmp_path, script, name):
    tree = yaml.safe_load((project.root / "config.yaml").read_text())
    tree["serve"]["image_repository"] = "registry.example/of/mine"
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(tree))
    for given in ([*name, "--config", str(mine)], name):
        done = project.run(script, *given, "--target", "local", "--dry-run",
                           **({} if "--config" in given else {"CHURN_DEMO_CONFIG": str(mine)}))
        assert done.returncode == 0, done.stderr
        assert "registry.example/of/mine/" in done.stdout
    # relative to where the command is typed, not to the repository
    done = subprocess.run(
        [project.root / "scripts" / script, *name, "--config", "mine.yaml", "--target", "local",
         "--dry-run"], cwd=tmp_path, env=project.environment, capture_output=True, text=True)
    assert "registry.example/of/mine/" in done.stdout, done.stderr
    done = project.run(script, *name, "--config", "none.yaml", "--target", "local", "--dry-run")
    assert "none.yaml" in refusal(done)["cause"]


# --- build_push_all.sh ------------------------------------------------------------------------


def built(project) -> list[str]:
    return [Path(call.split()[-1]).name for call in project.calls if " build " in call]


def test_all_of_them(project):
    done = project.run("build_push_all.sh", "--registry", REGISTRY)
    assert done.returncode == 0, done.stderr
    assert built(project) == ALL
    assert json.loads(project.lock) == {REGISTRY: dict.fromkeys(ALL, DIGEST)}
    assert done.stdout.splitlines()[-1].startswith("done: 4 images in")


def test_cloud_build_builds_all_at_once(project):
    """One build; none of its steps waits for another."""
    done = project.run("build_push_all.sh", "--registry", GOOGLE, "--cloud-build")
    assert done.returncode == 0, done.stderr
    calls = project.calls
    assert len([call for call in calls if call.startswith("gcloud builds submit")]) == 1
    end = next(n for n, call in enumerate(calls) if call.startswith("gcloud artifacts"))
    build = yaml.safe_load("\n".join(calls[1:end]))
    assert {step["dir"]: step["waitFor"] for step in build["steps"]} == dict.fromkeys(ALL, ["-"])
    assert [image.rsplit("/", 1)[1].split(":")[0] for image in build["images"]] == ALL
    assert json.loads(project.lock) == {GOOGLE: dict.fromkeys(ALL, DIGEST)}


def test_only_what_changed(project):
    listed = ("build_push_all.sh", "--list", "--changed-since")
    assert project.run(*listed, "HEAD").stdout == ""
    as_json = ("build_push_all.sh", "--list-json", "--changed-since")
    assert project.run(*as_json, "HEAD").stdout == "[]\n"
    done = project.run("build_push_all.sh", "--changed-since", "HEAD", "--registry", REGISTRY)
    assert (done.returncode, project.calls) == (0, []) and "nothing changed" in done.stdout

    project.touch("train")
    assert project.run(*listed, "HEAD").stdout == "train\n"  # in the working tree
    project.commit()
    assert project.run(*listed, "HEAD^").stdout == "train\n"
    done = project.run("build_push_all.sh", "--changed-since", "HEAD^", "--registry", REGISTRY)
    assert done.returncode == 0 and built(project) == ["train"]

    (project.root / "lib" / "serving" / "src" / "new.py").write_text("")
    assert project.run(*listed, "HEAD^").stdout == "train\nserving\n"  # not yet known to git
    (project.root / "lib" / "serving" / "src" / "new.py").unlink()
    (project.root / "lib" / "components" / "eval" / "Dockerfile").chmod(0o755)
    (project.root / "lib" / "components" / "_template" / "README.md").write_text("x")
    (project.root / "lib" / "config.py").open("a").write("# changed\n")
    assert project.run(*listed, "HEAD").stdout == "eval\n"


def test_content_decides_and_not_history(project):
    project.touch("train")
    project.commit()
    project.git("revert", "--no-edit", "HEAD")
    listed = ("build_push_all.sh", "--list", "--changed-since")
    assert project.run(*listed, "HEAD^^").stdout == ""
    assert project.run(*listed, "HEAD^").stdout == "train\n"


def test_no_commit_to_compare_with(project):
    assert project.run("build_push_all.sh", "--list", "--changed-since", "0" * 40
                       ).stdout.split() == ALL
    message = refusal(project.run("build_push_all.sh", "--list", "--changed-since", "f" * 40))
    assert message["stage"] == "what changed" and "is not a commit" in message["cause"]


def test_stops_at_the_first_failure_and_keeps_what_was_pushed(project):
    run = ("build_push_all.sh", "--registry", REGISTRY)
    assert project.run(*run).returncode == 0
    before = project.lock
    done = project.run(*run, FAKE_FAIL="push", FAKE_SAYS="connection refused")
    assert refusal(done)["stage"].startswith("push of data_load:") and project.lock == before


# --- new_component.sh -------------------------------------------------------------------------


def test_new_component_works_at_once(project):
    done = project.run("new_component.sh", "order_counts")
    assert done.returncode == 0, done.stderr
    folder = project.root / "lib" / "components" / "order_counts"
    for file in folder.rglob("*"):
        assert not file.is_file() or "template" not in file.read_text(), file
    assert (folder / ".dockerignore").is_file()
    assert "order_counts" in project.run("build_push_all.sh", "--list").stdout.split()

    tests = ["tests/components/test_order_counts.py", "tests/components/test_images.py"]
    done = subprocess.run(
        [".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests,
         "-k", "order_counts"], cwd=project.root, capture_output=True, text=True, timeout=300,
        env=project.environment)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout, done.stdout

    message = refusal(project.run("new_component.sh", "order_counts"))
    assert message["cause"] == "order_counts exists already"
    assert refusal(project.run("new_component.sh", "serving"))["stage"] == "new component"
    project.commit()
    assert project.run("build_push.sh", "order_counts", "--registry", REGISTRY).returncode == 0


def test_every_script_is_executable():
    for script in SCRIPTS:
        assert os.access(ROOT / "scripts" / script, os.X_OK), script


# --- proxies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given, expected", [
    ({}, "127.0.0.1,localhost"), ({"NO_PROXY": "corp"}, "corp,127.0.0.1,localhost"),
    ({"no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost"), ({"NO_PROXY": "*"}, "*")])
def test_what_a_script_starts_reaches_loopback_past_a_proxy(given, expected):
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_PROXY", "no_proxy")}
    done = subprocess.run(
        ["bash", "-c", ". scripts/images.sh; env"], cwd=ROOT, env={**environment, **given},
        capture_output=True, text=True, check=True)
    assert {f"NO_PROXY={expected}", f"no_proxy={expected}"} <= set(done.stdout.splitlines())
