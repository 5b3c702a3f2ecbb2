"""What every command does with its output."""

import subprocess
import sys

import pytest

from lib.config import ROOT

COMMAND = """
import sys
from lib import cli
def work(settings, options):
    print("one", flush=True)
    sys.stdin.read()
    {0}
sys.exit(cli.run(cli.parser("x", "").parse_args([]), "x", "y", work))
"""


@pytest.mark.parametrize(("then", "status", "said"), [
    ("print('two', flush=True)", 1, "stopped: nothing reads the output any more\n"),
    ("print('two')", 1, "stopped: nothing reads the output any more\n"),
    ("pass", 0, "")])
def test_a_reader_that_ends_early_ends_the_command_without_a_traceback(then, status, said):
    """As in `./run_all.sh | head -1`."""
    with subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(then)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout.readline() == "one\n"
        command.stdout.close()
        command.stdin.close()
        assert command.stderr.read() == said
        assert command.wait(30) == status


def test_another_broken_pipe_keeps_its_traceback():
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format("raise BrokenPipeError('of a socket')")], cwd=ROOT,
        text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 1 and "BrokenPipeError: of a socket" in done.stderr
