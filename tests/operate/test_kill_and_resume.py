"""A walk on a small theLook that is killed five times, and ends as an undisturbed one.

`scripts/kill_and_resume.py` does as many trials as you like, at random moments.
"""

import json

from scripts.kill_and_resume import WHERE, Place, Trial, differences, plan, strike
from tests.support.walk import NO_COPIES, SMALL

SMALLER = SMALL | NO_COPIES
UNDISTURBED = """
import contextlib, json, pathlib, sys
from lib import config, stages
from lib.cloud import connect
from scripts import kill_and_resume
from tests.support import walk
settings, folder = config.load(target="local", env="dev"), pathlib.Path(sys.argv[1])
with contextlib.redirect_stdout(sys.stderr):
    walk.walk(settings, folder)
    state = kill_and_resume.read_state()
print(json.dumps([stages.read_summary(folder)["stages"], state]))
"""
KILLS = {  # and the stage that the killed run starts from: where the one before it was killed
    Trial("kernel", "02_features", 0.7, whole=False): "01_data",
    Trial("task", "train", 0.1, whole=False): "02_features",
    Trial("run", "05_train", 0.5, whole=False): "05_train",
    Trial("cloud", "06_deploy", 0.5, whole=False): "05_train",
    Trial("server", "07_online_predict", 0.1, whole=False): "06_deploy",
}


class Kept(Place):
    """Its runs leave the local cloud running: to start it anew each time takes seconds."""

    def start(self, *options):
        return super().start(*options, "--keep-running")


def test_a_walk_that_is_killed_five_times_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, place = Place(tmp_path / "undisturbed"), Kept(tmp_path / "killed")
    for each in (undisturbed, place):
        each.environment["CHURN_DEMO_SET"] = json.dumps(SMALLER)
    try:
        stages, expected = json.loads(undisturbed.command(
            "-c", UNDISTURBED, str(undisturbed.runs / "undisturbed")))
        undisturbed.command("-m", "lib.localcloud", "stop")
        # That was without kernels and pictures.
        place.seconds = {stage["name"]: 1.5 + 2 * stage["seconds"] for stage in stages}
        for kill, start in KILLS.items():
            wrong, said, done = strike(place, kill, start)
            assert not wrong, (kill, said)
        if not done:
            place.finish("--from", start[:2])
        assert not differences(expected, place.end_state())
        assert not place.left_running()
    finally:
        for process in [*undisturbed.processes(), *place.processes()]:
            process.kill()


def test_trials_are_spread_over_the_victims_and_the_stages():
    trials = plan(84, seed=3)
    assert plan(84, seed=3) == trials != plan(84, seed=4)
    for victim, places in WHERE.items():
        mine = [t.where for t in trials if t.victim == victim]
        assert len(mine) == 14 and set(mine) == set(places)
    assert {t.victim for t in trials[:6]} == set(WHERE)
