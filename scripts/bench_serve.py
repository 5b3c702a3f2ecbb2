"""scripts/bench.py: answers under load, from several processes.

"fetch" is what the walkthrough does: Google's client, by gRPC. Beside it, the same client by REST.
"""

import dataclasses
import http.client
import json
import multiprocessing
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from google.cloud.aiplatform_v1 import FeatureOnlineStoreServiceClient

from lib import config, endpoint, feature_store, lookups
from lib.cloud import Cloud, connect, connected
from scripts.bench import Different, Options, Row

CALLERS = (1, 8, 32)
PROCESSES = 8  # at most; the callers are threads in them
REQUESTS = 400  # of all callers, in one turn
KINDS = ("fetch, raw HTTP", "fetch", "fetch, REST", "predict, raw HTTP", "predict", "both")


class Caller:
    """One caller with connections of its own. Each method answers one customer."""

    def __init__(self, cloud: Cloud):
        self.cloud, self.endpoint = cloud, endpoint.connect(cloud)
        self._by_rest = dataclasses.replace(cloud)
        vars(self._by_rest)["online"] = FeatureOnlineStoreServiceClient(
            credentials=cloud.credentials, transport="rest",
            client_options={"api_endpoint": cloud.vertex})
        address = urlsplit(cloud.vertex)
        self._http = http.client.HTTPConnection(address.hostname, address.port)

    def ask(self, kind: str, customer: str, features: dict) -> object:
        """The answer: features, probability, or the body of a raw answer."""
        if kind == "fetch":
            return feature_store.fetch(self.cloud, customer)[0]
        if kind == "fetch, REST":
            return feature_store.fetch(self._by_rest, customer)[0]
        if kind == "predict":
            return endpoint.predict(self.cloud, self.endpoint, [features])[0]
        if kind == "both":
            return self.ask("predict", customer, self.ask("fetch", customer, {}))
        if kind == "fetch, raw HTTP":
            return self._post(f"{feature_store.view_name(self.cloud)}:fetchFeatureValues",
                              {"dataKey": {"key": customer}, "dataFormat": "KEY_VALUE"})
        return self._post(f"{self.endpoint.name}:predict", {"instances": [features]})

    def _post(self, path: str, body: dict) -> str:
        for last in (False, True):
            try:
                self._http.request("POST", f"/v1/{path}", json.dumps(body),
                                   {"Content-Type": "application/json"})
                return self._http.getresponse().read().decode()
            except (ConnectionError, http.client.RemoteDisconnected):
                self._http.close()  # the server ended it while other calls were measured
                if last:
                    raise


def serve(options: Options, folder: Path) -> list[Row]:
    """Fetch and predict at CALLERS, each answer compared with the tables and the model.

    Raises:
        Different: an answer is not the value of the tables, or not what the caller alone got.
    """
    settings = config.load(target="local", run_dir="")
    with connected(settings) as cloud:
        try:
            caller = Caller(cloud)
            customers = lookups.served_customers(cloud, 200)
            expected = _expected(caller, customers)
        except Different:
            raise
        except Exception as error:  # whatever is missing: a walk makes it
            return [Row("serve", "fetch and predict",
                        note=f"./run_all.sh --keep-running first ({str(error).splitlines()[0]})")]
        rows = []
        for callers in CALLERS:
            rows += _under_load(cloud, customers, expected, callers, options.repeats)
        return rows


def _expected(caller: Caller, customers: list[str]) -> dict[str, dict]:
    """The right answer of each kind for each customer, by the tables and one call for all."""
    rows = lookups.newest_rows(caller.cloud, customers)
    found = {"fetch": {c: lookups.instance(caller.cloud, rows.loc[c]) for c in customers}}
    found["fetch, REST"] = found["fetch"]
    features = list(found["fetch"].values())
    together = endpoint.predict(caller.cloud, caller.endpoint, features)
    found["predict"] = found["both"] = dict(zip(customers, together, strict=True))
    for kind in KINDS:
        answers = {c: caller.ask(kind, c, found["fetch"][c]) for c in customers}
        if answers != found.setdefault(kind, answers):
            wrong = next(c for c in customers if answers[c] != found[kind][c])
            raise Different(f"{kind} of customer {wrong}: {answers[wrong]}, "
                            f"but {found[kind][wrong]} is right")
    return found


def _under_load(cloud: Cloud, customers: list[str], expected: dict, callers: int,
                repeats: int) -> list[Row]:
    """Rows of the median milliseconds of each kind; rate, tail and server's CPU in the note."""
    context = multiprocessing.get_context("spawn")
    count = min(callers, PROCESSES)
    orders, answers = [context.Queue() for _ in range(count)], context.Queue()
    workers = [context.Process(target=_work, daemon=True, args=(
        orders[n], answers, customers, expected, callers // count)) for n in range(count)]
    for worker in workers:
        worker.start()
    for _ in workers:
        answers.get()  # ready
    local = psutil.Process(cloud.local_pid)
    servers = [local, *local.children(recursive=True)]
    medians, notes = {kind: [] for kind in KINDS}, {}
    for _ in range(repeats):
        for kind in KINDS:
            before, began = _cpu(servers), time.perf_counter()
            for order in orders:
                order.put((kind, max(1, REQUESTS // callers)))
            parts = [answers.get() for _ in workers]
            seconds = time.perf_counter() - began
            times = [t for part, _ in parts for t in part]
            wrong = sum(bad for _, bad in parts)
            medians[kind].append(float(np.percentile(times, 50)))
            notes[kind] = (f"p99 {np.percentile(times, 99):.1f} ms, {len(times) / seconds:,.0f} "
                           f"requests/s, {1000 * (_cpu(servers) - before) / len(times):.2f} ms CPU "
                           f"of the servers each, {wrong} of {len(times)} wrong")
            if wrong:
                raise Different(f"{kind}, {callers} callers: {notes[kind]}")
    for order in orders:
        order.put(None)
    for worker in workers:
        worker.join()
    return [Row(f"serve, {callers} callers", kind, medians[kind], "ms wall",
                f"{'predict' if kind == 'both' else kind.split(',')[0]}, raw HTTP", notes[kind])
            for kind in KINDS]


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _work(orders, answers, customers: list[str], expected: dict, threads: int) -> None:
    """A process of callers: (milliseconds, number of wrong answers) for each order (kind, count),
    until the order None."""
    callers = [Caller(connect(config.load(target="local", run_dir=""))) for _ in range(threads)]
    for caller in callers:
        for kind in KINDS:
            caller.ask(kind, customers[0], expected["fetch"][customers[0]])
    answers.put("ready")
    while order := orders.get():
        kind, count = order
        times: list[float] = []
        wrong: list[str] = []

        def ask(number: int, kind: str = kind, count: int = count, times: list = times,
                wrong: list = wrong) -> None:
            for turn in range(count):
                customer = customers[(number * 31 + turn) % len(customers)]
                began = time.perf_counter()
                answer = callers[number].ask(kind, customer, expected["fetch"][customer])
                times.append(1000 * (time.perf_counter() - began))
                if answer != expected[kind][customer]:
                    wrong.append(customer)

        running = [threading.Thread(target=ask, args=(n,)) for n in range(threads)]
        for each in running:
            each.start()
        for each in running:
            each.join()
        answers.put((times, len(wrong) + threads * count - len(times)))
