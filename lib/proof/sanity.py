"""Run sql/05_sanity_checks.sql: warn loudly, or end the run.

    python -m lib.proof.sanity
"""

import argparse
import sys
import warnings

import pandas as pd

from lib import cloud as clouds
from lib import config, errors, warehouse
from lib.cloud import Cloud
from lib.errors import Needed
from lib.stages import Outcome


class LabelWarning(UserWarning):
    """A positive rate lies outside the configured band."""


def check(cloud: Cloud) -> Outcome:
    """Every check; the Outcome's value is the table (check, value, low, high, status).

    Warns:
        LabelWarning: a positive rate outside label.positive_rate_band.

    Raises:
        Needed: a check failed; the message names each with its value and band.
    """
    checks = warehouse.run_checks(cloud)
    failed = checks[checks["status"] == "fail"]
    if len(failed):
        raise Needed("sanity checks failed: " + _told(failed),
                     "data that passes sql/05_sanity_checks.sql",
                     ".venv/bin/python -m lib.proof.sanity")
    odd = checks[checks["status"] == "warn"]
    if len(odd):
        warnings.warn("the labels lean to one side: " + _told(odd), LabelWarning, stacklevel=2)
    return Outcome("done", cloud.settings.dataset, {
        "checks": len(checks), "passed": int((checks["status"] == "pass").sum()),
        "warnings": len(odd), "positive_rate": positive_rate(checks)}, checks)


def positive_rate(checks: pd.DataFrame) -> float:
    """The overall share of label 1 among the checks' rows."""
    return float(checks.set_index("check").loc["positive_rate", "value"])


def _told(rows: pd.DataFrame) -> str:
    return "; ".join(f"{r.check} = {r.value:.4g}, allowed {r.low:g} to {r.high:g}"
                     for r in rows.itertuples())


def main() -> int:
    """The command; status 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m lib.proof.sanity", description=__doc__)
    parser.add_argument("--target", choices=["local", "gcp"])
    parser.add_argument("--env", choices=["dev", "prod"])
    options = parser.parse_args()
    try:
        settings = config.load(target=options.target, env=options.env)
        checks = warehouse.run_checks(clouds.connect(settings))
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        told = errors.explain(error, "sanity", "sql/05_sanity_checks.sql", settings)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1
    print(checks.to_string(index=False))
    return int((checks["status"] == "fail").any())


if __name__ == "__main__":
    sys.exit(main())
