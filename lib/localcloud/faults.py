"""Faults on demand, for tests: which calls fail, answer late, or never end. See README.md here.

The rules come over the admin route (gateway.py). The gateway itself answers errors and waits; what
only Vertex AI can do - operations, syncs, permissions - vertex/ asks `Faults` for.
"""

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

# HTTP status of each canonical code: google/rpc/code.proto
HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# The word that BigQuery and Cloud Storage add to an error, if the rule gives none. Sources:
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
class Rule:
    """One rule: which calls of a method it strikes, what it does, how often it has.

    Attributes:
        method: such as vertex.CreateFeatureView, bigquery.jobs.insert or sync; may hold `*`.
        call: the first call that it strikes, counted from 1 since the rule was set.
        times: how many calls it strikes, one after the other.
        calls: how many calls of the method there were since.
        fired: how many of them it struck.
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
        """Who applies it: "call" the gateway, "operation" and "sync" Vertex AI."""
        if self.method == "sync":
            return "sync"
        return "operation" if self.operation else "call"

    def strikes(self) -> bool:
        """Count one more call; is it one of those meant?"""
        self.calls += 1
        struck = self.call <= self.calls < self.call + self.times
        self.fired += struck
        return struck

    def shown(self) -> dict:
        """As it was told, with its counts."""
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
    """The rules of one local cloud; usable from any thread.

    `missing_permissions` and `disabled_apis` are read by whoever answers about them.
    """

    def __init__(self) -> None:
        self.missing_permissions: set[str] = set()
        self.disabled_apis: set[str] = set()
        self._rules: list[Rule] = []
        self._generation = 0
        self._closed = False
        self._changed = threading.Condition()

    def add(self, rules: list[dict]) -> None:
        """Add rules behind those that are there: all of them, or none.

        Raises:
            ValueError: for one that is malformed, saying what is wrong with it.
        """
        if not isinstance(rules, list):
            raise ValueError("a list of rules is expected")
        parsed = [parse(rule) for rule in rules]
        with self._changed:
            for rule in parsed:
                if isinstance(rule, Rule):
                    self._rules.append(rule)
                else:
                    for name, values in rule.items():
                        getattr(self, name).update(values)

    def clear(self) -> None:
        """Forget all rules; what waits because of one goes on at once."""
        with self._changed:
            self._rules.clear()
            self.missing_permissions.clear()
            self.disabled_apis.clear()
            self._generation += 1
            self._changed.notify_all()

    def close(self) -> None:
        """The local cloud ends: nothing may wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def shown(self) -> dict:
        """The rules with how often each was called and fired, and the two sets."""
        with self._changed:
            return {"rules": [rule.shown() for rule in self._rules],
                    **{name: sorted(getattr(self, name)) for name in SETS}}

    def take(self, kind: str, method: str) -> Fault | None:
        """Count a call; what is to happen to it, or None.

        Of several rules that strike the same call, all waits add up and the first error counts.
        """
        with self._changed:
            of_method = [r for r in self._rules
                         if r.kind == kind and fnmatchcase(method, r.method)]
            struck = [rule for rule in of_method if rule.strikes()]  # each must count
            if not struck:
                return None
            failing = next((rule for rule in struck if rule.status), struck[0])
            return Fault(
                seconds=sum(rule.seconds for rule in struck),
                hang=any(rule.hang for rule in struck), status=failing.status,
                message=failing.message or f"{failing.status}: a fault on demand.",
                reason=failing.reason, generation=self._generation)

    def wait(self, fault: Fault) -> bool:
        """Block for as long as the fault says, or until `clear`; False if the cloud ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._generation != fault.generation,
                None if fault.hang else fault.seconds)
            return not self._closed


def parse(given: dict) -> Rule | dict[str, list[str]]:
    """A rule as it was told; for the two sets, what to put into which.

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
    rule = Rule(**given)
    _check(rule, given)
    return rule


def _check(rule: Rule, given: dict) -> None:
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
    """HTTP status and JSON body of an error, in the shape of the method's own API."""
    code = HTTP[fault.status]
    error = {"code": code, "message": fault.message, "status": fault.status}
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
    return code, {"error": error}
