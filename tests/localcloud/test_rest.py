"""The REST front, apart from any service."""

import threading

import requests
from google.cloud.aiplatform_v1 import types

from lib.localcloud import rest
from tests.support.serving import Served


def test_a_quick_method_is_answered_though_every_thread_waits():
    """A fetch reads one row: a sync, or other slow calls, must not delay it."""
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def call(rpc, _request):
        if rpc == "Slow":
            waiting.release()
            assert go_on.wait(60)
        return {"rpc": rpc}

    request = types.GetModelRequest.pb()
    routes = [rest.route("GET", f"/v1/{{name={rpc.lower()}/*}}", rpc, request)
              for rpc in ("Slow", "Quick")]
    api = rest.Api(routes, ["Slow", "Quick"], call, quick=["Quick"])
    served = Served(rest.application([api], "p", 1))
    slow = [threading.Thread(target=requests.get, args=(f"{served.url}/v1/slow/1",))
            for _ in range(64)]
    try:
        for each in slow:
            each.start()
        for _ in slow:
            assert waiting.acquire(timeout=60)
        assert requests.get(f"{served.url}/v1/quick/1", timeout=20).json() == {"rpc": "Quick"}
    finally:
        go_on.set()
        for each in slow:
            each.join()
        served.close()
