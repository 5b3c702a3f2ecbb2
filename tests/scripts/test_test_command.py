"""scripts/test.sh: what it runs, and its exit status, with a fake Python."""

import os
import shutil
import subprocess

import pytest

from lib.config import ROOT

PYTHON = '#!/bin/bash\necho "$*" >>"$CALLS"\nexit $STATUS\n'
NOTEBOOKS = "--ignore=tests/notebooks/test_outputs.py"


@pytest.mark.parametrize("arguments, expected, left_out", [
    ([], "--dist loadfile --no-loadscope-reorder tests", NOTEBOOKS),
    (["--quick"], NOTEBOOKS, "--quick"),
    (["tests/test_config.py", "-x"], "pytest tests/test_config.py -x", "loadfile")])
@pytest.mark.parametrize("status", [0, 1])
def test_it_ends_as_pytest_does(arguments, expected, left_out, status, tmp_path):
    for name, text in {"scripts/setup.sh": "#!/bin/bash\n", ".venv/bin/python": PYTHON}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shutil.copy(ROOT / "scripts/test.sh", tmp_path / "scripts")
    calls = tmp_path / "calls"
    done = subprocess.run([tmp_path / "scripts/test.sh", *arguments], timeout=60, env={
        **os.environ, "CALLS": str(calls), "STATUS": str(status)})
    (call,) = calls.read_text().splitlines()
    assert done.returncode == status and expected in call and left_out not in call
