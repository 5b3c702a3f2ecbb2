"""Online against offline: are the served values those that training would see now?

    python -m lib.proof.parity --customers 200

Exit status: 0 equal, 1 not equal (each difference is named), 2 a bad command line or config.yaml.
"""

import argparse
import dataclasses
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pandas as pd

from lib import cli, feature_store, lookups, show, warehouse
from lib.cloud import Cloud, connect
from lib.config import TIMESTAMP, Settings
from lib.errors import Needed
from lib.stages import Outcome

OUTCOMES = ("equal", "different", "null_online", "null_offline", "missing")
CALLERS = 8  # concurrent fetches
COLUMNS = ["customer_id", "feature", "online", "offline", "outcome", "diff", "served_at",
           "offline_at"]


def compare(
    cloud: Cloud, customers: list[str], offline: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per customer and feature, in the order of `customers` and of config.yaml.

    Args:
        offline: the rows to compare with, by customer_id; by default each customer's newest.

    Returns:
        customer_id; feature; online and offline (values, None for NULL); outcome (equal,
        different, null_online, null_offline, missing: nothing served, or no offline row); diff
        (absolute difference, NaN unless both are numbers); served_at and offline_at (the
        snapshots).
    """
    if offline is None:
        offline = lookups.newest_rows(cloud, customers)
    served, stored = fetch_all(cloud, customers), offline.to_dict("index")
    return compare_pairs(cloud.settings, [
        Pair(customer, *(served[customer] or ({}, None)), stored[customer],
             stored[customer][TIMESTAMP]) for customer in customers])


@dataclasses.dataclass(frozen=True)
class Pair:
    """What was served for a customer, and the offline row: feature -> value, empty for nothing.

    served_at and offline_at: their snapshots.
    """

    customer_id: str
    online: Mapping[str, object]
    served_at: datetime | None
    offline: Mapping[str, object]
    offline_at: datetime | None


def compare_pairs(settings: Settings, pairs: list[Pair]) -> pd.DataFrame:
    """The table of `compare`: for each pair one row per feature, in the order of config.yaml."""
    rows, tolerance = [], settings.checks.parity_tolerance
    for pair in pairs:
        both = bool(pair.online) and bool(pair.offline)
        for name in settings.feature_names:
            values = _value(pair.online.get(name)), _value(pair.offline.get(name))
            rows.append((pair.customer_id, name, *values, *judge(*values, both, tolerance),
                         pair.served_at, pair.offline_at))
    compared = pd.DataFrame(rows, columns=COLUMNS)
    return compared.astype({"served_at": "datetime64[us, UTC]",
                            "offline_at": "datetime64[us, UTC]"})


def fetch_all(
    cloud: Cloud, customers: list[str], callers: int = CALLERS
) -> dict[str, tuple[dict[str, object], datetime | None] | None]:
    """Fetch each customer (see feature_store.fetch); None where nothing is served."""
    own = threading.local()

    def fetch(customer: str):
        # The clients' HTTP session may not be thread-safe, so each thread has its own.
        if not hasattr(own, "cloud"):
            own.cloud = dataclasses.replace(cloud)
        try:
            return feature_store.fetch(own.cloud, customer)
        except feature_store.EntityNotServed:
            return None

    with ThreadPoolExecutor(callers) as pool:
        return dict(zip(customers, pool.map(fetch, customers), strict=True))


def _value(value: object) -> object:
    """None for NULL, a float for any number, else the value."""
    if pd.isna(value):
        return None
    return value if isinstance(value, str) else float(value)


def judge(
    online: object, offline: object, both: bool, tolerance: float
) -> tuple[str, float]:
    """(outcome, absolute difference) of one pair of values; None is NULL. both: a row was served,
    and there is an offline one."""
    nothing = float("nan")
    if not both:
        return "missing", nothing
    if online is None or offline is None:
        same = online is None and offline is None
        return "equal" if same else "null_online" if online is None else "null_offline", nothing
    if isinstance(online, str) or isinstance(offline, str):
        return "equal" if online == offline else "different", nothing
    diff = abs(online - offline)
    return ("equal" if diff <= tolerance else "different"), diff


def check(cloud: Cloud, customers: list[str] | None = None) -> Outcome:
    """Compare checks.parity_customers customers; the Outcome's value is `compare`'s table.

    Raises:
        Needed: a value differs; the message names customer, feature and both values.
    """
    if customers is None:
        customers = lookups.served_customers(cloud, cloud.settings.checks.parity_customers)
    compared = compare(cloud, customers)
    bad = differences(compared)
    if len(bad):
        raise Needed(
            f"online and offline differ in {len(bad)} of {len(compared)} values: {describe(bad)}",
            "a sync of the view after the features were built", cloud.settings.rerun_command("04"))
    return Outcome("done", feature_store.view_name(cloud), figures(compared), compared)


def measure(cloud: Cloud, customers: list[str]) -> Outcome:
    """As `check`, but differences are the answer, not an error."""
    compared = compare(cloud, customers)
    return Outcome("done", figures=figures(compared), value=compared)


def differences(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not equal."""
    return compared[compared["outcome"] != "equal"]


def describe(bad: pd.DataFrame, most: int = 5) -> str:
    """The first `most` differences in words."""
    more = [f"and {len(bad) - most} more"] if len(bad) > most else []
    return "; ".join([*map(_line, bad.head(most).itertuples()), *more])


def _line(row) -> str:
    return (f"customer {row.customer_id}, {row.feature}: online {_word(row.online)}, offline "
            f"{_word(row.offline)} ({row.outcome})")


def _word(value: object) -> str:
    return "NULL" if pd.isna(value) else value if isinstance(value, str) else f"{value:.10g}"


def figures(compared: pd.DataFrame) -> dict:
    """customers, features, mismatches and max_abs_diff, for summary.json."""
    largest = compared["diff"].max()
    return {
        "customers": int(compared["customer_id"].nunique()),
        "features": int(compared["feature"].nunique()),
        "mismatches": len(differences(compared)),
        "max_abs_diff": 0.0 if pd.isna(largest) else float(largest),
    }


def overview(compared: pd.DataFrame) -> pd.DataFrame:
    """Per feature: values by outcome, and the largest absolute difference."""
    counts = pd.crosstab(compared["feature"], compared["outcome"])
    seen = [outcome for outcome in OUTCOMES if outcome in counts]
    counts = counts[seen].assign(**{
        "largest difference": compared.groupby("feature")["diff"].max()})
    return counts.loc[compared["feature"].unique()].rename_axis(None).rename_axis(None, axis=1)


def ages(cloud: Cloud, compared: pd.DataFrame) -> pd.DataFrame:
    """How old the served values are: one row per snapshot that is served to some customer.

    Returns:
        customers; served snapshot ("nothing" for customers that are not served, "unknown" if the
        service does not say); newest snapshot (offline) and the days that the served one is
        behind it; newest order (of any customer) and the days behind that.
    """
    sql = f"select max(ordered_at) as t from `{cloud.settings.table('raw_orders')}`"
    ordered = warehouse.query(cloud, sql)["t"][0]
    each = compared.drop_duplicates("customer_id")
    rows = []
    for (served, stored), group in each.groupby(["served_at", "offline_at"], dropna=False):
        missing = "nothing" if (group["outcome"] == "missing").all() else "unknown"
        rows.append({
            "customers": len(group),
            "served snapshot": missing if pd.isna(served) else f"{served:%Y-%m-%d %H:%M}",
            "newest snapshot": f"{stored:%Y-%m-%d %H:%M}",
            "days behind snapshot": _days(stored - served),
            "newest order": f"{ordered:%Y-%m-%d %H:%M}",
            "days behind order": _days(ordered - served)})
    return pd.DataFrame(rows)


def _days(span: pd.Timedelta) -> float:
    return round(span / pd.Timedelta(days=1), 2)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("python -m lib.proof.parity", __doc__)
    parser.add_argument("--customers", type=int, help="default: checks.parity_customers")
    options = parser.parse_args(arguments)
    if options.customers is not None and options.customers < 1:
        parser.error("--customers must be 1 or more")
    return cli.run(options, "parity", "online against offline", _print_comparison)


def _print_comparison(settings: Settings, options: argparse.Namespace) -> int:
    cloud = connect(settings)
    count = options.customers or settings.checks.parity_customers
    compared = compare(cloud, lookups.served_customers(cloud, count))
    print(show.table(overview(compared), index=True), show.table(ages(cloud, compared)),
          sep="\n\n")
    bad = differences(compared)
    for row in bad.itertuples():
        print(_line(row), file=sys.stderr)
    if len(bad):
        print(f"online and offline differ in {len(bad)} of {len(compared)} values; a sync of the "
              f"view after the features were built is needed: {settings.rerun_command('04')}",
              file=sys.stderr)
    return int(len(bad) > 0)


if __name__ == "__main__":
    sys.exit(main())
