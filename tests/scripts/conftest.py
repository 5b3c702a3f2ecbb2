"""A throw-away git repository with the project's scripts, and fakes of docker and gcloud."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "ab" * 32

# Keeps each command line; fails in the subcommand FAKE_FAIL, saying FAKE_SAYS.
FAKE = r"""#!/usr/bin/env bash
tool=$(basename "$0")
echo "$tool $*" >>"$FAKE_CALLS"
if [ "$1" = "${FAKE_FAIL:-}" ]; then
    echo "${FAKE_SAYS:-it broke}" >&2
    exit 1
fi
case "$tool $1 ${2:-}" in
    "docker image inspect")
        if [ -n "${FAKE_MOVED:-}" ] && grep -q '^docker pull' "$FAKE_CALLS"; then
            echo 999000000
        else
            echo 123000000
        fi ;;
    "docker pull "*) echo "Digest: $FAKE_DIGEST" ;;
    "gcloud artifacts "*) echo "$FAKE_DIGEST" ;;
    "gcloud builds "*) cat "${@: -1}" >>"$FAKE_CALLS" ;;
esac
"""


class Project:
    """The repository in `root`, with every file committed."""

    def __init__(self, root: Path, tools: Path):
        self.root, self.calls_file = root, tools / "calls"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("CHURN_", "GIT_"))},
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
            "FAKE_CALLS": str(self.calls_file), "FAKE_DIGEST": DIGEST,
        }

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
            cwd=self.root, env=self.environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, message: str = "change") -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def touch(self, component: str, text: str = "\n# changed\n") -> None:
        """Change the source of a component."""
        folder = "lib/serving" if component == "serving" else f"lib/components/{component}"
        with (self.root / folder / "src" / "main.py").open("a") as file:
            file.write(text)

    def run(self, script: str, *arguments: str, timeout: float = 60, **environment: str):
        """A script of scripts/; the finished process."""
        return subprocess.run(
            [self.root / "scripts" / script, *arguments], env={**self.environment, **environment},
            capture_output=True, text=True, timeout=timeout, cwd="/")

    @property
    def calls(self) -> list[str]:
        """Command lines that the fakes got."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def lock(self) -> str:
        return (self.root / "lib" / "images.lock.json").read_text()

    def files(self) -> dict[str, tuple[int, int]]:
        """Path -> (time of change, size) of all files, to see that nothing was touched."""
        paths = [p for p in self.root.rglob("*") if not {".venv", ".git"} & set(p.parts)]
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths if p.is_file()}


def make_project(folder: Path) -> Project:
    """Copy what the scripts need of the working tree, as one commit."""
    root, tools = folder / "project", folder / "tools"
    ignore = shutil.ignore_patterns("__pycache__", ".*.tmp")
    for part in ("scripts", "lib", "tests/components", "tests/support", ".github"):
        shutil.copytree(ROOT / part, root / part, ignore=ignore)
    for part in ("config.yaml", "pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / part, root / part)
    (root / ".gitignore").write_text(".venv\n__pycache__/\n.pytest_cache/\n")
    (root / ".venv").symlink_to(ROOT / ".venv")
    (root / "lib" / "images.lock.json").write_text("{}\n")
    tools.mkdir()
    project = Project(root, tools)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("all of it")
    return project


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Path:
    """Its two folders. Not to be changed."""
    return make_project(tmp_path_factory.mktemp("committed")).root.parent


@pytest.fixture
def real_project(tmp_path, committed) -> Project:
    """The repository, with whatever docker this machine has."""
    shutil.copytree(committed, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Project(tmp_path / "project", tmp_path / "tools")


@pytest.fixture
def project(real_project) -> Project:
    """The repository, with docker and gcloud that only record their command lines."""
    tools = real_project.calls_file.parent
    for tool in ("docker", "gcloud"):
        (tools / tool).write_text(FAKE)
        (tools / tool).chmod(stat.S_IRWXU)
    real_project.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    return real_project
