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
from lib.stages import Outcome


class LabelWarning(UserWarning):
    """A positive rate lies outside the configured band."""


def check(cloud: Cloud) -> Outcome:
    """Run every check; the Outcome's value is the table (check, value, low, high, status).

    Warns:
        LabelWarning: a positive rate outside label.positive_rate_band.

    Raises:
        Needed: a check failed; the message names each with its value and band.
    """
    checks = warehouse.run_checks(cloud)
    failed, odd = (checks[checks["status"] == status] for status in ("fail", "warn"))
    if len(failed):
        raise Needed("sanity checks failed: " + _describe(failed),
                     "data that passes sql/05_sanity_checks.sql",
                     cloud.settings.command("lib.proof.sanity"))
    if len(odd):
        warnings.warn("the positive rate is outside label.positive_rate_band: " + _describe(odd),
                      LabelWarning, stacklevel=2)
    return Outcome("done", cloud.settings.dataset, {
        "checks": len(checks), "passed": int((checks["status"] == "pass").sum()),
        "warnings": len(odd), "positive_rate": positive_rate(checks)}, checks)


def positive_rate(checks: pd.DataFrame) -> float:
    """The overall share of label 1, 0 to 1, from the checks' rows."""
    return float(checks.set_index("check").loc["positive_rate", "value"])


def _describe(rows: pd.DataFrame) -> str:
    return "; ".join(f"{r.check} = {r.value:.4g}, allowed {r.low:g} to {r.high:g}"
                     for r in rows.itertuples())


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
