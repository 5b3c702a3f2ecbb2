"""Waiting: it ends when the result is there, reports progress, and times out with a message."""

import time

import pytest
import requests
from google.api_core import exceptions as google_errors
from google.cloud import aiplatform_v1 as vertex
from google.longrunning import operations_pb2

from lib import waiting
from lib.errors import Needed
from lib.training import jobs


@pytest.fixture
def quick(settings):
    """Settings whose waits take milliseconds."""
    return settings.model_copy(update={"waits": settings.waits.model_copy(update={
        "first_pause_seconds": 0.01, "longest_pause_seconds": 0.02, "progress_seconds": 0.05})})


def answers(*given):
    """A probe that returns (or raises) these one after the other, and then the last one again."""
    left = list(given)

    def probe():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


def test_it_returns_the_last_result(quick):
    assert waiting.until(quick, "store", answers(1, 2, 3), lambda n: n == 3, 5) == 3


def test_too_many_requests_and_unavailable_are_retried(quick):
    probe = answers(google_errors.ServiceUnavailable("down"),
                    google_errors.TooManyRequests("slow down"), "ready")
    assert waiting.until(quick, "store", probe, bool, 5) == "ready"


def test_any_other_error_ends_the_wait_at_once(quick):
    with pytest.raises(google_errors.Forbidden):
        waiting.until(quick, "store", answers(google_errors.Forbidden("no")), bool, 5)


def test_an_address_where_nothing_listens_ends_the_wait_at_once(quick):
    with pytest.raises(requests.ConnectionError):
        waiting.until(quick, "store", lambda: requests.get("http://127.0.0.1:9"), bool, 5)


def test_a_long_wait_reports_progress(quick, capsys):
    waiting.until(quick, "sync", answers(*range(20)), lambda n: n == 19, 5,
                  lambda rows: f"{rows} rows")
    lines = capsys.readouterr().out.splitlines()
    assert lines and len(lines) < 19  # now and then, not each time
    assert all(line.startswith("  sync: ") and line.endswith(" rows") for line in lines)


def test_a_timeout_names_the_last_state_or_error_and_where_to_look(quick):
    with pytest.raises(Needed) as caught:
        waiting.until(quick, "online store", answers("UPDATING"), lambda s: s == "STABLE", 0.1,
                      lambda state: f"state {state}", "https://console/x")
    message = str(caught.value)
    assert "online store is not ready after 0.1 s" in message and "state UPDATING" in message
    assert caught.value.command == "https://console/x"
    with pytest.raises(Needed, match="503 down for repair"):
        waiting.until(quick, "x", answers(google_errors.ServiceUnavailable("down for repair")),
                      bool, 0.1)


def test_the_pauses_grow_and_stay_below_the_longest(quick):
    moments = []
    waits = quick.waits.model_copy(update={"longest_pause_seconds": 0.05})
    slow = quick.model_copy(update={"waits": waits})
    with pytest.raises(Needed):
        waiting.until(slow, "x", lambda: moments.append(time.monotonic()), bool, 1)
    pauses = [b - a for a, b in zip(moments, moments[1:], strict=False)]
    assert sum(pauses[-5:]) > 2 * sum(pauses[:5])
    assert len(set(round(p, 6) for p in pauses)) > len(pauses) / 2  # the jitter
    assert sorted(pauses)[len(pauses) // 2] < 0.05 * 1.2 + 0.05


class Running:
    """An operation that is done at the third poll."""

    def __init__(self, error=None):
        self.polls, self.error = 0, error
        self.operation = operations_pb2.Operation(name="projects/p/operations/1")
        (self.operation.error if error else self.operation.response).SetInParent()

    def done(self):
        self.polls += 1
        return self.polls >= 3

    def result(self):
        if self.error:
            raise self.error
        return "made"


def test_an_operation_gives_its_result_or_its_error_with_the_resource(quick):
    assert waiting.operation(quick, "view", Running()) == "made"
    with pytest.raises(google_errors.ResourceExhausted) as caught:
        waiting.operation(quick, "view", Running(google_errors.ResourceExhausted("10 stores")),
                          "projects/p/featureOnlineStores/s")
    assert caught.value.resource_name == "projects/p/featureOnlineStores/s"


def test_what_was_just_made_may_not_be_found_for_a_moment(quick):
    missing = google_errors.NotFound("The FeatureGroup does not exist.")
    assert waiting.made(quick, "group", answers(missing, None, missing, "group")) == "group"
    impatient = quick.model_copy(update={"waits": quick.waits.model_copy(update={
        "visible_seconds": 0.1})})
    with pytest.raises(Needed, match="group is not ready after 0.1 s.* does not exist"):
        waiting.made(impatient, "group", answers(missing))
    with pytest.raises(google_errors.NotFound):  # a longer wait does not hide that it is gone
        waiting.until(impatient, "group", answers(missing), bool, 60)


def test_a_state_that_is_newer_than_the_package_has_a_name(quick):
    store = vertex.FeatureOnlineStore(state=1)
    assert waiting.state_name(store.state) == "STABLE"
    with pytest.warns(UserWarning, match="99"):
        assert waiting.state_name(vertex.FeatureOnlineStore(state=99).state) == "99"
        assert jobs.state(vertex.PipelineJob(state=99)) == "99"
