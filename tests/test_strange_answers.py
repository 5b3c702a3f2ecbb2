"""The whole walk, its second run and teardown, under answers that Google may give as well.

More seeds: python -m tests.support.walk random:1-20. The walk under the usual answers is
tests/test_flow.py; each single answer: tests/localcloud/test_answers.py.
"""

import pytest

from tests.support import forked

# Three walks in all, for the sake of time; the second stops before its second run.
ALL_STRANGE, DENSE_IGNORED = "strange", "random:3,dense=ignored"


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Answers -> what tests/support/walk.py prints about them."""
    answers = [ALL_STRANGE, DENSE_IGNORED]
    state = tmp_path_factory.mktemp("walks") / "state"
    done = forked.run(
        "tests.support.walk", *answers, timeout=900, LOCALCLOUD_STATE=str(state))
    return dict.fromkeys(answers, done.stdout + done.stderr) | {
        line.partition(": ")[0]: line for line in done.stdout.splitlines()
        if line.partition(": ")[0] in answers and "passed" in line}


def test_a_walk_its_second_run_and_teardown_pass(walks):
    assert walks[ALL_STRANGE].startswith(f"{ALL_STRANGE}: passed"), walks[ALL_STRANGE]


def test_where_dense_is_ignored_the_walk_stops_at_the_parity_check(walks):
    """It names what differs; nothing is left after teardown."""
    assert walks[DENSE_IGNORED].startswith(f"{DENSE_IGNORED}: passed"), walks[DENSE_IGNORED]
