"""Run sql/05_sanity_checks.sql: warn loudly, or end the run.

    python -m lib.proof.sanity

Exit status: 0 no check failed, 1 a check failed, 2 a bad command line or config.yaml.
"""

import argparse
import sys
import warnings

import pandas as pd

from lib import cli, warehouse
from lib.cloud import Cloud, connect
from lib.config import Settings
from lib.errors import Needed
from lib.proof import remedies
from lib.stages import Outcome

# Before the name of a check that fails: what it means.
WORDS = {"customers_per_label_date": "too few customers: "}


class LabelWarning(UserWarning):
    """A positive rate lies outside the configured band."""


def check(cloud: Cloud) -> Outcome:
    """Run every check; the Outcome's value is the table (check, value, low, high, status).

    Warns:
        LabelWarning: a positive rate outside label.positive_rate_band.

    Raises:
        Needed: a check failed; the message names each with its value and band, and the setting
            that helps, with its value, or that none does. The next run builds the tables again.
    """
    warehouse.require_snapshot(cloud)
    checks = warehouse.run_checks(cloud)
    failed, odd = (checks[checks["status"] == status] for status in ("fail", "warn"))
    if len(failed):
        failed = _causes(failed)
        need, helps = remedies.find(cloud, failed)
        command = (f"edit config.yaml, then {cloud.settings.rerun_command('02')}" if helps
                   else cloud.settings.command("lib.proof.sanity"))
        # A table may have been changed since it was built.
        warehouse.forget(cloud, *[file for file in warehouse.BUILDS if file != "01_prepare_bq"])
        need += "; the next run builds these tables again"
        raise Needed("sanity checks failed: " + _describe(failed), need, command)
    if len(odd):
        low, high = remedies.band(checks, cloud.settings)
        warnings.warn(
            f"the positive rate is outside label.positive_rate_band: {_describe(odd)}. "
            f"[{low:g}, {high:g}] in config.yaml would hold it", LabelWarning, stacklevel=2)
    figures = {"checks": len(checks), "passed": int((checks["status"] == "pass").sum()),
               "warnings": len(odd), "positive_rate": positive_rate(checks)}
    if cloud.settings.positive_rate_band is None:
        figures["open"] = "label.positive_rate_band (no band is known for this source)"
    return Outcome("done", cloud.settings.dataset, figures, checks)


def positive_rate(checks: pd.DataFrame) -> float:
    """The overall share of label 1, 0 to 1, from the checks' rows."""
    return float(checks.set_index("check").loc["positive_rate", "value"])


def _causes(failed: pd.DataFrame) -> pd.DataFrame:
    """Failed checks without those that only follow from another one: with no rows, no rate is
    known."""
    empty = failed[failed["check"].isin(["feature_rows", "label_rows"])]
    return empty if len(empty) else failed


def _describe(rows: pd.DataFrame) -> str:
    """Each check with its value and limits; of the rates at single dates only the first."""
    dated = rows["check"].str.startswith("positive_rate_at_")
    shown = pd.concat([rows[~dated], rows[dated].head(1)])
    texts = [f"{WORDS.get(r.check, '')}{r.check} = {r.value:.4g}, allowed {_limits(r)}"
             for r in shown.itertuples()]
    more = dated.sum() - 1
    return "; ".join(texts) + (f", and so at {more} more label dates" if more > 0 else "")


def _limits(row) -> str:
    if row.check.startswith("positive_rate") and row.status == "fail":
        return "more than 0 and less than 1: both labels must occur"
    if row.check.startswith("null_rate_") and row.value == 1:
        return "less than 1: the feature is NULL in every row"
    return f"{row.low:g} or more" if row.high >= 1e12 else f"{row.low:g} to {row.high:g}"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = cli.parser("python -m lib.proof.sanity", __doc__).parse_args(arguments)
    return cli.run(options, "sanity", "sql/05_sanity_checks.sql", _print_checks)


def _print_checks(settings: Settings, _: argparse.Namespace) -> int:
    checks = warehouse.run_checks(connect(settings))
    print(checks.to_string(index=False))
    return int((checks["status"] == "fail").any())


if __name__ == "__main__":
    sys.exit(main())
