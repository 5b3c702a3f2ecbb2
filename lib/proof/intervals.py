"""How good a ranking of customers is, and how far that would move with other customers.

The customers are divided into groups by a hash of their id, each with all of its label rows, in
training and test; the whole comparison is repeated within each group. The spread of the groups
gives the interval of the full result (the method of random groups: Wolter, Introduction to
Variance Estimation, chapter 2). It contains both reasons to move: other customers to learn from,
and other customers to be tested on. A bootstrap of the tested customers alone leaves out the
first: its intervals are a third as wide, and other data sets of the generator lie outside them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

DIGITS = {"roc_auc": 3, "orders": 0}  # of the figures, as they are shown


def assign(customers: pd.Series, count: int) -> np.ndarray:
    """The group of each row, 0 to count - 1; a customer is always in the same one."""
    return pd.util.hash_array(customers.to_numpy(dtype=object)) % count


def measure(labels: np.ndarray, weeks: pd.Series, scores: Mapping[str, np.ndarray],
            share: float) -> dict[str, dict[str, float]]:
    """ROC-AUC, and orders per 1,000 chosen customers, of each model.

    Args:
        labels: 1 churned, 0 ordered again. weeks: the label date of each row.
        scores: model -> its churn probability of each row.
        share: of the rows of a week that are chosen: those with the lowest probability.

    Returns:
        "roc_auc" and "orders" -> model -> figure; for orders also "chance": any rows chosen.
    """
    from sklearn.metrics import roc_auc_score

    found, weeks = {"roc_auc": {}, "orders": {}}, pd.factorize(weeks)[0]
    sizes = np.bincount(weeks)
    before = np.cumsum(sizes) - sizes  # rows of the weeks before
    for name, values in scores.items():
        order = np.lexsort((values, weeks))
        week, places = weeks[order], np.arange(len(order))
        # 1 for a chosen row, 0 for another; a part for the row in which the share ends.
        chosen = (share * sizes[week] - (places - before[week])).clip(0, 1)
        found["roc_auc"][name] = float(roc_auc_score(labels, values))
        found["orders"][name] = 1000 * float(chosen[labels[order] == 0].sum() / chosen.sum())
    found["orders"]["chance"] = 1000 * float((labels == 0).mean())
    return found


def summarise(full: Mapping[str, Mapping[str, float]],
              groups: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict]]:
    """Values and 95 % intervals of the figures of `measure`, and of each difference of two.

    full: of all customers; groups: of each group, at least two.

    Returns:
        kind -> name -> {"value", "low", "high"}, rounded as they are shown. The names are those
        of `measure` and "a - b" for each pair of them; the difference of two values is that of
        the rounded ones.
    """
    from scipy.stats import t

    width = t.ppf(0.975, len(groups) - 1) / np.sqrt(len(groups))
    found = {}
    for kind, digits in DIGITS.items():
        names = list(full[kind])
        spread = pd.DataFrame([group[kind] for group in groups])
        values = {name: round(full[kind][name], digits) for name in names}
        for a, b in [(a, b) for n, a in enumerate(names) for b in names[n + 1:]]:
            values[f"{a} - {b}"] = values[a] - values[b]
            spread[f"{a} - {b}"] = spread[a] - spread[b]
        # + 0.0: a -0.0 would be shown with its sign.
        found[kind] = {name: {"value": round(value, digits)} | {
            end: round(value + sign * width * float(spread[name].std(ddof=1)), digits) + 0.0
            for end, sign in (("low", -1), ("high", 1))} for name, value in values.items()}
    return found
