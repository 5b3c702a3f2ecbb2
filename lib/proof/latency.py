"""How long an online prediction takes: fetch, predict, both; one caller and concurrent callers.

To compare with: the same features, computed by SQL at each request.
"""

import dataclasses
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np

from lib import lookups, warehouse
from lib.charts import proof as charts
from lib.cloud import Cloud
from lib.language import mark
from lib.predict import Predictor
from lib.stages import Outcome

KINDS = (mark("fetch"), mark("predict"), mark("both"))


def measure(
    predictor: Predictor, customers: list[str], requests: int, callers: int = 1
) -> Outcome:
    """Time `requests` predictions in total, by concurrent callers, cycling through the customers.

    Not counted: a warm-up of a twentieth more, at least one request per caller, and each
    caller's look-up of the endpoint.

    Returns:
        Outcome whose value is {"fetch" | "predict" | "both": [milliseconds]}.
    """
    # The clients' HTTP session may not be thread-safe, so each caller has its own.
    idle = [predictor, *(Predictor(dataclasses.replace(predictor.cloud))
                         for _ in range(callers - 1))]
    own = threading.local()

    def ask(number: int):
        if not hasattr(own, "predictor"):
            own.predictor = idle.pop()
        return own.predictor.predict(customers[number % len(customers)])

    warm_up = max(callers, requests // 20)
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, range(warm_up)))
        began = time.perf_counter()
        answers = list(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - began
    samples = {
        "fetch": [a.fetch_ms for a in answers],
        "predict": [a.predict_ms for a in answers],
        "both": [a.fetch_ms + a.predict_ms for a in answers],
    }
    return Outcome("done", predictor.endpoint.name, {
        "callers": callers, "requests": requests,
        "requests a second": f"{requests / seconds:.1f}"}, samples)


def by_sql(cloud: Cloud, customers: list[str], requests: int) -> Outcome:
    """Time sql/request_time_features.sql for one customer at a time, `requests` times.

    Returns:
        Outcome whose value is the milliseconds of each; a first one is not counted.
    """
    (statement,) = warehouse.render("request_time_features", cloud.settings)
    now, times = lookups.newest_snapshot(cloud), []
    for number in range(requests + 1):
        began = time.perf_counter()
        warehouse.query(cloud, statement, feature_timestamp=now,
                        customer_id=customers[number % len(customers)])
        times.append(1000 * (time.perf_counter() - began))
    return Outcome("done", cloud.settings.dataset, {"requests": requests}, times[1:])


def compare(predictor: Predictor, customers: list[str]) -> Outcome:
    """Measure one caller, checks.latency_callers concurrent ones, and SQL.

    Returns:
        Outcome whose value is {"began": time, "alone": samples, "together": samples,
        "callers": int, "sql": [milliseconds]}, samples as of `measure`.
    """
    settings = predictor.cloud.settings
    checks, requests = settings.checks, settings.predict.latency_requests
    timings = {
        "began": datetime.now(UTC),
        "alone": measure(predictor, customers, requests).value,
        "together": measure(predictor, customers, requests, checks.latency_callers).value,
        "callers": checks.latency_callers,
        "sql": by_sql(predictor.cloud, customers, checks.latency_sql_requests).value,
    }
    return Outcome("done", predictor.endpoint.name, {
        "requests": requests, "callers": f"1 and {checks.latency_callers}",
        "by SQL": checks.latency_sql_requests}, timings)


def series(timings: Mapping) -> dict[str, list[float]]:
    """The samples of `compare` by name, in the order of the charts."""
    named = {charts.call_name(kind, callers): samples[kind]
             for callers, samples in ((1, timings["alone"]),
                                      (timings["callers"], timings["together"]))
             for kind in KINDS}
    return named | {charts.call_name(mark("features by SQL"), 1): timings["sql"]}


def figures(
    alone: Mapping, together: Mapping | None = None, sql: list[float] | None = None
) -> dict[str, float]:
    """For summary.json, in milliseconds: p50 and p99 of fetch and predict with one caller; if
    given, of both together, of both with concurrent callers, and of the features by SQL."""
    parts = [(kind, alone[kind]) for kind in ("fetch", "predict")]
    if together is not None:
        parts += [("both", alone["both"]), ("both_concurrent", together["both"])]
    if sql is not None:
        parts.append(("sql_features", sql))
    return {f"{name}_p{p}": round(float(np.percentile(ms, p)), 3)
            for name, ms in parts for p in (50, 99)}
