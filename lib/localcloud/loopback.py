"""Requests to this machine's own addresses do not go through a proxy.

requests, urllib3, httpx, gRPC and urllib read NO_PROXY; where both spellings are set they prefer
the lower case. gRPC prefers no_grpc_proxy.
"""

import os
import urllib.request
from collections.abc import Mapping

HOSTS = ("127.0.0.1", "localhost")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # uses no proxy at all


def no_proxy(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that keep loopback off the proxy, and all else as `environment` has it."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    variables = dict.fromkeys(("NO_PROXY", "no_proxy"), _with_hosts(given))
    if of_grpc := environment.get("no_grpc_proxy"):
        variables["no_grpc_proxy"] = _with_hosts(of_grpc)
    return variables


def direct() -> dict[str, str]:
    """The variables by which Google's clients call the local address that they are given: without
    a proxy, and not Google's mTLS address in its place, as BigQuery's and Cloud Storage's do where
    the environment asks for mTLS. Of another universe than the credentials', clients refuse."""
    return {**no_proxy(), "GOOGLE_API_USE_MTLS_ENDPOINT": "never",
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "googleapis.com"}


def _with_hosts(given: str) -> str:
    known = [name.strip() for name in given.split(",") if name.strip()]
    if "*" in known:  # means every host, but only alone
        return "*"
    missing = [host for host in HOSTS if host not in known]
    return ",".join(([given] if known else []) + missing)
