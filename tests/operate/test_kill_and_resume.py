"""A walk on a small theLook that is killed five times, and ends as an undisturbed one.

`scripts/kill_and_resume.py` does as many trials as you like, at random moments.
"""

import json

from scripts.kill_and_resume import (
    NO_COPIES,
    SMALL,
    WHERE,
    Place,
    Trial,
    differences,
    plan,
    strike,
)

SMALLER = SMALL | NO_COPIES | {"thelook": {"users": 1000}, "snapshots": {"history_days": 210}}
KILLS = {  # and the stage that the killed run starts from: where the one before it was killed
    Trial("kernel", "02_features", 0.7, whole=False): "01_data",
    Trial("task", "train", 0.1, whole=False): "02_features",
    Trial("run", "05_train", 0.5, whole=False): "05_train",
    Trial("cloud", "06_deploy", 0.5, whole=False): "05_train",
    Trial("server", "07_online_predict", 0.1, whole=False): "06_deploy",
}


def test_a_walk_that_is_killed_five_times_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, place = Place(tmp_path / "undisturbed"), Place(tmp_path / "killed")
    for each in (undisturbed, place):
        each.environment["CHURN_DEMO_SET"] = json.dumps(SMALLER)
    try:
        undisturbed.finish("--keep-running")
        summary = json.loads((undisturbed.runs / "latest" / "summary.json").read_text())
        expected = undisturbed.end_state()
        place.seconds = {s["name"]: s["seconds"] for s in summary["stages"]}
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
