"""Wait for long operations: poll with growing pauses, report progress, stop at a time limit.

Every wait of the demo goes through this module, so that each has a limit (`waits` in
config.yaml), a progress line every `progress_seconds`, and, when the limit passes, a message with
the last state and where to look.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import requests
import tenacity
from google.api_core import exceptions as google_errors
from google.api_core import retry

from lib.config import Settings
from lib.errors import TRANSIENT, Needed, first_line, is_refused

# A probe may be repeated after any of these: it changes nothing.
BLIPS = (*TRANSIENT, google_errors.ServerError, requests.ConnectionError, requests.Timeout)
# For a call that a user waits for; the clients of Vertex AI do not retry by themselves.
BRIEFLY = retry.Retry(
    retry.if_exception_type(*TRANSIENT), initial=0.05, maximum=0.5, multiplier=2, timeout=2)
GROWTH = 1.1  # of the pause, from one probe to the next: about a tenth of the time waited


def until(
    settings: Settings, what: str, probe: Callable[[], Any], is_done: Callable[[Any], bool],
    limit: float, describe: Callable[[Any], str] = lambda result: "", console: str = "",
) -> Any:
    """Poll `probe()` until `is_done(result)`; return the result.

    A probe that fails with "too many requests" or "unavailable" is repeated, too; and in the first
    waits.visible_seconds one that is not found, since what was just made may not be visible yet.

    Args:
        what: for the progress line, such as "online store".
        limit: seconds.
        describe: a few words on a result, such as its state.
        console: address of the console page to look at.

    Raises:
        lib.errors.Needed: the limit passed.
    """
    waits, began = settings.waits, time.monotonic()
    next_line, pause = began + waits.progress_seconds, waits.first_pause_seconds
    while True:
        try:
            result = probe()
        except (*BLIPS, google_errors.NotFound) as error:
            # A refused connection: the local cloud has stopped; Google's service may be restarting.
            stopped = settings.target == "local" and is_refused(error)
            # min: the last probe of a limit as short as this one comes a little after it.
            early = min(limit, time.monotonic() - began) <= waits.visible_seconds
            if stopped or (isinstance(error, google_errors.NotFound) and not early):
                raise
            last = first_line(error)
        else:
            if is_done(result):
                return result
            last = describe(result)
        now = time.monotonic()
        if now - began >= limit:
            raise Needed(
                f"{what} is not ready after {limit:g} s; last state: {last or 'unknown'}",
                "more time (`waits` in config.yaml), or check its page in the console",
                console or f"https://console.cloud.google.com/vertex-ai?project={settings.project}")
        if now >= next_line:
            next_line = now + waits.progress_seconds
            print(f"  {what}: {now - began:.0f} s{last and ', ' + last}", flush=True)
        # The jitter keeps many waiters from polling at the same moment.
        time.sleep(min(pause, waits.longest_pause_seconds) * random.uniform(0.8, 1.2))
        pause *= GROWTH


def made(settings: Settings, what: str, get: Callable[[], Any]) -> Any:
    """What was just made, as soon as `get` finds it; it may be invisible for a moment.

    get: returns it; None, or an error "not found", means not yet.

    Raises:
        lib.errors.Needed: it is not found in waits.visible_seconds.
    """
    return until(settings, what, get, lambda found: found is not None,
                 settings.waits.visible_seconds, lambda _: "made, but not found")


def retrying(settings: Settings, say: Callable[[str], None]) -> tenacity.Retrying:
    """Retries what may be done twice after "too many requests" or "unavailable", as `retries` in
    config.yaml says. say: gets a line about each retry."""
    retries = settings.retries

    def log(attempt: tenacity.RetryCallState) -> None:
        say(f"{first_line(attempt.outcome.exception())}; attempt {attempt.attempt_number + 1} of "
            f"{retries.attempts} in {attempt.next_action.sleep:.0f} s")

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TRANSIENT), reraise=True, before_sleep=log,
        stop=tenacity.stop_after_attempt(retries.attempts),
        wait=tenacity.wait_exponential_jitter(
            retries.first_pause_seconds, retries.longest_pause_seconds,
            jitter=retries.first_pause_seconds))


def state_name(state: Any) -> str:
    """The name of an enum's value; the number of one that is newer than the installed package."""
    return getattr(state, "name", str(state))


def operation(
    settings: Settings, what: str, running: Any, resource: str = "", limit: float | None = None,
) -> Any:
    """Wait for a long-running operation (google.api_core.operation.Operation); its result.

    The result may have no more than a name, so read the resource again (k8s-config-connector's
    recordings of Google's answers). None: its type is newer than our packages.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: it failed; the error's attribute
            `resource_name` is `resource`.
        lib.errors.Needed: the limit (default: waits.operation_seconds) passed.
    """
    until(settings, what, running.done, bool, limit or settings.waits.operation_seconds,
          lambda _: f"operation {running.operation.name} is running")
    try:
        done = running.operation
        return running.result() if done.HasField("response") or done.HasField("error") else None
    except google_errors.GoogleAPICallError as error:
        error.resource_name = resource
        raise
