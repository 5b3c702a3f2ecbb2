"""Executed notebooks as HTML for a page that opens from disk: nothing in it runs or loads."""

import base64
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import nbformat
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html, markdown2html_mistune

from lib import prose, stages
from lib.config import ROOT
from lib.language import current, tr

PARAMETERS = {"parameters", "injected-parameters"}  # tags of papermill's cells
ACTIVE = ("script", "style", "iframe", "object", "embed", "link", "meta", "base", "form")
HEADING = re.compile(r"^h[1-6]$")


@dataclass(frozen=True)
class CellView:
    """One cell as HTML: its prose or outputs, and its code. heading: the last one above it.

    slide: its slide type in the notebook. chart: whether an output is a picture.
    """

    html: Markup
    code: Markup
    heading: str
    slide: str
    tags: frozenset[str]
    chart: bool


@dataclass(frozen=True)
class Book:
    """One notebook. key: its file's stem. sections: (anchor, heading) of each h2."""

    key: str
    title: str
    cells: list[CellView]
    sections: list[tuple[str, str]]


def read_books(folder: Path) -> list[Book]:
    """The executed notebooks of a run, in order; one that cannot be read is left out.

    In another language than the run's their prose is that of the project's notebooks today.
    """
    books, language = [], current()
    same = (stages.read_summary(folder) or {}).get("language", "en") == language
    for path in sorted(folder.glob("0*_*.ipynb")):
        try:
            source = ROOT / "notebooks" / path.name
            translated = {} if same or not source.exists() else prose.read(source, language)
            books.append(read_book(path, translated))
        except (OSError, ValueError, nbformat.ValidationError) as error:
            print(f"{path.name} is left out of the report: {error}", file=sys.stderr)
    keys = {book.key for book in books}
    return [replace(book, cells=[replace(cell, html=unlink(cell.html, keys))
                                 for cell in book.cells]) for book in books]


def read_book(path: Path, translated: Mapping[str, str] = MappingProxyType({})) -> Book:
    """One executed notebook, without papermill's parameters.

    translated: cell id -> the Markdown to show instead of the cell's own.
    """
    key, title, heading = path.stem, path.stem, ""
    cells: list[CellView] = []
    sections: list[tuple[str, str]] = []
    for cell in nbformat.read(path, as_version=4).cells:
        tags = frozenset(cell.metadata.get("tags", ()))
        if tags & PARAMETERS or cell.cell_type == "raw" or not cell.source.strip():
            continue
        slide = cell.metadata.get("slideshow", {}).get("slide_type") or "-"
        if cell.cell_type == "code":
            html = Markup("").join(_outputs(cell.outputs, heading or title))
            code = Markup(Highlight2HTML(pygments_lexer="ipython3")(hide_paths(cell.source)))
            chart = any("image/png" in output.get("data", {}) for output in cell.outputs)
            cells.append(CellView(html, code, heading, slide, tags, chart))
            continue
        shown = _markdown(translated.get(cell.id, cell.source), key, 2)
        first = shown.find(HEADING)
        if first:
            heading = first.get_text(" ", strip=True)
            if first.name == "h3":  # level 1 in the notebook: the page shows it as the title
                title = heading
                first.decompose()
            elif first.name == "h4":
                sections.append((first["id"], heading))
        cells.append(CellView(Markup(shown), Markup(""), heading, slide, tags, False))
    return Book(key, title, cells, sections)


def unlink(html: Markup, keys: Collection[str] = ()) -> Markup:
    """Replace links inside the page by their text, except those to the notebooks `keys`."""
    def keep(link: re.Match) -> str:
        return link[0] if link[1] in keys else link[2]

    return Markup(re.sub(r'<a href="#([^"]*)">(.*?)</a>', keep, html, flags=re.S))


def markdown(text: str, key: str, shift: int) -> Markup:
    """Markdown as HTML. key: first part of the headings' anchors, which go `shift` levels down."""
    return Markup(_markdown(text, key, shift))


def picture(png: str, words: str) -> Markup:
    """A figure with an inlined PNG (base64), described by `words`."""
    return Markup(
        '<figure class="chart"><div class="scroll"><img src="data:image/png;base64,{}" alt="{}">'
        "</div><figcaption>{}</figcaption></figure>").format("".join(png.split()), words, words)


def chart_picture(chart) -> Markup:
    """A lib.charts.style.Chart, inlined and described by its title."""
    return picture(base64.b64encode(chart._repr_png_()).decode(), _chart_title(repr(chart)))


def chart_svg(chart) -> Markup:
    """A lib.charts.style.Chart without its title, sharp at any size, and described by its title."""
    return Markup(
        '<figure class="chart"><div class="scroll"><img src="data:image/svg+xml;base64,{}" '
        'alt="{}"></div></figure>').format(
            base64.b64encode(chart.svg().encode()).decode(), _chart_title(repr(chart)))


def hide_paths(text: str) -> str:
    """Without this machine's folders, which mean nothing to another reader."""
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    return text.replace(f"{Path.home()}/", "~/")


# -- prose -----------------------------------------------------------------------------------


def _markdown(text: str, key: str, shift: int) -> BeautifulSoup:
    soup = _clean(markdown2html_mistune(text))
    for link in soup.find_all("a", class_="anchor-link"):
        link.decompose()
    for tag in soup.find_all(HEADING):
        words = tag.get_text(" ", strip=True).lower()
        tag["id"] = f"{key}-{re.sub(r'[^0-9a-z가-힣]+', '-', words).strip('-')}"
        tag.name = f"h{min(6, int(tag.name[1]) + shift)}"
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "table"}))
    return soup


def _clean(html: str) -> BeautifulSoup:
    """Parsed, without what runs or loads; links to notebooks lead to their place on the page."""
    soup = BeautifulSoup(hide_paths(html), "html.parser")
    for tag in soup.find_all(ACTIVE):
        tag.decompose()
    for tag in soup.find_all(True):
        loads = "url(" in tag.get("style", "")
        for name in [n for n in tag.attrs if n.startswith("on") or (n == "style" and loads)
                     or n in ("srcset", "background", "poster", "action")]:
            del tag[name]
    for tag in soup.find_all(src=True):
        if not tag["src"].startswith("data:image/"):
            tag.replace_with(tag.get("alt", ""))
    for link in soup.find_all("a", href=True):
        notebook = re.fullmatch(r"(\d\d_\w+)\.ipynb(#.*)?", link["href"])
        if notebook:
            link["href"] = f"#{notebook[1]}"
        elif not re.match(r"https?://|#", link["href"]):
            link.unwrap()  # a file beside the notebook is not beside this page
    return soup


# -- outputs ---------------------------------------------------------------------------------


def _outputs(outputs: list, heading: str) -> Iterator[Markup]:
    """HTML of each output; printed lines that follow one another become one block."""
    for printed, group in groupby(outputs, lambda output: output.output_type == "stream"):
        if printed:
            yield _text("".join(output.text for output in group), "log")
        else:
            yield from (_result(output, heading) for output in group)


def _result(output: Mapping, heading: str) -> Markup:
    """An error, or the richest form of a result that needs no script."""
    if output.output_type == "error":
        return _text("\n".join(output.traceback), "error")
    data, text = output.data, output.data.get("text/plain", "")
    if "image/png" in data:
        return picture(data["image/png"], _chart_title(text) or heading)
    if "application/vnd.jupyter.widget-view+json" in data:
        return Markup('<p class="aside">{}</p>').format(
            tr("This control works only in JupyterLab."))
    if "text/html" in data:
        return Markup('<div class="table">{}</div>').format(Markup(_clean(data["text/html"])))
    if "text/markdown" in data:
        return markdown(data["text/markdown"], "output", 3)
    return _text(text, "log")


def _chart_title(text: str) -> str:
    """The title in the text form of a chart, `<Figure: title>`; "" for other text."""
    found = re.fullmatch(r"<Figure: (.*)>", text.strip(), re.S)
    return found[1] if found else ""


def _text(text: str, kind: str) -> Markup:
    """Printed text as a block; nothing for blank text."""
    if not text.strip():
        return Markup("")
    shown = Markup(ansi2html(hide_paths(text.rstrip())))
    return Markup('<pre class="{}">{}</pre>').format(kind, shown)
