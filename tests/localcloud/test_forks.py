"""Programs that are forked do what they do as Pythons of their own, and end like them.

A fork is made before a process has threads, so each test has a host: a process with `Forks`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.localcloud.vertex.programs.forks import FORKS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not FORKS, reason="programs are forked on Linux only")

# An image's program: says all that it can see of how it was started.
PROGRAM = """
import json, os, sys
import helper
if __name__ == "__main__":
    how = sys.argv[1]
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "environment": dict(os.environ),
        "file": __file__, "main": sys.modules["__main__"].__dict__ is globals(),
        "helper": helper.NAME,
        "project": sorted(name for name in sys.modules if name.split(".")[0] in ("lib", "tests")),
        "files": sorted(int(n) for n in os.listdir("/proc/self/fd")), "input": sys.stdin.read(),
        "group": os.getpgrp() == os.getsid(0) == os.getpid(), "mask": os.umask(0o22)}))
    print("partly", file=sys.stderr)
    if how == "kill":
        os.kill(os.getpid(), 9)
    elif how == "raise":
        {}["missing"]
    elif how != "return":
        sys.exit({"nothing": None, "three": 3, "text": "a text"}[how])
"""
HOST = """
import json, os, resource, signal, sys, threading, time
from pathlib import Path
from lib.localcloud.errors import ApiError
from lib.localcloud.vertex.programs import forks as made
from lib.localcloud.vertex.programs.images import Images, host_environment

os.dup2(0, 300)  # must not reach a program, though it is above the limit of descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
fork = made.FORK.Process
def fork_unless_asked(*, args, **options):
    if "FAIL" in args[2]:
        raise BlockingIOError("no process is left")
    return fork(args=args, **options)
made.FORK.Process = fork_unless_asked
forks = made.Forks()
kept = open(os.devnull, "w")  # must not reach a program
folder = Path(sys.argv[1])
folders = {path.name: path for path in folder.iterdir()}
images, plain = Images(folders, forks), Images(folders)
environment = host_environment() | {"MINE": "1", "PYTHONUNBUFFERED": "1"}

def start(known, image, *words, **more):
    with open(folder / image / "log", "wb") as log:
        return known.start(
            known.command(image, args=words), folders[image], environment | more, log)

def log(image):
    return (folder / image / "log").read_text()
"""


@pytest.fixture
def host(tmp_path):
    """What a program prints, as JSON, that runs after HOST with the images `one` and `two`."""
    for name in ("one", "two"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text('ENTRYPOINT ["python", "src/main.py"]\n')
        (folder / "src").mkdir()
        (folder / "src" / "main.py").write_text(PROGRAM)
        (folder / "src" / "helper.py").write_text(f"NAME = {name!r}\n")
        (folder / "src" / "sleep.py").write_text(
            "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "os.fork()\nprint('asleep')\ntime.sleep(60)\n")

    def run(code):
        done = subprocess.run([sys.executable, "-c", HOST + code, str(tmp_path / "images")],
                              cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_fork_is_like_a_python_of_its_own(host):
    ways = {"return": 0, "nothing": 0, "three": 3, "text": 1, "raise": 1, "kill": -9}
    found = host(f"""
found = []
for image, how in zip(["one", "two"] * 3, {list(ways)}):
    programs = []
    for known in (images, plain):
        program = start(known, image, how)
        programs.append([type(program).__name__, program.wait(20), log(image)])
    found.append(programs)
print(json.dumps(found))""")
    for how, (fork, own) in zip(ways, found, strict=True):
        assert (fork[0], own[0]) == ("Program", "Popen")
        assert fork[1] == own[1] == ways[how]
        said, own_said = fork[2].splitlines(), own[2].splitlines()
        assert said[-1] == own_said[-1]  # a text, or the error
        facts, expected = (json.loads(next(line for line in lines if line.startswith("{")))
                           for lines in (said, own_said))
        assert facts == expected and facts["project"] == [], how
    assert "Traceback" in found[4][0][2]


def test_what_a_fork_cannot_honour_gets_a_python_of_its_own(host):
    assert host("""
found = [type(each).__name__ for each in (
    start(images, "one", "return"),
    start(images, "one", "return", OMP_NUM_THREADS="1"),
    start(images, "one", "return", PYTHONHASHSEED="1"),
    images.start(["/bin/sh", "-c", "true"], folder, environment, kept),
    images.start([sys.executable, "-c", ""], folder, environment, kept))]
print(json.dumps(found))""") == ["Program", "Popen", "Popen", "Popen", "Popen"]


def test_the_packages_of_an_image_can_be_imported_before_its_first_program(host):
    assert host("""
(folders["one"] / "src" / "more.py").write_text("import colorsys")
(folders["two"] / "src" / "main.py").write_text("import sys; print('colorsys' in sys.modules)")
forks.prepare(folders["one"])
program = start(images, "two")
print(json.dumps([type(program).__name__, program.wait(20), log("two")]))""") == [
        "Program", 0, "True\n"]


def test_what_a_program_registers_with_atexit_is_called(host):
    assert host("""
(folders["one"] / "src" / "last.py").write_text(
    "import atexit\\natexit.register(print, 'the last words')\\n")
program = images.start([sys.executable, "src/last.py"], folders["one"], environment,
                       open(folder / "one" / "log", "wb"))
other = start(images, "two", "return")
print(json.dumps([program.wait(20), log("one"), type(other).__name__]))""") == [
        0, "the last words\n", "Program"]


def test_a_fork_that_fails_harms_no_other_program(host):
    assert host("""
running = images.start([sys.executable, "src/sleep.py"], folders["two"], environment, kept)
failed = start(images, "one", "return", FAIL="1")
found = [type(failed).__name__, failed.wait(20), running.poll()]
found.append(type(start(images, "one", "return")).__name__)
os.killpg(running.pid, 9)
print(json.dumps(found))""") == ["Popen", 0, None, "Program"]


def test_a_stopped_task_ends_with_what_it_started(host):
    """Its program ignores SIGTERM, and has forked: both are killed."""
    assert host("""
from lib.localcloud.vertex.programs import runner
runner.STOP_SECONDS = 0.1
started = []
keep = images.start
images.start = lambda *given: started.append(keep(*given)) or started[-1]
stop, output = threading.Event(), folder / "one" / "log"
output.touch()

def stop_it():
    while output.read_text().count("asleep") < 2:
        time.sleep(0.02)
    stop.set()

threading.Thread(target=stop_it).start()
task = runner.Task("t", "one", ("python", "src/sleep.py"), (), {}, folder, output)
try:
    runner.Runner(images, "process", folder).run(task, stop)
except ApiError as error:
    status = error.status
try:
    while True:  # until init has collected it
        os.killpg(started[0].pid, 0)
        time.sleep(0.02)
except ProcessLookupError:
    print(json.dumps([type(started[0]).__name__, started[0].returncode, status]))
""") == ["Program", -9, "CANCELLED"]
