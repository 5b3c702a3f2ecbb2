"""How long an online prediction takes: fetch, predict, and both."""

import numpy as np

from lib.predict import Predictor
from lib.stages import Outcome


def measure(predictor: Predictor, customers: list[str], requests: int) -> Outcome:
    """Time `requests` predictions, one caller, going round the customers.

    The first tenth is not counted: connections and caches warm up.

    Returns:
        Outcome whose value is {"fetch" | "predict" | "both": [milliseconds]}.
    """
    warm_up = max(1, requests // 10)
    answers = [predictor.predict(customers[i % len(customers)])
               for i in range(warm_up + requests)][warm_up:]
    samples = {
        "fetch": [a.fetch_ms for a in answers],
        "predict": [a.predict_ms for a in answers],
        "both": [a.fetch_ms + a.predict_ms for a in answers],
    }
    return Outcome("done", figures={"requests": requests}, value=samples)


def figures(samples: dict[str, list[float]]) -> dict[str, float]:
    """p50 and p99 of fetch and predict, in milliseconds, for summary.json."""
    return {f"{kind}_p{p}": round(float(np.percentile(samples[kind], p)), 3)
            for kind in ("fetch", "predict") for p in (50, 99)}
