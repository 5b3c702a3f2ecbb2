"""What every REST port refuses before it reads a request: web pages, and compressed bodies.

The local cloud has no passwords, and answers programs only. A page that is open in a browser on
this machine can send requests to loopback ports, but cannot hide where it comes from: these
headers are set by the browser, not by the page.

    Host            the name in the page's request. A page can make its own name mean 127.0.0.1
                    ("DNS rebinding"), but the browser still sends that name.
    Origin          the page, with each request that may change something
    Sec-Fetch-Site  whether the request comes from a page of another site, also for the address of
                    an image, where no Origin is sent: https://www.w3.org/TR/fetch-metadata/

Google's clients and gcloud send neither Origin nor Sec-Fetch-Site, and do not compress.
"""

import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.localcloud.errors import MARK

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


def refusal(values: Callable[[str], list[str]]) -> JSONResponse | None:
    """The error to answer, in a form that the clients of all services understand; None: accepted.

    Args:
        values: all values of the header of that name.
    """
    hosts, encodings = values("Host"), values("Content-Encoding")
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        return _forbidden(f"Host is {', '.join(hosts)!r}, not 127.0.0.1 or localhost")
    for name, accepted in (
            ("Origin", (f"http://{hosts[0]}",)), ("Sec-Fetch-Site", ("none", "same-origin"))):
        if foreign := [value for value in values(name) if value not in accepted]:
            return _forbidden(f"{name} is {foreign[0]!r}")
    if any(encoding.lower() != "identity" for encoding in encodings):
        # 20 MB of gzip may unpack to 20 GB, and bqemulator sets no limit.
        return _error("divergence.compressed", 415, "INVALID_ARGUMENT", "badRequest", (
            f"The local cloud takes no compressed requests: Content-Encoding is {encodings[0]!r}."))
    return None


def _forbidden(cause: str) -> JSONResponse:
    return _error("divergence.web-pages", 403, "PERMISSION_DENIED", "forbidden", (
        f"The local cloud answers programs on this machine, not web pages: {cause}."))


def _error(rule: str, code: int, status: str, reason: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "status": status, "errors": [
        {"domain": "global", "reason": reason, "message": message}]}}, code, {MARK: rule})


class Guard:
    """ASGI middleware that answers a refusal by itself."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # none is served, and a page may open one to any address
            return await send({"type": "websocket.close"})
        if scope["type"] == "http" and (answer := refusal(Headers(scope=scope).getlist)):
            return await answer(scope, receive, send)
        await self._app(scope, receive, send)
