"""How long a run should take on Google: the plan of config.yaml, what decides its end, a chart.

Nothing here was timed on Google. The plan says of each step on what its minutes rest, and a run's
own seconds are shown beside it, never mixed in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lib.charts.style import (
    BASE,
    BLUE,
    GREY,
    INK,
    Chart,
    annotate,
    new_figure,
    require_some,
    row_names,
    styled,
    ticks,
)
from lib.config import PlannedStep

LIMIT = 20  # minutes that the demo may take on Google
LONGEST = 12  # measured steps that are drawn
SLIVERS = 0.1  # steps that fill less of a run's time would be drawn too thin to see
SLACK = "#A9A9A9"  # a step that could take longer without moving the end
HATCH = "////"  # an assumed duration


@dataclass(frozen=True)
class Bar:
    """A planned step, and when it runs: minutes since the run began."""

    step: PlannedStep
    start: float
    end: float


@dataclass(frozen=True)
class Timed:
    """What one step of a run took, in seconds; started counts from the run's start.

    background: from its start in one stage until a later one had waited for it.
    """

    stage: str
    name: str
    started: float | None
    seconds: float
    background: bool = False


# -- the plan --------------------------------------------------------------------------------


def schedule(steps: Sequence[PlannedStep], early: bool = True) -> list[Bar]:
    """When each step of the plan runs.

    early: steps in the background start at their place in the list; False: only where the first
    other step waits for them, which then stands still meanwhile.

    It is the notebook that starts a step in the background: until that can start, it goes no
    further.
    """
    bars, ends, free = [], {}, 0.0
    for step in steps if early else _late(steps):
        start = max([free, *(ends[name] for name in step.after)])
        bars.append(Bar(step, start, start + step.minutes))
        ends[step.name] = bars[-1].end
        free = start if step.background else bars[-1].end
    return bars


def _late(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """The steps with those in the background moved, as ordinary ones, before who waits for them."""
    awaited = {name for step in steps for name in step.after}
    moved = {step.name: step for step in steps if step.background and step.name in awaited}
    placed: list[PlannedStep] = []

    def place(step: PlannedStep) -> None:
        for name in step.after:
            if name in moved:
                place(moved.pop(name).model_copy(update={"background": False}))
        placed.append(step)

    for step in [step for step in steps if step.name not in moved]:
        place(step)
    return placed


def again(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """The plan of a run that finds everything standing: what each run does anew."""
    return [step.model_copy(update={"after": []}) for step in steps if step.every_run]


def critical(bars: Sequence[Bar]) -> list[str]:
    """Names of the steps that decide the end, first to last: each starts as the one before ends."""
    chain: list[Bar] = []
    held = max(bars, key=lambda bar: bar.end, default=None)
    while held:
        chain.insert(0, held)
        held = next((bar for bar in _before(bars, held) if bar.end == held.start), None)
    return [bar.step.name for bar in chain]


def _before(bars: Sequence[Bar], bar: Bar) -> list[Bar]:
    """What a step waits for: all of `after`, its own and of those in the background above it,
    and the last step above it that holds others up."""
    above = bars[:bars.index(bar)]
    beside = [other for other in above if other.step.background]
    awaited = {name for one in (bar, *beside) for name in one.step.after}
    last = [other for other in above if not other.step.background][-1:]
    return [other for other in above if other.step.name in awaited] + last


def total(bars: Sequence[Bar]) -> float:
    """Minutes until the last step is done."""
    return max((bar.end for bar in bars), default=0.0)


# -- what a run measured ---------------------------------------------------------------------


def measured(summary: Mapping) -> list[Timed]:
    """Each timed step of a run, and each background one that was waited for, in order.

    Empty for a summary.json from before steps were timed.
    """
    stages = summary.get("stages") or []
    found = [Timed(stage["name"], step["name"], step.get("started"), step["seconds"])
             for stage in stages for step in stage.get("steps") or []
             if step["status"] != "started"]  # a start takes no time worth a bar
    begun = {step["name"]: stage["name"] for stage in stages for step in stage.get("steps") or []
             if step["status"] == "started"}
    return found + [
        Timed(begun.get(one["name"], ""), one["name"], one["started"], one["seconds"], True)
        for one in summary.get("background") or [] if one["seconds"] is not None]


def between(summary: Mapping) -> float | None:
    """Seconds of a run that lie in none of its steps: notebooks start, read tables, draw.

    None if its steps were not timed, or a stage of it is not over.
    """
    spent = [one.seconds for one in measured(summary) if not one.background]
    over = all(stage["status"] not in ("running", "failed") for stage in summary.get("stages", ()))
    return max(0.0, summary["seconds"] - sum(spent)) if spent and over else None


# -- the chart -------------------------------------------------------------------------------


@styled
def chart(steps: Sequence[PlannedStep], summary: Mapping | None = None) -> Chart:
    """The plan as bars over minutes; below, a run's longest steps over seconds, if it timed any.

    summary: of a run, as in summary.json.
    """
    bars = schedule(require_some(steps, "planned steps"))
    shown = _shown(measured(summary or {}))
    heights = [0.27 * len(bars) + 0.5] + [0.27 * len(shown) + 0.6] * bool(shown)
    untimed = "" if timed(steps) else "; no minute of it was timed on Google"
    figure, grid = new_figure(
        finding(steps), f"A plan, in minutes{untimed}. Dashed: the limit of {LIMIT} minutes",
        sum(heights) + 1.9, len(heights), 1, squeeze=False, height_ratios=heights)
    _gantt(grid[0, 0], bars)
    if shown:
        _seconds(grid[1, 0], shown, (summary or {}).get("target", "local"))
    figure.legend(handles=_legend(bars), loc="outside lower center", ncols=4, frameon=False)
    return figure


def finding(steps: Sequence[PlannedStep]) -> str:
    """The plan in a sentence: both totals, and whether it is more than the limit."""
    # Rounded up: 20.4 would read as 20, and over the limit of 20.
    early, late = (math.ceil(round(total(schedule(steps, way)), 6)) for way in (True, False))
    over = f": over the limit of {LIMIT}" if early > LIMIT else ""
    return f"Planned: {early} min on Google, {late} without the early start{over}"


def finding_again(steps: Sequence[PlannedStep]) -> str:
    """What a run takes that finds everything standing, in a sentence."""
    minutes = math.ceil(round(total(schedule(again(steps))), 6))
    return f"Once all of it stands, a run is planned at {minutes} min"


def timed(steps: Sequence[PlannedStep]) -> bool:
    """Whether any of the plan's minutes were measured."""
    return any(step.basis == "measured" for step in steps)


def _gantt(axes: Axes, bars: Sequence[Bar]) -> None:
    """One row per step, those in the background on top; the chain that decides the end is blue."""
    rows = sorted(bars, key=lambda bar: not bar.step.background)
    deciding, place = critical(bars), {bar.step.name: row for row, bar in enumerate(rows)}
    ends = {bar.step.name: bar.end for bar in bars}
    for row, bar in enumerate(rows):
        colour = BLUE if bar.step.name in deciding else SLACK
        axes.barh(row, bar.step.minutes, left=bar.start, height=0.72, color=colour, linewidth=0,
                  edgecolor="white", hatch=HATCH * (bar.step.basis == "assumed"))
        annotate(axes, f"{bar.step.minutes:g}", (bar.end, row), 6, va="center_baseline",
             color=BLUE if colour == BLUE else GREY)
        for name in bar.step.after:  # drawn only where the step really stood and waited
            if bar.start == ends[name]:
                axes.vlines(bar.start, place[name], row - 0.36, color=BLUE, linewidth=1.2)
    axes.axvline(LIMIT, zorder=0, **{**BASE, "color": INK})
    axes.set(xlim=(0, 1.06 * max(*ends.values(), LIMIT)), xlabel="minutes since the run began")
    row_names(axes, [_row(bar.step) for bar in rows])
    ticks(axes, x=10)


def _row(step: PlannedStep) -> str:
    """01 sql/01_prepare_bq.sql, without the ending."""
    beside = ", in the background" if step.background else ""
    return f"{step.stage[:2]} {step.name.removesuffix('.sql')}{beside}"


def _shown(found: Sequence[Timed]) -> list[Timed]:
    """The longest steps in the order of their starts, those in the background on top.

    By hand, hours may pass between two steps. They would be slivers then, and what goes on in the
    background would be as long as the pauses: the steps alone are shown, from 0, longest first.
    """
    alone = [one for one in found if not one.background]
    if alone and all(one.started is not None for one in found):
        span = max(one.started + one.seconds for one in alone) - min(o.started for o in alone)
        if sum(one.seconds for one in alone) >= SLIVERS * span:
            return sorted(_longest(found), key=lambda one: (not one.background, one.started))
    return [replace(one, started=None) for one in _longest(alone)]


def _longest(found: Sequence[Timed]) -> list[Timed]:
    return sorted(found, key=lambda one: -one.seconds)[:LONGEST]


def _seconds(axes: Axes, shown: Sequence[Timed], target: str) -> None:
    """What this run measured; apart from the plan, with an axis of its own."""
    place = "on the stand-in, not on Google" if target == "local" else "on Google Cloud"
    starts = [one.started or 0 for one in shown]
    axes.barh(range(len(shown)), [one.seconds for one in shown], left=starts, height=0.72,
              color=INK)
    for row, (one, start) in enumerate(zip(shown, starts, strict=True)):
        # Nobody looks when it is ready, only when it is needed: an upper bound.
        annotate(axes, f"{one.seconds:,.1f}{' at most' * one.background}", (start + one.seconds, row),
             6, va="center_baseline")
    row_names(axes, [f"{one.stage[:2]} {one.name.removesuffix('.sql')}"
                 + ", in the background" * one.background for one in shown])
    axes.set_title(f"Measured in this run, {place}", weight="bold", loc="left", color=INK)
    since = " since the run began" * (shown[0].started is not None)
    end = max(start + one.seconds for one, start in zip(shown, starts, strict=True))
    axes.set(xlim=(0, 1.2 * end or 1), xlabel=f"seconds{since}; the {len(shown)} longest steps")
    ticks(axes, x=8)


def _legend(bars: Sequence[Bar]) -> list[Patch]:
    solid = " or ".join(dict.fromkeys(
        bar.step.basis for bar in bars if bar.step.basis != "assumed"))
    told = [Patch(color=BLUE, label="decides the end"),
            Patch(color=SLACK, label="does not decide it"),
            Patch(facecolor=GREY, edgecolor="white", hatch=HATCH, linewidth=0, label="assumed")]
    return told + [Patch(color=GREY, label=solid)] * bool(solid)
