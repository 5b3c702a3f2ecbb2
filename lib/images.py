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
import sys

from lib.config import ROOT, Settings
from lib.stages import Needed

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
