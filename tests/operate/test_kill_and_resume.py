"""A walk on a small theLook that is killed five times, and ends as an undisturbed one.

`scripts/kill_and_resume.py` does as many trials as you like, at random moments.
"""

import json

from scripts.kill_and_resume import WHERE, Place, Trial, differences, plan, strike

KILLS = [
    Trial("kernel", "02_features", 0.9, whole=False),
    Trial("cloud", "03_training_set", 0.5, whole=False),
    Trial("task", "train", 0.1, whole=False),
    Trial("run", "05_train", 0.5, whole=False),
    Trial("server", "06_deploy", 0.5, whole=False),
]


def test_a_walk_that_is_killed_five_times_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, place = Place(tmp_path / "undisturbed"), Place(tmp_path / "killed")
    try:
        undisturbed.finish("--keep-running")
        summary = json.loads((undisturbed.runs / "latest" / "summary.json").read_text())
        expected = undisturbed.end_state()
        place.seconds = {s["name"]: s["seconds"] for s in summary["stages"]}
        place.finish("--only", "01", "--keep-running")
        for kill in KILLS:
            wrong, said, done = strike(place, kill)
            assert not wrong, (kill, said)
        if not done:
            place.finish("--from", KILLS[-1].first[:2])
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
