"""Execute the seven committed notebooks again, from a clean state, and save their outputs.

    .venv/bin/python -m scripts.execute_notebooks

A local cloud of its own is started, and deleted at the end. Do it after a change that moves an
output: scripts/test.sh compares them. About two minutes. Exit status: 0 saved, 1 a notebook failed
(it is left as it was).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]_*.ipynb"))


def execute(path: Path) -> None:
    """Execute one notebook in place.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is unchanged.
    """
    from nbclient import NotebookClient

    from lib.operate.kernels import Kernels

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=None, kernel_manager_class=Kernels, record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # else it warns about loopback
        resources={"metadata": {"path": str(path.parent)}})
    client.execute(env={**os.environ})
    notebook.metadata.pop("papermill", None)
    nbformat.write(notebook, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    argparse.ArgumentParser(
        prog="python -m scripts.execute_notebooks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    from nbclient.exceptions import CellExecutionError

    with tempfile.TemporaryDirectory() as state:
        os.environ |= {"LOCALCLOUD_STATE": f"{state}/cloud", "CHURN_DEMO_RUNS": f"{state}/runs",
                       "CHURN_DEMO_SET": '{"language": "en"}'}
        try:
            for path in NOTEBOOKS:
                print(path.relative_to(ROOT), flush=True)
                execute(path)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            subprocess.run([sys.executable, "-m", "lib.localcloud", "stop"], cwd=ROOT, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
