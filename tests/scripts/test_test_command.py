"""scripts/test.sh: its exit status, and that it leaves nothing, with a fake Python."""

import os
import shutil
import subprocess

import pytest

from lib.config import ROOT

PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in *--nbval*) exit $NOTEBOOKS ;; *"--dist loadfile"*) exit $FILES ;; esac
"""


@pytest.mark.parametrize("files, notebooks", [(0, 0), (1, 0), (0, 1)])
def test_it_fails_if_the_files_or_the_notebooks_fail(tmp_path, files, notebooks):
    for name, text in {"scripts/setup.sh": "#!/bin/bash\n", ".venv/bin/python": PYTHON}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shutil.copy(ROOT / "scripts/test.sh", tmp_path / "scripts")
    calls, temporary = tmp_path / "calls", tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [tmp_path / "scripts/test.sh"], capture_output=True, text=True, timeout=60, env={
            **os.environ, "CALLS": str(calls), "TMPDIR": str(temporary), "FILES": str(files),
            "NOTEBOOKS": str(notebooks)})
    assert bool(done.returncode) == bool(files or notebooks), done.stderr
    assert [part in calls.read_text() for part in ("--nbval", "--dist loadfile", "stop")] == [
        True, True, True]
    assert list(temporary.iterdir()) == []
