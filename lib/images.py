"""Images by digest, repository/name@sha256:..., from lib/images.lock.json; building missing ones.

Never a tag and a digest together: Vertex AI refuses that, and a tag can move. The scripts in
scripts/ build, push and write the lock file; this module reads it and starts them.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from lib import waiting
from lib.config import ROOT, Settings
from lib.errors import Needed
from lib.stages import Outcome

BUILD = ROOT / "scripts" / "build_push_all.sh"
DOCKER_SECONDS = 5  # a running daemon answers in well under a second
LOCK = ROOT / "lib" / "images.lock.json"
TRAINING = ("data_load", "train", "eval")  # what the pipeline runs; serving is built last


def reference(settings: Settings, name: str, required: bool = True) -> str:
    """repository/name@sha256:... of one of our images; if not `required`, perhaps no digest.

    Raises:
        Needed: `required`, and the image has not been pushed to this repository.
    """
    repository = settings.serve.image_repository
    digest = read_lock().get(repository, {}).get(name)
    if digest:
        return f"{repository}/{name}@{digest}"
    if required:
        raise Needed(f"image {repository}/{name} is not in lib/images.lock.json",
                     "the image in the registry, by digest",
                     shlex.join(build_command(settings, engine(settings))))
    return f"{repository}/{name}"


def names() -> list[str]:
    """The names of our images: the folders in lib/ that have a Dockerfile."""
    folders = [f.parent for f in sorted((ROOT / "lib").glob("**/Dockerfile"))]
    return [folder.name for folder in folders if not folder.name.startswith("_")]


def missing(settings: Settings) -> list[str]:
    """Images that are not in lib/images.lock.json; none where folders are run instead."""
    if not settings.target_settings.pinned_images:
        return []
    return [name for name in names()
            if name not in read_lock().get(settings.serve.image_repository, {})]


def engine(settings: Settings) -> str:
    """What can build the images: "docker", if its daemon answers; else "gcloud" for Cloud Build,
    which pushes to Artifact Registry only; "" if there is neither."""
    try:
        subprocess.run(["docker", "info"], timeout=DOCKER_SECONDS, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return "docker"
    except (OSError, subprocess.SubprocessError):
        google = "-docker.pkg.dev/" in settings.serve.image_repository
        return "gcloud" if google and shutil.which("gcloud") else ""


def build_command(settings: Settings, by: str) -> list[str]:
    """The command that builds and pushes every image. by: a result of `engine`."""
    return ["scripts/build_push_all.sh", *shlex.split(settings.build_options),
            *(["--cloud-build"] if by == "gcloud" else [])]


def source_refused() -> Needed | None:
    """Why the scripts would refuse to build: no commit, or uncommitted changes; else None."""
    checked = subprocess.run(["scripts/build_push_all.sh", "--check"], cwd=ROOT, text=True,
                             capture_output=True, stdin=subprocess.DEVNULL)
    if checked.returncode == 0:
        return None
    found = dict(re.findall(r"^(\w+): +(.*?)\s*(?=^\w+: |\Z)", checked.stderr, re.M | re.S))
    return Needed(" ".join(found.get("cause", checked.stderr).split()),
                  found.get("needed", "scripts/build_push_all.sh --check to succeed"),
                  found.get("command", ""))


def logged_in(host: str) -> bool:
    """Does docker's configuration have credentials for this registry?"""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = [key for part in ("credHelpers", "auths") for key in known.get(part) or {}]
    return host in {key.split("//")[-1].split("/")[0] for key in named}


def start_build(settings: Settings, folder: Path) -> Outcome:
    """Start to build and push the images, if one is missing and no build runs, without waiting.

    Args:
        folder: of the run; gets images.log, the build's process id as images.pid, and at its end
            images.status.
    """
    wanted, status = missing(settings), folder / "images.status"
    if not wanted:
        return _nothing_to_build(settings)
    if status.exists() or not _is_running(folder / "images.pid"):
        status.unlink(missing_ok=True)
        command = [str(BUILD), *build_command(settings, engine(settings))[1:]]
        with (folder / "images.log").open("w") as log:
            started = subprocess.Popen(
                # The notebook that starts the build ends before it: the status goes to a file.
                ["bash", "-c", '"$@"; echo $? >"$0"', str(status), *command],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True)
        (folder / "images.pid").write_text(str(started.pid))
    return Outcome("started", settings.serve.image_repository, {"images": ", ".join(wanted)})


def _is_running(file: Path) -> bool:
    """Is there a process with the id in this file?"""
    try:
        os.kill(int(file.read_text()), 0)  # 0: no signal is sent
        return True
    except (OSError, ValueError):
        return False


def _nothing_to_build(settings: Settings) -> Outcome:
    if settings.target_settings.pinned_images:
        return Outcome("reused")
    return Outcome("done", figures={"images": "run from their folders"})


def wait_build(
    settings: Settings, folder: Path, wanted: Collection[str] | None = None
) -> Outcome:
    """Wait until all images, or those wanted, are pushed; start the build if that is not done.

    Raises:
        Needed: the build failed (with the end of its log), or took too long.
    """
    def unbuilt() -> set[str]:
        return {name for name in missing(settings) if wanted is None or name in wanted}

    if not unbuilt():
        return _nothing_to_build(settings)
    log, status = folder / "images.log", folder / "images.status"
    start_build(settings, folder)
    code = waiting.until(
        settings, "images", lambda: status.exists() and status.read_text().strip(),
        lambda code: code or not unbuilt(), settings.waits.image_build_seconds,
        lambda _: _last_line(log))
    if unbuilt():
        raise Needed(
            f"building the images ended with status {code}: {_last_line(log, 6)}",
            f"{', '.join(sorted(unbuilt()))} in the registry",
            shlex.join(build_command(settings, engine(settings))))
    return Outcome("created", settings.serve.image_repository)


def _last_line(log: Path, lines: int = 1) -> str:
    return "; ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])


def read_lock() -> dict[str, dict[str, str]]:
    """Repository -> name -> digest; empty if nothing has been pushed.

    Raises:
        Needed: the file is damaged, as by a merge conflict.
    """
    try:
        return json.loads(LOCK.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Needed(f"lib/images.lock.json is not JSON: {error}", "the file as it was committed",
                     "git checkout -- lib/images.lock.json") from None
