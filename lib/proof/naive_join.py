"""What the naive join sees: its rows beside those of the point-in-time join, the columns that leak,
and one customer's two rows.

Naive join: each label with its customer's latest features (sql/04_build_train_naive.sql).
"""

import pandas as pd

from lib import lookups
from lib.cloud import Cloud
from lib.config import ENTITY
from lib.language import day, tr

TIME, NAIVE = "label_timestamp", " naive"  # NAIVE: after a column's name, its naive value


def read_pairs(cloud: Cloud) -> pd.DataFrame:
    """Label rows with their features by both joins, see `pair`: all, or about checks.most_rows,
    those of a sample of the customers, which is printed."""
    part = lookups.one_in(cloud, cloud.settings.checks.most_rows)
    pairs = pair(*(lookups.label_rows(cloud, key, part) for key in ("train", "train_naive")))
    if part > 1:
        print(f"  a sample: one in {part} customers by hash, {len(pairs):,} label rows", flush=True)
    return pairs


def pair(train: pd.DataFrame, naive: pd.DataFrame) -> pd.DataFrame:
    """train_dataset and train_dataset_naive side by side: the columns of train, and each again
    with " naive" after its name."""
    return train.merge(naive, on=[ENTITY, TIME], suffixes=("", NAIVE), validate="one_to_one")


def columns(pairs: pd.DataFrame, features: list[str], label_column: str) -> pd.DataFrame:
    """How much of the future each column holds, over the same label rows.

    Returns:
        One row per feature, worst first: feature; differs (share of label rows with another
        value in the naive join); honest_roc_auc and naive_roc_auc (of the column alone, in the
        better direction; 0.5 is no information); gain (naive - honest).
    """
    labels, rows = pairs[label_column], []
    for name in features:
        honest, leaked = (pairs[n].astype("float64") for n in (name, f"{name} naive"))
        same = (honest == leaked) | (honest.isna() & leaked.isna())
        scores = separation(honest, labels), separation(leaked, labels)
        rows.append((name, 1 - float(same.mean()), *scores, scores[1] - scores[0]))
    frame = pd.DataFrame(
        rows, columns=["feature", "differs", "honest_roc_auc", "naive_roc_auc", "gain"])
    return frame.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def separation(values: pd.Series, labels: pd.Series) -> float:
    """ROC-AUC of one column alone, in the better direction; a NULL counts as the lowest value."""
    ranks, churned = values.rank(na_option="top"), labels == 1
    ones, zeros = int(churned.sum()), int((~churned).sum())
    area = (ranks[churned].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    return float(max(area, 1 - area))


def timeline(cloud: Cloud, pairs: pd.DataFrame) -> dict:
    """One customer whose naive row has already counted the order that the label asks about.

    Of the customers with, at the newest label time, one order in the 90 days before and one in
    the label window: the one with the fewest orders ever, then the first by customer_id.

    Returns:
        customer_id, orders (their times), label_timestamp, label, horizon_days;
        honest and naive: {"feature_timestamp", and each feature} of the two rows;
        window_orders: orders in the label window, all counted by the naive row.
        If no customer fits (a very small theLook): only `lacks`, what it lacks.
    """
    settings, newest = cloud.settings, pairs[TIME].max()
    both = pairs[(pairs[TIME] == newest) & (pairs[settings.label.column] == 0)
                 & (pairs["orders_90d"] == 1)
                 & (pairs["orders_lifetime naive"] == pairs["orders_lifetime"] + 1)]
    if both.empty:
        return {"lacks": tr("a customer with one order in the 90 days before {day} and one in the "
                            "label window after it; more users would have one", day=day(newest))}
    row = both.sort_values(["orders_lifetime", "customer_id"]).iloc[0]
    keys = ["feature_timestamp", *settings.feature_names]
    orders = lookups.customer_rows(cloud, "raw_orders", row["customer_id"])["ordered_at"]
    until = newest + pd.Timedelta(days=settings.label.horizon_days)
    return {
        "customer_id": row["customer_id"], "orders": sorted(orders),
        "label_timestamp": newest, "label": int(row[settings.label.column]),
        "horizon_days": settings.label.horizon_days,
        "honest": {key: row[key] for key in keys},
        "naive": {key: row[f"{key} naive"] for key in keys},
        "window_orders": int(((orders > newest) & (orders <= until)).sum()),
    }


def timeline_table(example: dict) -> pd.DataFrame:
    """Both rows of `timeline` side by side: one row per value; none without a customer."""
    if "lacks" in example:
        return pd.DataFrame(columns=["known at the time", "naive join"])
    frame = pd.DataFrame({"known at the time": example["honest"], "naive join": example["naive"]})
    return frame.map(lambda v: f"{v:%d %b %Y}" if isinstance(v, pd.Timestamp)
                     else "NULL" if pd.isna(v) else f"{float(v):g}")
