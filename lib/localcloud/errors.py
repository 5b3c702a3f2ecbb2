"""Errors of Google's APIs, as REST answers, operations and jobs carry them."""

from google.rpc import code_pb2

# Header of every answer of the local cloud: the rule of a refusal, or "ok". Google sends no such
# header, so what comes from here cannot be recorded as Google's.
MARK = "x-local-cloud"
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


class ApiError(Exception):
    """An error answer: `status` is the name of a google.rpc.Code; `details` are for programs.

    `rule`: the id of the rule in rules.toml that it follows; "" for what is no rule of Google's,
    such as a failure of the stand-in.
    """

    def __init__(
        self, status: str, message: str, details: list[dict] | None = None, rule: str = ""
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details
        self.rule = rule

    def body(self) -> dict:
        """The JSON body of a REST answer."""
        error = {"code": HTTP[self.status], "message": self.message, "status": self.status}
        return {"error": error | ({"details": self.details} if self.details else {})}

    def rpc_status(self) -> dict:
        """A google.rpc.Status, as operations, syncs and jobs carry it."""
        return {"code": code_pb2.Code.Value(self.status), "message": self.message}


# Every refusal is made by one of these, with the id of its rule: tests/localcloud/test_ledger.py.


def by_rule(rule: str, error: Exception) -> Exception:
    """An error of an emulator's own kind, with the rule that it follows."""
    error.rule = rule
    return error

def refused(rule: str, status: str, message: str, details: list[dict] | None = None) -> ApiError:
    return ApiError(status, message, details, rule)


def invalid(rule: str, message: str) -> ApiError:
    return refused(rule, "INVALID_ARGUMENT", message)


def precondition(rule: str, message: str) -> ApiError:
    return refused(rule, "FAILED_PRECONDITION", message)


def unsupported(rule: str, what: str) -> ApiError:
    """Google may accept this; the stand-in does not, and says so instead of pretending."""
    return invalid(rule, f"{what} is not supported by this stand-in for Vertex AI.")


def defect(message: str) -> ApiError:
    """A failure of the stand-in itself, of its disk or of its emulators; no rule of Google's."""
    return ApiError("INTERNAL", message)


def not_found(name: str) -> ApiError:
    """Vertex AI's texts, as recorded by k8s-config-connector for endpoints and pipeline jobs; those
    of other kinds are assumed alike."""
    before, _, _ = name.rpartition("/")  # in a body, any text may be a name
    collection = before.rpartition("/")[2] or "resources"
    if collection == "endpoints":
        return refused("every.not-found", "NOT_FOUND", f'endpoint "{name}" not found')
    kind = collection[0].upper() + collection[1:].removesuffix("s")
    return refused("every.not-found", "NOT_FOUND", f"The {kind} does not exist.")


def already_exists(name: str) -> ApiError:
    return refused(
        "every.already-exists", "ALREADY_EXISTS", f"The resource {name!r} already exists.")
