"""Faults on demand: which calls fail, answer late, or never end. See README.md here.

The rules come through the admin routes (gateway.py). The gateway itself answers errors and waits;
operations and syncs are failed by `Faults.middleware`, inside Vertex AI.
"""

import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lib.localcloud.errors import HTTP, ApiError
from lib.localcloud.platform import Platform
from lib.localcloud.vertex.base import operations
from lib.localcloud.vertex.base.context import Vertex

# The reason that BigQuery and Cloud Storage add to an error, if the rule gives none. Sources:
# cloud.google.com/bigquery/docs/error-messages
# cloud.google.com/storage/docs/json_api/v1/status-codes
REASONS = {
    "INVALID_ARGUMENT": "invalid",
    "FAILED_PRECONDITION": "failedPrecondition",
    "OUT_OF_RANGE": "invalid",
    "UNAUTHENTICATED": "authError",
    "PERMISSION_DENIED": "accessDenied",
    "NOT_FOUND": "notFound",
    "ALREADY_EXISTS": "duplicate",
    "ABORTED": "aborted",
    "RESOURCE_EXHAUSTED": "quotaExceeded",
    "CANCELLED": "stopped",
    "INTERNAL": "internalError",
    "UNKNOWN": "internalError",
    "DATA_LOSS": "internalError",
    "UNIMPLEMENTED": "notImplemented",
    "UNAVAILABLE": "backendError",
    "DEADLINE_EXCEEDED": "timeout",
}
STORAGE_REASONS = REASONS | {
    "PERMISSION_DENIED": "forbidden",
    "ALREADY_EXISTS": "conflict",
    "RESOURCE_EXHAUSTED": "rateLimitExceeded",
    "DEADLINE_EXCEEDED": "gatewayTimeout",
}
USAGE_LIMITS = {
    "accessNotConfigured", "quotaExceeded", "rateLimitExceeded", "userRateLimitExceeded"}
SETS = ("missing_permissions", "disabled_apis")
FIELDS = {
    "method": (str,), "call": (int,), "times": (int,), "status": (str,), "message": (str,),
    "reason": (str,), "seconds": (int, float), "operation": (bool,), "hang": (bool,),
}


@dataclass
class FaultRule:
    """One rule: which calls of a method it applies to, what it does, how often it has.

    Attributes:
        method: such as vertex.CreateFeatureView, bigquery.jobs.insert or sync; may hold `*`.
        call: the first call that it applies to, counted from 1 since the rule was added.
        times: how many calls it applies to, one after the other.
        calls: how many calls of the method there were since.
        fired: to how many of them it was applied.
    """

    method: str
    call: int = 1
    times: int = 1
    status: str = ""
    message: str = ""
    reason: str = ""
    seconds: float = 0
    operation: bool = False
    hang: bool = False
    calls: int = 0
    fired: int = 0

    @property
    def kind(self) -> str:
        """Who applies it: "call" the gateway, "operation" and "sync" the middleware."""
        if self.method == "sync":
            return "sync"
        return "operation" if self.operation else "call"

    def count(self) -> bool:
        """Count one more call; whether the rule applies to it."""
        self.calls += 1
        applies = self.call <= self.calls < self.call + self.times
        self.fired += applies
        return applies

    def shown(self) -> dict:
        """As it was given, with its counts."""
        return {k: v for k, v in vars(self).items() if v or k in ("calls", "fired")}


@dataclass(frozen=True)
class Fault:
    """What happens to one call. `status` is the name of a google.rpc.Code, "" for no error."""

    seconds: float
    hang: bool
    status: str
    message: str
    reason: str
    generation: int


class Faults:
    """The rules of one local cloud; usable from any thread."""

    def __init__(self, vertex: Vertex, platform: Platform):
        self._vertex, self._platform = vertex, platform
        self._rules: list[FaultRule] = []
        self._generation = 0
        self._closed = False
        self._changed = threading.Condition()
        vertex.middleware.append(self.middleware)

    def add(self, rules: list[dict]) -> None:
        """Add rules behind the existing ones: all of them, or none.

        Raises:
            ValueError: for one that is malformed, saying what is wrong with it.
        """
        if not isinstance(rules, list):
            raise ValueError("a list of rules is expected")
        parsed = [parse(rule) for rule in rules]
        with self._changed:
            for rule in parsed:
                if isinstance(rule, FaultRule):
                    self._rules.append(rule)
                else:
                    for name, values in rule.items():
                        getattr(self._platform, name).update(values)

    def clear(self) -> None:
        """Remove all rules; what waits because of one goes on at once."""
        with self._changed:
            self._rules.clear()
            for name in SETS:
                getattr(self._platform, name).clear()
            self._generation += 1
            self._changed.notify_all()

    def close(self) -> None:
        """The local cloud ends: nothing may wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def shown(self) -> dict:
        """The rules with how often each was called and applied, and the two sets."""
        with self._changed:
            return {"rules": [rule.shown() for rule in self._rules],
                    **{name: sorted(getattr(self._platform, name)) for name in SETS}}

    def take(self, kind: str, method: str) -> Fault | None:
        """Count a call; what happens to it, or None.

        If several rules apply to the same call, all waits add up and the first error counts.
        """
        with self._changed:
            of_method = [r for r in self._rules
                         if r.kind == kind and fnmatchcase(method, r.method)]
            applied = [rule for rule in of_method if rule.count()]  # each must count
            if not applied:
                return None
            failing = next((rule for rule in applied if rule.status), applied[0])
            return Fault(
                seconds=sum(rule.seconds for rule in applied),
                hang=any(rule.hang for rule in applied), status=failing.status,
                message=failing.message or f"{failing.status}: a fault on demand.",
                reason=failing.reason, generation=self._generation)

    def wait(self, fault: Fault) -> bool:
        """Block for as long as the fault says, or until `clear`; False if the cloud ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._generation != fault.generation,
                None if fault.hang else fault.seconds)
            return not self._closed

    # Inside Vertex AI

    def middleware(self, name: str, request: Any, proceed: Callable[[], Any]) -> Any:
        """Vertex.middleware: fails or delays syncs, and what an RPC's operation does."""
        if name == "sync":
            if fault := self.take("sync", "sync"):
                if not self.wait(fault):
                    raise ApiError("ABORTED", "The local cloud was stopped during this sync.")
                if fault.status:
                    raise ApiError(fault.status, fault.message)
        elif fault := self.take("operation", f"vertex.{name}"):
            return self._operation(name, request, fault, proceed)
        return proceed()

    def _operation(
        self, rpc: str, request: Any, fault: Fault, proceed: Callable[[], dict]
    ) -> dict:
        """An operation that ends in the fault's error, or succeeds but late.

        The method is called at the end, if at all: until then nothing is made, or even checked.
        """
        state = self._vertex.state
        location = re.search(r'projects/[^/"]+/locations/[^/"]+', str(request))[0]
        operation = operations.new(rpc, location)
        state.put_operation(operation)

        def end() -> None:
            if not self.wait(fault):
                return  # the next start ends it: SQLite crashes if closed while a thread uses it
            try:
                if fault.status:
                    raise ApiError(fault.status, fault.message)
                inner = proceed()
                while not inner["done"]:  # DeployModel starts a server
                    time.sleep(0.05)
                    inner = state.operation(inner["name"])
                operation.update(
                    {k: inner[k] for k in ("done", "response", "error") if k in inner})
            except ApiError as error:
                operation.update(done=True, error=error.rpc_status())
            state.put_operation(operation)

        context = copy_context()  # the API version of the call
        threading.Thread(target=context.run, args=(end,), daemon=True).start()
        return dict(operation)


def parse(given: dict) -> FaultRule | dict[str, list[str]]:
    """A rule; for the two sets, what to add to which.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{given!r} is no rule")
    if set(given) <= set(SETS):
        if any(not _is_list_of_strings(values) for values in given.values()):
            raise ValueError(f"{given!r}: lists of strings are expected")
        return given
    for name, value in given.items():
        if name not in FIELDS or type(value) not in FIELDS[name]:
            raise ValueError(f"{name}: {value!r} in {given!r} is unknown or of a wrong type")
    if "method" not in given:
        raise ValueError(f"{given!r} names no method")
    rule = FaultRule(**given)
    _check(rule, given)
    return rule


def _check(rule: FaultRule, given: dict) -> None:
    if rule.status and rule.status not in HTTP:
        raise ValueError(f"{rule.status!r} in {given!r} is none of {', '.join(HTTP)}")
    if not (rule.status or rule.seconds or rule.hang):
        raise ValueError(f"{given!r} does nothing: status, seconds or hang is expected")
    if rule.call < 1 or rule.times < 1 or rule.seconds < 0:
        raise ValueError(f"{given!r}: call and times start at 1, seconds at 0")
    if rule.hang and rule.kind != "sync":
        raise ValueError(f"{given!r}: only a sync can hang; give seconds")
    if rule.operation and not rule.method.startswith("vertex."):
        raise ValueError(f"{given!r}: only methods of Vertex AI answer with an operation")
    if rule.reason and rule.kind != "call":
        raise ValueError(f"{given!r}: operations and syncs have no reason")
    if rule.reason and not rule.status:
        raise ValueError(f"{given!r}: a reason needs a status")


def _is_list_of_strings(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def http_error(method: str, fault: Fault) -> tuple[int, dict]:
    """HTTP status and JSON body of an error, in the form of the method's own API."""
    content = ApiError(fault.status, fault.message).body()
    error = content["error"]
    service = method.partition(".")[0]
    if service in ("bigquery", "storage"):
        reasons = STORAGE_REASONS if service == "storage" else REASONS
        reason = fault.reason or reasons[fault.status]
        domain = "usageLimits" if reason in USAGE_LIMITS else "global"
        error["errors"] = [{"reason": reason, "domain": domain, "message": fault.message}]
    elif fault.reason:
        error["details"] = [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": fault.reason,
            "domain": "googleapis.com"}]
    return HTTP[fault.status], content
