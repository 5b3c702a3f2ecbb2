"""List or delete exactly what this app and env made.

    python -m lib.operate.teardown [--target local|gcp] [--env dev|prod] [--yes]

Without --yes it only lists, and prints the command that deletes. A resource is ours if its name is
one of config.yaml's for this app and env, and its labels say app and env; what has our name and
other labels is listed and left alone. It can be run again, also after a run that was interrupted;
while a run or a refresh of this checkout goes on, --yes is refused.

Exit status: 0 listed or deleted, 1 something could not be listed or deleted (it is named, with
what is needed), 2 a bad command line or config.yaml, or prod without `--env prod --yes`.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import requests
from google.api_core.exceptions import BadRequest, Conflict, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError

from lib import cli, errors, stages, waiting
from lib.cloud import Cloud, connected
from lib.config import Settings
from lib.errors import TRANSIENT, Needed
from lib.operate.inventory import KINDS, Resource

MODULE = "lib.operate.teardown"
PRICES = "https://cloud.google.com/products/gemini-enterprise-agent-platform/pricing"
BILLED = ("endpoint", "online store")  # kinds that are billed by the hour
# What a service may answer, or not answer, without a mistake of ours.
REFUSALS = (GoogleAPIError, GoogleAuthError, requests.RequestException, Needed)


@dataclass(frozen=True)
class Found:
    """Existing resources: ours, in the order of deletion; those that are not ours; and why a
    kind could not be listed."""

    ours: list[Resource]
    others: list[Resource]
    problems: list[str]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser(f"python -m {MODULE}", __doc__)
    parser.add_argument("--yes", action="store_true", help="delete; without it: list only")
    return cli.run(parser.parse_args(arguments), "teardown", "connecting", _teardown)


def _teardown(settings: Settings, options: argparse.Namespace) -> int:
    if options.yes and settings.env == "prod" and options.env != "prod":
        print("prod is deleted only if the command line says so; `env: prod` in config.yaml is "
              f"not enough. Type:\n  {settings.command(MODULE, '--yes')}", file=sys.stderr)
        return 2
    # A run or a refresh would make anew what is being deleted.
    with stages.alone(MODULE) if options.yes else nullcontext(), connected(settings) as cloud:
        return run(cloud, delete=options.yes)


def run(cloud: Cloud, delete: bool = False) -> int:
    """List, or list and delete; print it all; the exit status (0 or 1)."""
    settings = cloud.settings
    _say(f"app {settings.app}, env {settings.env}: {cloud.note}, {settings.region}")
    found = find(cloud)
    for resource in found.ours:
        _say(_line(resource, settings))
    for resource in found.others:
        _say(f"not ours: {resource.not_ours}, left alone: {_line(resource, settings)}")
    for problem in found.problems:
        _say(f"NOT LISTED: {problem}")
    if not found.ours:
        _say("nothing to delete" + (" among what could be listed" if found.problems else ""))
    failures = remove(cloud, found) if delete else {}
    for resource, reason in failures.items():
        _say(f"NOT DELETED: {resource.kind} {resource.name}: {reason}")
    left = list(failures) if delete else found.ours
    lines = _costs(left, settings)
    if left:
        lines.append(f"to delete {'it' if len(left) == 1 else f'these {len(left)}'}: "
                     f"{settings.command(MODULE, '--yes')}")
    for line in [*lines, *_kept(settings)]:
        _say(line)
    return 1 if found.problems or failures else 0


def find(cloud: Cloud) -> Found:
    """Every resource with one of our names; a kind that cannot be listed is a problem."""
    ours, others, problems = [], [], []
    for name, kind in KINDS.items():
        try:
            for resource in kind.list(cloud):
                (others if resource.not_ours else ours).append(resource)
        except REFUSALS as error:
            problems.append(f"{name}s: {explain(error, name, cloud.settings)}")
    return Found(ours, others, problems)


def remove(cloud: Cloud, found: Found) -> dict[Resource, str]:
    """Delete `found.ours` in order, and nothing else.

    Returns:
        What could not be deleted; why, and what is needed.
    """
    failures: dict[Resource, str] = {}
    for resource in found.ours:
        label, began = f"{resource.kind} {resource.name}", time.monotonic()
        inside = [r.name for r in (*found.others, *failures)
                  if _without_project(r.name).startswith(_without_project(resource.name) + "/")]
        if inside:
            failures[resource] = f"it holds {', '.join(inside)}. Needed: delete that first"
            continue
        try:
            retrying = waiting.retrying(
                cloud.settings, lambda line, label=label: _say(f"  {label}: {line}"))
            operation = retrying(KINDS[resource.kind].delete, cloud, resource.name)
            if operation is not None:
                waiting.operation(cloud.settings, f"deleting {label}", operation, resource.name)
            _say(f"{label}: deleted in {time.monotonic() - began:.1f} s")
        except NotFound:
            _say(f"{label}: already deleted")
        except REFUSALS as error:
            failures[resource] = explain(error, resource.kind, cloud.settings)
            _say(f"{label}: FAILED after {time.monotonic() - began:.1f} s")
    return failures


def _without_project(name: str) -> str:
    """A Vertex AI name without its project, which Google gives by id or by number."""
    return name.split("/", 2)[-1] if name.startswith("projects/") else name


def explain(error: Exception, kind: str, settings: Settings) -> str:
    """Why a kind could not be listed or deleted, and what is needed."""
    known = errors.explain(error, "teardown", kind, settings)
    cause, need, how = (known.cause, known.need, known.command) if known else (str(error), "", "")
    if "add-iam-policy-binding" in how and errors.CONSUMER not in how:
        role = KINDS[kind].role
        need = f"{role} on project {settings.project}; a new grant takes effect after some minutes"
        how = errors.grant_command(settings.project, role)
    elif isinstance(error, BadRequest | Conflict):
        need = ("that nothing uses it or is being created in it: delete what the message names, "
                "or wait some minutes")
        how = settings.command(MODULE, "--yes")
    elif isinstance(error, TRANSIENT) or not need or "run_all" in how:
        need, how = "another try, later", settings.command(MODULE, "--yes")
    return f"{cause}. Needed: {need}" + (f" ({how})" if how else "")


def _line(resource: Resource, settings: Settings) -> str:
    parts = [f"{resource.kind:<14} {resource.name}", resource.note]
    if resource.created:
        parts.append(f"created {resource.created:%Y-%m-%d %H:%M} UTC")
    if resource.billed:
        by_the_hour = "billed by the hour: " if settings.target_settings.billed else ""
        parts.append(by_the_hour + resource.billed.what)
    return " | ".join(part for part in parts if part)


def _say(line: str) -> None:
    print(line, flush=True)


# -- costs ----------------------------------------------------------------------------------------


def still_billed(cloud: Cloud) -> list[str]:
    """Lines for the end of a run: what exists and is billed by the hour, and the command that
    deletes it. Never raises: what cannot be listed is one of the lines."""
    settings, found, lines = cloud.settings, [], []
    for kind in BILLED:
        try:
            found += [r for r in KINDS[kind].list(cloud) if r.billed and not r.not_ours]
        except Exception as error:  # nothing may hide how the run itself ended
            lines.append(f"cannot list {kind}s, which are billed by the hour: "
                         f"{errors.first_line(error)[:300]}")
    if found:
        each = "; ".join(f"{r.kind} {r.name} ({r.billed.what})" for r in found)
        return [*lines, f"still running and billed by the hour: {each}", *_costs(found, settings),
                f"delete: {settings.command(MODULE, '--yes')}"]
    if lines:
        return [*lines, f"list: {settings.command(MODULE)}"]
    return ["nothing is running that is billed by the hour"]


def _costs(resources: list[Resource], settings: Settings) -> list[str]:
    """What they cost an hour; the page with the prices if config.yaml does not have them."""
    billed = [r.billed for r in resources if r.billed] if settings.target_settings.billed else []
    if not billed:
        return []
    missing = sorted({b.price for b in billed if getattr(settings.costs, b.price) is None})
    if missing:
        return [f"look up what that costs an hour: {PRICES} (set costs."
                + " and costs.".join(missing) + " in config.yaml to see it here)"]
    hour = sum(b.nodes * getattr(settings.costs, b.price) for b in billed)
    return [f"until deleted it costs at least ${hour:,.2f} an hour, ${24 * hour:,.2f} a day"]


def _kept(settings: Settings) -> list[str]:
    """What teardown does not delete, and why; nothing on a target without a bill."""
    if not settings.target_settings.billed:
        return []
    host, project, *path = settings.serve.image_repository.split("/")
    registry = (
        "gcloud artifacts repositories delete " + "/".join(path)
        + f" --location {host.removesuffix('-docker.pkg.dev')} --project {project}"
        if host.endswith("-docker.pkg.dev") else f"ask the owner of {host}")
    return [
        "not deleted by this command:",
        f"  images in {settings.serve.image_repository}: a run does not make that repository, and "
        f"others may use it; to delete it: {registry}",
        f"  gs://{settings.project}_cloudbuild: Cloud Build keeps the sources of the images there, "
        "and those of every other build of the project; to delete it: gcloud storage rm "
        f"--recursive gs://{settings.project}_cloudbuild",
        "  Vertex ML Metadata of pipeline runs: Google writes it without labels, so ours cannot "
        "be identified",
        "  BigQuery's job history: who ran what, without our data; Google deletes it after a time",
    ]


if __name__ == "__main__":
    sys.exit(main())
