"""Compile the training pipeline to JSON and YAML; needs no cloud and no container engine.

    python -m lib.training.compile [--output FOLDER] [--target local|gcp] [--env dev|prod]

The same sources give the same bytes. Exit status: 0 written, 1 an image is not pushed yet,
2 a bad command line or config.yaml.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml
from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from lib import cli
from lib.config import ROOT, Settings
from lib.training import pipeline

OUTPUT = ROOT / "runs" / "pipeline"


def compile_to(settings: Settings, folder: Path) -> list[Path]:
    """Write training.json and training.yaml into `folder`; their paths.

    Raises:
        lib.errors.Needed: an image has no digest in lib/images.lock.json, on a target that
            wants one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_yaml = folder / "training.json", folder / "training.yaml"
    compiler.Compiler().compile(pipeline.define(settings), str(as_yaml))
    # kfp warns when it writes JSON; the spec is the same.
    spec = yaml.safe_load(as_yaml.read_text(encoding="utf-8"))
    as_json.write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [as_json, as_yaml]


def specification(defined: BaseComponent) -> dict:
    """A pipeline as the service takes it; kfp compiles into files only."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(defined, str(file))
        return yaml.safe_load(file.read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("python -m lib.training.compile", __doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER")
    return cli.run(parser.parse_args(arguments), "compile", "the training pipeline", _compile)


def _compile(settings: Settings, options: argparse.Namespace) -> None:
    print(*compile_to(settings, options.output), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
