"""The drawing kit of every chart: palette, style, and helpers.

A `Chart` is a Figure that pyplot does not know, so that a cell shows it once. The same input
gives the same bytes.
"""

import dataclasses
import functools
import importlib.util
import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import dates as mdates
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox
from pandas import DataFrame
from PIL import Image

from lib.language import current, day

# Okabe and Ito's palette, distinct with any kind of colour vision; a marker or a text always says
# the same. Orange: churned, wrong, the future. Blue: came back, right, the past.
ORANGE, BLUE, AMBER, SKY, GREEN = "#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#009E73"
PURPLE = "#CC79A7"
DARK_ORANGE = "#B34700"  # of text: contrast 5.5 on white, where ORANGE has 3.9 (WCAG asks for 4.5)
INK, GREY, PALE, BROWN = "#222222", "#666666", "#E4E4E4", "#8A5A00"
BASE = {"color": GREY, "linewidth": 1.5, "linestyle": (0, (5, 3))}  # a line to compare with
WIDTH, DPI = 11, 240  # inches, dots per inch
TITLE, SUBTITLE = 78, 118  # characters of a line

STYLE = {
    "font.family": ["DejaVu Sans"], "font.size": 12, "axes.titlesize": 12, "lines.linewidth": 2.5,
    "text.color": INK, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY,
    "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.xmargin": 0.02, "xtick.major.pad": 7,
    "xtick.major.size": 0, "ytick.major.size": 0, "svg.hashsalt": "chart"}
HANGUL_WIDTH = 1.6  # of a syllable, in average letters
HANGUL_SPACING = 1.3  # of lines; at the usual 1.2 those of the Korean font nearly touch


def styled(draw):
    """A decorator: draw in this style, whatever the user's own settings are, and with a font for
    the chosen language."""
    @functools.wraps(draw)
    def in_style(*args, **options):
        with style.context(["default", STYLE, _font()]):
            return draw(*args, **options)

    return in_style


def _font() -> dict[str, list[str]]:
    """For Korean a font with Hangul; the signs that it lacks come from the English one."""
    return {"font.family": [_hangul(), *STYLE["font.family"]]} if current() == "ko" else {}


def hangul_fonts() -> dict[int, str]:
    """Weight -> file. Of koreanize-matplotlib only the files: Python 3.12 cannot import it."""
    package = importlib.util.find_spec("koreanize_matplotlib").submodule_search_locations[0]
    return {400: f"{package}/fonts/NanumGothic.ttf", 700: f"{package}/fonts/NanumGothicBold.ttf"}


@functools.cache
def _hangul() -> str:
    """The font's name."""
    fonts = font_manager.fontManager
    for weight, file in hangul_fonts().items():
        fonts.addfont(file)  # takes the bold one for 600, and warns of it
        fonts.ttflist[-1] = dataclasses.replace(fonts.ttflist[-1], weight=weight)
    return fonts.ttflist[-1].name


class Chart(Figure):
    """A Figure that Jupyter shows without pyplot, and describes by its title."""

    @styled
    def draw(self, renderer):
        self._lay_out()
        super().draw(renderer)

    def _lay_out(self) -> None:
        """Once: a second drawing is the same, and savefig draws a first time to lay out."""
        if current() == "ko":
            for text in self.findobj(Text):
                if "\n" in text.get_text():
                    text.set_linespacing(HANGUL_SPACING)
        if engine := self.get_layout_engine():
            engine.execute(self)
        self.set_layout_engine(None)

    def _repr_png_(self) -> bytes:
        """Sharp on a screen of 3,840 pixels; with a palette of 256 colours a third as large."""
        canvas, buffer = FigureCanvasAgg(self), io.BytesIO()
        canvas.draw()
        # Most pixels equal the one to their left. The palette is made of the others: an eighth of
        # the time for the same colours.
        drawn = np.asarray(canvas.buffer_rgba())
        pixels = drawn.view("u4").ravel()
        begins = np.flatnonzero(np.append(True, pixels[1:] != pixels[:-1]))
        others = Image.fromarray(pixels[begins].view("u1").reshape(1, -1, 4)).convert("RGB")
        others = others.quantize(256, dither=Image.Dither.NONE)
        colours = np.repeat(np.asarray(others), np.diff(begins, append=pixels.size))
        picture = Image.fromarray(colours.reshape(drawn.shape[:2]))
        picture.putpalette(others.getpalette())
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    @styled
    def svg(self) -> str:
        """The chart without its title, for a page whose heading says it; text as outlines."""
        title, buffer = self.texts[0], io.StringIO()
        self._lay_out()
        top = title.get_window_extent().y0 / self.dpi - 0.02
        title.set_visible(False)
        self.savefig(buffer, format="svg", metadata={"Date": None},
                     bbox_inches=Bbox.from_extents(0, 0, self.get_figwidth(), top))
        title.set_visible(True)
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"<Figure: {' '.join(self.texts[0].get_text().split())}>"


def new_figure(finding: str, subtitle: str, height: float = 5.0, *grid: int, **options):
    """(Chart, its axes): the finding and the subtitle, wrapped, above a grid of axes.

    height: inches, with a subtitle of one line; each further line adds to it.
    """
    title, below = _wrap(finding, TITLE), _wrap(subtitle, SUBTITLE)
    more = 0.22 * below.count("\n")
    height += more
    figure = Chart(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    under = 0.17 + 0.27 * (title.count("\n") + 1)
    figure.text(0.012, 1 - 0.12 / height, title, size=16, weight="bold", va="top")
    figure.text(0.012, 1 - under / height, below, color=GREY, va="top")
    room = (0.008, 0.01, 0.98, 1 - (under + 0.36 + more) / height)
    figure.get_layout_engine().set(rect=room, h_pad=0.06, w_pad=0.06)
    return figure, figure.subplots(*grid, **options)


def letters(text: str) -> float:
    """The width of a line in Latin letters of average width."""
    return len(text) + (HANGUL_WIDTH - 1) * sum("가" <= letter <= "힣" for letter in text)


def _wrap(text: str, width: int) -> str:
    """Lines of about equal length, at most `width` Latin letters wide."""
    width = int(width * len(text) / letters(text))
    count = math.ceil(len(text) / width)
    return textwrap.fill(text, min(width, math.ceil(len(text) / count) + 8 * (count > 1)),
                         break_on_hyphens=False)


def annotate(axes: Axes, text: str, xy: tuple, dx: float = 0, dy: float = 0, **options) -> None:
    """Text dx and dy points from xy; coloured text is bold."""
    weight = "normal" if options.get("color", INK) in (INK, GREY) else "bold"
    if options.get("color") == ORANGE:
        options["color"] = DARK_ORANGE
    axes.annotate(text, xy, (dx, dy), textcoords="offset points", weight=weight, **options)


def row_names(axes: Axes, names: Sequence[str]) -> None:
    """Names along y, from the top down."""
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.6)


def ticks(axes: Axes, percent: str = "", **counts: int) -> None:
    """About this many ticks along x= and y=, in percent or with a comma for thousands."""
    for name, count in counts.items():
        axis, share = getattr(axes, name + "axis"), name in percent
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(
            lambda v, _, share=share: f"{100 * v:.4g}%" if share else f"{round(v, 9):,.9g}"))


def date_axis(axes: Axes, **options) -> None:
    """Days along x; `options` go to axes.set."""
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=3, maxticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: day(mdates.num2date(value))))
    axes.set(**options)


def require_some(values, what: str):
    """`values`; ValueError if they are empty or 0."""
    if (len(values) if hasattr(values, "__len__") else values) == 0:
        raise ValueError(f"nothing to draw: no {what}")
    return values


def require_columns(frame: DataFrame, what: str, *columns: str) -> None:
    for column in columns:
        require_some(frame.get(column, ()), f"{what} with column {column}")


def series_of(curves: Mapping, name: str, keys: str) -> list[np.ndarray]:
    part = curves.get(name) or {}
    return [np.asarray(require_some(part.get(key, ()), f"{key} in {name}")) for key in keys.split()]


def to_times(values) -> pd.DatetimeIndex:
    """Dates or timestamps of any zone, in UTC."""
    return pd.DatetimeIndex(pd.to_datetime(list(values), utc=True)).tz_localize(None)
