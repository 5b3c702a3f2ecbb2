"""A finished run as pages: report.html, slides.html and 요약.md, each a file that opens from disk.

    python -m lib.report [report|slides] [--run runs/latest]

The pages load nothing: pictures are inlined, and a content security policy makes the browser
refuse whatever else a cell's output might ask for. A run that has only some stages gives a page
that says what was not measured. Exit status: 0 written, 1 no such run, 2 a bad command line.
"""

import argparse
import base64
import functools
import hashlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup

from lib import config, stages
from lib.config import ROOT
from lib.report import plan as run_plan

MOST_SLIDES = 20
OWN_SLIDES = 6  # title, findings, architecture, summary, costs, next: slides.html.j2
PARAMETERS = {"parameters", "injected-parameters"}  # cells of papermill's, not of the argument
DECK = "deck"  # the tag of a cell that goes into the slides
LONG = 12  # rows of a table above which a slide shows it smaller
SUMMARY_KO = "요약.md"
ACTIVE = ("script", "iframe", "object", "embed", "link", "meta", "base", "form")
NUMBER = re.compile(r"[-+]?[$]?[\d,]*\.?\d+(e[-+]?\d+)?\s?%?|NULL|nan|None", re.I)


class NoRun(LookupError):
    """The folder holds no summary.json."""


@dataclass(frozen=True)
class Part:
    """One cell, ready for a page: its prose or outputs, and its code (both HTML)."""

    html: Markup
    code: Markup = Markup("")
    heading: str = ""
    slide: str = "-"
    tags: frozenset[str] = frozenset()
    picture: bool = False


@dataclass(frozen=True)
class Book:
    """One executed notebook. key: its file's stem. sections: (anchor, heading) of each h2."""

    key: str
    title: str
    parts: list[Part]
    sections: list[tuple[str, str]] = field(default_factory=list)


# -- what is written -------------------------------------------------------------------------


def build(folder: Path | str) -> Path:
    """Write report.html and 요약.md into a run's folder; the path of report.html.

    Raises:
        NoRun: there is no summary.json in the folder.
    """
    folder = Path(folder)
    known = facts(folder)
    summary = _template("summary.ko.md.j2").render(known)
    (folder / SUMMARY_KO).write_text(summary, encoding="utf-8")
    page = _template("report.html.j2").render(
        known, books=books(folder), architecture=_architecture(), plan=plan(known["run"]),
        summary_ko=_prose(summary, "ko", 1))
    return _write(folder / "report.html", page)


def slides(folder: Path | str) -> Path:
    """Write slides.html, at most MOST_SLIDES, into a run's folder; its path.

    Raises:
        NoRun: there is no summary.json in the folder.
    """
    folder = Path(folder)
    known = facts(folder)
    summary = _template("summary.ko.md.j2").render(known, short=True)
    template = _template("slides.html.j2")
    script = re.search(r"<script>(.*?)</script>", template.render(known), re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template.render(
        known, digest=digest, architecture=_architecture(), summary_ko=_prose(summary, "ko", 0),
        slides=deck(books(folder), MOST_SLIDES - OWN_SLIDES))
    return _write(folder / "slides.html", page)


def after_run(folder: Path | str) -> list[str]:
    """Both pages, for lib/operate/run.py: one line each to say; never raises, for the run is done."""
    lines = []
    for make, name in ((build, "report.html"), (slides, "slides.html")):
        try:
            lines.append(f"{name}: {make(folder)}".replace(f"{ROOT}/", ""))
        except Exception as error:
            lines.append(f"{name} could not be made ({type(error).__name__}: {error}); "
                         "the run itself is complete")
    return lines


def _write(path: Path, page: str) -> Path:
    path.write_text(page, encoding="utf-8")
    return path


def _tidy(text: str) -> str:
    """Without this machine's folders: nobody else has them."""
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    return text.replace(f"{Path.home()}/", "~/")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "lib" / "report"), trim_blocks=True, lstrip_blocks=True,
        autoescape=lambda name: ".html" in (name or ""), undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": _number, "short": short}
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


# -- the facts of a run ----------------------------------------------------------------------


def facts(folder: Path) -> dict:
    """What the templates say of a run; a finding that was not measured is None.

    Raises:
        NoRun: there is no summary.json in the folder.
    """
    run = stages.read_summary(folder)
    if run is None:
        raise NoRun(f"no summary.json in {folder}; ./run_all.sh makes a run")
    return {
        "run": run, "local": run["target"] == "local", **_moment(run["started_at"]),
        "leakage": leakage(run.get("leakage")), "parity": parity(run.get("parity")),
        "freshness": freshness(run), "latency": latency(run.get("latency_ms")),
        "longest": max([s["seconds"] for s in run["stages"]] or [0]) or 1,
        "resources": _resources(run), "costs": costs(run), "horizon": _horizon(run), "short": False,
    }


def leakage(found: Mapping | None) -> dict | None:
    """ROC-AUC that the naive join promised, kept, and the honest one; None if not measured."""
    names = {"promised": "naive_roc_auc", "kept": "naive_model_on_honest_roc_auc",
             "honest": "point_in_time_roc_auc"}
    values = {name: _pick(found, key) for name, key in names.items()}
    if None in (values["promised"], values["kept"]):
        return None
    spreads = {f"{name}_spread": _spread(_pick(found, f"{key}_spread", f"{key}_std"))
               for name, key in names.items()}
    return values | spreads | {"lost": values["promised"] - values["kept"]}


def parity(found: Mapping | None) -> dict | None:
    """How many served values were compared, and how many differ; None if not measured."""
    customers, features = _pick(found, "customers"), _pick(found, "features")
    if _pick(found, "mismatches") is None or not customers or not features:
        return None
    caught, planted = _pick(found, "faults_caught"), _pick(found, "faults_planted", "faults")
    if isinstance(caught, Mapping):  # name of the fault -> how often, or whether, it was caught
        planted = planted or len(caught)
    caught, planted = _count(caught), _count(planted)
    return {"customers": customers, "features": features, "compared": customers * features,
            "mismatches": found["mismatches"], "max_abs_diff": _pick(found, "max_abs_diff"),
            "caught": caught, "planted": planted or caught}


def freshness(run: Mapping) -> dict | None:
    """Values that differ before the sync and after it; None if not measured."""
    found = run.get("freshness") or _pick(run.get("parity"), "freshness")
    if not isinstance(found, Mapping):
        return None
    before = _pick(found, "mismatches_before", "stale_before", "before")
    after = _pick(found, "mismatches_after", "stale_after", "after")
    if before is None or after is None:
        return None
    return {
        "before": before, "after": after, "customers": _pick(found, "customers"),
        "age_days": _pick(found, "age_days", "max_age_days", "age_days_before"),
        "customer_id": _pick(found, "customer_id"),
        "probability_before": _pick(found, "probability_before", "churn_probability_before"),
        "probability_after": _pick(found, "probability_after", "churn_probability_after"),
    }


def latency(found: Mapping | None) -> dict | None:
    """Milliseconds of fetch, predict, both, and of SQL at request time; None if not measured."""
    keys = ("fetch_p50", "fetch_p99", "predict_p50", "predict_p99", "both_p50", "both_p99")
    values = {key: _pick(found, key) for key in keys}
    values["sql_p50"] = _pick(found, "sql_p50", "sql_features_p50")
    if values["fetch_p50"] is None or values["predict_p50"] is None:
        return None
    # Medians do not add up exactly: said with "about" where the sum itself was not timed.
    exact = values["both_p50"] is not None
    both = values["both_p50"] if exact else values["fetch_p50"] + values["predict_p50"]
    # SQL gives the features only, so it stands beside the fetch.
    times = values["sql_p50"] / max(values["fetch_p50"], 1e-3) if values["sql_p50"] else None
    return values | {"both": both, "exact": exact, "sql_times": times}


def costs(run: Mapping) -> dict:
    """What is billed while it stands, from the run's figures and config.yaml's prices.

    A price that config.yaml does not hold is None: nobody has verified it.
    """
    settings = _settings(run)
    figures = {name: values for stage in run["stages"] for name, values in stage["figures"].items()}
    prices = settings.costs if settings else None
    nodes = str(_pick(figures.get("online store"), "nodes") or "1").split(" to ")
    billed = [values for values in figures.values() if "scanned_gb" in values]
    return {
        "nodes": " to ".join(dict.fromkeys(nodes)),
        "machine": _pick(figures.get("deployment"), "machine"),
        "usd_node_hour": getattr(prices, "usd_per_bigtable_node_hour", None),
        "usd_machine_hour": getattr(prices, "usd_per_serving_node_hour", None),
        "usd_tib": getattr(prices, "usd_per_tib_scanned", None),
        "scanned_gb": sum(v["scanned_gb"] for v in billed) if billed else None,
        "usd_scanned": sum(v.get("usd_at_most", 0) for v in billed) if billed else None,
    }


def plan(run: Mapping) -> dict | None:
    """How long a run should take on Google, by config.yaml, with this run's seconds in the
    picture; None if config.yaml cannot be read."""
    settings = _settings(run)
    if settings is None:
        return None
    bars = run_plan.schedule(settings.plan)
    return {
        "steps": settings.plan, "finding": run_plan.finding(settings.plan),
        "again": run_plan.finding_again(settings.plan),
        "deciding": run_plan.critical(bars), "timed": run_plan.timed(settings.plan),
        "measured": bool(run_plan.measured(run)), "between": run_plan.between(run),
        "picture": _chart(run_plan.chart(settings.plan, run))}


def _settings(run: Mapping) -> config.Settings | None:
    try:
        return config.load(target=run["target"], env=run["env"])
    except config.ConfigError:
        return None


def _horizon(run: Mapping) -> int | None:
    found = re.search(r"(\d+)d$", _pick(run.get("labels"), "column") or "")
    return int(found[1]) if found else None


def _resources(run: Mapping) -> list[tuple[str, str, str]]:
    """(stage, what, full name) of each resource, once."""
    seen: dict[str, tuple[str, str, str]] = {}
    for stage in run["stages"]:
        for what, name in stage["resources"].items():
            seen.setdefault(name, (stage["name"], what, name))
    return list(seen.values())


def _pick(found: object, *names: str):
    """The first of `names` that a mapping holds, else None."""
    found = found if isinstance(found, Mapping) else {}
    return next((found[name] for name in names if found.get(name) is not None), None)


def _count(value: object) -> int | None:
    """A number, the length of a list, or how many values of a mapping are true."""
    if isinstance(value, Mapping):
        return sum(map(bool, value.values()))
    return len(value) if isinstance(value, list | tuple) else value


def _spread(value: object) -> float | None:
    """Half the width of [low, high], or the number itself (a standard deviation)."""
    return (max(value) - min(value)) / 2 if isinstance(value, list | tuple) and value else value


def _moment(text: str) -> dict[str, str]:
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return {"started": f"{moment.day} {moment:%b %Y, %H:%M} UTC",
            "started_ko": f"{moment.year}년 {moment.month}월 {moment.day}일 {moment:%H:%M}(UTC)"}


def _number(value: float | None, digits: int | None = None) -> str:
    """With thousands separators; `digits` decimals, by default as many as its size deserves."""
    if value is None:
        return "\N{EN DASH}"
    if digits is None:
        digits = 0 if value % 1 == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def short(name: str) -> str:
    """A resource's name with its long numeric ids shortened: 8247...4100."""
    return re.sub(r"\b(\d{4})\d{6,}(\d{4})\b", "\\1\N{HORIZONTAL ELLIPSIS}\\2", name)


# -- notebooks into HTML ---------------------------------------------------------------------


def books(folder: Path) -> list[Book]:
    """The executed notebooks of a run, in order; those that cannot be read are left out."""
    found = []
    for path in sorted(folder.glob("0*_*.ipynb")):
        try:
            found.append(read_book(path))
        except (OSError, ValueError, nbformat.ValidationError) as error:
            print(f"{path.name} is left out of the report: {error}", file=sys.stderr)
    keys = {book.key for book in found}
    return [replace(book, parts=[replace(p, html=_unlink(p.html, keys)) for p in book.parts])
            for book in found]


def _unlink(html: Markup, keys: Collection[str] = ()) -> Markup:
    """Links to notebooks that are not on the page become plain words."""
    def keep(link: re.Match) -> str:
        return link[0] if link[1] in keys else link[2]

    return Markup(re.sub(r'<a href="#([^"]*)">(.*?)</a>', keep, html, flags=re.S))


def read_book(path: Path) -> Book:
    """One executed notebook as HTML; its own settings (injected parameters) are left out."""
    notebook = nbformat.read(path, as_version=4)
    key, title, heading, parts = path.stem, path.stem, "", []
    sections: list[tuple[str, str]] = []
    for cell in notebook.cells:
        tags = frozenset(cell.metadata.get("tags", ()))
        if tags & PARAMETERS or cell.cell_type == "raw" or not cell.source.strip():
            continue
        slide = cell.metadata.get("slideshow", {}).get("slide_type") or "-"
        if cell.cell_type == "markdown":
            prose, (headline, level, anchor) = _markdown(cell.source, key)
            heading = headline or heading
            if level == 1:
                title = headline
            elif level == 2:
                sections.append((anchor, headline))
            parts.append(Part(prose, heading=heading, slide=slide, tags=tags))
        else:
            outputs = cell.get("outputs", [])
            shown = Markup("").join(_outputs(outputs, heading or title))
            drawn = any("image/png" in output.get("data", {}) for output in outputs)
            parts.append(Part(shown, _code(cell.source), heading, slide, tags, drawn))
    return Book(key, title, parts, sections)


def _prose(text: str, key: str, shift: int) -> Markup:
    return _markdown(text, key, shift, whole=True)[0]


def _markdown(text: str, key: str, shift: int = 2, whole: bool = False):
    """(HTML, (first heading, its level, its anchor)); headings go `shift` levels down.

    A first heading of level 1 is the notebook's title: the page shows it (unless `whole`).
    """
    from nbconvert.filters import markdown2html_mistune

    soup, first = _clean(markdown2html_mistune(text)), ("", 0, "")
    for tag in soup.find_all("a", class_="anchor-link"):
        tag.decompose()
    for tag in soup.find_all(re.compile(r"^h[1-6]$")):
        level, words = int(tag.name[1]), tag.get_text(" ", strip=True)
        tag["id"] = f"{key}-{re.sub(r'[^0-9a-z가-힣]+', '-', words.lower()).strip('-')}"
        tag.name = f"h{min(6, level + shift)}"
        if not first[1]:
            first = (words, level, tag["id"])
            if level == 1 and not whole:
                tag.decompose()
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "table"}))
    return Markup(soup), first


def _code(source: str) -> Markup:
    from nbconvert.filters import Highlight2HTML

    return Markup(Highlight2HTML(pygments_lexer="ipython3")(_tidy(source)))


def _outputs(outputs: list, heading: str) -> Iterator[Markup]:
    """HTML of each output; printed lines that follow one another become one block."""
    printed = ""
    for output in [*outputs, None]:
        if output is not None and output.output_type == "stream":
            printed += output.text
            continue
        if printed.strip():
            yield _text(printed, "log")
        printed = ""
        if output is None:
            return
        if output.output_type == "error":
            yield _text("\n".join(output.traceback), "error")
        else:
            yield _data(output.data, heading)


def _data(data: Mapping, heading: str) -> Markup:
    """The richest form of one result that needs no script."""
    text = data.get("text/plain", "")
    if "image/png" in data:
        return picture(data["image/png"], _title(text) or heading)
    if "application/vnd.jupyter.widget-view+json" in data:
        return Markup('<p class="aside">A live control in JupyterLab; there is nothing to press in '
                      "a file.</p>")
    if "text/html" in data:
        return _table(data["text/html"])
    if "text/markdown" in data:
        return _markdown(data["text/markdown"], "output", 3, whole=True)[0]
    return _text(text, "log") if text.strip() else Markup("")


def _title(text: str) -> str:
    """What a chart says of itself: `<Figure: title>`."""
    found = re.fullmatch(r"<Figure: (.*)>", text.strip(), re.S)
    return found[1] if found else ""


def picture(png: str, words: str) -> Markup:
    """A figure with an inlined PNG (base64), described by `words`."""
    png = "".join(png.split())
    width, height = _size(png)
    return Markup(
        '<figure class="chart"><div class="scroll"><img src="data:image/png;base64,{}" alt="{}" '
        'width="{}" height="{}"></div><figcaption>{}</figcaption></figure>'
    ).format(Markup(png), words, width, height, words)


def _size(png: str) -> tuple[int, int]:
    head = base64.b64decode(png[:32])  # signature, then IHDR: width, height
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _text(text: str, kind: str) -> Markup:
    from nbconvert.filters import ansi2html

    return Markup('<pre class="{}">{}</pre>').format(kind, Markup(ansi2html(_tidy(text.rstrip()))))


def _table(html: str) -> Markup:
    """A frame's own HTML: numbers to the right; on a light card if it brings its own colours."""
    soup = _clean(html)
    for column in zip(*(row.find_all(["th", "td"]) for row in soup.find_all("tr")), strict=False):
        values = [cell.get_text(strip=True) for cell in column if cell.name == "td"]
        if values and all(map(NUMBER.fullmatch, values)):
            for cell in column:
                cell["class"] = [*cell.get("class", ()), "number"]
    coloured = any("background" in (style.string or "") for style in soup.find_all("style"))
    kind = "table paper" if coloured else "table"
    return Markup('<div class="{}">{}</div>').format(kind, Markup(soup))


def _clean(html: str) -> BeautifulSoup:
    """Parsed, without what runs or loads; links to notebooks lead to their place on the page."""
    soup = BeautifulSoup(_tidy(html), "html.parser")
    for tag in soup.find_all(ACTIVE):
        tag.decompose()
    for style in soup.find_all("style"):
        if re.search(r"url\(|@import", style.string or ""):
            style.decompose()
    for tag in soup.find_all(True):
        loads = "url(" in tag.get("style", "")
        for name in [n for n in tag.attrs if n.startswith("on") or (n == "style" and loads)
                     or n in ("srcset", "background", "poster", "action")]:
            del tag[name]
    for tag in soup.find_all(src=True):
        _inline(tag)
    for link in soup.find_all("a", href=True):
        notebook = re.fullmatch(r"(\d\d_\w+)\.ipynb(#.*)?", link["href"])
        if notebook:
            link["href"] = f"#{notebook[1]}"
        elif not re.match(r"https?://|#", link["href"]):
            link.unwrap()  # a file beside the notebook is not beside this page
    return soup


def _inline(tag: Tag) -> None:
    """Put a picture that lies beside the notebooks into the page; any other gives its words."""
    file = (ROOT / "notebooks" / tag["src"]).resolve()
    if tag["src"].startswith("data:image/"):
        return
    if tag.name == "img" and file.suffix == ".png" and file.is_relative_to(ROOT) and file.is_file():
        tag["src"] = f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
    else:
        tag.replace_with(tag.get("alt", ""))


@functools.cache
def _architecture() -> Markup:
    from lib.charts import walk as charts

    return _chart(charts.architecture())


def _chart(chart) -> Markup:
    """A figure of ours (lib.charts.style.Chart), inlined."""
    return picture(base64.b64encode(chart._repr_png_()).decode(), _title(repr(chart)))


# -- slides ----------------------------------------------------------------------------------


def deck(books: list[Book], most: int) -> list[dict]:
    """At most `most` slides (book, heading, parts) of the cells tagged `deck`.

    A cell that starts a slide in the notebook starts one here; the ones after it (slide type
    "-" or fragment) join it. A run whose notebooks carry no such tag gives its charts instead.
    """
    tagged = any(DECK in part.tags for book in books for part in book.parts)
    found: list[dict] = []
    for book in books:
        current = None
        for part in book.parts:
            if part.slide == "skip" or not (DECK in part.tags if tagged else part.picture):
                continue
            starts = part.slide in ("slide", "subslide") or not tagged
            if current is None or starts or current["heading"] != part.heading:
                current = {"book": book.title, "heading": part.heading, "parts": []}
                found.append(current)
            current["parts"].append(_on_slide(part.html))
    return _spread_out(found, most)


def _on_slide(html: Markup) -> Markup:
    """Without the heading, which the slide has, and without log lines beside a result."""
    html = _unlink(html)
    html = re.sub(r"^\s*<h[1-6][^>]*>.*?</h[1-6]>", "", html, count=1, flags=re.S)
    if "<figure" in html or '<div class="table' in html:
        html = re.sub(r'<pre class="log">.*?</pre>', "", html, flags=re.S)
    if html.count("<tr") > LONG:
        html = html.replace('<div class="table', '<div class="table long')
    return Markup(html)


def _spread_out(items: list, most: int) -> list:
    """At most so many of them, from the beginning to the end."""
    step = max(1.0, len(items) / most)
    return [items[int(n * step)] for n in range(min(most, len(items)))]


# -- the command -----------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="report", choices=["report", "slides"])
    parser.add_argument("--run", type=Path, default=stages.RUNS / "latest", metavar="FOLDER",
                        help="a run's folder; default: runs/latest")
    options = parser.parse_args(arguments)
    try:
        page = (build if options.what == "report" else slides)(options.run)
    except NoRun as error:
        print(_tidy(str(error)), file=sys.stderr)
        return 1
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
