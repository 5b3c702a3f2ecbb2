"""The facts of a run that its pages show, from summary.json and from config.yaml's prices."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from lib import cloud, config, language, stages
from lib.config import Settings
from lib.language import day, mark, tr

# Of runs before summary.json named its source, which could only be theLook or a copy of it.
THELOOK = {"title": "theLook eCommerce", "is_thelook": True}

MONTH_HOURS = 730  # 365 x 24 / 12


class NoRun(LookupError):
    """The folder has no summary.json, or no run to compare it with exists."""


def read(folder: Path) -> dict:
    """What the templates show of a run; a finding that was not measured is None.

    Raises:
        NoRun: there is no summary.json in the folder.
    """
    run = stages.read_summary(folder)
    if run is None:
        raise NoRun(f"no summary.json in {folder}; ./run_all.sh makes a run")
    settings, leak = settings_of(run), run["leakage"]
    return {"run": run, "language": language.current(), "local": run["target"] == "local",
            "where": where(run), "source": source(run), "features": _features(run),
            "future": future(leak), **decision(settings),
            "fidelity": fidelity() if run["target"] == "local" else "",
            **started(run["started_at"]), **findings(run), "horizon": _horizon(run["labels"]),
            "resources": _resources(run),
            "longest": max([stage["seconds"] for stage in run["stages"]], default=0) or 1,
            "costs": costs(run, settings)}


def source(run: Mapping) -> dict:
    """The data of a run: {"title": as pages call it, "is_thelook": True or False}."""
    return run.get("source") or THELOOK


def side_by_side(folder: Path) -> list[dict]:
    """What the naive join promised and kept in this run, and in the newest one on other data.

    Returns for each of both: title (of its data), run (summary.json), leakage (see `leakage`).

    Raises:
        NoRun: this run did not measure it, or no run on other data beside it did.
    """
    this = _measured(folder)
    beside = [_measured(path.parent) for path in folder.resolve().parent.glob("*/summary.json")]
    others = [found for found in beside if this and found and found["title"] != this["title"]]
    if not others:
        raise NoRun(f"{folder} and a run on other data beside it must both have measured leakage; "
                    "./run_all.sh makes a run on theLook, scripts/real_orders.sh one on real "
                    "orders")
    return [this, max(others, key=lambda found: found["run"]["started_at"])]


def _measured(folder: Path) -> dict | None:
    """A run as `side_by_side` returns it; None if it has no leakage measured."""
    run = stages.read_summary(folder)
    found = leakage(run["leakage"]) if run and run["labels"] else None
    return found and {"title": source(run)["title"], "run": run, "leakage": found}


def where(run: Mapping) -> str:
    """Where a run ran. On the stand-in also the data, unless the source was a folder."""
    if run["target"] != "local":
        return "Google Cloud"
    sources = [stage["figures"].get("source", {}) for stage in run["stages"]]
    generated = any(figures.get("as") == "read where it is" for figures in sources)
    return (tr("local stand-in; theLook generated from a seed") if generated else
            tr("local stand-in"))


def fidelity() -> str:
    """How the rules of the local cloud are known."""
    names = "rules", "recorded", "documented", "package", "unverified", "divergences"
    counts = re.findall(r"\d+", cloud.fidelity())
    return tr("{rules} rules: {recorded} recorded, {documented} documented, {package} from the "
              "package, {unverified} unverified; {divergences} known divergences",
              **dict(zip(names, counts, strict=True)))


def settings_of(run: Mapping) -> Settings | None:
    """The settings of the run's target and env; None if config.yaml cannot be used."""
    try:
        return config.load(target=run["target"], env=run["env"])
    except config.ConfigError:
        return None


def findings(run: Mapping) -> dict[str, dict | None]:
    """The four findings by name; None for one that was not measured, or only in part."""
    return {"leakage": leakage(run["leakage"]), "parity": parity(run["parity"]),
            "freshness": freshness(run["freshness"]), "latency": latency(run["latency_ms"])}


def leakage(found: Mapping | None) -> dict | None:
    """What lib.proof.leakage.measure found, the values of each model by name, and what the
    intervals of the differences allow to say.

    promised, kept, honest, chance: orders of 1,000 contacted customers; area: the ROC-AUCs.
    broken: the promise is higher than what production sees. better: "honest" or "kept", the
    model of which production sees more orders; None if the interval contains 0.
    """
    found = _complete(found, "orders", "roc_auc", "usd", "campaign", "rows")
    if not found:
        return None
    orders = found["orders"]
    values = {name: orders[name]["value"] for name in ("promised", "kept", "honest", "chance")}
    lost, gained = orders["promised - kept"], orders["honest - kept"]
    better = "honest" if gained["low"] > 0 else "kept" if gained["high"] < 0 else None
    return {**found, **values, "lost": lost, "gained": gained, "broken": lost["low"] > 0,
            "better": better, "area": {k: v["value"] for k, v in found["roc_auc"].items()}}


def future(found: Mapping | None) -> dict | None:
    """What lib.proof.future.measure found, for the pages: steps, each with its figures and the
    sentences beside the slider; shown, the step that a title names (30 days, or the next ones);
    honest, the orders of 0 days; and customer with its timeline, or None."""
    found = _complete((found or {}).get("future"), "days", "promised", "kept")
    if not found:
        return None
    customer = found.get("customer")
    steps = [_step(*step, customer) for step in zip(
        found["days"], found["promised"], found["kept"],
        customer["rows"] if customer else [None] * len(found["days"]), strict=True)]
    return {**found, "steps": steps, "honest": steps[0]["kept"], "customer": customer,
            "most": max(*found["promised"], *found["kept"]),
            "shown": next((step for step in steps if step["days"] >= 30), steps[-1]),
            **(_timeline(customer) if customer else {})}


def _step(days: int, promised: int, kept: int, row: Mapping | None, customer) -> dict:
    """One step of the slider: its figures, and what is said of them."""
    said = tr("With {days} days of future let in, the test promises {promised:,} orders of 1,000 "
              "customers; production would see {kept:,}.",
              days=days, promised=promised, kept=kept) if days else tr(
        "Without any future, the test promises {kept:,} orders of 1,000 customers, and production "
        "sees as many.", kept=kept)
    step = {"days": days, "promised": promised, "kept": kept, "said": said,
            "name": tr("{days} days", days=days)}
    if not row:
        return step
    said = tr("The features now say: the newest order was {age} days ago. They have counted the "
              "order that the label asks about.", age=row["days_since_last_order"])
    if row["orders_lifetime"] == customer["rows"][0]["orders_lifetime"]:
        said = tr("The features now say: the newest order was {age} days ago. They do not know of "
                  "the order that the label asks about.", age=row["days_since_last_order"])
    return step | row | {"x": _place(days, customer), "counted": said}


BEFORE, WIDE = 90, 560  # days before the label's time, and units of the timeline's width


def _place(after: float, customer: Mapping) -> float:
    """Where a time, in days after the label's, is on the timeline."""
    return round(WIDE * (after + BEFORE) / (BEFORE + customer["horizon_days"]), 1)


def _timeline(customer: Mapping) -> dict:
    """What the drawing of one customer needs; x: place of a day."""
    horizon = customer["horizon_days"]
    orders = [after for after in customer["orders"] if -BEFORE <= after <= horizon]
    return {"before": BEFORE, "x": lambda after: _place(after, customer), "orders": orders,
            "asked": next(after for after in orders if after > 0),
            "label_date": day(date.fromisoformat(customer["label_date"]))}


def decision(settings: Settings | None) -> dict:
    """What the last core slide asks for: name -> text, None where it is to be filled in; and the
    number of these."""
    asked = settings.decision if settings else None
    until, cap = (asked.decide_by, asked.budget_cap_usd) if asked else (None, None)
    points = {
        mark("Pilot"): asked and asked.pilot,
        mark("Budget cap"): None if cap is None else tr(
            "${cap} for the whole pilot", cap=number(cap)),
        mark("Data"): asked and asked.data,
        mark("Team"): asked and asked.team,
        mark("Decide by"): until and day(until)}
    return {"decision": points, "undecided": sum(value is None for value in points.values())}


def parity(found: Mapping | None) -> dict | None:
    """How many served values were compared, how many differ, and the planted faults caught."""
    found = _complete(found, "customers", "features", "mismatches", "max_abs_diff")
    if not found or not found["customers"]:
        return None
    faults = found.get("faults_caught") or {}  # name -> values found different; {}: not planted
    return {**found, "compared": found["customers"] * found["features"],
            "planted": len(faults), "caught": sum(map(bool, faults.values()))}


def freshness(found: Mapping | None) -> dict | None:
    """Values that differ before the sync and after it, of how many ("served"), one customer's
    probability, and the decisions that old values change ("logged"). Both are None in older runs,
    "logged" also in one without a log."""
    found = found and {"served": None, "logged": None, **found}
    return _complete(found, "mismatches_before", "mismatches_after", "customers",
                     "probability_before", "probability_after")


def latency(found: Mapping | None) -> dict | None:
    """Milliseconds of fetch, predict, and both; sql_times: the features by SQL, in fetches."""
    found = _complete(
        found, "fetch_p50", "predict_p50", "both_p50", "both_p99", "sql_features_p50")
    return found and {**found, "sql_times": found["sql_features_p50"] / found["fetch_p50"]}


def costs(run: Mapping, settings: Settings | None) -> dict:
    """What is billed while it is running. A price is None if config.yaml does not give it."""
    figures = {step: values for stage in run["stages"] for step, values in stage["figures"].items()}
    prices = settings.costs.model_dump() if settings else {}
    nodes = figures.get("online store", {}).get("nodes", "1").split(" to ")
    node = prices.get("usd_per_bigtable_node_hour")
    machine = prices.get("usd_per_serving_node_hour")
    scans = [values for values in figures.values() if "scanned_gb" in values]
    return {
        "nodes": " to ".join(dict.fromkeys(nodes)),
        "machine": figures.get("deployment", {}).get("machine"),
        "usd_node_hour": node,
        "usd_machine_hour": machine,
        "usd_month": None if node is None or machine is None else MONTH_HOURS * (
            int(nodes[0]) * node + settings.serve.min_replica_count * machine),
        "usd_tib": prices.get("usd_per_tib_scanned"),
        "scanned_gb": sum(scan["scanned_gb"] for scan in scans) if scans else None,
        "usd_scanned": sum(scan["usd_at_most"] for scan in scans) if scans else None,
    }


def started(text: str) -> dict[str, str]:
    """The start of a run in UTC, in the chosen language and in Korean."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    korean = f"{moment.year}년 {moment.month}월 {moment.day}일 {moment:%H:%M}(UTC)"
    english = f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    return {"started": korean if language.current() == "ko" else english, "started_ko": korean}


def number(value: float, digits: int | None = None) -> str:
    """With thousands separators; `digits` decimals, by default fewer for a larger number."""
    if digits is None:
        digits = 0 if value % 1 == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _complete(found: Mapping | None, *keys: str) -> dict | None:
    """The figures of a finding, or None if one of `keys` was not measured."""
    found = found or {}
    return None if any(found.get(key) is None for key in keys) else dict(found)


def _horizon(labels: Mapping | None) -> int | None:
    """Days without an order that count as churned: 60 for label_churn_60d."""
    return int(re.search(r"(\d+)d$", labels["column"])[1]) if labels else None


def _features(run: Mapping) -> int | None:
    """How many features the run registered; None if it did not."""
    steps = [stage["figures"].get("features", {}) for stage in run["stages"]]
    return next((step["features"] for step in steps if "features" in step), None)


def _resources(run: Mapping) -> list[tuple[str, str, str]]:
    """(stage, step, full name) of each resource, at its first mention."""
    seen: dict[str, tuple[str, str, str]] = {}
    for stage in run["stages"]:
        for step, name in stage["resources"].items():
            seen.setdefault(name, (stage["name"], step, name))
    return list(seen.values())
