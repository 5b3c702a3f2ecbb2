"""Read orders from a folder with one file per table, in the form of theLook's tables.

For any shop's orders, and for users who have theLook as files and no access to BigQuery. Reads and
checks the columns that the demo needs, fills in the optional ones (lib/README.md, "Bring your own
orders"), and reports all problems together.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lib.config import Settings
from lib.errors import Needed

# Table -> column -> BigQuery type: the columns that the demo needs; an export may have more.
NEEDED: dict[str, dict[str, str]] = {
    "users": {"id": "INT64", "created_at": "TIMESTAMP"},
    "orders": {"order_id": "INT64", "user_id": "INT64", "created_at": "TIMESTAMP"},
    "order_items": {
        "id": "INT64",
        "order_id": "INT64",
        "product_id": "INT64",
        "returned_at": "TIMESTAMP",
        "sale_price": "FLOAT64",
    },
    "products": {"id": "INT64", "category": "STRING"},
}

# Columns that may not be NULL. The first one must also be unique.
KEYS = {
    "users": ("id", "created_at"),
    "orders": ("order_id", "user_id", "created_at"),
    "order_items": ("id", "order_id", "product_id"),
    "products": ("id",),
}

# The tables that may have no file -> what is read instead.
WITHOUT_FILE = {
    "users": "there is no users file: the first order of each user_id counts as the sign-up",
    "products": "there is no products file: all products are of one category",
}
OPTIONAL_COLUMNS = {"order_items": ("returned_at",)}  # empty if a file lacks them

ENDINGS = (".csv", ".csv.gz", ".parquet")

ARROW_TYPES = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}


class SourceError(Needed):
    """An export cannot be used. The message has all `problems`, numbered, in one paragraph."""

    def __init__(self, folder: Path, problems: list[str]):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = " ".join(f"({n}) {problem}." for n, problem in enumerate(problems, start=1))
        super().__init__(
            f"The export in {folder} cannot be used: {count}. {listed}".rstrip("."),
            f"a folder with one file each for {', '.join(NEEDED)}, ending in "
            f"{' or '.join(ENDINGS)}, with the column names of "
            f"bigquery-public-data.thelook_ecommerce ({' and '.join(WITHOUT_FILE)} may be left "
            "out); lib/README.md, \"Bring your own orders\", lists the columns")


def read_export(folder: Path) -> dict[str, pa.Table]:
    """Read the tables that the demo needs from a folder.

    Args:
        folder: with orders and order_items, and optionally users and products (WITHOUT_FILE),
            each as .csv, .csv.gz or .parquet. Other files and columns are ignored.

    Returns:
        Table name -> rows, with the columns of NEEDED in that order. INT64 is int64, FLOAT64
        is double, STRING is string, TIMESTAMP is timestamp[us, UTC]. A time without a zone is
        read as UTC; digits below a microsecond are dropped.

    Raises:
        SourceError: with the problems of all tables.
    """
    folder = Path(folder)
    if folder.is_file():
        raise SourceError(folder, ["it is a file, not a folder: unpack it, and name the folder"])
    if not folder.is_dir():
        raise SourceError(folder, ["there is no such folder"])
    tables, problems = {}, []
    for name in NEEDED:
        if not _is_left_out(folder, name):
            tables[name], found = _read_table(folder, name)
            problems += found
    if problems:
        raise SourceError(folder, problems)
    return {name: tables[name] if name in tables else _made(name, tables) for name in NEEDED}


def count_customers(folder: Path) -> int:
    """About how many customers an export has: the rows of its users file, or without one those of
    orders; 0 without either. Nothing is checked, and a line break in a value counts as a row."""
    named = {path.name.split(".")[0]: path for path in files(folder)}
    path = named.get("users") or named.get("orders")
    if path is None:
        return 0
    if path.suffix == ".parquet":
        return pq.read_metadata(path).num_rows
    with pa.input_stream(path) as file:  # it decompresses .gz
        lines = sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))
    return max(0, lines - 1)


def origin(settings: Settings) -> str:
    """Identifies the source: a dataset's name, or a digest of the files that are read."""
    if not settings.source_is_folder or not settings.source_folder.is_dir():
        return settings.source
    digest = hashlib.sha256()
    for path in files(settings.source_folder):
        with path.open("rb") as file:  # file_digest reads in pieces
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"export {digest.hexdigest()[:16]}"


def filled_in(folder: Path) -> list[str]:
    """A sentence for each table that has no file."""
    return [text for name, text in WITHOUT_FILE.items() if _is_left_out(folder, name)]


def _is_left_out(folder: Path, name: str) -> bool:
    """Has an optional table no file, not even a misspelled one?"""
    there = any(path.name.startswith(f"{name}.") for path in files(folder))
    return name in WITHOUT_FILE and not there and not _near(folder, name)


def _made(name: str, tables: dict[str, pa.Table]) -> pa.Table:
    """A table of WITHOUT_FILE, made from the others."""
    if name == "users":
        first = tables["orders"].group_by("user_id").aggregate([("created_at", "min")])
        return pa.table({"id": first["user_id"], "created_at": first["created_at_min"]})
    ids = tables["order_items"]["product_id"].unique()
    return pa.table({"id": ids, "category": pa.array(["all"] * len(ids), pa.string())})


def describe(tables: dict[str, pa.Table]) -> str:
    """Number of rows of each table, and the days of the first and last order."""
    times = pc.min_max(tables["orders"]["created_at"])
    first, last = (times[end].as_py().date() for end in ("min", "max"))
    rows = ", ".join(f"{name} {table.num_rows:,}" for name, table in tables.items())
    return f"{rows} rows; orders from {first} to {last}"


def _read_table(folder: Path, name: str) -> tuple[pa.Table | None, list[str]]:
    """Find, read, cast and check one table: (table or None, problems)."""
    path, problems = _find(folder, name)
    if problems:
        return None, problems
    if reason := _wrong_content(path):
        return None, [f"{path.name} cannot be read: {reason}"]
    try:
        rows, problems = _read_file(path, name)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # The further lines of Arrow's message are the content of the row.
        reason = str(error).splitlines()[0]
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in reason:
            reason = "it is not UTF-8: save it with that encoding"
        return None, [f"{path.name} cannot be read: {reason}"]
    if problems:
        return None, problems
    if rows.num_rows == 0:
        return None, [f"table {name} ({path.name}) is empty"]
    table, problems = _cast(rows, name)
    return table, problems + _key_problems(table, name)


def files(folder: Path) -> list[Path]:
    """The files of an export that the demo reads, in the order of NEEDED; missing ones left out."""
    paths = [folder / (name + ending) for name in NEEDED for ending in ENDINGS]
    return [path for path in paths if path.is_file()]


def _find(folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """The one file of a table, or the problem: no file, or more than one."""
    accepted = [name + ending for ending in ENDINGS]
    found = [path for path in files(folder) if path.name in accepted]
    if not found:
        return None, [f"table {name}: there is no {' or '.join(accepted)}{_near(folder, name)}"]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        return None, [f"table {name}: {names} are both there, keep one"]
    return found[0], []


def _near(folder: Path, name: str) -> str:
    """A hint: the file whose name is nearest to that of a missing table; "" if none is near."""
    others = {path.name.lower().split(".")[0]: path.name for path in sorted(folder.iterdir())
              if path.is_file() and path not in files(folder)}
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    return f"; is {others[close[0]]} meant? Rename or convert it" if close else ""


# The first bytes of a file -> what it is and what to do; the endings for which that is right.
CONTENTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the data: run `git lfs pull`", ()),
    (b"\x1f\x8b", "it is compressed by gzip: rename it to end in .csv.gz", ()),
    (b"PAR1", "it is a Parquet file: rename it to end in .parquet", (".parquet",)),
    (b"PK\x03\x04", "it is a zip archive or an Excel file: unpack it, or save it as CSV", ()),
    (b"BZh", "it is compressed by bzip2: unpack it", ()),
    (b"\xfd7zXZ\x00", "it is compressed by xz: unpack it", ()),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd: unpack it", ()),
    (b"<", "it is a web page or XML, not the data: download the file itself", ()),
    (b"\xff\xfe", "it is UTF-16: save it as UTF-8", ()),
    (b"\xfe\xff", "it is UTF-16: save it as UTF-8", ()),
)


def _wrong_content(path: Path) -> str:
    """Why the first bytes of a file do not fit its name; "" if they do."""
    with path.open("rb") as file:
        start = file.read(4096)
    if path.suffix == ".gz" and start.startswith(b"\x1f\x8b"):
        try:
            start = pa.input_stream(path).read(4096)
        except OSError:
            return "it is cut off: copy or download it again"
    if not start.strip():
        return "it is blank"
    for first, reason, endings in CONTENTS:
        if start.startswith(first) and path.suffix not in endings:
            return reason
    if path.suffix != ".parquet" and b"\0" in start:
        return "it has NUL bytes, as UTF-16 text has: save it as UTF-8"
    return ""


def _read_file(path: Path, name: str) -> tuple[pa.Table | None, list[str]]:
    """Read the needed columns of a file without a cast (CSV: as text), or report missing ones."""
    is_parquet = path.suffix == ".parquet"
    found = pq.read_schema(path).names if is_parquet else _csv_header(path)
    problems = _column_problems(found, name)
    if problems:
        return None, problems
    # ParquetFile, because read_table reads parts of the path as columns (a=b/).
    if is_parquet:
        # Spark's INT96 has nanoseconds, in which the year 9999 would silently become 1816.
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            return file.read(columns=[c for c in NEEDED[name] if c in found]), []
    return _read_csv(path, [c for c in NEEDED[name] if c in found]), []


def _column_problems(found: list[str], name: str) -> list[str]:
    """Report needed columns that a file does not have, or has twice."""
    missing = [column for column in NEEDED[name]
               if column not in found and column not in OPTIONAL_COLUMNS.get(name, ())]
    twice = [column for column in NEEDED[name] if found.count(column) > 1]
    problems = []
    if missing:
        has = ", ".join(found)
        separator = next((mark for mark in ";\t|" if len(found) == 1 and mark in has), "")
        hint = f", separated by {separator!r}: use commas" if separator else ""
        problems.append(f"table {name} lacks {_columns(missing)}; it has {has}{hint}")
    if twice:
        problems.append(f"table {name} has {_columns(twice)} more than once")
    return problems


def _columns(names: list[str]) -> str:
    """'column a' or 'columns a, b'."""
    return f"{'column' if len(names) == 1 else 'columns'} {', '.join(names)}"


# A value may have a quoted line break, for instance in an address.
_PARSE = pa_csv.ParseOptions(newlines_in_values=True)


def _csv_header(path: Path) -> list[str]:
    """The column names of a CSV file."""
    with pa_csv.open_csv(path, parse_options=_PARSE) as reader:
        return reader.schema.names


def _read_csv(path: Path, columns: list[str]) -> pa.Table:
    """Read columns of a CSV file as text, with an empty field as null.

    As text, because Arrow infers a column's type from the first block of the file and fails at
    the first row that differs without reporting which.
    """
    options = pa_csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    return pa_csv.read_csv(path, parse_options=_PARSE, convert_options=options)


# --- types ---------------------------------------------------------------------------------


def _cast(rows: pa.Table, name: str) -> tuple[pa.Table, list[str]]:
    """Cast all columns to the needed types; leave out and report those that cannot be cast."""
    columns, problems = {}, []
    for column, kind in NEEDED[name].items():
        if column not in rows.column_names:
            columns[column] = pa.nulls(rows.num_rows, ARROW_TYPES[kind])
            continue
        values = _plain(rows[column])
        convert = partial(_convert, kind=kind)
        try:
            columns[column] = convert(values)
        except pa.ArrowException:
            row = _first_bad_row(values, convert)
            problems.append(
                f"table {name}, column {column}: {kind} expected, but data row {row + 1} has "
                f"{str(values[row].as_py())!r}"
            )
    return pa.table(columns), problems


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """One array without dictionary encoding, text as string (polars writes large_string and
    string_view), and NaN (null in pandas) as null."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    return values.combine_chunks()


def _convert(values: pa.Array, kind: str) -> pa.Array:
    """Cast values to the arrow type of a BigQuery type; raise an ArrowException if that fails."""
    if values.null_count == len(values):
        return pa.nulls(len(values), ARROW_TYPES[kind])
    casts = {"INT64": _integers, "FLOAT64": _floats, "STRING": _strings, "TIMESTAMP": _times}
    return casts[kind](values)


def _first_bad_row(values: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> int:
    """The first row that `convert` cannot cast, by bisection: Arrow does not report it."""
    start, length = 0, len(values)
    while length > 1:
        half = length // 2
        try:
            convert(values.slice(start, half))
            start, length = start + half, length - half
        except pa.ArrowException:
            length = half
    return start


def _refuse(values: pa.Array, accepted: tuple[Callable[[pa.DataType], bool], ...]) -> None:
    """Raise ArrowTypeError unless the values' type passes one of the tests.

    Arrow itself casts an integer to a time and a Boolean to a number.
    """
    if not any(test(values.type) for test in accepted):
        raise pa.ArrowTypeError(f"unexpected type {values.type}")


_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def _integers(values: pa.Array) -> pa.Array:
    """Cast text or numbers to integers; '12.0' is one, as pandas writes a column with nulls."""
    if pa.types.is_string(values.type):
        trimmed = pc.utf8_trim_whitespace(values)
        return pc.replace_substring_regex(trimmed, r"\.0+$", "").cast(pa.int64())
    _refuse(values, _NUMBERS)
    return values.cast(pa.int64())


def _floats(values: pa.Array) -> pa.Array:
    """Cast text or numbers to finite floats."""
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.string())  # a direct cast makes 19.990000000000002 of 19.99
    if pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    else:
        _refuse(values, _NUMBERS)
    floats = values.cast(pa.float64())
    if pc.any(pc.invert(pc.is_finite(floats))).as_py():
        raise pa.ArrowInvalid("not finite")
    return floats


def _strings(values: pa.Array) -> pa.Array:
    """Cast text, or the numbers of a text column with only numbers, to strings."""
    _refuse(values, (pa.types.is_string, *_NUMBERS))
    return values.cast(pa.string())


def _times(values: pa.Array) -> pa.Array:
    """Cast text or timestamps to UTC timestamps in microseconds."""
    if pa.types.is_string(values.type):
        return _parse_times(values)
    _refuse(values, (pa.types.is_timestamp,))
    return values.cast(ARROW_TYPES["TIMESTAMP"], safe=False)  # safe refuses nanoseconds


def _parse_times(text: pa.Array) -> pa.Array:
    """Parse '2022-07-17 13:08:00+00:00', with a fraction, T, Z, UTC, another offset, or none."""
    text = pc.utf8_trim_whitespace(text)
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    text = pc.replace_substring_regex(text, r" ?(?:UTC|GMT)$", "Z")
    text = pc.replace_substring_regex(text, r" ([+-]\d\d:?(?:\d\d)?)$", r"\1")
    text = pc.replace_substring_regex(text, r"^(.{10}[ T][\d:.]+)$", r"\1Z")
    return text.cast(ARROW_TYPES["TIMESTAMP"])


# --- keys ----------------------------------------------------------------------------------


def _key_problems(table: pa.Table, name: str) -> list[str]:
    """Report key columns with nulls (a column that could not be cast is left out of `table`), and
    ids that repeat."""
    keys = [column for column in KEYS[name] if column in table.column_names]
    problems = []
    for column in keys:
        if nulls := table[column].null_count:
            row = pc.index(table[column].is_null(), True).as_py() + 1
            problems.append(
                f"table {name}, column {column}: {nulls} null, first in data row {row}")
    if KEYS[name][0] in keys:
        counts = table[KEYS[name][0]].drop_null().value_counts()
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            problems.append(
                f"table {name}, column {KEYS[name][0]}: {len(repeated)} used more than once, "
                f"for instance {pc.min(repeated).as_py()}")
    return problems
