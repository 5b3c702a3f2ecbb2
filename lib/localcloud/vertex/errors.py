"""The errors of Google's APIs, as they travel over REST."""

from google.rpc import code_pb2

# HTTP status of each canonical code: https://cloud.google.com/apis/design/errors
HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}


class ApiError(Exception):
    """An answer that is an error: `status` is the name of a google.rpc.Code."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> dict:
        """The JSON body of a REST answer."""
        code = HTTP[self.status]
        return {"error": {"code": code, "message": self.message, "status": self.status}}

    def rpc_status(self) -> dict:
        """A google.rpc.Status, as operations and syncs carry it."""
        return {"code": code_pb2.Code.Value(self.status), "message": self.message}


def invalid(message: str) -> ApiError:
    return ApiError("INVALID_ARGUMENT", message)


def precondition(message: str) -> ApiError:
    return ApiError("FAILED_PRECONDITION", message)


def unsupported(what: str) -> ApiError:
    """Google may serve this; the stand-in does not, and says so instead of pretending."""
    return ApiError("INVALID_ARGUMENT", f"{what} is not supported by this stand-in for Vertex AI.")


def not_found(name: str) -> ApiError:
    return ApiError("NOT_FOUND", f"The resource {name!r} was not found.")


def already_exists(name: str) -> ApiError:
    return ApiError("ALREADY_EXISTS", f"The resource {name!r} already exists.")
