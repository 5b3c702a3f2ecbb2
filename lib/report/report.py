"""Make the pages of a finished run: report.html, slides.html and 요약.md, each one file.

    python -m lib.report [report|slides] [--run runs/latest] [--compare] [--lang ko]

The pages load nothing: pictures are inlined, and a content security policy makes the browser
refuse everything else. A run of only some stages gives a page that says what was not measured.
Exit status: 0 written, 1 no such run, 2 a bad command line.
"""

import argparse
import base64
import functools
import hashlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import jinja2
from bs4 import BeautifulSoup
from markupsafe import Markup

from lib import language, stages
from lib.charts import proof, walk
from lib.charts.style import hangul_fonts
from lib.language import tr
from lib.report import facts, plan
from lib.report.notebook_html import (
    Book,
    chart_picture,
    chart_svg,
    hide_paths,
    markdown,
    read_books,
    unlink,
)

CORE_SLIDES = 8  # core.html.j2
OWN_SLIDES = CORE_SLIDES + 3  # with the findings, costs and Korean summary: slides.html.j2
MOST_SLIDES = 26
DECK = "deck"  # the tag of a cell that goes into the slides
LONGEST = 13  # rows of a table that fit on a slide, with its head


def build(folder: Path | str, compare: bool = False, lang: str | None = None,
          shown: tuple[dict, list[Book]] | None = None) -> Path:
    """Write report.html and 요약.md into a run's folder; the path of report.html.

    compare: with what the newest run on other data promised and kept, side by side.
    lang: of the page, here and below; None: that of the run. 요약.md is always Korean.
    shown, here and below: what `read` returned for this folder; None: it is read now.

    Raises:
        lib.report.facts.NoRun: there is no summary.json in the folder, or nothing to compare.
    """
    folder = Path(folder)
    known, books = shown or read(folder, lang)
    summary = template("summary.ko.md.j2").render(known, short=False)
    (folder / "요약.md").write_text(summary, encoding="utf-8")
    return _write(
        folder, "report", known, books=books,
        architecture=chart_picture(walk.architecture()), plan=planned(known["run"]),
        compared=facts.side_by_side(folder) if compare else [],
        summary_ko=markdown(summary, "ko", 1))


def slides(folder: Path | str, lang: str | None = None,
           shown: tuple[dict, list[Book]] | None = None) -> Path:
    """Write slides.html, at most MOST_SLIDES, into a run's folder; its path.

    Raises:
        lib.report.facts.NoRun: there is no summary.json in the folder.
    """
    folder = Path(folder)
    known, books = shown or read(folder, lang)
    summary = template("summary.ko.md.j2").render(known, short=True)
    return _write(
        folder, "slides", known, charts=core_charts(known), summary_ko=markdown(summary, "ko", 0),
        slides=deck(books, MOST_SLIDES - OWN_SLIDES))


def read(folder: Path, lang: str | None = None) -> tuple[dict, list[Book]]:
    """The facts and the notebooks of a run, in the language `lang` or that of the run, which is
    used from now on.

    Raises:
        lib.report.facts.NoRun: there is no summary.json in the folder.
    """
    run = stages.read_summary(folder) or {}  # without one, facts.read says so
    language.use(lang or run.get("language", "en"))
    return facts.read(folder), read_books(folder)


def _write(folder: Path, name: str, known: Mapping, **shown: object) -> Path:
    """Write <name>.html from its template and its script; its path. The page's policy lets the
    script run by its digest."""
    script = template(f"{name}.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template(f"{name}.html.j2").render(
        known, script=Markup(script), digest=digest, **shown)
    (folder / f"{name}.html").write_text(with_hangul(page), encoding="utf-8")
    return folder / f"{name}.html"


def with_hangul(page: str) -> str:
    """The page with a font of its Korean letters, for a reader whose machine has none."""
    letters = "".join(sorted(set(re.findall("[\u3131-\u318e\uac00-\ud7a3]", page))))
    return page.replace("</style>", _font_of(letters) + "</style>", 1) if letters else page


@functools.cache
def _font_of(letters: str) -> str:
    """A CSS rule with the font Hangul (see style.css), cut down to these letters."""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=[])
    options.drop_tables += ["TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # of the font's editor
    font = subset.load_font(hangul_fonts()[400], options)
    cut = subset.Subsetter(options)
    cut.populate(text=letters)
    cut.subset(font)
    file = io.BytesIO()
    subset.save_font(font, file, options)
    data = base64.b64encode(file.getvalue()).decode()
    return f"@font-face {{ font-family: Hangul; src: url(data:font/woff;base64,{data}); }}\n"


def core_charts(known: Mapping) -> dict[str, Markup]:
    """The charts of the core slides as SVG, drawn from the run's figures."""
    drawn = {"architecture": walk.architecture()}
    if known["leakage"]:
        drawn["leakage"] = proof.leakage_promise(known["leakage"])
    if known["future"]:
        drawn["future"] = proof.future_let_in(known["future"])
    return {name: chart_svg(chart) for name, chart in drawn.items()}


def after_run(folder: Path | str) -> list[str]:
    """Make both pages at the end of a run; one line each to print. Never raises."""
    lines, shown = [], None
    for make, name in ((build, "report.html"), (slides, "slides.html")):
        try:
            shown = shown or read(Path(folder))
            lines.append(f"{name}: {hide_paths(str(make(folder, shown=shown)))}")
        except Exception as error:
            lines.append(f"{name} could not be made ({type(error).__name__}: {error}); "
                         "the run itself is complete")
    return lines


def planned(run: Mapping) -> dict | None:
    """The plan of a run on Google with this run's seconds; None if config.yaml cannot be used."""
    settings = facts.settings_of(run)
    if settings is None:
        return None
    steps = settings.plan
    return {
        "steps": steps, "finding": plan.finding(steps), "rerun": plan.rerun_finding(steps),
        "deciding": plan.critical(plan.schedule(steps)), "timed": plan.timed(steps),
        "measured": bool(plan.measured(run)), "between": plan.between(run),
        "picture": chart_picture(plan.chart(steps, run))}


def deck(books: list[Book], most: int) -> list[dict]:
    """At most `most` slides (book, heading, shown, notes) from the cells tagged `deck`.

    Each chart of a code cell is a slide; a table is one only where a cell has no chart. The prose
    above it becomes the presenter's notes: beside a chart it would be too small to read. A run
    whose notebooks have no such tag gives its charts instead.
    """
    tagged = any(DECK in cell.tags for book in books for cell in book.cells)
    found: list[dict] = []
    for book in books:
        prose: list[Markup] = []
        for cell in book.cells:
            if cell.slide == "skip" or not (DECK in cell.tags if tagged else cell.chart):
                continue
            if not cell.code:
                prose.append(_without_heading(cell.html))
                continue
            notes = Markup("").join(prose) or Markup("<p>{}</p>").format(
                tr("{heading}: see report.html.", heading=cell.heading))
            found += [{"book": book.title, "heading": cell.heading, "shown": shown, "notes": notes}
                      for shown in _on_slides(cell.html)]
            prose = []
    step = max(1.0, len(found) / most)  # too many: a choice from the first to the last
    return [found[int(n * step)] for n in range(min(most, len(found)))]


def _without_heading(html: Markup) -> Markup:
    """Prose without the heading, which the slide has."""
    return Markup(re.sub(r"^\s*<h[1-6][^>]*>.*?</h[1-6]>", "", unlink(html), count=1, flags=re.S))


def _on_slides(html: Markup) -> list[Markup]:
    """The charts of an output; without a chart its first table, with as many rows as fit."""
    soup = BeautifulSoup(unlink(html), "html.parser")
    if charts := soup.select("figure.chart"):
        return [Markup(chart) for chart in charts]
    tables = soup.select("div.table")[:1]
    for row in [row for table in tables for row in table.select("tr")[LONGEST:]]:
        row.decompose()
    return [Markup(table) for table in tables]


def _tr(sentence: str, /, **values: object) -> Markup:
    """language.tr for a template: a sentence may have tags, its values are escaped."""
    found = Markup(tr(sentence))
    return found.format(**values) if values else found


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder; values are escaped in HTML only."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        lstrip_blocks=True, autoescape=lambda name: ".html" in name,
        undefined=jinja2.StrictUndefined)
    environment.filters["number"] = facts.number
    environment.globals |= {"tr": _tr}
    return environment.get_template(name)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="report", choices=["report", "slides"])
    parser.add_argument("--run", type=Path, default=stages.RUNS / "latest", metavar="FOLDER",
                        help="a run's folder; default: runs/latest")
    parser.add_argument("--compare", action="store_true",
                        help="report: beside it what the newest run on other data promised and "
                             "kept")
    parser.add_argument("--lang", choices=language.LANGUAGES,
                        help="language of the page; default: that of the run. In another one than "
                             "the run's, the charts and tables of its notebooks stay as they were "
                             "drawn")
    options = parser.parse_args(arguments)
    try:
        page = (build(options.run, options.compare, options.lang) if options.what == "report"
                else slides(options.run, options.lang))
    except facts.NoRun as error:
        print(hide_paths(str(error)), file=sys.stderr)
        return 1
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    return 0
