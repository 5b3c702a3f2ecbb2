"""The charts of the proof: leakage, parity, planted faults, freshness, latency.

Where a check was left out of the run (None), a chart is a plain sentence instead.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from pandas import DataFrame

from lib.charts.style import (
    AMBER,
    BASE,
    BLUE,
    BROWN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    Chart,
    annotate,
    date_axis,
    day,
    new_figure,
    require_columns,
    require_some,
    row_names,
    styled,
    ticks,
    to_times,
)
from lib.language import mark, tr
from lib.show import Shown, note, number

# outcome: colour, marker in the legend, corners of its sign in a cell of 1 by 1, meaning.
SIGNS = {
    "equal": (SKY, "_", [(-0.42, -0.07), (0.42, -0.07), (0.42, 0.07), (-0.42, 0.07)],
              mark("equal")),
    "different": (ORANGE, "s", [(-0.42, -0.4), (0.42, -0.4), (0.42, 0.4), (-0.42, 0.4)],
                  mark("different value")),
    "null_offline": (BROWN, "^", [(-0.45, 0.4), (0.45, 0.4), (0, -0.4)],
                     mark("a value instead of NULL")),
    "null_online": (PURPLE, "v", [(-0.45, -0.4), (0.45, -0.4), (0, 0.4)],
                    mark("NULL instead of a value")),
    "missing": (INK, "|", [(-0.15, -0.45), (0.15, -0.45), (0.15, 0.45), (-0.15, 0.45)],
                mark("nothing served")),
}
MODELS = [  # key, name, colour and marker of a row
    ("promised", mark("naive join:\npromised by its test"), ORANGE, "o"),
    ("kept", mark("naive join:\nseen in production"), ORANGE, "X"),
    ("honest", mark("point-in-time join:\npromised and seen"), BLUE, "s"),
    ("chance", mark("chosen at random"), GREY, "D")]


def _left_out() -> Shown:
    return note(tr("No chart: this part was left out of the run."))


@styled
def leakage_promise(value: Mapping) -> Chart:
    """What each join's own test promises and production sees: orders of 1,000 customers, ROC-AUC.

    value: of lib.proof.leakage.measure.
    """
    orders, areas = (require_some(value.get(kind, ()), kind) for kind in ("orders", "roc_auc"))
    areas = {**areas, "chance": dict.fromkeys(("value", "low", "high"), 0.5)}
    promised, kept, honest, chance = (orders[key]["value"] for key, *_ in MODELS)
    figure, (left, right) = new_figure(
        tr("Of 1,000 contacted customers, the naive join promises {promised:,.0f} orders; "
           "production would see {kept:,.0f} (point-in-time model: {honest:,.0f}; at random: "
           "{chance:,.0f})", promised=promised, kept=kept, honest=honest, chance=chance),
        tr("{customers:,} customers in the test weeks; line: 95% interval, from the spread of "
           "{groups} groups of customers", customers=value["customers"], groups=value["groups"]),
        4.4, 1, 2, sharey=True, width_ratios=[1.25, 1])
    for row, (key, _, colour, marker) in enumerate(MODELS):
        for axes, found, digits in ((left, orders[key], ",.0f"), (right, areas[key], ".3f")):
            axes.hlines(row, found["low"], found["high"], color=colour, linewidth=4)
            annotate(axes, f"{found['value']:{digits}}", (found["high"], row), 14, va="center",
                     color=colour)
        left.barh(row, orders[key]["value"], height=0.55, color=colour, alpha=0.3)
        left.plot(orders[key]["value"], row, "|", color=colour, ms=16, mew=3)
        right.plot(areas[key]["value"], row, marker, color=colour, ms=13, mec="white")
    row_names(left, [tr(name) for _, name, *_ in MODELS])
    left.set(xlim=(0, 1.22 * max(found["high"] for found in orders.values())),
             xlabel=tr("orders of 1,000 contacted customers"))
    top = max(found["high"] for found in areas.values())
    right.set(xlim=(0.48, top + 0.09), xlabel=tr("test ROC-AUC (0.5: guessing)"))
    for axes in (left, right):
        ticks(axes, x=6)
    return figure


@styled
def future_let_in(found: Mapping) -> Chart:
    """Orders promised and seen in production, by the days of future in the features.

    found: of lib.proof.future.measure.
    """
    days = require_some(found["days"], "days of future")
    honest, steps = found["kept"][0], range(len(days))
    figure, axes = new_figure(
        tr("With {days} days of future in the features the test promises {promised:,.0f} orders of "
           "1,000 customers, and production would see {kept:,.0f}; without any, both are "
           "{honest:,.0f}", days=days[-1], promised=found["promised"][-1], kept=found["kept"][-1],
           honest=honest),
        tr("Orders of 1,000 contacted customers. Each step: the same model, trained on the "
           "features of so many days after the day it predicts from (steps not to scale)"), 4.2)
    low, high = (pick(*found["promised"], *found["kept"]) for pick in (min, max))
    for name, label, colour, marker, up in (
            ("promised", tr("promised\nby its test"), ORANGE, "o", 11),
            ("kept", tr("seen in\nproduction"), INK, "X", -22)):
        axes.plot(steps, found[name], marker + "-", color=colour, ms=11, mec="white")
        for step, value in list(zip(steps, found[name], strict=True))[1:]:
            annotate(axes, f"{value:,.0f}", (step, value), 0, up, ha="center", color=colour)
        annotate(axes, label, (steps[-1], found[name][-1]), 30, va="center", color=colour)
    axes.hlines(honest, 0, steps[-1], **{**BASE, "color": BLUE})
    axes.plot(0, honest, "s", color=BLUE, ms=12)
    annotate(axes, tr("point in time:\n{honest:,.0f}", honest=honest), (0, honest), -14,
             ha="right", va="center", color=BLUE)
    room = 0.15 * (high - low + 1)
    axes.set(xlim=(-0.75, len(days) - 0.35), ylim=(low - 1.5 * room, high + room),
             xlabel=tr("days of future that the features have seen"))
    axes.set_xticks(steps, days)
    ticks(axes, y=5)
    return figure


@styled
def leak_ladder(value: Mapping | None, titles: Mapping[str, str]) -> Chart | Shown:
    """What each kind of leak promises and production sees: orders of 1,000 customers.

    value: of lib.proof.ladder.measure. titles: the leaks by name, in the order to draw them.
    """
    if value is None:
        return _left_out()
    leaks = {name: require_some(value["leaks"][name]["orders"], f"orders of {name}")
             for name in require_some(titles, "leaks")}
    lost = {name: orders["promised - kept"] for name, orders in leaks.items()}
    real = sum(found["low"] > 0 for found in lost.values())
    figure, (left, right) = new_figure(
        tr("{real} of {count} leaks promise orders that production will not see", real=real,
           count=len(leaks)),
        tr("Orders of 1,000 contacted customers, each leak alone. On the right: how many of the "
           "promised ones production does not see; line: 95% interval (grey: not above zero)"),
        1.9 + 0.62 * len(leaks), 1, 2, sharey=True, width_ratios=[1.25, 1])
    for row, (name, orders) in enumerate(leaks.items()):
        left.hlines(row, *(orders[key]["value"] for key in ("promised", "kept")), color=ORANGE,
                    alpha=0.4)
        for key, _, colour, marker in MODELS[:3]:
            left.plot(orders[key]["value"], row, marker, color=colour, ms=11, mec="white")
        colour = ORANGE if lost[name]["low"] > 0 else GREY
        right.hlines(row, lost[name]["low"], lost[name]["high"], color=colour, linewidth=4)
        right.plot(lost[name]["value"], row, "|", color=colour, ms=16, mew=3)
        annotate(right, f"{lost[name]['value']:+,.0f}", (lost[name]["high"], row), 12,
                 va="center", color=colour)
    right.axvline(0, **BASE)
    row_names(left, [textwrap.fill(tr(title), 28) for title in titles.values()])
    low, high = min(f["low"] for f in lost.values()), max(f["high"] for f in lost.values())
    room = high - low
    right.set(xlim=(low - 0.08 * room, high + 0.25 * room), xlabel=tr("promised - in production"))
    left.set(xlabel=tr("orders of 1,000 contacted customers"))
    for axes in (left, right):
        ticks(axes, x=6)
    figure.legend(
        handles=[Line2D([], [], color=colour, marker=marker, linestyle="", ms=10, mec="white",
                        label=text) for (*_, colour, marker), text in zip(MODELS[:3], (
                            tr("promised by its own test"), tr("the same model in production"),
                            tr("point-in-time model")), strict=True)],
        loc="outside lower center", ncols=3, frameon=False)
    return figure


@styled
def leaking_columns(columns: DataFrame) -> Chart:
    """How well each column alone predicts the label: as known at the time, and by naive join.

    columns: a row per feature (feature; differs, 0-1; honest_roc_auc; naive_roc_auc; gain),
    worst first.
    """
    require_columns(
        columns, "columns", "feature", "differs", "honest_roc_auc", "naive_roc_auc", "gain")
    worst, leaks = columns.iloc[0], columns["gain"] >= 0.05
    figure, axes = new_figure(
        tr("{leaking} of {columns} columns leak; alone, {worst} scores {naive:.2f} with the future "
           "and {honest:.2f} without", leaking=leaks.sum(), columns=len(columns),
           worst=worst["feature"], naive=worst["naive_roc_auc"], honest=worst["honest_roc_auc"]),
        tr("ROC-AUC of one column alone, over the same label rows (square: as known at the time, "
           "dot: naive join)"), 1.8 + 0.38 * len(columns))
    for row, column in enumerate(columns.itertuples()):
        colour = ORANGE if leaks.iloc[row] else GREY
        axes.hlines(row, column.honest_roc_auc, column.naive_roc_auc, color=colour, linewidth=3)
        axes.plot(column.honest_roc_auc, row, "s", color=BLUE, ms=9)
        axes.plot(column.naive_roc_auc, row, "o", color=colour, ms=11)
        end = max(column.naive_roc_auc, column.honest_roc_auc)
        annotate(axes, f"{column.gain:+.2f}", (end, row), 11, va="center_baseline", color=colour)
        annotate(axes, f"{column.differs:.0%}", (0.875, row), va="center_baseline", ha="right")
    annotate(axes, tr("label rows with\nanother value"), (0.875, -0.55), 0, 4, ha="right",
             color=GREY)
    axes.axvline(0.5, **BASE)
    row_names(axes, columns["feature"])
    axes.set(xlim=(0.48, 0.88), xlabel=tr("ROC-AUC of the column alone (0.5: no information)"))
    ticks(axes, x=8)
    return figure


@styled
def naive_timeline(example: Mapping) -> Chart | Shown:
    """One customer: the order that the label asks about, already counted by the naive row.

    example: of lib.proof.leakage.timeline.
    """
    if lacks := example.get("lacks"):
        return note(tr("No chart: these data lack {lacks}.", lacks=lacks))
    placed = to_times(require_some(example["orders"], "orders"))
    label, honest, naive = to_times([example["label_timestamp"], *(
        example[join]["feature_timestamp"] for join in ("honest", "naive"))])
    until, window = label + pd.Timedelta(days=example["horizon_days"]), pd.Timedelta(days=90)
    inside, count = (placed > label) & (placed <= until), example["window_orders"]
    counted = (
        mark("Customer {customer}: the naive row has already counted the order that the label asks "
             "about") if count == 1 else
        mark("Customer {customer}: the naive row has already counted the {count} orders that the "
             "label asks about"))
    figure, axes = new_figure(
        tr(counted, customer=example["customer_id"], count=count),
        tr("The label of {day} asks: an order within {days} days? Stars: orders in that window",
           day=day(label), days=example["horizon_days"]), 4.9)
    axes.axvspan(label, until, 0, 0.84, color=AMBER, alpha=0.25, linewidth=0)
    annotate(axes, tr("label window ({start}, {end}]: label {label}", start=day(label),
                      end=day(until), label=example["label"]),
             (label + (until - label) / 2, -0.62), 0, 0, ha="center", color=BROWN)
    axes.plot(placed[~inside], [0] * sum(~inside), "o", color=INK, ms=11)
    axes.plot(placed[inside], [0] * sum(inside), "*", color=ORANGE, ms=20)
    for row, at, join, colour, marker in ((1, honest, "honest", BLUE, "s"),
                                          (2, naive, "naive", ORANGE, "X")):
        axes.hlines(row, at - window, at, color=colour, linewidth=12, alpha=0.3)
        axes.plot(at, row, marker, color=colour, ms=13)
        values = ", ".join(f"{name} {number(example[join][name])}" for name in (
            "orders_90d", "orders_lifetime", "days_since_last_order"))
        annotate(axes, tr("{values}\n90 days up to {day}", values=values, day=day(at)), (at, row),
                 -2, -12, ha="right", va="top", color=colour)
    axes.vlines(placed[inside], 0, 2, **{**BASE, "color": ORANGE})
    start = min(honest - window, placed[placed > honest - 2 * window].min())
    row_names(axes, [tr("orders placed"), tr("point in time"), tr("naive join")])
    date_axis(axes, ylim=(2.75, -0.95), xlim=(
        start - pd.Timedelta(days=20), max(naive, until) + pd.Timedelta(days=8)))
    return figure


@styled
def parity_grid(compared: DataFrame | Mapping[str, DataFrame] | None) -> Chart | Shown:
    """Customers by features: is the served value the one that training would see?

    compared: of lib.proof.parity.compare (customer_id, feature, outcome); or several by name,
    drawn below each other.
    """
    if compared is None:
        return _left_out()
    panels = compared if isinstance(compared, Mapping) else {"": compared}
    for frame in require_some(panels, "comparisons").values():
        require_columns(frame, "compared values", "customer_id", "feature", "outcome")
    finding = "; ".join((f"{tr(name)}: " if name else "") + _verdict(frame, len(panels) == 1)
                        for name, frame in panels.items())
    first = next(iter(panels.values()))
    rows, customers = first["feature"].nunique(), first["customer_id"].nunique()
    figure, grids = new_figure(
        finding[0].upper() + finding[1:],
        tr("Each sign is one value of one of {customers:,} customers, worst first; on the right: "
           "values that are not equal", customers=customers),
        1.6 + len(panels) * (0.5 + 0.24 * rows), len(panels), 1, squeeze=False)
    seen = {outcome for frame in panels.values() for outcome in frame["outcome"]}
    for axes, (name, frame) in zip(grids.flat, panels.items(), strict=True):
        wide = frame.pivot(index="customer_id", columns="feature", values="outcome")
        wide = wide[frame["feature"].unique()].loc[frame["customer_id"].unique()]
        wrong = (wide != "equal").sum(axis=1).to_numpy()
        values = wide.to_numpy()[np.argsort(-wrong, kind="stable")]
        for outcome, (colour, _, corners, _) in SIGNS.items():
            cells = np.argwhere(values == outcome)
            axes.add_collection(PolyCollection(
                cells[:, None, :] + np.array(corners)[None], facecolors=colour, linewidths=0))
        for row, count in enumerate((values != "equal").sum(axis=0)):
            annotate(axes, f"{count:,}", (len(values) - 0.5, row), 8, va="center_baseline",
                     color=ORANGE if count else GREY)
        axes.set(xlim=(-0.7, len(values) - 0.3), xticks=[], frame_on=False)
        axes.set_xlabel((f"{tr(name)}: " if name else "") + tr(
            "{customers:,} customers", customers=len(values)))
        row_names(axes, wide.columns)
    shown = [sign for outcome, sign in SIGNS.items() if outcome in seen]
    figure.legend(
        handles=[Line2D([], [], color=colour, marker=marker, linestyle="", ms=9, mew=2.5,
                        label=tr(text)) for colour, marker, _, text in shown],
        loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def _verdict(frame: DataFrame, alone: bool) -> str:
    bad = frame[frame["outcome"] != "equal"]
    if bad.empty:
        equal = (mark("All {values:,} values are equal online and offline") if alone else
                 mark("{values:,} values are equal online and offline"))
        return tr(equal, values=len(frame))
    return tr("{bad:,} of {values:,} values, of {customers:,} customers, are not what training "
              "would see", bad=len(bad), values=len(frame), customers=bad["customer_id"].nunique())


@styled
def faults_caught(tables: Mapping[str, DataFrame] | None) -> Chart | Shown:
    """Features by comparisons: the number of customers whose values differ.

    tables: name -> of lib.proof.parity.compare (customer_id, feature, outcome); one without a
    difference is healthy.
    """
    if tables is None:
        return _left_out()
    for frame in require_some(tables, "comparisons").values():
        require_columns(frame, "compared values", "customer_id", "feature", "outcome")
    features = [*next(iter(tables.values()))["feature"].unique()]
    bad = {name: frame[frame["outcome"] != "equal"] for name, frame in tables.items()}
    healthy = [name for name, rows in bad.items() if rows.empty]
    caught = len(tables) - len(healthy)
    figure, axes = new_figure(
        tr(mark("The parity check catches {caught} of {caught} planted faults, and names the "
                "columns; the healthy store has none") if healthy else
           mark("The parity check catches {caught} of {caught} planted faults, and names the "
                "columns"), caught=caught),
        tr("Customers whose served value is not what training would see, by feature"),
        2.1 + 0.34 * len(features))
    for column, (name, rows) in enumerate(bad.items()):
        counts, customers = rows.groupby("feature").size(), tables[name]["customer_id"].nunique()
        for row, feature in enumerate(features):
            count = int(counts.get(feature, 0))
            axes.barh(row, 0.94, left=column - 0.47, height=0.86, linewidth=0,
                      color=ORANGE if count else PALE, alpha=0.2 + 0.6 * count / customers)
            annotate(axes, f"{count:,}", (column, row), va="center_baseline", ha="center",
                     color=INK if count else GREY)
        annotate(axes, tr("{name}\n{bad:,} of {customers:,}", name=tr(name),
                          bad=rows["customer_id"].nunique(), customers=customers),
                 (column, -0.6), 0, 4, ha="center", color=ORANGE if len(rows) else BLUE)
    row_names(axes, features)
    axes.set(xticks=[], xlim=(-0.5, len(tables) - 0.5), frame_on=False)
    axes.set_ylim(len(features) - 0.5, -1.7)
    return figure


@styled
def prediction_change(changes: Mapping[str, tuple[float, float]] | None) -> Chart | Shown:
    """Churn probabilities of customers who ordered, by old and by new features.

    changes: customer_id -> (probability before, after), 0-1. Drawn with the greatest change first.
    """
    if changes is None:
        return _left_out()
    require_some(changes, "predictions")
    before, after = ({name: pair[i] for name, pair in changes.items()} for i in (0, 1))
    names = sorted(before, key=lambda name: -abs(after[name] - before[name]))
    first, down = names[0], sum(after[name] < before[name] for name in names)
    figure, axes = new_figure(
        tr("Customer {customer}: {before:.1%} on old features, {after:.1%} after the sync",
           customer=first, before=before[first], after=after[first]),
        tr("Churn probability of {customers} customers who just ordered (circle: before the sync, "
           "dot: after); it falls for {down}", customers=len(names), down=down),
        1.9 + 0.34 * len(names))
    for row, name in enumerate(names):
        lower = after[name] < before[name]
        colour = BLUE if lower else ORANGE
        axes.hlines(row, before[name], after[name], color=colour, linewidth=3)
        axes.plot(before[name], row, "o", mfc="white", mec=GREY, ms=10, mew=2)
        axes.plot(after[name], row, "o", color=colour, ms=10)
        annotate(axes, tr("{points:+.1f} points", points=100 * (after[name] - before[name])),
                 (max(before[name], after[name]), row), 11, va="center_baseline", color=colour)
    values = [*before.values(), *after.values()]
    room = max(values) - min(values) + 0.01
    axes.set(xlabel=tr("churn probability"),
             xlim=(min(values) - 0.05 * room, max(values) + 0.2 * room))
    row_names(axes, [tr("customer {customer}", customer=name) for name in names])
    ticks(axes, "x", x=7)
    return figure


@styled
def latency_percentiles(series: Mapping[str, Sequence[float]]) -> Chart:
    """p50, p95 and p99 of each kind of call, on a log axis.

    series: name -> milliseconds of each call; the fetch first, the features by SQL last.
    """
    marks = {name: np.percentile(require_some(ms, f"times of {name}"), [50, 95, 99])
             for name, ms in require_some(series, "samples of latency").items()}
    first, last = list(marks)[0], list(marks)[-1]
    times = marks[last][0] / marks[first][0]
    figure, axes = new_figure(
        tr("Fetching features takes {fetch} ms; computing the same ones by SQL {sql} ms: "
           "{times:,.0f} times as long", fetch=number(marks[first][0]), sql=number(marks[last][0]),
           times=times),
        tr("Milliseconds (log scale): half of the calls (dot), 95% (triangle) and 99% (bar) take "
           "no longer; measured from this notebook's process"), 1.7 + 0.45 * len(marks))
    for row, (name, (half, most, nearly)) in enumerate(marks.items()):
        colour = ORANGE if name == last else BLUE
        axes.hlines(row, half, nearly, color=colour, linewidth=3, alpha=0.5)
        for value, marker in ((half, "o"), (most, "^"), (nearly, "|")):
            axes.plot(value, row, marker, color=colour, ms=11, mew=2)
        annotate(axes, number(half), (half, row), -10, ha="right", va="center_baseline",
                 color=colour)
        annotate(axes, number(nearly), (nearly, row), 10, va="center_baseline", color=colour)
    axes.set_xscale("log")
    low, high = min(m[0] for m in marks.values()), max(m[2] for m in marks.values())
    axes.set(xlabel=tr("milliseconds, log scale"), xlim=(low / 2.2, high * 2.2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    row_names(axes, list(marks))
    return figure


def call_name(kind: str, callers: int) -> str:
    """What a kind of call (fetch, predict, both) with so many callers is called."""
    if callers == 1:
        return tr("{kind}, 1 caller", kind=tr(kind))
    return tr("{kind}, {callers} callers", kind=tr(kind), callers=callers)
