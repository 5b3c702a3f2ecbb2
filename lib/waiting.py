"""Wait for what takes minutes: ask ever more slowly, say how far it is, give up in words.

All waits of the demo end here, so that each has a limit (`waits` in config.yaml), a line every
`progress_seconds`, and, when the limit passes, what was seen last and where to look.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
import tenacity
from google.api_core import exceptions as google_errors

from lib.config import Settings
from lib.errors import TRANSIENT, Needed

# A question may be asked again after any of these: it changes nothing.
BLIPS = (*TRANSIENT, google_errors.ServerError, requests.ConnectionError, requests.Timeout)
GROWTH = 1.1  # of the pause, from one question to the next: about a tenth of the time waited


def until(
    settings: Settings, what: str, look: Callable[[], Any], ended: Callable[[Any], bool],
    limit: float, told: Callable[[Any], str] = lambda seen: "", console: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """Call `look` until `ended(what it gave)`; that.

    An answer of "too many requests" or "unavailable" is no answer: it is remembered and the
    question asked again.

    Args:
        what: for the progress line, such as "online store".
        limit: seconds.
        told: a few words on what was seen, such as its state.
        console: the address where a person can look.
        sleep: instead of time.sleep, for a pause that may end early.

    Raises:
        lib.errors.Needed: the limit passed.
    """
    waits, began = settings.waits, time.monotonic()
    next_line = began + waits.progress_seconds

    def progress(attempt: tenacity.RetryCallState) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + waits.progress_seconds
            seen = _last(attempt, told)
            print(f"  {what}: {time.monotonic() - began:.0f} s{seen and ', ' + seen}", flush=True)

    def give_up(attempt: tenacity.RetryCallState) -> None:
        seen = _last(attempt, told) or "nothing new"
        raise Needed(
            f"{what} is not there after {limit:g} s; last seen: {seen}",
            "more time (`waits` in config.yaml), or a look at what Google says of it",
            console or f"https://console.cloud.google.com/vertex-ai?project={settings.project}")

    def pause(attempt: tenacity.RetryCallState) -> float:
        grown = waits.first_pause_seconds * GROWTH ** (attempt.attempt_number - 1)
        # Never all at the same moment: the jitter keeps many waiters apart.
        return min(grown, waits.longest_pause_seconds) * random.uniform(0.8, 1.2)

    return tenacity.Retrying(
        retry=(tenacity.retry_if_exception_type(BLIPS)
               | tenacity.retry_if_result(lambda seen: not ended(seen))),
        stop=tenacity.stop_after_delay(limit), wait=pause, before_sleep=progress,
        retry_error_callback=give_up, sleep=sleep,
    )(look)


def _last(attempt: tenacity.RetryCallState, told: Callable[[Any], str]) -> str:
    outcome = attempt.outcome
    if outcome.failed:
        return str(outcome.exception()).splitlines()[0][:300]
    return told(outcome.result())


def operation(
    settings: Settings, what: str, running: Any, resource: str = "", limit: float | None = None,
) -> Any:
    """The result of a long-running operation (google.api_core.operation.Operation).

    Raises:
        google.api_core.exceptions.GoogleAPICallError: it ended in that error; `resource` is kept
            in its attribute `resource_name`.
        lib.errors.Needed: the limit (default: waits.operation_seconds) passed.
    """
    until(settings, what, running.done, bool, limit or settings.waits.operation_seconds,
          lambda _: f"operation {running.operation.name} is running")
    try:
        return running.result()
    except google_errors.GoogleAPICallError as error:
        error.resource_name = resource
        raise


def call(
    settings: Settings, what: str, work: Callable[[], Any], limit: float,
    told: Callable[[], str] = lambda: "", resource: str = "",
) -> Any:
    """The result of `work()`, a call of the SDK that blocks and says nothing meanwhile.

    An error of it carries `resource` in its attribute `resource_name`.

    It runs in a thread, which is left alone when the limit passes: nothing can end it.

    Raises:
        Exception: whatever `work` raises.
        lib.errors.Needed: the limit passed.
    """
    left: dict[str, Any] = {}

    def run() -> None:
        try:
            left["result"] = work()
        except BaseException as error:  # handed on to the caller
            left["error"] = error

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    until(settings, what, lambda: not thread.is_alive(), bool, limit, lambda _: told(),
          sleep=thread.join)
    if "error" in left:
        left["error"].resource_name = resource
        raise left["error"]
    return left["result"]
