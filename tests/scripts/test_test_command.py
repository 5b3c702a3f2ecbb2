"""scripts/test.sh: what it runs, its exit status (with a fake Python), and what it leaves."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from lib.config import ROOT
from lib.localcloud.vertex.programs import forks
from tests.support import warm

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


# Tests that have started a local cloud as most do, and one that is no fork.
TESTS = """
import os, signal, subprocess, sys
from tests.support import warm
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
warm.IMPORTED = ()
warm.start()
with open(os.devnull, "w") as log:
    print(warm.Forked(["http.server", "0"], log).pid)
    print(subprocess.Popen(["sleep", "300"], start_new_session=True, stdout=log).pid)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not forks.FORKS, reason="tests fork local clouds on Linux")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_local_clouds_end_with_the_tests_however_these_end(how):
    environment = {name: value for name, value in os.environ.items() if name != warm.VARIABLE}
    with subprocess.Popen([sys.executable, "-c", TESTS], cwd=ROOT, env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as tests:
        left = [psutil.Process(int(line)) for line in iter(tests.stdout.readline, "\n")]
        tests.send_signal(how)
    try:
        assert len(left) == 2 and not psutil.wait_procs(left, timeout=10)[1]
    finally:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
