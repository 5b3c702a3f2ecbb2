"""What a notebook shows besides charts: tables, excerpts of SQL, requests and their answers.

Everything has a plain text form, and a form that needs no style sheet: the repository's web page
drops style sheets.
"""

import json
import numbers
import re
from dataclasses import dataclass
from datetime import datetime
from html import escape
from urllib.parse import urlsplit

import pandas as pd
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import aiplatform_v1 as vertex
from google.protobuf.json_format import MessageToDict

from lib.config import ROOT
from lib.language import tr

WIDTH = 96  # characters of a line of JSON


@dataclass(frozen=True)
class Shown:
    """Something that Jupyter displays; markdown or html for a page, text everywhere else."""

    text: str
    markdown: str | None = None
    html: str | None = None

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str | None:
        return self.markdown

    def _repr_html_(self) -> str | None:
        return self.html


def note(sentence: str) -> Shown:
    """A plain sentence, shown where a table or a chart has nothing to show."""
    return Shown(sentence, markdown=sentence)


# -- tables ----------------------------------------------------------------------------------


def number(value: float) -> str:
    """Whole numbers in full, others to two decimals or three digits; NULL for a missing one."""
    if pd.isna(value) or value % 1 == 0:
        return "NULL" if pd.isna(value) else f"{value + 0:,.0f}"  # + 0: no "-0"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def table(rows: pd.DataFrame | list[dict] | None, caption: str = "", digits: int | None = None,
          index: bool = False, columns: list[str] | None = None) -> Shown:
    """A frame, or a list of dicts, as a plain table with NULL for missing values. Texts that the
    catalog knows are translated, the names of columns are not.

    digits: decimals of a column that is not whole numbers; None: as many as each value needs.
    index: whether the row names are shown. columns: the ones to show; None: all.
    Without rows (None) a sentence is shown instead.
    """
    if rows is None:
        return note(tr("No table: this part was left out of the run."))
    frame = pd.DataFrame(rows, columns=columns)
    if not len(frame.columns):
        return note(tr("No rows."))
    if index:
        frame = frame.rename_axis(frame.index.name or "").reset_index()
    cells = [[str(name), *_cells(values, digits)] for name, values in frame.items()]
    sides = ["right" if _is_numeric(values) else "left" for _, values in frame.items()]
    return Shown(_text(cells, sides, caption), html=_html(cells, sides, caption))


def _is_numeric(values: pd.Series) -> bool:
    return all(isinstance(value, numbers.Number) for value in values.dropna())


def _cells(values: pd.Series, digits: int | None) -> list[str]:
    fixed = digits is not None and _is_numeric(values) and (values.dropna() % 1 != 0).any()

    def cell(value: object) -> str:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return "NULL"
        if isinstance(value, pd.Timestamp):
            return f"{value:%Y-%m-%d}" if value == value.normalize() else f"{value:%Y-%m-%d %H:%M}"
        if isinstance(value, numbers.Number):
            return f"{value:,.{digits}f}" if fixed else number(value)
        return tr(str(value))

    return [cell(value) for value in values]


def _text(columns: list[list[str]], sides: list[str], caption: str) -> str:
    padded = []
    for cells, side in zip(columns, sides, strict=True):
        width = max(map(len, cells))
        padded.append([c.rjust(width) if side == "right" else c.ljust(width) for c in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return "\n".join([caption] * bool(caption) + lines)


def _html(columns: list[list[str]], sides: list[str], caption: str) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(
            f'<{tag} align="{side}" style="text-align: {side}">{escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)) + "</tr>"

    head, *body = zip(*columns, strict=True)
    above = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    rows = "\n".join(row(cells, "td") for cells in body)
    return (f"<table>\n{above}<thead>\n{row(head, 'th')}\n</thead>\n"
            f"<tbody>\n{rows}\n</tbody>\n</table>")


def customer(customer_id: str, snapshot: datetime | None = None) -> str:
    """The caption of a table with the values of one customer, of one snapshot if it is given."""
    if snapshot is None:
        return tr("customer {customer}", customer=customer_id)
    return tr("customer {customer}, snapshot of {day}", customer=customer_id,
              day=f"{snapshot:%Y-%m-%d}")


# -- SQL -------------------------------------------------------------------------------------


def sql(file: str, *parts: str) -> Shown:
    """Parts of sql/<file>.sql, word for word.

    parts: the name of a common table expression (shown with the comment above it), or "from":
    the last query from its FROM on.

    Raises:
        ValueError: the file has no such part.
    """
    lines = (ROOT / "sql" / f"{file}.sql").read_text(encoding="utf-8").rstrip(";\n").split("\n")
    found = [f"-- sql/{file}.sql", *("\n".join(_part(lines, file, part)) for part in parts)]
    text = "\n".join(found)
    return Shown(text, markdown=_fenced("sql", text))


def _fenced(language: str, code: str, above: str = "") -> str:
    """Markdown of a code block; nbconvert's pages show its letters in the style of the div."""
    return (f'<div style="font-family: monospace">\n\n{above}```{language}\n{code}\n```\n\n'
            "</div>")


def _part(lines: list[str], file: str, part: str) -> list[str]:
    if part == "from":
        starts = [n for n, line in enumerate(lines) if line.startswith("from ")]
        end = len(lines)
    else:
        starts = [n for n, line in enumerate(lines)
                  if re.fullmatch(rf"(with )?{part} as \(", line)]
        end = next((n for n in range(starts[0], len(lines)) if lines[n] in (")", "),")), -1
                   ) + 1 if starts else 0
    if not starts:
        raise ValueError(f"sql/{file}.sql has no part {part!r}")
    start = starts[-1]
    while start and lines[start - 1].startswith("--"):
        start -= 1
    return lines[start:end]


# -- requests --------------------------------------------------------------------------------


def create(name: str, message) -> Shown:
    """The REST request that creates the resource `name`.

    message: of Google's clients (proto-plus), as it is handed to them.
    """
    parent, collection, resource_id = name.rsplit("/", 2)
    body = type(message).to_json(
        message, preserving_proto_field_name=False, use_integers_for_enums=False,
        always_print_fields_with_no_presence=False)
    path = f"{_short_path(parent + '/' + collection)}?{collection[:-1]}Id={resource_id}"
    return _exchange([(f"POST {path}", json.loads(body))])


class Calls:
    """Records the calls that are made inside a `with` block, and shows them: those by HTTP, and
    fetches, which go by gRPC, in the JSON form of their messages.

    with show.Calls() as calls:
        predictor.predict(customer)
    calls
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, object]] = []
        self._send = requests.Session.send
        self._fetch = vertex.FeatureOnlineStoreServiceClient.fetch_feature_values

    def __enter__(self) -> "Calls":
        def send(session: requests.Session, request: requests.PreparedRequest, **options):
            answer = self._send(session, request, **options)
            path = _short_path(urlsplit(request.url).path)
            self.lines += [
                (f"{request.method} {path}", _parsed(request.body)),
                (f"{answer.status_code} {answer.reason}", _parsed(answer.content))]
            return answer

        def fetch(client: vertex.FeatureOnlineStoreServiceClient,
                  request: vertex.FetchFeatureValuesRequest, **options):
            sent = MessageToDict(type(request).pb(request))
            view = sent.pop("featureView")
            self.lines.append((f"gRPC FetchFeatureValues {_short_path(view)}", sent))
            try:
                answer = self._fetch(client, request, **options)
            except GoogleAPICallError as error:
                self.lines.append((error.grpc_status_code.name, {"message": error.message}))
                raise
            self.lines.append(("OK", MessageToDict(type(answer).pb(answer))))
            return answer

        requests.Session.send = send
        vertex.FeatureOnlineStoreServiceClient.fetch_feature_values = fetch
        return self

    def __exit__(self, *_: object) -> None:
        requests.Session.send = self._send
        vertex.FeatureOnlineStoreServiceClient.fetch_feature_values = self._fetch

    def __repr__(self) -> str:
        return _exchange(self.lines).text

    def _repr_markdown_(self) -> str | None:
        return _exchange(self.lines).markdown


def _parsed(body: str | bytes | None) -> object:
    try:
        return json.loads(body or "{}")
    except ValueError:  # a proxy's page, for example
        return str(body)


def _short_path(path: str) -> str:
    """A path without version, project and region, which are the same in all of them."""
    return re.sub(r"^(/v\d+/)?projects/[^/]+/locations/[^/]+/", "\N{HORIZONTAL ELLIPSIS}/", path)


def _exchange(lines: list[tuple[str, object]]) -> Shown:
    """Request and status lines, each with the JSON below it."""
    shown = [(line, _json(_sorted(body))) for line, body in lines]
    text = [f"{line}\n{body}" for line, body in shown]
    markdown = [_fenced("json", body, f"`{line}`\n") for line, body in shown]
    return Shown("\n\n".join(text), markdown="\n\n".join(markdown))


def _is_flat(value: dict | list) -> bool:
    """Whether it holds plain values only."""
    children = value.values() if isinstance(value, dict) else value
    return not any(isinstance(child, dict | list) for child in children)


def _sorted(value: object) -> object:
    """Names of plain values (labels, features) in order: protobuf maps have none of their own."""
    if isinstance(value, dict):
        names = sorted(value) if _is_flat(value) else value
        return {name: _sorted(value[name]) for name in names}
    return [_sorted(child) for child in value] if isinstance(value, list) else value


def _json(value: object, indent: int = 0) -> str:
    """Indented JSON, with everything on one line that fits on it."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    named = isinstance(value, dict)
    children = value.values() if named else value
    items = [(f'{json.dumps(key)}: ' if named else "") + _json(child, indent + 2)
             for key, child in zip(value, children, strict=True)]
    lines = items
    if _is_flat(value):  # plain values fill their lines
        lines = items[:1]
        for item in items[1:]:
            if indent + len(lines[-1]) + len(item) < WIDTH - 6:
                lines[-1] += f", {item}"
            else:
                lines.append(item)
    pad = " " * (indent + 2)
    inside = f",\n{pad}".join(lines)
    start, end = "{}" if named else "[]"
    return f"{start}\n{pad}{inside}\n{' ' * indent}{end}"
