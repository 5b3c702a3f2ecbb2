"""Ask a cloud what the rules of the local cloud's ledger say, and record Google's answers.

    scripts/conformance.sh [--target local|gcp] [--lane cheap|full] [--yes]

Lane cheap: dataset, bucket, feature group, features, model upload, a pipeline job that is
cancelled, and refusals; some minutes, near nothing. Lane full: also online store, feature view,
sync, fetch and an endpoint without a model; a Bigtable node is billed until the end. What it makes
has names of its own (`conformance` in config.yaml), and exactly that is deleted at the end.

For each rule it prints confirmed, refuted, or new. Answers of Google, and of nothing else, are
written to tests/contract/recorded/, without ids, accounts and tokens; the tests hold the local
cloud against them.

Exit status: 0 every rule was asked and none is refuted, 1 otherwise (named), 2 a bad command line
or config.yaml, or not confirmed.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from google.api_core.exceptions import GoogleAPICallError

from lib import cli, config, errors
from lib.cloud import Cloud, connected, local_mark
from lib.config import ROOT, Settings
from lib.errors import Needed
from lib.operate import teardown
from scripts.conformance_probes import LANES, Asked, Fact

STAGE = "conformance"
RECORDED = ROOT / "tests" / "contract" / "recorded"
SHORTEST_ID = 10**6  # a longer number is an id
BILLED = ("online store", "feature view", "sync", "endpoint")  # steps while the node exists


class NotGoogle(Needed):
    """An answer that is not Google's: nothing may be recorded."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = cli.parser("scripts/conformance.sh", __doc__)
    parser.add_argument("--lane", choices=list(LANES), default="cheap",
                        help="full: also what is billed by the hour; default: cheap")
    parser.add_argument("--yes", action="store_true", help="do not ask before something is billed")
    return cli.run(parser.parse_args(arguments), STAGE, "connecting", _conform)


def _conform(settings: Settings, options: argparse.Namespace) -> int:
    own = own_settings(settings)
    for line in plan(own, options.lane):
        print(line, flush=True)
    costly = own.target_settings.billed and options.lane == "full"
    if costly and not options.yes and not _agreed():
        print(f"nothing was asked. To go on: scripts/conformance.sh {settings.options} "
              f"--lane {options.lane} --yes", file=sys.stderr)
        return 2
    with connected(own) as cloud:
        return run(cloud, options.lane)


def own_settings(settings: Settings) -> Settings:
    """The same settings with names and labels of this command's own app."""
    overrides = config.given_overrides()
    return config.load(target=settings.target, env=settings.env,
                       overrides={**overrides, "app": settings.conformance.app})


def plan(settings: Settings, lane: str) -> list[str]:
    """What a lane makes, how long it should take and what it costs, before it is asked."""
    lines = [f"lane {lane}, target {settings.target}: {', '.join(LANES[lane])}; app "
             f"{settings.app}, env {settings.env}, project {settings.project}"]
    if not settings.target_settings.billed:
        return [*lines, "cost: nothing"]
    lines.append("cost of the lane cheap: near nothing, an estimate: some kB in BigQuery and Cloud "
                 "Storage, and a pipeline job that is cancelled while it starts")
    if lane == "full":
        steps = [step for step in settings.plan if step.name in BILLED]
        minutes = sum(step.minutes for step in steps)
        price, nodes = settings.costs.usd_per_bigtable_node_hour, (
            settings.online_store.min_node_count)
        cost = (f"about ${nodes * price * minutes / 60:.2f} (price from config.yaml)" if price
                else f"price unverified, look it up: {teardown.PRICES}")
        lines.append(f"cost of the lane full: {nodes} Bigtable node for about {minutes:.0f} "
                     f"minutes ({'; '.join(f'{s.name} {s.minutes:g}, {s.basis}' for s in steps)}):"
                     f" {cost}. The endpoint has no machine")
    return lines


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("go on? [y/N] ").strip().lower() in ("y", "yes")


def run(cloud: Cloud, lane: str, folder: Path = RECORDED) -> int:
    """Ask everything of a lane, delete what it made, print and record; the exit status."""
    asked, problems = ask(cloud, lane)
    for line in report(asked.facts):
        print(line, flush=True)
    for problem in problems:
        print(problem if problem.startswith("NOT DELETED") else f"NOT ASKED: {problem}", flush=True)
    for line in measured_lines(cloud.settings, asked.minutes):
        print(line, flush=True)
    if cloud.settings.target == "gcp":
        print(f"recorded: {record(asked, lane, folder)}")
    else:
        print("not recorded: these are answers of the local cloud")
    refuted = any(fact.verdict == "refuted" for fact in asked.facts)
    return 1 if refuted or problems else 0


def ask(cloud: Cloud, lane: str) -> tuple[Asked, list[str]]:
    """The facts of a lane, and why some parts could not be asked. Deletes what the parts made.

    Raises:
        Needed: something of these names exists before, or it cannot be listed.
        NotGoogle: on gcp, an answer is not Google's.
    """
    asked, problems = Asked(cloud), []

    def keep(response: requests.Response) -> None:
        if cloud.settings.target == "gcp":
            require_google(response)
        asked.last = response

    cloud.watch(keep)
    found = teardown.find(cloud)
    if found.problems:
        raise Needed(f"not listed: {'; '.join(found.problems)}",
                     "to see what exists before and after: without it, what this makes may stay")
    if found.ours or found.others:
        names = ", ".join(f"{r.kind} {r.name}" for r in (*found.ours, *found.others))
        raise Needed(f"{names} exists, of an earlier run of this command or of somebody else",
                     "names that are free", cloud.settings.command(teardown.MODULE)
                     + f" (app: {cloud.settings.app} in a copy of config.yaml, --config)")
    try:
        for name, part in LANES[lane].items():
            began = time.monotonic()
            try:
                part(asked)
            except NotGoogle:
                raise
            except (GoogleAPICallError, Needed) as error:
                problems.append(f"the rest of {name}: {errors.first_line(error)}")
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    finally:
        left = teardown.find(cloud)
        failures = teardown.remove(cloud, left)
    problems += [f"NOT DELETED, as far as it is not listed: {problem}" for problem in left.problems]
    problems += [f"NOT DELETED: {r.kind} {r.name}: {why}" for r, why in failures.items()]
    return asked, problems


def require_google(response: requests.Response) -> None:
    """Raise NotGoogle unless an answer is Google's: its address, and no mark of the local cloud."""
    host = urlsplit(response.url).hostname or ""
    scheme = urlsplit(response.url).scheme
    if scheme != "https" or not host.endswith(".googleapis.com") or local_mark(response):
        raise NotGoogle(
            f"an answer came from {host}, which is not Google: nothing is recorded",
            "Google's own endpoints, without an emulator in front of them")


# -- what is printed -----------------------------------------------------------------------------


def report(facts: Iterable[Fact]) -> list[str]:
    """A line for each rule: confirmed, refuted or new; and how many of each."""
    lines, counted = [], Counter()
    for fact in facts:
        counted[fact.verdict] += 1
        line = f"{fact.verdict:<10} {fact.rule:<28} {fact.method}: {_words(fact.observed)}"
        if fact.verdict == "refuted":
            line += f" | the ledger says {_words(fact.expected)}"
        lines.append(line)
    return [*lines, ", ".join(f"{counted[name]} {name}" for name in (
        "confirmed", "refuted", "new"))]


def _words(facts: dict | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in (facts or {}).items())


def measured_lines(settings: Settings, minutes: dict[str, float]) -> list[str]:
    """Lines for the plan of config.yaml, in place of those with an assumed duration."""
    if settings.target != "gcp" or not minutes:
        return []
    lines = ["measured; put these minutes into `plan` of config.yaml, with basis: measured"]
    for step in settings.plan:
        if step.name in minutes:
            lines.append(f"  - {{stage: {step.stage}, name: {step.name}, minutes: "
                         f"{max(minutes[step.name], 0.1):.1f}, basis: measured, ...}}"
                         f"   # was {step.minutes:g}, {step.basis}")
    return lines


# -- recordings ----------------------------------------------------------------------------------


def record(asked: Asked, lane: str, folder: Path) -> Path:
    """Write what Google answered as facts to compare; the file.

    Raises:
        NotGoogle: the answers are of the local cloud.
    """
    settings = asked.cloud.settings
    if settings.target != "gcp" or any(fact.mark for fact in asked.facts):
        raise NotGoogle("these are answers of the local cloud: nothing is recorded",
                        "--target gcp", f"scripts/conformance.sh --target gcp --lane {lane}")
    day = datetime.now(UTC).date().isoformat()
    content = {"from": "Google", "date": day, "lane": lane, "minutes": asked.minutes, "facts": [
        {"rule": fact.rule, "method": fact.method, "observed": scrub(fact.observed, settings)}
        for fact in asked.facts]}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{day}-{lane}.json"
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def scrub(value: Any, settings: Settings) -> Any:
    """JSON without project, accounts, tokens, ids and times, which differ from run to run."""
    if isinstance(value, dict):
        return {scrub(key, settings): scrub(one, settings) for key, one in value.items()}
    if isinstance(value, list):
        return [scrub(one, settings) for one in value]
    if isinstance(value, int) and abs(value) >= SHORTEST_ID:
        return "ID"
    if not isinstance(value, str):
        return value
    for pattern, word in (
        (r"\bya29\.[\w.-]+|\bAIza[\w-]{20,}|(?i:bearer) [\w.~+/-]+=*", "TOKEN"),
        (r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "ACCOUNT"),
        (re.escape(settings.project), "PROJECT"),
        (r"\bprojects/\d+\b", "projects/NUMBER"),
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "TIME"),
        (r"\b\d{6,}\b|\b[0-9a-f]{16,}\b", "ID"),
    ):
        value = re.sub(pattern, word, value)
    return value


def recordings(folder: Path = RECORDED) -> list[dict]:
    """Every recording, oldest first."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def differences(recording: dict, facts: Iterable[Fact], settings: Settings) -> list[str]:
    """Where these facts differ from a recording's; a rule that only one of them has is left out."""
    here = {(fact.rule, fact.method): scrub(fact.observed, settings)
            for fact in facts}
    return [f"{one['rule']}, {one['method']}: Google {_words(one['observed'])} on "
            f"{recording['date']}, here {_words(here[one['rule'], one['method']])}"
            for one in recording["facts"]
            if one["observed"] != here.get((one["rule"], one["method"]), one["observed"])]


if __name__ == "__main__":
    sys.exit(main())
