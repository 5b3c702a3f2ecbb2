"""Image references: repository/name@sha256:..., from lib/images.lock.json.

Never a tag and a digest together: Vertex AI refuses that, and a tag can move. The scripts that
push an image pin its digest here with
    python -m lib.images lock REPOSITORY/NAME@sha256:... [more of them]
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from lib import waiting
from lib.config import ROOT, Settings
from lib.errors import Needed
from lib.stages import Outcome

BUILD = ROOT / "scripts" / "build_push_all.sh"
DOCKER_SECONDS = 5  # a daemon that is up tells of itself in well under a second
LOCK = ROOT / "lib" / "images.lock.json"
TRAINING = ("data_load", "train", "eval")  # what the pipeline needs; the build ends with serving
REFERENCE = re.compile(r"(?P<repository>[^@\s]+)/(?P<name>[a-z][a-z0-9_]*)"
                       r"@(?P<digest>sha256:[0-9a-f]{64})")


def reference(settings: Settings, name: str, required: bool = True) -> str:
    """repository/name@sha256:... of one of our images; without a digest if not `required`.

    Raises:
        Needed: `required`, and the image was not pushed to this repository yet.
    """
    repository = settings.serve.image_repository
    digest = read_lock().get(repository, {}).get(name)
    if digest:
        return f"{repository}/{name}@{digest}"
    if required:
        raise Needed(f"image {repository}/{name} is not in lib/images.lock.json",
                     "the image in the registry, by digest",
                     " ".join(build_command(settings, engine(settings))))
    return f"{repository}/{name}"


def names() -> list[str]:
    """Every image of ours: a folder with a Dockerfile under lib/components, and lib/serving."""
    folders = [f.parent for f in sorted((ROOT / "lib").glob("**/Dockerfile"))]
    return [folder.name for folder in folders if not folder.name.startswith("_")]


def missing(settings: Settings) -> list[str]:
    """Images that lib/images.lock.json does not hold; none where folders are run instead."""
    if not settings.target_settings.pinned_images:
        return []
    return [name for name in names()
            if name not in read_lock().get(settings.serve.image_repository, {})]


def engine(settings: Settings) -> str:
    """Who builds the images: "docker", if its daemon answers, as scripts/images.sh asks it;
    "gcloud" for Cloud Build, which pushes to Artifact Registry only; "" for nobody."""
    try:
        subprocess.run(["docker", "info"], timeout=DOCKER_SECONDS, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return "docker"
    except (OSError, subprocess.SubprocessError):
        google = "-docker.pkg.dev/" in settings.serve.image_repository
        return "gcloud" if google and shutil.which("gcloud") else ""


def build_command(settings: Settings, by: str) -> list[str]:
    """What builds and pushes every image. by: whom `engine` found."""
    command = ["scripts/build_push_all.sh", "--target", settings.target, "--env", settings.env]
    return command + (["--cloud-build"] if by == "gcloud" else [])


def source_refused() -> Needed | None:
    """What the scripts want before they build: a commit, with nothing changed since. Their own
    rule is asked: source_tag in scripts/images.sh."""
    script = '. scripts/images.sh; for name; do source_tag "$name" false >/dev/null; done'
    told = subprocess.run(["bash", "-c", script, "bash", *names()], cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True).stderr
    found = re.search(r"^cause: +(.*)^needed: +(.*?)\n(?:command: +(.*))?", told, re.M | re.S)
    return Needed(" ".join(found[1].split()), found[2], (found[3] or "").strip()) if found else None


def logged_in(host: str) -> bool:
    """Does docker's configuration name credentials for this registry?"""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = [key for part in ("credHelpers", "auths") for key in known.get(part) or {}]
    return host in {key.split("//")[-1].split("/")[0] for key in named}


def start_build(settings: Settings, folder: Path) -> Outcome:
    """Have the missing images built and pushed, without waiting: training needs them later.

    Args:
        folder: of the run; images.log, and images.status when it is over, are written there.
    """
    wanted = missing(settings)
    if not wanted:
        return _nothing_to_build(settings)
    (folder / "images.status").unlink(missing_ok=True)
    command = [str(BUILD), *build_command(settings, engine(settings))[1:]]
    with (folder / "images.log").open("w") as log:
        subprocess.Popen(
            # The notebook that starts it ends long before it does: the status stays in a file.
            ["bash", "-c", '"$@"; echo $? >"$0"', str(folder / "images.status"), *command],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True)
    return Outcome("started", settings.serve.image_repository, {"images": ", ".join(wanted)})


def _nothing_to_build(settings: Settings) -> Outcome:
    if settings.target_settings.pinned_images:
        return Outcome("reused")
    return Outcome("done", figures={"images": "run from their folders"})


def wait_build(
    settings: Settings, folder: Path, wanted: Collection[str] | None = None
) -> Outcome:
    """Wait until every image is there, or only those wanted; starts the build if this run has
    not.

    Raises:
        Needed: the build failed (with the end of its log), or took too long.
    """
    def lacking() -> set[str]:
        return {name for name in missing(settings) if wanted is None or name in wanted}

    if not lacking():
        return _nothing_to_build(settings)
    log, status = folder / "images.log", folder / "images.status"
    if not log.exists() or (status.exists() and status.read_text().strip() != "0"):
        start_build(settings, folder)
    code = waiting.until(
        settings, "images", lambda: status.exists() and status.read_text().strip(),
        lambda code: code or not lacking(), settings.waits.image_build_seconds,
        lambda _: _last_line(log))
    if lacking():
        raise Needed(
            f"building the images ended with status {code}: {_last_line(log, 6)}",
            "the four images in the registry",
            " ".join(build_command(settings, engine(settings))))
    return Outcome("created", settings.serve.image_repository)


def _last_line(log: Path, lines: int = 1) -> str:
    return "; ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])


def read_lock() -> dict[str, dict[str, str]]:
    """Repository -> name -> digest; empty if nothing was pushed yet.

    Raises:
        Needed: the file is damaged, as after a merge gone wrong.
    """
    try:
        return json.loads(LOCK.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Needed(f"lib/images.lock.json is not JSON: {error}", "the file as it was committed",
                     "git checkout -- lib/images.lock.json") from None


def lock(references: list[str]) -> None:
    """Pin these images, repository/name@sha256:...; every other entry stays.

    Raises:
        ValueError: not such a reference; nothing is written then.
    """
    matches = [REFERENCE.fullmatch(text) for text in references]
    for text, match in zip(references, matches, strict=True):
        if not match:
            raise ValueError(f"{text!r} is not REPOSITORY/NAME@sha256:<64 hex digits>")
    folder = os.open(LOCK.parent, os.O_RDONLY)
    try:
        # Two builds may end at once; the folder serves as lock, and leaves no file behind.
        fcntl.flock(folder, fcntl.LOCK_EX)
        pinned = read_lock()
        for match in matches:
            pinned.setdefault(match["repository"], {})[match["name"]] = match["digest"]
        draft = LOCK.with_name(f"{LOCK.name}.{os.getpid()}")
        draft.write_text(json.dumps(pinned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(LOCK)
    finally:
        os.close(folder)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="lib.images", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pin = commands.add_parser("lock", help="write digests into lib/images.lock.json")
    pin.add_argument("reference", nargs="+", metavar="REPOSITORY/NAME@sha256:...")
    options = parser.parse_args(argv)
    try:
        lock(options.reference)
    except ValueError as error:
        parser.error(str(error))
    except Needed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
