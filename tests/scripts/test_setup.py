"""scripts/setup.sh completes an environment that an earlier call left half-made."""

import os
import shutil
import subprocess

from tests.scripts.conftest import ROOT

# Python as PYTHON: says which it is, and makes an environment with pip.
PYTHON = """#!/bin/sh
[ "$2" = venv ] || exit 0
printf '#!/bin/sh\\nexit 0\\n' >.venv/bin/python
"""
WITHOUT_PIP = "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n"


def test_an_environment_without_pip_is_completed(tmp_path):
    """As `python -m venv` leaves it on Debian without python3-venv, or after Ctrl-C."""
    for name, text in {".venv/bin/python": WITHOUT_PIP, "python": PYTHON}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "requirements.txt").write_text("x==1\n")
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    done = subprocess.run([tmp_path / "scripts" / "setup.sh"], capture_output=True, text=True,
                          env=os.environ | {"PYTHON": str(tmp_path / "python")}, timeout=30)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "installed").exists()
