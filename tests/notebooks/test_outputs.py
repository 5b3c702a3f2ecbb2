"""The seven notebooks as nbval executes them, on a new local cloud: each output is the committed
one. It takes a worker for two minutes; scripts/test.sh --quick leaves it out."""

import json
import os
import subprocess
import sys

import nbformat

from lib.config import ROOT
from lib.localcloud import process
from lib.operate.run import NOTEBOOKS


def nbval(folder, *notebooks):
    """The finished process; the outputs to compare are those of a first run, in English."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval",
             "--nbval-current-env", "--nbval-sanitize-with", ROOT / "tests/notebooks/sanitize.cfg",
             "-p", "tests.support.forked_kernels", *notebooks], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
                **given, "LOCALCLOUD_STATE": str(folder / "state"),
                "CHURN_DEMO_RUNS": str(folder / "runs"),
                "CHURN_DEMO_SET": json.dumps({"language": "en"})})
    finally:
        process.stop(folder / "state")


def test_each_output_is_that_of_a_first_run(tmp_path):
    done = nbval(tmp_path, *NOTEBOOKS)
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells
             if cell.cell_type == "code"]
    assert done.returncode == 0 and f"{len(cells)} passed" in done.stdout, done.stdout


def test_another_output_fails(tmp_path):
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("print(1)", execution_count=1, outputs=[
            nbformat.v4.new_output("stream", text=text)]) for text in ("1\n", "2\n")]), path)
    done = nbval(tmp_path, path)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
