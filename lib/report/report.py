"""Make the pages of a finished run: report.html, slides.html and 요약.md, each one file.

    python -m lib.report [report|slides] [--run runs/latest] [--compare]

The pages load nothing: pictures are inlined, and a content security policy makes the browser
refuse everything else. A run of only some stages gives a page that says what was not measured.
Exit status: 0 written, 1 no such run, 2 a bad command line.
"""

import argparse
import base64
import functools
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup

from lib import stages
from lib.report import facts, plan
from lib.report.notebook_html import (
    Book,
    chart_picture,
    hide_paths,
    markdown,
    read_books,
    unlink,
)

MOST_SLIDES = 20
OWN_SLIDES = 6  # title, findings, architecture, summary, costs, next: slides.html.j2
DECK = "deck"  # the tag of a cell that goes into the slides
LONG = 12  # rows of a table above which a slide shows it smaller


def build(folder: Path | str, compare: bool = False) -> Path:
    """Write report.html and 요약.md into a run's folder; the path of report.html.

    compare: with what the newest run on other data promised and kept, side by side.

    Raises:
        lib.report.facts.NoRun: there is no summary.json in the folder, or nothing to compare.
    """
    folder = Path(folder)
    known = facts.read(folder)
    summary = template("summary.ko.md.j2").render(known, short=False)
    (folder / "요약.md").write_text(summary, encoding="utf-8")
    page = template("report.html.j2").render(
        known, books=read_books(folder), architecture=architecture(), plan=planned(known["run"]),
        compared=facts.side_by_side(folder) if compare else [],
        summary_ko=markdown(summary, "ko", 1))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def slides(folder: Path | str) -> Path:
    """Write slides.html, at most MOST_SLIDES, into a run's folder; its path.

    Raises:
        lib.report.facts.NoRun: there is no summary.json in the folder.
    """
    folder = Path(folder)
    known = facts.read(folder)
    summary = template("summary.ko.md.j2").render(known, short=True)
    script = template("slides.js").render()
    page = template("slides.html.j2").render(
        known, script=Markup(script), architecture=architecture(),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary_ko=markdown(summary, "ko", 0),
        slides=deck(read_books(folder), MOST_SLIDES - OWN_SLIDES))
    (folder / "slides.html").write_text(page, encoding="utf-8")
    return folder / "slides.html"


def after_run(folder: Path | str) -> list[str]:
    """Make both pages at the end of a run; one line each to print. Never raises."""
    lines = []
    for make, name in ((build, "report.html"), (slides, "slides.html")):
        try:
            lines.append(f"{name}: {hide_paths(str(make(folder)))}")
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
    """At most `most` slides (book, heading, parts) of the cells tagged `deck`.

    A cell that starts a slide in the notebook starts one here; the ones after it (slide type
    "-" or fragment) join it. A run whose notebooks have no such tag gives its charts instead.
    """
    tagged = any(DECK in cell.tags for book in books for cell in book.cells)
    found: list[dict] = []
    for book in books:
        current = None
        for cell in book.cells:
            if cell.slide == "skip" or not (DECK in cell.tags if tagged else cell.chart):
                continue
            starts = cell.slide in ("slide", "subslide") or not tagged
            if current is None or starts or current["heading"] != cell.heading:
                current = {"book": book.title, "heading": cell.heading, "parts": []}
                found.append(current)
            current["parts"].append(_on_slide(cell.html))
    step = max(1.0, len(found) / most)  # too many: a choice from the first to the last
    return [found[int(n * step)] for n in range(min(most, len(found)))]


def _on_slide(html: Markup) -> Markup:
    """Without the heading, which the slide has, and without log lines beside a result."""
    html = unlink(html)
    html = re.sub(r"^\s*<h[1-6][^>]*>.*?</h[1-6]>", "", html, count=1, flags=re.S)
    if "<figure" in html or '<div class="table' in html:
        html = re.sub(r'<pre class="log">.*?</pre>', "", html, flags=re.S)
    if html.count("<tr") > LONG:
        html = html.replace('<div class="table', '<div class="table long')
    return Markup(html)


@functools.cache
def architecture() -> Markup:
    """The picture of what is built."""
    from lib.charts import walk

    return chart_picture(walk.architecture())


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder; values are escaped in HTML only."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        lstrip_blocks=True, autoescape=lambda name: ".html" in name,
        undefined=jinja2.StrictUndefined)
    environment.filters["number"] = facts.number
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
    options = parser.parse_args(arguments)
    try:
        page = (build(options.run, options.compare) if options.what == "report"
                else slides(options.run))
    except facts.NoRun as error:
        print(hide_paths(str(error)), file=sys.stderr)
        return 1
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    return 0
