"""Errors of Google's APIs, as REST answers, operations and jobs carry them."""

from google.rpc import code_pb2

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
    """An error answer: `status` is the name of a google.rpc.Code; `details` are for programs."""

    def __init__(self, status: str, message: str, details: list[dict] | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details

    def body(self) -> dict:
        """The JSON body of a REST answer."""
        error = {"code": HTTP[self.status], "message": self.message, "status": self.status}
        return {"error": error | ({"details": self.details} if self.details else {})}

    def rpc_status(self) -> dict:
        """A google.rpc.Status, as operations, syncs and jobs carry it."""
        return {"code": code_pb2.Code.Value(self.status), "message": self.message}


def invalid(message: str) -> ApiError:
    return ApiError("INVALID_ARGUMENT", message)


def precondition(message: str) -> ApiError:
    return ApiError("FAILED_PRECONDITION", message)


def unsupported(what: str) -> ApiError:
    """Google may accept this; the stand-in does not, and says so instead of pretending."""
    return invalid(f"{what} is not supported by this stand-in for Vertex AI.")


def not_found(name: str) -> ApiError:
    """Vertex AI's texts, as recorded by k8s-config-connector for endpoints and pipeline jobs; those
    of other kinds are assumed alike."""
    collection = name.split("/")[-2]
    if collection == "endpoints":
        return ApiError("NOT_FOUND", f'endpoint "{name}" not found')
    kind = collection[0].upper() + collection[1:].removesuffix("s")
    return ApiError("NOT_FOUND", f"The {kind} does not exist.")


def already_exists(name: str) -> ApiError:
    return ApiError("ALREADY_EXISTS", f"The resource {name!r} already exists.")
