"""A Python without the project's packages: a plain message, not ModuleNotFoundError."""

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from lib import interpreter
from lib.config import ROOT


def test_a_command_with_another_python_says_which_one_is_needed():
    done = subprocess.run(  # -S: without site-packages
        [sys.executable, "-S", "-m", "lib.predict", "--customer_id", "1"], cwd=ROOT, text=True,
        capture_output=True, timeout=60)
    assert done.returncode == 1
    assert "this Python has no pydantic" in done.stderr and "scripts/setup.sh" in done.stderr
    assert "Traceback" not in done.stderr and "ModuleNotFoundError" not in done.stderr


def test_a_notebook_with_another_kernel_says_what_to_select(monkeypatch, capsys):
    monkeypatch.setattr(interpreter, "missing", lambda: ["pydantic", "yaml"])
    shell = InteractiveShell()
    shell.run_cell("from lib import interpreter\ninterpreter.check(in_notebook=True)")
    shown = capsys.readouterr().out
    for part in ("this Python has no pydantic, yaml", sys.executable, "Change Kernel",
                 "VS Code: Select Kernel", "ipykernel install --sys-prefix"):
        assert part in shown
    assert "Traceback" not in shown


def test_what_is_missing_is_found_by_name():
    assert interpreter.missing() == []
    assert interpreter.missing(("json", "no_such", "google.cloud.nothing", "no_such.part")) == [
        "no_such", "google.cloud.nothing", "no_such.part"]


@pytest.mark.parametrize("version", [(3, 9, 1), (3, 10, 14)])
def test_an_old_python_is_refused(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match="older than 3.11"):
        interpreter.check(in_notebook=False)
