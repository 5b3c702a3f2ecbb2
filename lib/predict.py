"""customer_id -> fetch -> vector -> predict -> churn_probability; also a command.

    python -m lib.predict --customer_id 123

Exit status: 0 predicted, 1 a failure elsewhere, 2 a bad command line or config.yaml, 3 unknown
customer or nothing served, 4 no deployed model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lib import cli, served_log
from lib.cloud import Cloud, connect
from lib.config import Settings
from lib.stages import Outcome

if TYPE_CHECKING:  # the command needs no pandas, which takes half a second to import
    import pandas as pd
# lib.endpoint and lib.feature_store import the clients of Vertex AI: the functions that use them
# import them, so that the command starts the local cloud before.

NOT_SERVED, NOT_DEPLOYED = 3, 4
NEEDED = ("lib.endpoint", "lib.feature_store", *(
    f"google.cloud.aiplatform_v1.services.{service}_service"
    for service in ("endpoint", "prediction", "feature_online_store")))


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
    """Holds the endpoint, so that a prediction takes two calls: fetch and predict."""

    def __init__(self, cloud: Cloud):
        """Raises lib.endpoint.NotDeployed if no model is deployed."""
        from lib import endpoint

        self.cloud, self.endpoint = cloud, endpoint.connect(cloud)

    def predict(self, customer_id: str) -> Prediction:
        """The churn probability of one customer, from what the online store serves.

        The features are sent by name. Only the first step of the trained pipeline puts them in
        order, and it is the same object in training and in serving. What was served is logged
        (lib/served_log.py), unless targets.<target>.served_log is false.

        Raises:
            lib.feature_store.EntityNotServed: nothing is served for this customer.
        """
        from lib import endpoint, feature_store

        settings, asked_at, probability = self.cloud.settings, datetime.now(UTC), None
        began = time.perf_counter()
        try:
            features, taken_at = feature_store.fetch(self.cloud, customer_id)
        except feature_store.EntityNotServed:
            served_log.append(settings, asked_at, customer_id)
            raise
        fetched = time.perf_counter()
        try:
            (probability,) = endpoint.predict(self.cloud, self.endpoint, [features])
        finally:
            predicted = time.perf_counter()
            served_log.append(settings, asked_at, customer_id, features, taken_at, probability)
        return Prediction(
            str(customer_id), probability, features, taken_at,
            1000 * (fetched - began), 1000 * (predicted - fetched))


def open_predictor(cloud: Cloud) -> Outcome:
    """A Predictor, as the Outcome's value.

    Raises:
        lib.endpoint.NotDeployed: no model is deployed.
    """
    predictor = Predictor(cloud)
    return Outcome("done", predictor.endpoint.name, value=predictor)


def many(predictor: Predictor, customers: list[str]) -> Outcome:
    """A Prediction for each customer, as the Outcome's value."""
    answers = [predictor.predict(customer) for customer in customers]
    return Outcome("done", predictor.endpoint.name, {"customers": len(answers)}, answers)


def table(answers: list[Prediction]) -> pd.DataFrame:
    """One row per answer: customer_id, churn_probability, then the features."""
    import pandas as pd

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
    parser = cli.parser("python -m lib.predict", __doc__)
    parser.add_argument("--customer_id", "--customer-id", required=True)
    options = parser.parse_args(arguments)
    return cli.run(options, "predict", f"customer {options.customer_id}", _print_prediction)


def _print_prediction(settings: Settings, options: argparse.Namespace) -> int:
    cloud = connect(settings, NEEDED)
    from lib import endpoint, feature_store

    if cloud.started_local:
        print("local cloud started; it keeps running until `.venv/bin/python -m lib.localcloud "
              "stop`", file=sys.stderr)
    try:
        answer = Predictor(cloud).predict(options.customer_id)
    except (feature_store.EntityNotServed, endpoint.NotDeployed) as error:
        print(error, file=sys.stderr)
        return NOT_DEPLOYED if isinstance(error, endpoint.NotDeployed) else NOT_SERVED
    print(json.dumps({
        "customer_id": answer.customer_id,
        "feature_timestamp": answer.feature_timestamp and answer.feature_timestamp.isoformat(),
        "features": answer.features,
        "churn_probability": round(answer.churn_probability, 4),
    }, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
