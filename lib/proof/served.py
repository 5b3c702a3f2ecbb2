"""Parity from the log: were the values that were really served those that training would see?

`parity.check` fetches on purpose. This compares what the predictor served in the meantime
(lib/served_log.py) with the customer's row at that time: the newest snapshot at or before the
request in features_customer, the table that sql/02 makes. That is the row that the point-in-time
join (sql/04) gives a label of that time, so it is what a training would see. Computing the features
at the very second of the request (sql/request_time_features.sql) would ask for something else:
training never sees such rows, and each one would differ by the age of its snapshot.

A decision is whether the campaign contacts the customer: campaign.contacted_share of the active
customers, those likeliest to order again, as in the leakage check.
"""

import dataclasses
import json
from datetime import datetime

import numpy as np
import pandas as pd
from google.cloud import aiplatform_v1 as vertex

from lib import endpoint, lookups, served_log, warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, TIMESTAMP
from lib.errors import Needed
from lib.predict import Predictor
from lib.proof import parity
from lib.proof.parity import Pair
from lib.stages import Outcome

MOST_INSTANCES = 1000  # of one prediction request
# Customers behind the contact threshold. Forty other samples of so many, by hash, of theLook's
# 16,470 move it by 0.0006 (standard deviation; all of them: 0.8561), and with it the share that is
# contacted by 0.4 points: 8.6% to 10.5% instead of 10%.
SCORED = 4000


@dataclasses.dataclass(frozen=True)
class Served:
    """The log's rows since a time, compared.

    at: the time of each request. compared: the table of `parity.compare`, the requests in the same
    order. decided: for each request whether the campaign would contact the customer by the served
    values, and whether by the offline ones; None where there is no offline row.
    """

    at: list[pd.Timestamp]
    compared: pd.DataFrame
    decided: list[tuple[bool, bool | None]]

    def until(self, time: datetime) -> "Served":
        """The part before `time`."""
        return self._part([at < time for at in self.at])

    def since(self, time: datetime) -> "Served":
        """The part from `time` on."""
        return self._part([at >= time for at in self.at])

    def _part(self, chosen: list[bool]) -> "Served":
        each = len(self.compared) // max(len(self.at), 1)
        return Served(
            [at for at, here in zip(self.at, chosen, strict=True) if here],
            self.compared[np.repeat(np.array(chosen, dtype=bool), each)],
            [pair for pair, here in zip(self.decided, chosen, strict=True) if here])


def check(predictor: Predictor, since: datetime, cut: float) -> Outcome:
    """Load the log, and compare what was served since a time; differences are no error.

    cut: of `threshold`. With targets.<target>.served_log: false there is no log.

    Returns:
        Outcome whose value is a Served, or None without a log.

    Raises:
        Needed: nothing was logged since then.
    """
    cloud = predictor.cloud
    if not cloud.settings.target_settings.served_log:
        return Outcome("done", figures={
            "left out by": f"targets.{cloud.settings.target}.served_log: false"})
    served_log.load(cloud)
    found = compare(cloud, predictor.endpoint, since, cut)
    return Outcome("done", cloud.settings.table("served"), figures(found), found)


def compare(cloud: Cloud, service: vertex.Endpoint, since: datetime, cut: float) -> Served:
    """What was loaded and served since a time, compared with the features of `cloud`'s dataset.

    Raises:
        Needed: nothing was logged since then.
    """
    rows = logged_rows(cloud, since) if warehouse.find_table(cloud, "served") else []
    pairs, at = [], []
    for row in rows:
        pair = _pair(row, cloud.settings.feature_names)
        if pair.online or pair.offline:  # else a customer whom neither side knows
            pairs.append(pair)
            at.append(row["served_at"])
    if not pairs:
        raise Needed(f"no answer of the predictor was logged since {since:%Y-%m-%d %H:%M:%S} UTC",
                     "predictions, with targets.<target>.served_log: true in config.yaml",
                     cloud.settings.rerun_command("07"))
    compared = parity.compare_pairs(cloud.settings, pairs)
    each = (compared["outcome"] != "equal").to_numpy().reshape(len(pairs), -1)
    return Served(at, compared, _decisions(cloud, service, pairs, each.any(axis=1), cut))


def logged_rows(cloud: Cloud, since: datetime) -> list[dict]:
    """The rows of sql/lookups/served_rows.sql, column -> value."""
    return warehouse.query_file(cloud, "lookups/served_rows", since=since).to_dict("records")


def _pair(row: dict, names: list[str]) -> Pair:
    row = {name: None if pd.isna(value) else value for name, value in row.items()}
    known, served = row[TIMESTAMP] is not None, json.loads(row["served_features"] or "{}")
    # By today's names: the log may be older than a feature.
    return Pair(row["customer_id"], {name: served.get(name) for name in names if served},
                row["served_snapshot"], {name: row[name] for name in names} if known else {},
                row[TIMESTAMP])


def threshold(cloud: Cloud, service: vertex.Endpoint, active: pd.DataFrame) -> Outcome:
    """The churn probability up to which the campaign contacts a customer, as the Outcome's value:
    the highest among the campaign.contacted_share of `active` that are likeliest to order again.

    active: the rows of `lookups.active_features`; of more than SCORED, a sample by hash.
    """
    hashed = pd.util.hash_array(active[ENTITY].to_numpy(dtype=object))
    values = active.iloc[hashed.argsort()[:SCORED]][cloud.settings.feature_names].astype(object)
    vectors = values.where(values.notna(), None).to_dict("records")
    contacted = max(1, round(cloud.settings.campaign.contacted_share * len(vectors)))
    cut = sorted(_score(cloud, service, vectors))[contacted - 1]
    return Outcome("done", figures={
        "customers": len(active), "scored": len(vectors), "contacted of these": contacted,
        "up to": round(cut, 4)}, value=cut)


def _score(cloud: Cloud, service: vertex.Endpoint, vectors: list[dict]) -> list[float]:
    return [probability for first in range(0, len(vectors), MOST_INSTANCES)
            for probability in endpoint.predict(
                cloud, service, vectors[first:first + MOST_INSTANCES])]


def _decisions(cloud: Cloud, service: vertex.Endpoint, pairs: list[Pair], differ: np.ndarray,
               cut: float) -> list[tuple[bool, bool | None]]:
    """(contacted by the served values, by the offline ones) of each pair.

    Both are scored by the model that is deployed now, so that only the values can make a
    difference. Nobody is contacted for whom nothing was served.
    """
    sides = [[pair.online, pair.offline if unequal else pair.online]
             for pair, unequal in zip(pairs, differ, strict=True)]
    vectors = {_key(side): side for both in sides for side in both if side}
    instances = [lookups.instance(cloud, pd.Series(side, dtype=object))
                 for side in vectors.values()]
    chosen = dict(zip(vectors, (p <= cut for p in _score(cloud, service, instances)), strict=True))
    return [(bool(online) and chosen[_key(online)], chosen[_key(offline)] if offline else None)
            for online, offline in sides]


def _key(side: dict) -> tuple:
    return tuple(None if pd.isna(value) else value for value in side.values())


def table(found: Served | None) -> pd.DataFrame | None:
    """Per feature: the served values that are equal, differ, or are missing on one side, and by
    how much those that differ do; None without a log."""
    if found is None:
        return None
    rows = []
    for feature, part in found.compared.groupby("feature", sort=False):
        outcome = part["outcome"]
        equal, missing = (outcome == "equal").sum(), (outcome == "missing").sum()
        by = part.loc[outcome == "different", "diff"]
        rows.append({"feature": feature, "equal": equal,
                     "differs": len(part) - equal - missing, "missing": missing,
                     "median difference": by.median() if len(by) else 0.0,
                     "largest difference": by.max() if len(by) else 0.0})
    return pd.DataFrame(rows)


def side_by_side(found: dict[str, Served] | None) -> pd.DataFrame | None:
    """`table` of each, as columns beside each other; None without a log."""
    if found is None:
        return None
    parts = {name: table(one).set_index("feature") for name, one in found.items()}
    frame = pd.concat(parts, axis=1).drop(columns="median difference", level=1)
    frame.columns = [f"{name}: {column}" for name, column in frame.columns]
    return frame.reset_index()


def decisions(found: dict[str, Served | None] | None) -> str:
    """How many decisions change with the values that training would see, as a caption."""
    counts = {name: figures(one) for name, one in (found or {}).items() if one}
    return "; ".join(f"{name}: {one['decisions_changed']} of {one['requests']} decisions change"
                     for name, one in counts.items())


def figures(found: Served | None) -> dict:
    """requests, values, mismatches and decisions_changed, for summary.json."""
    if found is None:
        return {}
    return {"requests": len(found.at), "values": len(found.compared),
            "mismatches": len(parity.differences(found.compared)),
            "decisions_changed": sum(b is not None and a != b for a, b in found.decided)}
