"""images.yml: its commands, run here with fakes, and its permissions."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts import other_machines

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def command(job: str, part: str) -> str:
    """The one step of a job whose commands hold `part`."""
    found = [step["run"] for step in JOBS[job]["steps"] if part in step.get("run", "")]
    assert len(found) == 1
    return found[0]


def run_step(project, text: str, **environment: str):
    """As GitHub runs a step with `shell: bash`."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text], cwd=project.root,
        env={**project.environment, **environment}, capture_output=True, text=True, timeout=60)


def chosen(project, tmp_path, base: str) -> list[str]:
    """The components that the job `changed` hands on."""
    output = tmp_path / "github_output"
    output.write_text("")
    done = run_step(project, command("changed", "--changed-since"), BASE=base,
                    GITHUB_OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text().removeprefix("components="))


def test_a_change_in_one_component_chooses_only_it(project, tmp_path):
    before = project.git("rev-parse", "HEAD")
    project.touch("train")
    project.commit()
    assert chosen(project, tmp_path, before) == ["train"]
    project.touch("serving")
    project.commit()
    assert chosen(project, tmp_path, "HEAD^") == ["serving"]
    assert chosen(project, tmp_path, before) == ["train", "serving"]
    (project.root / "README.md").write_text("x")
    (project.root / "lib" / "config.py").open("a").write("# changed\n")
    project.commit()
    assert chosen(project, tmp_path, "HEAD^") == []
    assert chosen(project, tmp_path, "0") == ["data_load", "eval", "train", "serving"]


def test_a_pull_request_is_compared_with_its_base(project, tmp_path):
    # GitHub checks out the merge: its first parent is the base, with all its commits.
    project.git("switch", "--quiet", "--create", "work")
    project.touch("eval")
    project.commit()
    project.git("switch", "--quiet", "main")
    project.touch("train")
    project.commit()
    project.git("merge", "--quiet", "--no-edit", "work")
    assert chosen(project, tmp_path, "HEAD^") == ["eval"]
    base = JOBS["changed"]["steps"][1]["env"]["BASE"]
    assert base.startswith("${{ github.event_name == 'pull_request' && 'HEAD^' ||")


def test_paths_are_the_components_folders():
    on = WORKFLOW[True]  # YAML 1.1 reads the key `on` as true
    paths = ["lib/components/**", "!lib/components/_template/**", "lib/serving/**"]
    assert on["push"] == {"branches": ["main"], "paths": paths}
    assert on["pull_request"] == {"paths": paths}
    # The pull request of the job `lock` changes none of them: no loop.
    assert not any("lock" in path for path in paths)


@pytest.mark.parametrize("component", ["data_load", "train", "eval", "serving"])
def test_the_tests_of_a_component_exist(project, component):
    script = project.root / "scripts" / "test.sh"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    done = run_step(project, command("test", "scripts/test.sh"), COMPONENT=component)
    tests = done.stdout.split()
    assert len(tests) >= 2 and all((ROOT / path).exists() for path in tests), tests


def test_commands_and_their_options_exist():
    texts = [step["run"] for _, step in STEPS if "run" in step]
    called = [match for text in texts for match in re.findall(r"(scripts/\w+\.sh)([^|\n)]*)", text)]
    assert {script for script, _ in called} == {
        "scripts/build_push_all.sh", "scripts/test.sh", "scripts/smoke_test.sh",
        "scripts/setup.sh", "scripts/build_push.sh"}
    for script, options in called:
        assert os.access(ROOT / script, os.X_OK), script
        text = (ROOT / script).read_text()
        for option in re.findall(r"--[a-z-]+", options):
            assert f"{option})" in text or f"{option} |" in text, (script, option)


def test_a_pull_request_can_push_nothing():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in JOBS.items()} == {
        "changed": None, "test": None,
        "push": {"contents": "read", "id-token": "write"},
        "lock": {"contents": "write", "pull-requests": "write"}}
    assert JOBS["push"]["if"] == "github.ref == 'refs/heads/main'"
    assert (JOBS["push"]["needs"], JOBS["lock"]["needs"]) == (["changed", "test"], "push")
    for name, step in STEPS:
        if step.get("uses", "").startswith("actions/checkout") and name != "lock":
            assert step["with"]["persist-credentials"] is False, name


def test_actions_are_pinned_and_no_expression_stands_in_a_command():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        # By the hash of a commit: a tag can be moved. The comment is for readers.
        for use in re.findall(r"uses:(.*)", file.read_text()):
            assert re.fullmatch(r" [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
        for name, job in yaml.safe_load(file.read_text())["jobs"].items():
            for step in job["steps"]:
                assert "${{" not in step.get("run", ""), name  # it would be pasted into the shell


def test_the_digest_travels_from_push_to_the_pull_request(project, tmp_path):
    """The steps of `push` and `lock`, with a repository to push to and a `gh` that keeps notes."""
    temp, origin, tools = tmp_path / "temp", tmp_path / "origin.git", project.calls_file.parent
    temp.mkdir()
    build = command("push", "scripts/build_push.sh")
    (project.root / "scripts" / "build_push.sh").write_text(
        f'#!/bin/sh\necho "building"\necho "r.example/p/$1@{ONE}"\n')
    for component in ("train", "eval"):
        done = run_step(project, build.replace("mkdir ", "mkdir -p "), COMPONENT=component,
                        RUNNER_TEMP=str(temp))
        assert done.returncode == 0, done.stderr
    assert (temp / "digests" / "train").read_text() == f"r.example/p/train@{ONE}\n"

    project.git("checkout", "--", "scripts")
    (project.root / "lib" / "images.lock.json").write_text(json.dumps(
        {"r.example/p": {"eval": TWO, "serving": TWO}}))
    project.commit("an older lock file")
    project.git("init", "--quiet", "--bare", str(origin))
    project.git("remote", "add", "origin", str(origin))
    (tools / "gh").write_text('#!/bin/sh\necho "gh $1 $2 $3 $4 $5 $6" >>"$FAKE_CALLS"\n'
                              '[ "$2" != view ]\n')
    (tools / "gh").chmod(stat.S_IRWXU)
    sha = project.git("rev-parse", "HEAD")
    github = {"RUNNER_TEMP": str(temp), "GITHUB_SHA": sha, "GITHUB_REF_NAME": "main"}
    lock = command("lock", "scripts/pin.py")
    done = run_step(project, lock, **github)
    assert done.returncode == 0, done.stderr
    branch = f"images/{sha[:12]}"
    assert project.calls == [f"gh pr view {branch}   ", f"gh pr create --base main --head {branch}"]
    pushed = project.git("--git-dir", str(origin), "show", f"{branch}:lib/images.lock.json")
    assert json.loads(pushed) == {"r.example/p": {"eval": ONE, "serving": TWO, "train": ONE}}
    assert project.git("diff", "--name-only", "main", branch) == "lib/images.lock.json"

    done = run_step(project, lock, **github)  # on the branch, where they are pinned
    assert done.returncode == 0 and "pinned already" in done.stdout


def test_the_conditions_of_other_machines_are_all_in_the_workflow():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "machines.yml").read_text())
    matrix = workflow["jobs"]["conditions"]["strategy"]["matrix"]
    assert matrix["condition"] == list(other_machines.CONDITIONS)
