"""The arithmetic of lib/operate/SCALE.md: what the walk needs for more customers on Google Cloud.

Rows are those of the sample run (scripts/readme_sample.json), in proportion to the customers.
Everything that is not documented or measured is an assumption, and listed as one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from lib import config

SAMPLE = Path(__file__).with_name("readme_sample.json")
CUSTOMERS = (100_000, 10_000_000, 1_000_000_000)
TIB, GIB = 2**40, 2**30
ID_BYTES = 2 + 10  # a STRING of ten digits
COLUMNS = {  # table -> (customer ids, other columns; each of those has 8 bytes)
    "raw_users": (1, 1), "raw_orders": (1, 3), "raw_order_items": (1, 7),
    "labels_customer_churn": (1, 2), "features_customer": (1, 12), "train_dataset": (1, 14)}


@dataclass(frozen=True)
class Known:
    """A number of the arithmetic: its value, how it is known, and where it is from."""

    value: float
    basis: str  # documented | measured | assumed
    source: str


KNOWN = {
    "bytes of an INT64, FLOAT64 or TIMESTAMP": Known(
        8, "documented", "BigQuery, Data type sizes; a STRING has 2 bytes and its text"),
    "slots of a project": Known(
        2000, "assumed", "BigQuery's default for on-demand queries, from memory; see its quotas"),
    "CPU of a slot": Known(
        1, "assumed", "a slot does in a second what one of our cores does in a second"),
    "bytes of a feature in Bigtable": Known(
        100, "assumed", "value, column name, time and row key of one cell, before compression"),
    "bytes that a Bigtable node holds": Known(
        5 * TIB, "assumed", "Bigtable's limit for SSD, from memory"),
    "reads per second of a Bigtable node": Known(
        10_000, "assumed", "Bigtable's guide for rows of 1 KB on SSD, from memory"),
    "rows written per second by a Bigtable node": Known(
        10_000, "assumed", "as for reads; a sync also shares the node with the fetches"),
    "most fetches per minute": Known(
        300_000, "documented", "Vertex AI quotas: online serving requests per minute"),
    "most nodes, in terms of the fewest": Known(
        10, "documented", "max_node_count of an online store is at most 10 times min_node_count"),
    "predictions per second of a replica": Known(
        300, "assumed", "one process of the container; a request takes about 2 ms of its CPU "
                        "(measured locally), at 60% load"),
}


def table() -> str:
    """The table of the page, in Markdown: one column for each number of customers."""
    rows = [("", [f"{n:,} customers" for n in CUSTOMERS])]
    scales = [figures(n) for n in CUSTOMERS]
    rows += [(name, [scale[name] for scale in scales]) for name in scales[0]]
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * len(CUSTOMERS), *lines[1:]]) + "\n"


def known() -> str:
    """The numbers that the arithmetic starts from, in Markdown."""
    rows = [f"| {name} | {each.value:,.0f} | {each.basis} | {each.source} |"
            for name, each in KNOWN.items()]
    return "\n".join(["| number | value | basis | source |", "|---|---:|---|---|", *rows]) + "\n"


def figures(customers: int) -> dict[str, str]:
    """The rows of the table for a number of customers, each with its unit."""
    sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
    settings = config.load(target="local")
    times = customers / settings.thelook.users
    rows = {name: sample["rows"][name] * times for name in COLUMNS}
    number = KNOWN["bytes of an INT64, FLOAT64 or TIMESTAMP"].value
    size = {name: rows[name] * (ids * ID_BYTES + number * others)
            for name, (ids, others) in COLUMNS.items()}
    raw = size["raw_users"] + size["raw_orders"] + size["raw_order_items"]
    labels, features, train = (
        size[name] for name in ("labels_customer_churn", "features_customer", "train_dataset"))
    # Each statement reads its tables once; sql/04 reads the features' keys a second time; the
    # copy, the labels, the naive join and the checks read what they name.
    keys = rows["features_customer"] * (ID_BYTES + number)
    scanned = raw + raw + raw / 2 + (features + keys + labels) + (features + labels) + train
    span = settings.snapshots.history_days + settings.label.horizon_days
    snapshots = span // settings.snapshots.step_days + 2  # sql/02: one before the first label
    # A refresh reads the source to copy it, this copy and the one before to compare them, and the
    # copy to compute; of the features only the keys of the newest snapshot.
    week = 4 * raw + features / snapshots
    seconds = sum(sample["sql_seconds"].values()) * 2 * times  # two cores at most
    slots = KNOWN["slots of a project"].value * KNOWN["CPU of a slot"].value
    served = sample["served"] * times
    online = served * len(settings.features) * KNOWN["bytes of a feature in Bigtable"].value
    by_bytes = _up(online / KNOWN["bytes that a Bigtable node holds"].value)
    most = KNOWN["most fetches per minute"].value / 60
    by_reads = _up(most / KNOWN["reads per second of a Bigtable node"].value)
    most_nodes = KNOWN["most nodes, in terms of the fewest"].value
    writes = served / KNOWN["rows written per second by a Bigtable node"].value
    replicas = _up(most / KNOWN["predictions per second of a replica"].value)
    price = settings.costs.usd_per_tib_scanned
    return {
        "`features_customer`, rows": f"{rows['features_customer']:,.0f}",
        "`features_customer`, bytes": _bytes(features),
        f"one weekly snapshot of {snapshots}, bytes": _bytes(features / snapshots),
        "`train_dataset`, rows": f"{rows['train_dataset']:,.0f}",
        "first build: bytes scanned": _bytes(scanned),
        "first build: on demand": f"${scanned / TIB * price:,.2f}",
        "first build: slot hours": f"{seconds / 3600:,.2f}",
        f"first build: at {slots:,.0f} slots": _time(seconds / slots),
        "one new week: bytes scanned": _bytes(week),
        "one new week: on demand": f"${week / TIB * price:,.2f}",
        "entities served": f"{served:,.0f}",
        "online store, bytes": _bytes(online),
        "nodes for the bytes": f"{by_bytes:,}",
        f"nodes for {most:,.0f} fetches a second, the quota": f"{by_reads:,}",
        "one sync, 1 node": _time(writes),
        f"one sync, {most_nodes:.0f} nodes": _time(writes / most_nodes),
        f"replicas for {most:,.0f} predictions a second": f"{replicas:,}",
    }


def _up(value: float) -> int:
    return max(1, -int(-value // 1))


def _bytes(value: float) -> str:
    unit, name = (TIB, "TiB") if value >= TIB else (GIB, "GiB")
    return f"{value / unit:,.2f} {name}"


def _time(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{max(seconds, 1):,.0f} s" if seconds >= 1 else "under 1 s"
