"""What helps against a failed sanity check: the setting, with a value that this data passes."""

import math

import pandas as pd

from lib import warehouse
from lib.cloud import Cloud
from lib.config import ANY_RATE, Settings, Snapshots
from lib.config_rules import shortest_history

# Checks that a shorter snapshots.history_days can change; "null_rate_" only of nullable features.
DATED = ("customers_per_label_date", "days_of_label_history", "join_coverage", "positive_rate_at_",
         "null_rate_")
NOTHING = "no setting in config.yaml helps"
SHORTEST_SETTING = Snapshots.model_fields["history_days"].metadata[0].ge  # days
MARGIN = 1.2  # on an estimated sample_percent: the sample at a date varies


def find(cloud: Cloud, failed: pd.DataFrame) -> tuple[str, bool]:
    """What is needed for data that pass, given the rows of the failed checks; and whether a
    setting helps.

    A history_days is tried on the label dates that exist, so following it leads to data that
    pass; a sample_percent is an estimate.
    """
    settings, values = cloud.settings, failed.set_index("check")["value"]
    nullable = [f"null_rate_{feature.name}" for feature in settings.features if feature.nullable]
    fixed = [name for name in values.index if not name.startswith(DATED)
             or (name.startswith("null_rate_") and name not in nullable)]
    if fixed:
        return (f"data that passes sql/05_sanity_checks.sql: {NOTHING}"
                f" against {', '.join(fixed)}", False)
    empty = [name.removeprefix("null_rate_") for name in nullable if values.get(name) == 1]
    if empty:
        return (f"values in the source columns that {', '.join(empty)} is computed from, or the "
                f"feature removed as lib/README.md says; {NOTHING}", False)
    if percent := _larger_sample(settings, values.get("customers_per_label_date")):
        return (f"snapshots.sample_percent: {percent} in config.yaml, estimated for "
                f"{settings.checks.min_customers} customers at each label date", True)
    dates = label_dates(cloud)
    if days := longest_history(dates, settings):
        return (f"snapshots.history_days: {days} in config.yaml, the longest that this data "
                "allows", True)
    if days := longest_history(dates, settings, rates=False):
        return _looser_rates(dates, settings, days), True
    good = int(_usable(dates, settings).cumprod().sum())
    return (f"a larger export: {NOTHING}. Three splits need "
            f"{shortest_history(settings) // settings.snapshots.step_days + 1} label dates in a "
            f"row up to the newest, each with at least {settings.checks.min_customers} customers "
            f"and both labels; there are {good}", False)


def band(checks: pd.DataFrame, settings: Settings) -> tuple[float, float]:
    """label.positive_rate_band, widened to hold every positive rate, in hundredths."""
    rates = checks.loc[checks["check"].str.startswith("positive_rate"), "value"]
    low, high = settings.positive_rate_band or ANY_RATE
    return (min(low, math.floor(rates.min() * 100) / 100),
            max(high, math.ceil(rates.max() * 100) / 100))


def label_dates(cloud: Cloud) -> pd.DataFrame:
    """The rows of sql/checks/label_dates.sql, the newest date first."""
    return warehouse.query_file(cloud, "checks/label_dates")


def longest_history(dates: pd.DataFrame, settings: Settings, rates: bool = True) -> int | None:
    """The longest snapshots.history_days with which all checks of DATED pass, in days.

    rates: also join coverage and null rates. None if there is no such value of at least
    `shortest_history`, which training needs.
    """
    passing = _usable(dates, settings).cumprod().astype(bool)
    if rates:
        shares = _shares(dates)
        nulls = shares.drop(columns="covered")
        passing &= shares["covered"] >= settings.checks.min_join_coverage
        passing &= (nulls <= settings.checks.max_null_rate).all(axis=1) & (nulls < 1).all(axis=1)
    days = [n * settings.snapshots.step_days for n in range(len(dates)) if passing.iloc[n]]
    least = max(shortest_history(settings), SHORTEST_SETTING)
    return max((n for n in days if n >= least), default=None)


def _usable(dates: pd.DataFrame, settings: Settings) -> pd.Series:
    """True for each date with enough customers, both labels, and no date missing before it."""
    expected = dates["label_seconds"].max() - dates.index * settings.snapshots.step_days * 86400
    return ((dates["label_seconds"] == expected)
            & (dates["row_count"] >= settings.checks.min_customers)
            & (dates["positives"] > 0) & (dates["positives"] < dates["row_count"]))


def _shares(dates: pd.DataFrame) -> pd.DataFrame:
    """Join coverage and null rates of all rows from the newest date up to each date."""
    columns = [name for name in dates if name == "covered" or name.startswith("null_")]
    return dates[columns].cumsum().div(dates["row_count"].cumsum(), axis=0)


def _larger_sample(settings: Settings, customers: float | None) -> int | None:
    """The sample_percent with enough customers at each date; None if that is not the problem."""
    percent = settings.snapshots.sample_percent
    if percent == 100 or not customers:
        return None
    needed = percent * settings.checks.min_customers / customers
    return min(100, math.ceil(needed * MARGIN)) if needed <= 100 else None


def _looser_rates(dates: pd.DataFrame, settings: Settings, days: int) -> str:
    """The limits that the data would pass with the longest history, and what that means."""
    checks = settings.checks
    days = min(days, settings.snapshots.history_days)
    shares = _shares(dates).iloc[days // settings.snapshots.step_days]
    covered, nulls = shares["covered"], shares.drop("covered").max()
    texts = []
    if days <= settings.snapshots.history_days - settings.snapshots.step_days:
        texts.append(f"snapshots.history_days: {days}")
    if covered < checks.min_join_coverage:
        texts.append(f"checks.min_join_coverage: {math.floor(covered * 100) / 100:g} "
                     "(label rows without a snapshot are not trained on)")
    if nulls > checks.max_null_rate:
        texts.append(f"checks.max_null_rate: {math.ceil(nulls * 100) / 100:g} "
                     "(training replaces NULL by the median)")
    return " and ".join(texts) + " in config.yaml, if you accept it; or a more complete export"
