#!/usr/bin/env python3
"""Write the digests of pushed images into lib/images.lock.json.

    scripts/pin.py REPOSITORY/NAME@sha256:... [more of them]

Every other entry is kept. Exit status: 0 written, 1 the file is damaged, 2 a bad command line.
"""

import argparse
import fcntl
import json
import os
import re
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "lib" / "images.lock.json"
REFERENCE = re.compile(r"(?P<repository>[^@\s]+)/(?P<name>[a-z][a-z0-9_]*)"
                       r"@(?P<digest>sha256:[0-9a-f]{64})")


def reference(text: str) -> re.Match:
    """The parts of repository/name@sha256:..."""
    if not (match := REFERENCE.fullmatch(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not REPOSITORY/NAME@sha256:<64 hex digits>")
    return match


def pin(references: list[re.Match]) -> None:
    """Write these digests. Raises ValueError, and writes nothing, if the file is not JSON."""
    folder = os.open(LOCK.parent, os.O_RDONLY)
    try:
        # Two builds may end at the same time: they take turns by a lock on the folder.
        fcntl.flock(folder, fcntl.LOCK_EX)
        pinned = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
        for match in references:
            pinned.setdefault(match["repository"], {})[match["name"]] = match["digest"]
        draft = LOCK.with_name(f"{LOCK.name}.{os.getpid()}")
        draft.write_text(json.dumps(pinned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(LOCK)
    finally:
        os.close(folder)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pin.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", nargs="+", type=reference,
                        metavar="REPOSITORY/NAME@sha256:...")
    options = parser.parse_args(argv)
    try:
        pin(options.reference)
    except ValueError as error:
        print(f"lib/images.lock.json is not JSON: {error}. Needed: the file as it was committed "
              "(git checkout -- lib/images.lock.json)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
