"""How long a run should take on Google: the plan of config.yaml, its critical path, a chart.

Nothing here was timed on Google. Each planned step says what its minutes are based on. A run's
own seconds are drawn in a panel of their own and never mixed with the plan.
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
from lib.language import mark, tr

LIMIT = 20  # our target: minutes that the demo may take on Google
LONGEST = 12  # measured steps that are drawn
BUSY = 0.1  # share of a run's time that its steps fill, below which bars are too thin to see
SLACK = "#A9A9A9"  # a step that could take longer without moving the end
HATCH = "////"  # an assumed duration


@dataclass(frozen=True)
class Bar:
    """A planned step, and when it runs: minutes since the start of the run."""

    step: PlannedStep
    start: float
    end: float


@dataclass(frozen=True)
class Timed:
    """What one step of a run took, in seconds; started counts from the run's start.

    background: from its start in one stage until a later stage had waited for it.
    """

    stage: str
    name: str
    started: float | None
    seconds: float
    background: bool = False


# -- the plan --------------------------------------------------------------------------------


def schedule(steps: Sequence[PlannedStep], early: bool = True) -> list[Bar]:
    """When each step of the plan runs.

    A notebook starts a background step and goes on; it blocks only until the step can start.

    early: background steps start at their place in the list. False: each runs in the foreground,
        just before the first step that waits for it.
    """
    bars, ends, free = [], {}, 0.0
    for step in steps if early else _late(steps):
        start = max([free, *(ends[name] for name in step.after)])
        bars.append(Bar(step, start, start + step.minutes))
        ends[step.name] = bars[-1].end
        free = start if step.background else bars[-1].end
    return bars


def _late(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """The steps with each awaited background step moved to just before the first that waits."""
    awaited = {name for step in steps for name in step.after}
    moved = {step.name: step for step in steps if step.background and step.name in awaited}
    ordered: list[PlannedStep] = []

    def append(step: PlannedStep) -> None:
        for name in step.after:
            if name in moved:
                append(moved.pop(name).model_copy(update={"background": False}))
        ordered.append(step)

    for step in [step for step in steps if step.name not in moved]:
        append(step)
    return ordered


def rerun(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """The plan of a run that reuses every resource: only the steps that each run does."""
    return [step.model_copy(update={"after": []}) for step in steps if step.every_run]


def critical(bars: Sequence[Bar]) -> list[str]:
    """The critical path, first to last: names of steps that each start as the one before ends."""
    path: list[Bar] = []
    bar = max(bars, key=lambda bar: bar.end, default=None)
    while bar:
        path.insert(0, bar)
        bar = next((other for other in _awaited(bars, bar) if other.end == bar.start), None)
    return [bar.step.name for bar in path]


def _awaited(bars: Sequence[Bar], bar: Bar) -> list[Bar]:
    """The bars that a step waits for: those in its own `after` and in the `after` of background
    steps above it, and the last foreground step above it."""
    above = bars[:bars.index(bar)]
    background = [other for other in above if other.step.background]
    names = {name for one in (bar, *background) for name in one.step.after}
    last = [other for other in above if not other.step.background][-1:]
    return [other for other in above if other.step.name in names] + last


def total(bars: Sequence[Bar]) -> float:
    """Minutes until the last step is done."""
    return max((bar.end for bar in bars), default=0.0)


def finding(steps: Sequence[PlannedStep]) -> str:
    """The plan in a sentence: both totals, and whether the first is over the target."""
    early, late = minutes(schedule(steps)), minutes(schedule(steps, early=False))
    sentence = (
        mark("Planned: {early} min on Google, {late} without the early start: over our target of "
             "{limit}") if early > LIMIT else
        mark("Planned: {early} min on Google, {late} without the early start"))
    return tr(sentence, early=early, late=late, limit=LIMIT)


def rerun_finding(steps: Sequence[PlannedStep]) -> str:
    """The plan of a run that reuses every resource, in a sentence."""
    return tr("Once every resource exists, a run is planned at {minutes} min",
              minutes=minutes(schedule(rerun(steps))))


def minutes(bars: Sequence[Bar]) -> int:
    """The total, rounded up: 20.4 as 20 would hide that it is over a limit of 20."""
    return math.ceil(round(total(bars), 6))


def timed(steps: Sequence[PlannedStep]) -> bool:
    """Whether any of the plan's minutes were measured."""
    return any(step.basis == "measured" for step in steps)


# -- what a run measured ---------------------------------------------------------------------


def measured(summary: Mapping) -> list[Timed]:
    """The timed steps of a run in order, then the background steps that were waited for.

    Empty for a summary.json without timed steps.
    """
    steps = [(stage["name"], step) for stage in summary.get("stages") or []
             for step in stage.get("steps") or []]
    starts = {step["name"]: stage for stage, step in steps if step["status"] == "started"}
    return [
        *(Timed(stage, step["name"], step.get("started"), step["seconds"])
          for stage, step in steps if step["status"] != "started"),
        *(Timed(starts.get(step["name"], ""), step["name"], step["started"], step["seconds"], True)
          for step in summary.get("background") or [] if step["seconds"] is not None)]


def between(summary: Mapping) -> float | None:
    """Seconds of a run outside its steps: starting notebooks, reading tables, drawing charts.

    None if the steps were not timed, or if a stage is running or failed.
    """
    spent = [step.seconds for step in measured(summary) if not step.background]
    over = all(stage["status"] not in ("running", "failed") for stage in summary.get("stages", ()))
    return max(0.0, summary["seconds"] - sum(spent)) if spent and over else None


# -- the chart -------------------------------------------------------------------------------


@styled
def chart(steps: Sequence[PlannedStep], summary: Mapping | None = None) -> Chart:
    """The plan as bars over minutes; below, the longest steps of a run over seconds, if timed.

    summary: of a run, as in summary.json.
    """
    bars = schedule(require_some(steps, "planned steps"))
    longest = _longest(measured(summary or {}))
    heights = [0.27 * len(bars) + 0.5] + [0.27 * len(longest) + 0.6] * bool(longest)
    subtitle = (
        mark("A plan, in minutes. Dashed: our target of {limit} minutes") if timed(steps) else
        mark("A plan, in minutes; no minute of it was timed on Google. Dashed: our target of "
             "{limit} minutes"))
    figure, grid = new_figure(
        finding(steps), tr(subtitle, limit=LIMIT),
        sum(heights) + 1.9, len(heights), 1, squeeze=False, height_ratios=heights)
    _draw_plan(grid[0, 0], bars)
    if longest:
        _draw_measured(grid[1, 0], longest, (summary or {}).get("target", "local"))
    figure.legend(handles=_legend(bars), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_plan(axes: Axes, bars: Sequence[Bar]) -> None:
    """One row per step, background steps on top; the critical path is blue."""
    rows = sorted(bars, key=lambda bar: not bar.step.background)
    path, row_of = critical(bars), {bar.step.name: row for row, bar in enumerate(rows)}
    ends = {bar.step.name: bar.end for bar in bars}
    for row, bar in enumerate(rows):
        decides = bar.step.name in path
        axes.barh(row, bar.step.minutes, left=bar.start, height=0.72, linewidth=0,
                  color=BLUE if decides else SLACK, edgecolor="white",
                  hatch=HATCH * (bar.step.basis == "assumed"))
        annotate(axes, f"{bar.step.minutes:g}", (bar.end, row), 6, va="center_baseline",
                 color=BLUE if decides else GREY)
        for name in bar.step.after:  # only where the step really waited
            if bar.start == ends[name]:
                axes.vlines(bar.start, row_of[name], row - 0.36, color=BLUE, linewidth=1.2)
    axes.axvline(LIMIT, zorder=0, **{**BASE, "color": INK})
    axes.set(xlim=(0, 1.06 * max(*ends.values(), LIMIT)), xlabel=tr("minutes since the run began"))
    row_names(axes, [_row(bar.step.stage, bar.step.name, bar.step.background) for bar in rows])
    ticks(axes, x=10)


def _row(stage: str, name: str, background: bool) -> str:
    """01 sql/01_prepare_bq for the step sql/01_prepare_bq.sql of 01_data."""
    step = f"{stage[:2]} {tr(name).removesuffix('.sql')}"
    return tr("{step}, in the background", step=step) if background else step


def _longest(steps: Sequence[Timed]) -> list[Timed]:
    """The longest steps in the order of their starts, background steps on top.

    A user who runs the notebooks by hand may pause for hours between two steps. The bars would
    then be too thin to see, so the foreground steps start at 0, longest first.
    """
    foreground = [step for step in steps if not step.background]
    if foreground and all(step.started is not None for step in steps):
        ends = [step.started + step.seconds for step in foreground]
        span = max(ends) - min(step.started for step in foreground)
        if sum(step.seconds for step in foreground) >= BUSY * span:
            longest = sorted(steps, key=lambda step: -step.seconds)[:LONGEST]
            return sorted(longest, key=lambda step: (not step.background, step.started))
    longest = sorted(foreground, key=lambda step: -step.seconds)[:LONGEST]
    return [replace(step, started=None) for step in longest]


def _draw_measured(axes: Axes, steps: Sequence[Timed], target: str) -> None:
    """What this run measured, in seconds."""
    starts = [step.started or 0 for step in steps]
    ends = [start + step.seconds for start, step in zip(starts, steps, strict=True)]
    axes.barh(range(len(steps)), [step.seconds for step in steps], left=starts, height=0.72,
              color=INK)
    for row, (step, end) in enumerate(zip(steps, ends, strict=True)):
        # A background step is only checked when it is needed: its time is an upper bound.
        most = mark("{seconds:,.1f} at most") if step.background else "{seconds:,.1f}"
        annotate(axes, tr(most, seconds=step.seconds), (end, row), 6, va="center_baseline")
    row_names(axes, [_row(step.stage, step.name, step.background) for step in steps])
    title = (mark("Measured in this run, on the stand-in, not on Google") if target == "local" else
             mark("Measured in this run, on Google Cloud"))
    axes.set_title(tr(title), weight="bold", loc="left", color=INK)
    unit = (mark("seconds; the {steps} longest steps") if steps[0].started is None else
            mark("seconds since the run began; the {steps} longest steps"))
    label = tr(unit, steps=len(steps))
    if any(step.background for step in steps):
        label += "\n" + tr("at most: its end is only seen once a notebook waits for it")
    axes.set(xlim=(0, 1.2 * max(ends) or 1), xlabel=label)
    ticks(axes, x=8)


def _legend(bars: Sequence[Bar]) -> list[Patch]:
    solid = ", ".join(dict.fromkeys(
        tr(bar.step.basis) for bar in bars if bar.step.basis != "assumed"))
    return [Patch(color=BLUE, label=tr("decides the end")),
            Patch(color=SLACK, label=tr("does not decide it")),
            Patch(facecolor=GREY, edgecolor="white", hatch=HATCH, linewidth=0,
                  label=tr("assumed")),
            *[Patch(color=GREY, label=solid)] * bool(solid)]
