"""A walk on a small theLook that is killed five times, and ends as an undisturbed one.

`scripts/kill_and_resume.py` does as many trials as you like, at random moments.
"""

import contextlib
import json
import os
from pathlib import Path

import psutil
import pytest

from scripts.kill_and_resume import WHERE, Place, Trial, differences, plan, strike
from tests.support import forked
from tests.support.walk import NO_COPIES, SMALL

SMALLER = SMALL | NO_COPIES
KILLS = {  # and the stage that the killed run starts from: where the one before it was killed
    Trial("kernel", "02_features", 0.7, whole=False): "02_features",
    Trial("task", "train", 0, whole=False): "02_features",  # at once: it ends soon
    Trial("run", "05_train", 0.5, whole=False): "05_train",
    Trial("cloud", "06_deploy", 0.5, whole=False): "05_train",
    Trial("server", "07_online_predict", 0.1, whole=False): "06_deploy",
}


class Forked(Place):
    """Its commands are forks of a process that has imported the packages, and its runs are plain
    ones, except where a kernel is killed. They leave the local cloud running: to start it anew
    each time takes seconds."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        folder.mkdir()
        self.environment["CHURN_DEMO_SET"] = json.dumps(SMALLER)
        self.outputs, self.kernels = folder / "outputs", False
        os.mkfifo(self.outputs)

    def start(self, *options):
        options = *options, "--keep-running"
        if self.kernels:
            return super().start(*options)
        return Run(self.outputs, *options, **self.environment)

    def command(self, *words):
        _, module, *arguments = words
        done = forked.run(module, *arguments, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self):
        """Also the forks: they have another process's environment, and write to this folder."""
        found = {process.pid: process for process in super().processes()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(file.path.startswith(f"{self.state}/") for file in process.open_files()):
                    found[process.pid] = process
        return list(found.values())

    def finish(self, *options):
        self.command("-m", "tests.support.plain_run", "--keep-running", *options)


class Run:
    """What `strike` uses of a subprocess.Popen."""

    def __init__(self, outputs: Path, *options: str, **environment: str):
        self._process = forked.start(
            "tests.support.plain_run", *options, files=[outputs, outputs], **environment)
        self.pid, self.stdout = self._process.pid, outputs.open()

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


@pytest.fixture
def places(tmp_path):
    made = [Forked(tmp_path / name) for name in ("undisturbed", "killed")]
    yield made
    for place in made:
        for process in place.processes():
            process.kill()


def test_a_walk_that_is_killed_five_times_ends_as_an_undisturbed_one(places):
    undisturbed, place = places
    undisturbed.finish()
    stages = json.loads((undisturbed.runs / "latest" / "summary.json").read_text())["stages"]
    expected = undisturbed.end_state()
    place.finish("--only", "01")  # its local cloud is a fork: the first run to be killed is none
    for kill, start in KILLS.items():
        place.kernels = kill.victim == "kernel"
        # Those are of a run without kernels and pictures.
        place.seconds = {
            stage["name"]: stage["seconds"] * (2 if place.kernels else 1) + 1.5 * place.kernels
            for stage in stages}
        wrong, said, done = strike(place, kill, start)
        assert not wrong, (kill, said)
    if not done:
        place.finish("--from", start[:2])
    assert not differences(expected, place.end_state())
    assert not place.left_running()


def test_trials_are_spread_over_the_victims_and_the_stages():
    trials = plan(84, seed=3)
    assert plan(84, seed=3) == trials != plan(84, seed=4)
    for victim, places in WHERE.items():
        mine = [t.where for t in trials if t.victim == victim]
        assert len(mine) == 14 and set(mine) == set(places)
    assert {t.victim for t in trials[:6]} == set(WHERE)
