"""Compile the training pipeline to JSON and YAML; needs no cloud and no container engine.

    python -m lib.training.compile [--output FOLDER] [--target local|gcp] [--env dev|prod]

The same sources give the same bytes. Exit status: 0 written, 1 an image is not pushed yet,
2 a bad command line or config.yaml.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml
from kfp import compiler

from lib import config
from lib.config import ROOT, Settings
from lib.errors import Needed
from lib.training import pipeline

DEFAULT_OUTPUT = ROOT / "runs" / "pipeline"


def compile_to(settings: Settings, folder: Path) -> list[Path]:
    """Write training.json and training.yaml into `folder`; their paths.

    Raises:
        lib.errors.Needed: an image has no digest in lib/images.lock.json, on a target that
            wants one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_yaml = folder / "training.json", folder / "training.yaml"
    compiler.Compiler().compile(pipeline.define(settings), str(as_yaml))
    # kfp no longer likes to write JSON itself; the spec is the same.
    spec = yaml.safe_load(as_yaml.read_text(encoding="utf-8"))
    as_json.write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [as_json, as_yaml]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.compile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    options = parser.parse_args(arguments)
    try:
        settings = config.load(target=options.target, env=options.env)
        for path in compile_to(settings, options.output):
            print(path)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Needed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
