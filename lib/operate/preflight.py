"""Check all that a run needs before anything is created, and report every finding together.

    python -m lib.operate.preflight [--target local|gcp] [--env dev|prod] [--permissions]

`--permissions` prints the least-privilege table instead. Exit status: 0 a run can start (warnings
are printed), 1 there is a blocker, 2 a bad command line or config.yaml.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator

from google.auth.exceptions import GoogleAuthError

from lib import cli, errors
from lib.cloud import Cloud, connected
from lib.config import Settings
from lib.errors import Needed
from lib.operate import (
    finding,
    preflight_access,
    preflight_images,
    preflight_machine,
    preflight_resources,
)
from lib.operate.finding import Finding
from lib.operate.permissions import permission_table
from lib.stages import Outcome

STAGE = "00_preflight"
Checks = dict[str, Callable[[Cloud], Iterator[Finding]]]
CHECKS: Checks = {
    "credentials": preflight_access.credentials,
    "project": preflight_access.project,
    "APIs": preflight_access.apis,
    "permissions": preflight_access.permissions,
    "region": preflight_resources.region,
    "dataset": preflight_resources.dataset,
    "source": preflight_resources.source,
    "machine": preflight_machine.machine,
    "bucket": preflight_resources.bucket,
    "quotas": preflight_resources.quotas,
    "service agent": preflight_access.service_agent,
    "service account": preflight_access.containers_account,
    "images": preflight_images.check,
    "features": preflight_resources.features,
    "cost": preflight_resources.cost,
}


def check(cloud: Cloud, checks: Checks = CHECKS) -> list[Finding]:
    """Make these checks; one that cannot be made is itself a finding.

    Credentials that are not valid, or may not use their quota project, end it: every other call
    would end in the same error.
    """
    findings: list[Finding] = []
    for name, check_one in checks.items():
        failed = None
        try:
            found = list(check_one(cloud))
        except Exception as error:
            failed, found = error, [_failed(cloud, name, error)]
        findings += [dataclasses.replace(one, name=name) for one in found]
        if isinstance(failed, GoogleAuthError) or finding.about_quota_project(failed):
            break
    return findings


def _failed(cloud: Cloud, name: str, error: Exception) -> Finding:
    """A check that could not be made: what is needed for it, in the user's terms."""
    if api := finding.disabled_api(error):
        project = cloud.settings.project
        return Finding("blocker", f"cannot be checked: {api} is not enabled",
                       f"{api}, enabled in {project}; this takes effect after some minutes",
                       f"gcloud services enable {api} --project {project}")
    explained = errors.explain(error, STAGE, name, cloud.settings)
    if explained:
        return Finding("blocker", explained.cause, explained.need,
                       explained.command.replace(finding.UNKNOWN, finding.member(cloud)))
    # A bug of ours must not stop a run: it will find out what is really missing.
    return Finding("warning", f"cannot be checked: {type(error).__name__}: {error}",
                   "a check by hand, or a fix in lib/operate")


def require(cloud: Cloud, checks: Checks = CHECKS) -> Outcome:
    """`check`, as the first stage of a run; the Outcome's value is the list of findings.

    Raises:
        Needed: there are blockers; all findings are printed before.
    """
    findings = check(cloud, checks)
    blockers, warnings = (_at(findings, level) for level in ("blocker", "warning"))
    if blockers:
        _print(findings)
        raise Needed(
            f"{_count(blockers, 'blocker')}: "
            + "; ".join(f"{f.name}: {f.found}" for f in blockers),
            "; ".join(dict.fromkeys(f.need for f in blockers)),
            "\n           ".join(dict.fromkeys(f.command for f in blockers if f.command)))
    _print(warnings)
    return Outcome("done", figures={"checks ok": len(findings) - len(warnings),
                                    "warnings": len(warnings)}, value=findings)


def _at(findings: list[Finding], level: str) -> list[Finding]:
    return [found for found in findings if found.level == level]


def _count(findings: list[Finding], word: str) -> str:
    return f"{len(findings)} {word}" + ("" if len(findings) == 1 else "s")


def _print(findings: list[Finding]) -> None:
    """A line each; then what is needed, and the command, for all that is not ok."""
    words = {"ok": "ok   ", "warning": "WARN ", "blocker": "BLOCK"}
    for found in findings:
        print(f"{words[found.level]} {found.name + ':':<14} {found.found}")
    for found in [*_at(findings, "blocker"), *_at(findings, "warning")]:
        print(f"\n{words[found.level]} {found.name}\n      needed:  {found.need}")
        if found.command:
            print(f"      command: {found.command}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("python -m lib.operate.preflight", __doc__)
    parser.add_argument("--permissions", action="store_true",
                        help="print the least-privilege table, check nothing")
    options = parser.parse_args(arguments)
    if options.permissions:
        print(permission_table())
        return 0
    return cli.run(options, STAGE, "connecting", _preflight)


def _preflight(settings: Settings, options: argparse.Namespace) -> int:
    with connected(settings) as cloud:
        print(f"{cloud.note}, env {settings.env}")
        findings = check(cloud)
    _print(findings)
    blockers, warnings = (_at(findings, level) for level in ("blocker", "warning"))
    print(f"\n{_count(findings, 'finding')}: {_count(blockers, 'blocker')}, "
          f"{_count(warnings, 'warning')}")
    return 1 if blockers else 0


if __name__ == "__main__":
    sys.exit(main())
