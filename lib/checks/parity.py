"""Online against offline: is what is served what training would see for the same moment?

    python -m lib.checks.parity --customers 200

Exit status: 0 equal, 1 not equal (each difference is named), 2 a bad command line or config.
"""

import argparse
import sys

import pandas as pd

from lib import cloud as clouds
from lib import config, feature_store, stages, warehouse
from lib.cloud import Cloud
from lib.stages import Needed, Outcome


def compare(cloud: Cloud, customers: list[str]) -> pd.DataFrame:
    """One row per customer and feature: customer_id, feature, online, offline, outcome, diff.

    outcome: equal, different, null_online, null_offline, missing (nothing served). `diff` is
    the absolute difference, NaN unless both are numbers. Offline is the customer's newest row.
    """
    offline = warehouse.newest_rows(cloud, customers)
    rows = []
    for customer in customers:
        try:
            online, _ = feature_store.fetch(cloud, customer)
        except feature_store.EntityNotServed:
            online = None
        for name in cloud.settings.feature_names:
            stored = offline.loc[customer, name]
            stored = None if pd.isna(stored) else float(stored)
            served = None if online is None or online[name] is None else float(online[name])
            outcome, diff = judge(
                served, stored, online is not None, cloud.settings.checks.parity_tolerance)
            rows.append((customer, name, served, stored, outcome, diff))
    return pd.DataFrame(
        rows, columns=["customer_id", "feature", "online", "offline", "outcome", "diff"])


def judge(
    online: float | None, offline: float | None, served: bool, tolerance: float
) -> tuple[str, float]:
    """(outcome, absolute difference) of one pair of values."""
    if not served:
        return "missing", float("nan")
    if online is None or offline is None:
        same = online is None and offline is None
        return ("equal" if same else "null_online" if online is None else "null_offline",
                float("nan"))
    diff = abs(online - offline)
    return ("equal" if diff <= tolerance else "different"), diff


def run(cloud: Cloud, customers: list[str] | None = None) -> Outcome:
    """Compare checks.parity_customers customers; the Outcome's value is `compare`'s table.

    Raises:
        Needed: a value differs; the message names customer, feature and both values.
    """
    if customers is None:
        customers = warehouse.served_customers(cloud, cloud.settings.checks.parity_customers)
    compared = compare(cloud, customers)
    bad = compared[compared["outcome"] != "equal"]
    if len(bad):
        raise Needed(
            f"online and offline differ in {len(bad)} of {len(compared)} values: {told(bad)}",
            "a sync of the view after the features were built", "./run_all.sh --from 04")
    return Outcome("done", feature_store.view_name(cloud), figures(compared), compared)


def told(bad: pd.DataFrame, most: int = 5) -> str:
    """The first differences in words."""
    lines = [f"customer {r.customer_id}, {r.feature}: online {_word(r.online)}, offline "
             f"{_word(r.offline)} ({r.outcome})" for r in bad.head(most).itertuples()]
    more = [f"and {len(bad) - most} more"] if len(bad) > most else []
    return "; ".join(lines + more)


def _word(value: float) -> str:
    return "NULL" if pd.isna(value) else f"{value:g}"


def figures(compared: pd.DataFrame) -> dict:
    """customers, features, mismatches and max_abs_diff, for summary.json."""
    largest = compared["diff"].max()
    return {
        "customers": int(compared["customer_id"].nunique()),
        "features": int(compared["feature"].nunique()),
        "mismatches": int((compared["outcome"] != "equal").sum()),
        "max_abs_diff": 0.0 if pd.isna(largest) else float(largest),
    }


def overview(compared: pd.DataFrame) -> pd.DataFrame:
    """Per feature: values by outcome, and the largest absolute difference."""
    counts = pd.crosstab(compared["feature"], compared["outcome"])
    counts["largest difference"] = compared.groupby("feature")["diff"].max()
    return counts.loc[compared["feature"].unique()]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.checks.parity", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, help="default: checks.parity_customers")
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    options = parser.parse_args(arguments)
    try:
        settings = config.load(target=options.target, env=options.env)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        cloud = clouds.connect(settings)
        count = options.customers or settings.checks.parity_customers
        outcome = run(cloud, warehouse.served_customers(cloud, count))
    except Exception as error:
        told_error = stages.explain(error, "parity", "online against offline", settings)
        if told_error is None:
            raise
        print(told_error, file=sys.stderr)
        return 1
    print(overview(outcome.value).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
