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
from pathlib import Path

from lib import waiting
from lib.config import ROOT, Settings
from lib.stages import Needed, Outcome

BUILD = ROOT / "scripts" / "build_push_all.sh"
LOCK = ROOT / "lib" / "images.lock.json"
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
                     f"scripts/build_push_all.sh --target {settings.target} --env {settings.env}")
    return f"{repository}/{name}"


def names() -> list[str]:
    """Every image of ours: a folder with a Dockerfile under lib/components, and lib/serving."""
    folders = [f.parent for f in sorted((ROOT / "lib").glob("**/Dockerfile"))]
    return [folder.name for folder in folders if not folder.name.startswith("_")]


def missing(settings: Settings) -> list[str]:
    """Images that lib/images.lock.json does not hold; none where folders are run instead."""
    if not settings.place.pinned_images:
        return []
    return [name for name in names()
            if name not in read_lock().get(settings.serve.image_repository, {})]


def start_build(settings: Settings, folder: Path) -> Outcome:
    """Have the missing images built and pushed, without waiting: training needs them later.

    Args:
        folder: of the run; images.log, and images.status when it is over, are written there.
    """
    wanted = missing(settings)
    if not wanted:
        figures = {} if settings.place.pinned_images else {"images": "run from their folders"}
        return Outcome("reused" if settings.place.pinned_images else "done", figures=figures)
    (folder / "images.status").unlink(missing_ok=True)
    command = [str(BUILD), "--target", settings.target, "--env", settings.env]
    if not shutil.which("docker"):
        command.append("--cloud-build")
    with (folder / "images.log").open("w") as log:
        subprocess.Popen(
            # The notebook that starts it ends long before it does: the status stays in a file.
            ["bash", "-c", '"$@"; echo $? >"$0"', str(folder / "images.status"), *command],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True)
    return Outcome("started", settings.serve.image_repository, {"images": ", ".join(wanted)})


def wait_build(settings: Settings, folder: Path) -> Outcome:
    """Wait until every image is there; starts the build if this run has not.

    Raises:
        Needed: the build failed (with the end of its log), or took too long.
    """
    if not missing(settings):
        return start_build(settings, folder)
    log, status = folder / "images.log", folder / "images.status"
    if not log.exists() or (status.exists() and status.read_text().strip() != "0"):
        start_build(settings, folder)
    code = waiting.until(
        settings, "images", lambda: status.exists() and status.read_text().strip(), bool,
        settings.waits.image_build_seconds, lambda _: _last_line(log))
    if code != "0" or missing(settings):
        raise Needed(
            f"building the images ended with status {code}: {_last_line(log, 6)}",
            "the four images in the registry",
            f"scripts/build_push_all.sh --target {settings.target} --env {settings.env}")
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
