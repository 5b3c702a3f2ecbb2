"""The charts of the walkthrough, in the order of the notebooks; each title states the finding.

Each function takes plain frames, dicts and dates and returns a `Chart`. Empty input raises
ValueError.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from pandas import DataFrame

from lib.charts.style import (
    AMBER,
    BASE,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    SKY,
    Chart,
    annotate,
    date_axis,
    day,
    letters,
    new_figure,
    require_columns,
    require_some,
    row_names,
    series_of,
    styled,
    ticks,
    to_times,
)
from lib.language import mark, tr
from lib.show import number

# Groups of the sanity checks, and what the names in each have in common.
CHECKED = {mark("The labels"): r"^positive_rate|^label_(?!.*join)|^customers_per|_label",
           mark("The join"): r"join|future|oldest_feature", mark("The features"): ""}
STATUS = {"fail": (ORANGE, "X"), "warn": (AMBER, "^"), "pass": (BLUE, "o")}  # worst first


@styled
def orders_over_time(daily: DataFrame, snapshots: list[date], label_horizon_days: int) -> Chart:
    """Daily orders, the snapshots along the bottom, and the days for which no label can be known.

    daily: a row per day (order_date; orders, a count). snapshots: label times.
    """
    require_columns(daily, "daily orders", "order_date", "orders")
    orders = pd.Series(daily["orders"].to_numpy(float), to_times(daily["order_date"]))
    orders = orders.sort_index().asfreq("D", fill_value=0)
    end, horizon = orders.index[-1], pd.Timedelta(days=label_horizon_days)
    known = [t for t in to_times(require_some(snapshots, "snapshots")) if t <= end - horizon]
    last = max(require_some(known, f"snapshot {label_horizon_days} days older than the last order"))
    shown = orders[min(known) - pd.Timedelta(days=180):]
    figure, axes = new_figure(
        tr("Churn can be known up to {last}: after that, the label's {days} days have not ended",
           last=day(last), days=label_horizon_days),
        tr("Orders per day since {first}, and {snapshots} snapshots; the data start on {start}",
           first=day(shown.index[0]), snapshots=len(known), start=day(orders.index[0])))
    # theLook's last week has several times the usual orders. It is cut, so that it does not press
    # the year before it flat; the note beside it says how high it goes.
    top = min(shown.max(), 1.6 * max(shown.iloc[:-8]))
    axes.fill_between(shown.index, shown.clip(upper=1.05 * top), step="mid", color=BLUE,
                      alpha=0.75, linewidth=0)
    axes.axvspan(last, last + horizon, color=AMBER, alpha=0.22, linewidth=0)
    axes.plot(known, [-0.045 * top] * len(known), "|", color=INK, ms=11, mew=1.4)
    annotate(axes, tr("snapshots"), (min(known), -0.045 * top), -8, ha="right", va="center")
    annotate(axes, tr("label window of the last snapshot:\n({start}, {end}]\ntoo late for another "
                      "label", start=day(last), end=day(last + horizon)),
             (last, 1.05 * top), -8, ha="right", va="top")
    # The last day is not complete, so the last week ends the day before.
    usual, burst = orders.iloc[-98:-8].median(), orders.iloc[-8:-1].mean()
    if burst > 1.5 * usual:
        axes.hlines(usual, *orders.index[[-98, -8]], **{**BASE, "color": INK})
        text = tr("The last 7 full days: {burst:,.0f} orders a day, {times:.1f} times the\n"
                  "usual {usual:,.0f} (dashed: median of the 90 days before).",
                  burst=burst, times=burst / usual, usual=usual)
        if shown.max() > 1.05 * top:
            text += "\n" + tr("The most, {most:,.0f}, is beyond the axis", most=shown.max())
        axes.annotate(text, (orders.index[-4], 0.7 * top), (0.05, 0.56),
                      textcoords="axes fraction", arrowprops={"arrowstyle": "->", "ec": GREY})
    date_axis(axes, ylim=(-0.09 * top, 1.12 * top), ylabel=tr("orders per day"))
    ticks(axes, y=5)
    return figure


@styled
def labels_per_snapshot(per_snapshot: DataFrame, horizon_days: int,
                        band: Sequence | None) -> Chart:
    """Churn rate of each snapshot with the accepted band, and its number of label rows.

    per_snapshot: a row per label time (label_timestamp; rows, a count; positive_rate, 0-1).
    band: the lowest and the highest accepted rate, 0-1; None: there is none for these data.
    """
    require_columns(per_snapshot, "labels per snapshot", "label_timestamp", "rows", "positive_rate")
    frame = per_snapshot.assign(at=to_times(per_snapshot["label_timestamp"])).sort_values("at")
    at, rate, rows = frame["at"], frame["positive_rate"].astype(float), frame["rows"].astype(float)
    low, high = band or (rate.min(), rate.max())
    out = ~rate.between(low, high)
    finding = (
        mark("{rate:.1%} of active customers place no order in the next {days} days; {inside} of "
             "{snapshots} snapshots lie within the accepted {low:g}% to {high:g}%") if band else
        mark("{rate:.1%} of active customers place no order in the next {days} days; from "
             "{low:.1f}% to {high:.1f}% at the {snapshots} snapshots"))
    figure, (upper, lower) = new_figure(
        tr(finding, rate=np.average(rate, weights=rows), days=horizon_days, inside=sum(~out),
           snapshots=len(out), low=100 * low, high=100 * high),
        tr("Above: share labelled 1 at each snapshot. Below: label rows, {rows:,.0f} in total",
           rows=rows.sum()), 5.6, 2, 1, sharex=True, height_ratios=[2.4, 1])
    if band:
        upper.axhspan(low, high, color=PALE, alpha=0.6, linewidth=0)
        accepted = tr("accepted {low:g}% to {high:g}%", low=100 * low, high=100 * high)
        annotate(upper, accepted, (at.iloc[-1], high), 0, 5, ha="right", color=GREY)
    upper.plot(at, rate, color=ORANGE)
    upper.plot(at[out], rate[out], "X", color=INK, ms=11)
    annotate(upper, f"{rate.iloc[0]:.1%}", (at.iloc[0], rate.iloc[0]), 0, 9, color=ORANGE)
    annotate(upper, f"{rate.iloc[-1]:.1%}", (at.iloc[-1], rate.iloc[-1]), 10, va="center",
             color=ORANGE)
    upper.set(ylabel=tr("churn rate"), ylim=(min(low, *rate) - 0.02, max(high, *rate) + 0.035))
    lower.bar(at, rows, width=0.8 * (at.iloc[-1] - at.iloc[0]) / max(1, len(at) - 1), color=BLUE)
    ticks(upper, "y", y=5)
    ticks(lower, y=3)
    date_axis(lower, ylabel=tr("label rows"))
    return figure


@styled
def label_distribution(rows: int, positives: int, horizon_days: int) -> Chart:
    """The two classes as bars. rows, positives: counts of label rows."""
    rate, counts = positives / require_some(rows, "label rows"), [positives, rows - positives]
    figure, axes = new_figure(
        tr("{rate:.1%} of the labels say churn: always giving the same answer is right {same:.1%} "
           "of the time", rate=rate, same=max(rate, 1 - rate)),
        tr("{rows:,} label rows by class", rows=rows), 3.3)
    axes.barh([0, 1], counts, color=[ORANGE, BLUE], height=0.62)
    for row, count in enumerate(counts):
        annotate(axes, f"{count:,}  ({count / rows:.1%})", (count, row), 8, va="center")
    axes.set(xlim=(0, 1.22 * max(counts)), xlabel=tr("label rows"))
    names = [tr("no order in {days} days (1)", days=horizon_days),
             tr("an order in {days} days (0)", days=horizon_days)]
    row_names(axes, names)
    ticks(axes, x=5)
    return figure


@styled
def feature_distributions(sample: DataFrame, features: Sequence[Mapping]) -> Chart:
    """A small panel per feature: whole numbers as bars, money on a log axis, the rest in bins.

    sample: rows of features_customer, a column per feature. features: dicts with name and unit.
    """
    names = [feature["name"] for feature in require_some(features, "features")]
    require_columns(sample, "the features", *names)
    columns = [pd.to_numeric(sample[name]).astype(float) for name in names]
    empty, high = sum((c.fillna(0) == 0).mean() > 0.5 for c in columns), -(-len(features) // 4)
    figure, panels = new_figure(
        tr("{empty} of {features} features are 0 or NULL for most customers",
           empty=empty, features=len(features)),
        tr("Share of {customers:,} customers by value; the median, and the shares without a bar",
           customers=len(sample)),
        2.3 * high + 1, high, 4, squeeze=False)
    for axes, values, feature in zip(panels.flat, columns, features, strict=False):
        unit = feature["unit"]
        _distribution(axes, values, unit)
        log = axes.get_xscale() == "log"
        notes = [tr("{unit}, log scale", unit=tr(unit)) if log else tr(unit),
                 tr("median {value}", value=number(values.median()))]
        notes += [f"NULL {values.isna().mean():.0%}"] * int(values.isna().any())
        if unit == "USD" and 0 in set(values):
            notes.append(tr("zero {share:.0%}", share=(values == 0).mean()))
        axes.set_title(feature["name"], weight="bold", loc="left", x=-0.2)
        axes.set_xlabel("\n".join([notes[0], ", ".join(notes[1:])]))
    for axes in panels.flat[len(features):]:
        axes.set_axis_off()
    return figure


def _distribution(axes: Axes, values: pd.Series, unit: str) -> None:
    known, bins, rwidth = values.dropna(), 25, None
    if unit == "USD" and (known > 0).any():
        known = known[known > 0]
        bins = np.geomspace(*known.quantile([0.001, 0.999]) * [1, 1.001], 26)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    elif 0 < known.nunique() <= 12 and (known % 1 == 0).all():
        bins, rwidth = np.arange(known.min(), known.max() + 2) - 0.5, 0.88
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        ticks(axes, x=3)
    weights = np.full(len(known), 1 / len(values))  # a list is read one by one
    axes.hist(known, bins, weights=weights, color=BLUE, rwidth=rwidth)
    ticks(axes, "y", y=2)


@styled
def point_in_time_pick(orders: Sequence[datetime], snapshots: DataFrame, label_timestamp: datetime,
                       chosen_timestamp: datetime, horizon_days: int, customer_id: str) -> Chart:
    """One customer's timeline: the snapshot that a label gets, and those in its future.

    orders: times of the customer's orders. snapshots: the customer's rows of features_customer
    (feature_timestamp; orders_90d, a count; revenue_90d, USD). Raises ValueError also when
    chosen_timestamp is not the newest snapshot up to the label.
    """
    require_columns(
        snapshots, "feature snapshots", "feature_timestamp", "orders_90d", "revenue_90d")
    placed = to_times(require_some(orders, "orders"))
    frame = snapshots.set_index(to_times(snapshots["feature_timestamp"])).sort_index()
    label, chosen = to_times([label_timestamp, chosen_timestamp])
    past, future = frame.index[frame.index <= label], frame.index[frame.index > label]
    if past.empty or past.max() != chosen:
        raise ValueError(f"{chosen} is not the newest snapshot up to {label}")
    window, until = chosen - pd.Timedelta(days=90), label + pd.Timedelta(days=horizon_days)
    came = int(((placed > label) & (placed <= until)).sum())
    figure, axes = new_figure(
        tr("Customer {customer}: the label of {label} gets the snapshot of {chosen}; the {later} "
           "later ones are from the future", customer=customer_id, label=day(label),
           chosen=day(chosen), later=len(future)),
        tr("Orders and feature snapshots of one customer (diamond: taken, crosses: from the "
           "future)"))
    answer = (mark("label window: 0 orders, churned") if came == 0 else
              mark("label window: 1 order, not churned") if came == 1 else
              mark("label window: {orders} orders, not churned"))
    for left, right, fill, colour, text, at, ha in (
        (window, chosen, SKY, BLUE, tr("feature window"), chosen, "right"),
        (label, until, AMBER, BROWN, tr(answer, orders=came), label, "left"),
    ):
        axes.axvspan(left, right, 0, 0.82, color=fill, alpha=0.25, linewidth=0)
        annotate(axes, f"{text}\n({day(left)}, {day(right)}]", (at, -0.5), 0, 4, ha=ha,
                 color=colour)
    end = max([until, *future]) + pd.Timedelta(days=10)
    axes.plot(placed, [0] * len(placed), "o", color=INK, ms=11)
    axes.plot(past[:-1], [1] * len(past[:-1]), "|", color=GREY, ms=16, mew=2)
    axes.plot(future, [1] * len(future), "x", color=ORANGE, ms=8, mew=2)
    axes.plot(chosen, 1, "D", color=BLUE, ms=13)
    for at, name, colour in zip(  # there may be no future snapshot
            [chosen, *future[-1:]], [tr("taken"), tr("not taken")], [BLUE, ORANGE], strict=False):
        orders_90d, revenue_90d = frame.loc[at, ["orders_90d", "revenue_90d"]].map(number)
        text = tr("{name}: {day}\norders_90d {orders}\nrevenue_90d {revenue} USD", name=name,
                  day=day(at), orders=orders_90d, revenue=revenue_90d)
        annotate(axes, text, (at, 1.15), 6, ha="right", va="top", color=colour)
    row_names(axes, [tr("orders placed"), tr("feature\nsnapshots")])
    date_axis(axes, ylim=(1.85, -0.95), xlim=(window - 0.08 * (end - window), end))
    return figure


@styled
def split_timeline(splits: DataFrame, gap_days: int) -> Chart:
    """Train, valid and test on a time axis, and the gaps between them.

    splits: a row per split (split; first, last: label times; rows; positive_rate, 0-1).
    """
    require_columns(splits, "splits", "split", "first", "last", "rows", "positive_rate")
    frame = splits.assign(first=to_times(splits["first"]), last=to_times(splits["last"]))
    frame = frame.sort_values("first", ignore_index=True)
    starts, a_day = frame["first"].iloc[1:], pd.Timedelta(days=1)
    gaps = [(b - a).days for a, b in zip(frame["last"], starts, strict=False)] or [0]
    verdict = (
        mark("Tested on {rows:,} later rows; at least {least} days between splits: no label window "
             "reaches into the next split") if min(gaps) >= gap_days else
        mark("Tested on {rows:,} later rows; at least {least} days between splits: label windows "
             "OVERLAP, since {needed} are needed"))
    figure, axes = new_figure(
        tr(verdict, rows=frame["rows"].iloc[-1], least=min(gaps), needed=gap_days),
        tr("Label times of each split; rows and churn rate on the left"), 3.9)
    axes.barh(frame.index, frame["last"] - frame["first"] + a_day, left=frame["first"], height=0.55,
              color=[BLUE, SKY, GREEN])
    for gap, left, right in zip(gaps, frame["last"] + a_day, starts, strict=False):
        axes.axvspan(left, right, facecolor=PALE, alpha=0.6, zorder=0)
        annotate(axes, tr("gap of\n{days} days", days=gap), (left, -0.42), 6, va="top", color=GREY)
    row_names(axes, [tr("{split}: {rows:,} rows\n{rate:.1%} churn", split=split.split,
                        rows=split.rows, rate=split.positive_rate)
                     for split in frame.itertuples()])
    date_axis(axes)
    return figure


@styled
def roc_and_pr(curves: Mapping, metrics: Mapping) -> Chart:
    """ROC against guessing; precision and recall against the base rate.

    curves, metrics: the eval component's JSON, here and below. Uses roc {fpr, tpr}, pr
    {recall, precision}; roc_auc, pr_auc, accuracy, rows, baseline.
    """
    fpr, tpr = series_of(curves, "roc", "fpr tpr")
    x, y = series_of(curves, "pr", "recall precision")
    roc, pr, base = metrics["roc_auc"], metrics["pr_auc"], metrics["baseline"]
    figure, (left, right) = new_figure(
        tr("ROC-AUC {roc:.3f} against {guess:.2f} for guessing; PR-AUC {pr:.3f} against a base "
           "rate of {base:.3f}", roc=roc, guess=base["roc_auc"], pr=pr, base=base["pr_auc"]),
        tr("{rows:,} test rows; accuracy {accuracy:.3f}, against {same:.3f} for always giving the "
           "same answer", rows=metrics["rows"], accuracy=metrics["accuracy"],
           same=base["accuracy"]), 5.6, 1, 2)
    left.plot(fpr, tpr, color=BLUE)
    left.plot([0, 1], [0, 1], **BASE)
    half = len(fpr) // 2
    annotate(left, tr("model\n{value:.3f}", value=roc), (fpr[half], tpr[half]), -10, 4, ha="right",
             color=BLUE)
    annotate(left, tr("guessing\n{value:.2f}", value=base["roc_auc"]), (0.56, 0.52), va="top",
             color=GREY)
    left.set(xlabel=tr("false alarms, as a share of those who came back"),
             ylabel=tr("found, as a share of those who churned"), xlim=(0, 1), ylim=(0, 1.01))
    right.plot(x, y, color=BLUE)
    right.axhline(base["pr_auc"], **BASE)
    annotate(right, tr("model {value:.3f}", value=pr), (x[len(x) // 2], y[len(x) // 2]), 8, 8,
             color=BLUE)
    annotate(right, tr("base rate {value:.3f}", value=base["pr_auc"]), (0.02, base["pr_auc"]), 0, 5,
             color=GREY)
    right.set(xlabel=tr("recall: share of the churned that is found"), xlim=(0, 1),
              ylabel=tr("precision"))
    return figure


@styled
def calibration(curves: Mapping, metrics: Mapping) -> Chart:
    """Observed against predicted churn rate in bins, and the rows of each bin.

    Uses calibration {mean_predicted, observed, count} and positive_rate.
    """
    predicted, observed, count = series_of(curves, "calibration", "mean_predicted observed count")
    off, base = np.average(abs(predicted - observed), weights=count), metrics["positive_rate"]
    lean = np.average(predicted - observed, weights=count)
    leaning = (
        mark("Predicted and observed churn differ by {off:.1f} percentage points; on average the "
             "prediction is {lean:.1f} points too high") if lean > 0 else
        mark("Predicted and observed churn differ by {off:.1f} percentage points; on average the "
             "prediction is {lean:.1f} points too low"))
    figure, (left, right) = new_figure(
        tr(leaning, off=100 * off, lean=100 * abs(lean)),
        tr("Left: observed against predicted rate in {bins} bins, on equal axes. Right: test rows "
           "per bin", bins=len(count)), 5.2, 1, 2)
    low = max(0.0, min(*predicted, *observed) - 0.03)
    left.plot([low, 1], [low, 1], **BASE)
    left.plot(predicted, observed, "o-", color=BLUE, ms=8)
    left.axhline(base, color=GREY, linewidth=1)
    middle = (predicted[len(count) // 2], observed[len(count) // 2])
    annotate(left, tr("model"), middle, 10, -6, va="top", color=BLUE)
    annotate(left, tr("perfect"), (low, low), 18, 4, color=GREY)
    annotate(left, tr("base rate {value:.1%}", value=base), (low, base), 6, 4, color=GREY)
    left.set(xlabel=tr("predicted churn probability"), ylabel=tr("observed"), xlim=(low, 1.01),
             ylim=(low, 1.01), aspect="equal")
    right.bar(predicted, count, width=0.012 * (1 - low), color=SKY)
    right.set(ylabel=tr("rows"), xlabel=tr("predicted churn probability"), xlim=(low, 1.01))
    ticks(left, "xy", x=5, y=5)
    ticks(right, "x", x=5, y=5)
    return figure


@styled
def feature_importance(curves: Mapping) -> Chart:
    """The drop in ROC-AUC when a feature is shuffled. Uses importance {feature, mean, std}."""
    series = series_of(curves, "importance", "feature mean std")
    names, means, stds = (part[np.argsort(-series[1], kind="stable")] for part in series)
    most = (mark("{name} matters most: shuffling it costs {drop:.3f} of ROC-AUC (the next: "
                 "{next:.3f})") if len(means) > 1 else
            mark("{name} matters most: shuffling it costs {drop:.3f} of ROC-AUC"))
    figure, axes = new_figure(
        tr(most, name=names[0], drop=means[0], next=means[:2][-1]),
        tr("Drop in test ROC-AUC when a feature is shuffled (whisker: 1 standard deviation); "
           "{unclear} of {features} do not differ clearly from 0",
           unclear=sum(means <= stds), features=len(means)),
        1.7 + 0.36 * len(means))
    axes.barh(range(len(means)), means, xerr=stds, color=BLUE, height=0.62, ecolor=INK, capsize=3)
    for row, end in enumerate(np.maximum(means + stds, 0)):
        annotate(axes, f"{round(means[row], 3) + 0:.3f}", (end, row), 8, va="center")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(tr("drop in ROC-AUC (0: the model does as well without the feature)"))
    row_names(axes, names)
    return figure


@styled
def probability_histogram(curves: Mapping) -> Chart:
    """Predicted probabilities by class. Uses histogram {edges; label_1, label_0: rows}."""
    edges, *counts = series_of(curves, "histogram", "edges label_1 label_0")
    churned, stayed = (count / require_some(sum(count), "rows of one class") for count in counts)
    cut = int(np.argmax(np.cumsum(stayed) - np.cumsum(churned))) + 1
    figure, axes = new_figure(
        tr("{stayed:.0%} of those who came back are scored below {cut:.2f}, but only {churned:.0%} "
           "of those who churned", stayed=stayed[:cut].sum(), cut=edges[cut],
           churned=churned[:cut].sum()),
        tr("Share of each class by predicted probability; dashed: where the two are furthest "
           "apart"))
    for share, name, colour, lines in ((churned, tr("churned"), ORANGE, "-"),
                                       (stayed, tr("came back"), BLUE, "--")):
        axes.stairs(share, edges, color=colour, linewidth=2.5, linestyle=lines)
        axes.stairs(share, edges, color=colour, alpha=0.15, fill=True)
        at = edges[np.argmax(share)]
        side = ("right", -5) if at < edges[cut] else ("left", 5)  # clear of the dashed line
        annotate(axes, name, (at, max(share)), side[1], 6, ha=side[0], color=colour)
    axes.axvline(edges[cut], **BASE)
    used = np.flatnonzero(churned + stayed)
    axes.set(xlabel=tr("predicted churn probability"),
             xlim=(edges[used[0]], edges[used[-1] + 1]), ylabel=tr("share of the class"),
             ylim=(0, 1.15 * max([*churned, *stayed])))
    ticks(axes, "y", x=8, y=4)
    return figure


def _beside_base_rate(probability: float, base_rate: float) -> tuple[str, str]:
    """(words, colour): above, below, or, within half a point, at the base rate.

    The difference is that of the two numbers as they are shown.
    """
    points = round(round(100 * probability, 1) - round(100 * base_rate, 1), 1)
    if abs(points) <= 0.5:
        return tr("at the base rate"), GREY
    if points > 0:
        return tr("{points:.1f} points above the base rate", points=points), ORANGE
    return tr("{points:.1f} points below the base rate", points=-points), BLUE


@styled
def predicted_probabilities(predictions: DataFrame, base_rate: float) -> Chart:
    """Each customer's probability, compared with the base rate.

    predictions: a row per customer (customer_id; churn_probability, 0-1). base_rate: 0-1.
    """
    require_columns(predictions, "predictions", "customer_id", "churn_probability")
    frame = predictions.sort_values(["churn_probability", "customer_id"], ascending=[False, True])
    values, rows = frame["churn_probability"].to_numpy(float), np.arange(len(frame))
    colours = np.array([_beside_base_rate(value, base_rate)[1] for value in values])
    least, most = min(*values, base_rate), max(*values, base_rate)
    above, below, at = (sum(colours == colour) for colour in (ORANGE, BLUE, GREY))
    counts = (
        mark("{above} of {customers} customers are more likely to churn than the base rate of "
             "{base:.1%}, {below} less likely, {at} within half a point of it") if at else
        mark("{above} of {customers} customers are more likely to churn than the base rate of "
             "{base:.1%}, {below} less likely"))
    figure, axes = new_figure(
        tr(counts, above=above, customers=len(frame), base=base_rate, below=below, at=at),
        tr("Predicted probability of no further order"), 1.9 + 0.34 * len(frame))
    for colour, marker in ((ORANGE, "o"), (BLUE, "s"), (GREY, "D")):
        mask = colours == colour
        axes.hlines(rows[mask], base_rate, values[mask], color=colour, linewidth=3)
        axes.plot(values[mask], rows[mask], marker, color=colour, ms=10)
    for row, value in enumerate(values):
        right = value > base_rate
        annotate(axes, f"{value:.1%}", (value, row), 11 if right else -11, va="center",
                 ha="left" if right else "right")
    axes.vlines(base_rate, -0.5, len(frame) - 0.5, color=GREY, linewidth=1.5)
    annotate(axes, tr("base rate {value:.1%}", value=base_rate), (base_rate, -0.6), ha="center",
             color=GREY)
    room = 0.12 * (most - least + 0.02)
    axes.set(xlabel=tr("churn probability"), xlim=(least - room, most + room))
    row_names(axes, [tr("customer {customer}", customer=name) for name in frame["customer_id"]])
    ticks(axes, "x", x=7)
    return figure


@styled
def served_features(customers: Sequence[Mapping], base_rate: float, active_days: int) -> Chart:
    """The served features and the prediction of one customer, or of several side by side.

    customers: dicts with customer_id; probability, 0-1; features, name -> value, None for NULL;
    percentiles, name -> share of the active customers with a lower value, 0-1, NaN for NULL.
    base_rate: 0-1. active_days: active is who has an order in so many days.
    """
    names = require_some(list(require_some(customers, "customers")[0]["features"]), "features")
    beside = [_beside_base_rate(each["probability"], base_rate) for each in customers]
    finding = "; ".join(
        tr("customer {customer}: churn probability {probability:.1%}, {beside}",
           customer=each["customer_id"], probability=each["probability"], beside=words)
        for each, (words, _) in zip(customers, beside, strict=True))
    figure, panels = new_figure(
        finding[0].upper() + finding[1:],
        tr("The {features} values that the online store served. Bar: share of the customers with "
           "an order in the last {days} days who have a lower value. It says where a value lies, "
           "not how much it moves the prediction", features=len(names), days=active_days),
        2.6 + 0.3 * len(names), 2, len(customers), squeeze=False,
        height_ratios=[1, 0.3 * len(names)])
    for n, (each, (words, colour)) in enumerate(zip(customers, beside, strict=True)):
        gauge, axes = panels[:, n]
        gauge.barh([0, 0], [1, each["probability"]], color=[PALE, colour], height=0.6)
        gauge.vlines(base_rate, -0.6, 0.6, color=INK)
        annotate(gauge, f"{each['probability']:.1%}", (0, 0.3), 0, 7, size=26, color=colour)
        annotate(gauge, tr("customer {customer}\n{beside}", customer=each["customer_id"],
                           beside=words), (0, 0.3), 106, 8)
        annotate(gauge, tr("base rate {value:.1%}", value=base_rate), (base_rate, -0.6), 0, -2,
                 ha="right", va="top", color=GREY)
        gauge.set(xlim=(0, 1.22), ylim=(-1.6, 3.2))
        gauge.set_axis_off()
        for row, name in enumerate(names):
            axes.barh([row] * 2, [100, 100 * each["percentiles"][name]], color=[PALE, SKY],
                      height=0.55)
            annotate(axes, number(each["features"][name]), (100, row), 8, va="center_baseline")
        axes.vlines(50, -0.5, len(names) - 0.5, **BASE)
        annotate(axes, tr("median"), (50, -0.6), ha="center", color=GREY)
        axes.set(xlim=(0, 122), xlabel=tr("percentile"), xticks=[0, 25, 50, 75, 100])
        row_names(axes, names if n == 0 else [""] * len(names))
    return figure


@styled
def checks_overview(checks: DataFrame) -> Chart:
    """Each value in its allowed band; checks named `<name>_at_<date>` share a row.

    checks: a row per check (check, value, low, high; status: pass, warn or fail), as
    sql/05_sanity_checks.sql returns it.
    """
    require_columns(checks, "checks", "check", "value", "low", "high", "status")
    kind = checks["check"].str.replace(
        r"_at_\d{4}-\d\d-\d\d$", ", " + tr("each snapshot"), regex=True)
    frame = checks.assign(kind=kind, rank=checks["status"].map(list(STATUS).index), group=[
        next(name for name, part in CHECKED.items() if re.search(part, check))
        for check in checks["check"]])
    worst = frame.groupby("group")["rank"].min()
    groups = sorted(worst.index, key=lambda name: (worst[name], list(CHECKED).index(name)))
    frame["place"] = frame["group"].map(groups.index)
    frame = frame.sort_values(["place", "rank", "kind"], kind="stable")
    bad = [*frame["check"][frame["status"] != "pass"]]
    finding = (mark("{bad} of {checks} checks do not pass: {names}") if bad else
               mark("All {checks} checks pass"))
    figure, axes = new_figure(
        tr(finding, bad=len(bad), checks=len(frame),
           names=", ".join([*bad[:3], *["..."] * (len(bad) > 3)])),
        tr("Value in its allowed band (grey bar, brackets); pass: dot, warning: triangle, fail: X"),
        1.25 + 0.29 * (kind.nunique() + len(groups)))
    names = []
    for name, group in frame.groupby("kind", sort=False):
        if (heading := group["group"].iloc[0]) in groups:
            names.append(tr(groups.pop(groups.index(heading))))
        row = len(names)
        low, high = group["low"].iloc[0], group["high"].iloc[0]
        exact, edge = low == high, 1e-9 * (low == high)
        axes.barh(row, 0.06 if exact else 1, left=0.47 * exact, color=PALE, height=0.5)
        for check in group[::-1].fillna({"value": -np.inf}).itertuples():
            colour, marker = STATUS[check.status]
            place = np.clip((check.value - low + edge) / (high - low + 2 * edge), -0.09, 1.09)
            axes.plot(place, row, marker, color=colour, ms=10, mec="white")
        least, most = number(group["value"].min()), number(group["value"].max())
        annotate(axes, _range(least, most), (1.18, row), va="center_baseline")
        allowed = (_range(number(low), number(high)) if high < 1e9 else
                   tr("{low} or more", low=number(low)))
        annotate(axes, f"({allowed})", (1.72, row), va="center_baseline", color=GREY)
        names.append(name + f" ({len(group)})" * (len(group) > 1))
    axes.set(xticks=[], xlim=(-0.15, 2.1), frame_on=False)
    row_names(axes, names)
    for label in axes.get_yticklabels():
        if label.get_text() in map(tr, CHECKED):
            label.set_weight("bold")
    return figure


def _range(low: str, high: str) -> str:
    return low if low == high else tr("{low} to {high}", low=low, high=high)


BOXES = {  # fill: (x and y of the middle in inches, text) of each
    PALE: [(0.82, 2.95, mark("the shop's\norders"))],
    "white": [
        (2.72, 4.4, "labels_\ncustomer_churn"), (2.72, 1.5, "features_\ncustomer"),
        (4.15, 2.95, "train_dataset"), (5.88, 4.4, "data_load"), (6.98, 4.4, "train"),
        (7.86, 4.4, "eval")],
    "#CFE4F2": [(9.05, 4.4, mark("Model\nRegistry")), (10.33, 4.4, mark("Endpoint"))],
    "#CDEBE1": [
        (5.95, 1.5, mark("Feature\nGroup")), (7.28, 1.5, mark("Feature\nView")),
        (8.92, 1.5, mark("Online\nStore"))],
    "#FBE3C8": [
        (7.2, 2.95, "customer_id"), (8.92, 2.95, mark("fetch")), (10.33, 2.95, mark("predict")),
        (10.33, 1.5, mark("churn\nprobability"))]}
AREAS = [  # left, bottom, width, height, name of a frame around some boxes
    (1.66, 0.9, 3.34, 4.25, "BigQuery"), (5.24, 3.85, 3.15, 1.3, mark("components: an image each")),
    (5.24, 0.9, 4.36, 1.35, mark("Feature Store"))]
ARROWS = """orders-labels orders-features labels-train_dataset features-train_dataset
    train_dataset-data_load data_load-train train-eval eval-Registry Registry-Endpoint
    features-Group Group-View View-Store customer_id-fetch Store-fetch fetch-predict
    Endpoint-predict predict-probability""".split()
WORDS = [  # x, y, text beside an arrow
    (1.25, 3.75, "SQL"), (2.6, 2.95, mark("point-in-time\njoin")), (8.1, 1.66, mark("sync")),
    (8.28, 2.43, mark("newest row")), (9.85, 3.66, mark("the model"))]


@styled
def architecture() -> Chart:
    """The parts of the demo and what flows between them."""
    figure, axes = new_figure(
        tr("One table of features feeds both the training and the prediction"),
        tr("Top: from history to a model. Bottom: the same table, served. Middle: one request"),
        5.6)
    figure.set_layout_engine("none")
    axes.set(xlim=(0, 11), ylim=(0.7, 5.35), position=(0, 0, 1, 4.65 / 5.6))
    axes.set_axis_off()
    corners, boxes = "round,pad=0,rounding_size=0.08", {}
    for left, bottom, width, height, name in AREAS:
        area = FancyBboxPatch((left, bottom), width, height, corners, ec=PALE, fc="#F7F7F7")
        axes.add_patch(area)
        axes.text(left + 0.12, bottom + height - 0.08, tr(name), color=GREY, va="top")
    for fill, x, y, text in ((fill, *box) for fill, group in BOXES.items() for box in group):
        shown = tr(text)
        width = 0.26 + 0.09 * max(map(letters, shown.split("\n")))
        box = FancyBboxPatch((x - width / 2, y - 0.32), width, 0.64, corners, fc=fill, ec=GREY)
        axes.add_patch(box)
        axes.text(x, y, shown, ha="center", va="center")
        boxes |= {word.strip("_"): ((x, y), box) for word in text.split("\n")}
    for (a, box_a), (b, box_b) in ((boxes[w] for w in arrow.split("-")) for arrow in ARROWS):
        axes.annotate("", b, a, arrowprops={
            "arrowstyle": "-|>", "fc": INK, "mutation_scale": 15, "patchA": box_a, "patchB": box_b})
    for x, y, text in WORDS:
        axes.text(x, y, tr(text), color=BLUE, ha="center", va="center")
    return figure


# State of a step, by the service's name -> fill, symbol and word.
STATES = {
    "SUCCEEDED": ("#D8ECE5", mark("\u2713 succeeded")),
    "SKIPPED": ("#D6E9F5", mark("\u21ba from cache")),
    "NOT_TRIGGERED": ("#F7F7F7", mark("\u2013 not triggered")),
    "FAILED": ("#F8DDC9", mark("\u2717 failed"))}


@styled
def pipeline_graph(states: Mapping[str, str]) -> Chart:
    """The steps of the training pipeline in order, each with its state; the gate before the last.

    states: step name -> state name (SUCCEEDED, SKIPPED, NOT_TRIGGERED, FAILED, ...).
    """
    steps = list(require_some(states, "steps"))
    passed = states[steps[-1]] in ("SUCCEEDED", "SKIPPED")
    figure, axes = new_figure(
        tr("The model passed the gate") if passed else
        tr("The model did not pass: nothing is registered"),
        tr("Steps of the pipeline job, each in its own container image; the last runs only if eval "
           "passes the model"), 2.4)
    figure.set_layout_engine("none")
    axes.set(xlim=(0, 11), ylim=(0, 1.6), position=(0, 0, 1, 1.6 / 2.4))
    axes.set_axis_off()
    gap = 10 / len(steps)
    for i, step in enumerate(steps):
        x, (fill, word) = 0.5 + gap * (i + 0.5), STATES.get(
            states[step], ("#FFFFFF", states[step].lower()))
        corners = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((x - 0.85, 0.4), 1.7, 0.9, corners, fc=fill, ec=GREY))
        axes.text(x, 1.0, step, ha="center", va="center", weight="bold")
        axes.text(x, 0.66, tr(word), ha="center", va="center", color=GREY)
        if i:
            axes.annotate("", (x - 0.87, 0.85), (x - gap + 0.87, 0.85), arrowprops={
                "arrowstyle": "-|>", "fc": INK, "mutation_scale": 15})
    axes.text(0.5 + gap * (len(steps) - 1), 1.05, tr("gate"), color=BLUE, ha="center")
    return figure
