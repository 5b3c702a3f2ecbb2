"""The trials of scripts/kill_and_resume.py are spread over what is killed, and over the stages."""

from scripts.kill_and_resume import WHERE, plan


def test_trials_are_spread_over_the_victims_and_the_stages():
    trials = plan(84, seed=3)
    assert plan(84, seed=3) == trials != plan(84, seed=4)
    for victim, places in WHERE.items():
        mine = [t.where for t in trials if t.victim == victim]
        assert len(mine) == 14 and set(mine) == set(places)
    assert {t.victim for t in trials[:6]} == set(WHERE)
