"""customer_id -> fetch -> vector -> predict -> churn_probability; also a command.

    python -m lib.predict --customer_id 123

Exit status: 0 predicted, 1 a failure elsewhere, 2 a bad command line or config.yaml, 3 unknown
customer or nothing served, 4 no deployed model.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from lib import cloud as clouds
from lib import config, endpoint, errors, feature_store, stages

NOT_SERVED, NOT_DEPLOYED = 3, 4


@dataclass(frozen=True)
class Prediction:
    """One answer. fetch_ms and predict_ms are wall-clock times of the two calls."""

    customer_id: str
    churn_probability: float
    features: dict[str, object]
    feature_timestamp: datetime | None
    fetch_ms: float
    predict_ms: float


class Predictor:
    """Holds the endpoint, so that a request costs two calls and no look-up."""

    def __init__(self, cloud: clouds.Cloud):
        """Raises lib.endpoint.NotDeployed if there is nothing to ask."""
        self.cloud, self.endpoint = cloud, endpoint.connect(cloud)

    def predict(self, customer_id: str) -> Prediction:
        """The churn probability of one customer, from what the online store serves.

        The features travel by name; the vector is put in order in one place, the first step
        of the trained pipeline, which is the same object in training and in serving.

        Raises:
            lib.feature_store.EntityNotServed: nothing is served for this customer.
        """
        began = time.perf_counter()
        features, taken_at = feature_store.fetch(self.cloud, customer_id)
        fetched = time.perf_counter()
        (probability,) = endpoint.predict(self.endpoint, [features])
        ended = time.perf_counter()
        return Prediction(
            str(customer_id), probability, features, taken_at,
            1000 * (fetched - began), 1000 * (ended - fetched))


def open_predictor(cloud: clouds.Cloud) -> stages.Outcome:
    """A Predictor, as the Outcome's value.

    Raises:
        lib.endpoint.NotDeployed: there is nothing to ask.
    """
    predictor = Predictor(cloud)
    return stages.Outcome("done", predictor.endpoint.resource_name, value=predictor)


def many(predictor: Predictor, customers: list[str]) -> stages.Outcome:
    """A Prediction for each customer, as the Outcome's value."""
    answers = [predictor.predict(customer) for customer in customers]
    name = predictor.endpoint.resource_name
    return stages.Outcome("done", name, {"customers": len(answers)}, answers)


def table(answers: list[Prediction]) -> pd.DataFrame:
    """One row per answer: customer_id, churn_probability, then the features."""
    return pd.DataFrame([
        {"customer_id": a.customer_id, "churn_probability": a.churn_probability, **a.features}
        for a in answers])


def percentiles(features: dict[str, object], peers: pd.DataFrame) -> dict[str, float]:
    """Share (0..1) of the peers below each value, ties counted half; NaN for a NULL."""
    def share(name: str, value: object) -> float:
        column = peers[name].dropna()
        if value is None or not len(column):
            return float("nan")
        return float((column < value).mean() + (column == value).mean() / 2)

    return {name: share(name, value) for name, value in features.items()}


def for_summary(answers: list[Prediction]) -> list[dict]:
    """customer_id and churn_probability of each answer, for summary.json."""
    return [{"customer_id": a.customer_id, "churn_probability": round(a.churn_probability, 6)}
            for a in answers]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.predict", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customer_id", required=True)
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    options = parser.parse_args(arguments)
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        return _fail(str(error), 2)
    try:
        cloud = clouds.connect(settings)
        answer = Predictor(cloud).predict(options.customer_id)
    except feature_store.EntityNotServed as error:
        return _fail(str(error), NOT_SERVED)
    except endpoint.NotDeployed as error:
        return _fail(str(error), NOT_DEPLOYED)
    except Exception as error:
        told = errors.explain(error, "predict", f"customer {options.customer_id}", settings)
        if told is None:
            raise
        return _fail(str(told), 1)
    print(json.dumps({
        "customer_id": answer.customer_id,
        "feature_timestamp": answer.feature_timestamp and answer.feature_timestamp.isoformat(),
        "features": answer.features,
        "churn_probability": round(answer.churn_probability, 4),
    }, indent=2))
    return 0


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
