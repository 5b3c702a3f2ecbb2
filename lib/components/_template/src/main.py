"""template: count the rows of each split of a dataset -> row_counts.json.

Exit status: 0 done, 1 the input cannot be used, 2 a bad command line.
"""

import argparse
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class InputError(ValueError):
    """The input cannot be used; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error message has one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="template", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dataset", required=True, type=Path,
                        help="folder with .parquet files")
    parser.add_argument("--output_dataset", required=True, type=Path, help="folder to write")
    return parser.parse_args(argv)


def count_rows(dataset: Path) -> dict[str, int]:
    """Rows of each .parquet file, by its name without the ending.

    Raises:
        InputError: no such folder, no parquet file in it, or one that cannot be read.
    """
    files = sorted(dataset.glob("*.parquet"))
    if not files:
        raise InputError(f"{dataset} has no .parquet file")
    try:
        return {file.stem: pq.read_metadata(file).num_rows for file in files}
    except pa.ArrowInvalid as error:
        raise InputError(f"{dataset} cannot be read: {' '.join(str(error).split())}") from None


def write_json(path: Path, content: dict) -> None:
    """Write a file so that it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def explain(error: Exception) -> str:
    """The error in a line, with what to change if it is the user of the container."""
    if isinstance(error, PermissionError) and "/gcs/" in str(error):
        return (f"{error}: the user of this container may not write below /gcs; delete the USER "
                "line of its Dockerfile and build the image again")
    return str(error)


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    options = parse_arguments(argv)
    try:
        counts = count_rows(options.input_dataset)
        write_json(options.output_dataset / "row_counts.json", counts)
    except (InputError, OSError) as error:
        print(f"template: {explain(error)}", file=sys.stderr)
        return 1
    for name, rows in counts.items():
        print(f"template: {name} {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
