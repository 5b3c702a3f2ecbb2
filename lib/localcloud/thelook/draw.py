"""What all tables share: the values to draw from, random numbers, columns."""

import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VALUES = tomllib.loads(Path(__file__).with_name("values.toml").read_text(encoding="utf-8"))
# Table -> [(column, type)]
SCHEMAS = {table: [tuple(column.split()) for column in columns.split(", ")]
           for table, columns in VALUES["schemas"].items()}
WEIGHTS = VALUES["weights"]
WORDS = {name: words.split("|" if "|" in words else " ")
         for name, words in VALUES["words"].items()}

# A GEOGRAPHY travels as WKT text, as BigQuery itself exports and loads it.
ARROW_TYPES = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "GEOGRAPHY": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}
FIRST_DAY = int(datetime(2019, 1, 1, tzinfo=UTC).timestamp())  # seconds since 1970
MINUTE, HOUR, DAY = 60, 3_600, 86_400  # seconds

Columns = dict[str, np.ndarray]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose; a change in one does not shift the others."""
    position = ("products", "users", "orders", "order_items", "addresses").index(purpose)
    return np.random.Generator(np.random.PCG64([seed, position]))


def pick(rng: np.random.Generator, weights: Iterable[int], size: int) -> np.ndarray:
    """Draw positions in `weights`, each with a chance in proportion to its weight."""
    edges = np.cumsum(np.asarray(tuple(weights), dtype=np.int64))
    return np.searchsorted(edges, rng.integers(0, edges[-1], size), side="right")


def text(values: Sequence[str], position: np.ndarray) -> pa.Array:
    """The values at the positions, as strings."""
    return pa.array(values, pa.string()).take(pa.array(position))


def join(*parts: pa.Array | str) -> pa.Array:
    """Join strings row by row; a part is a column, or a text that every row shares."""
    return pc.binary_join_element_wise(*parts, "")


def timestamps(seconds: np.ndarray, known: np.ndarray | None = None) -> pa.Array:
    """Seconds since 1970 as UTC timestamps, null where `known` is false."""
    missing = None if known is None else ~known
    return pa.array(seconds * 1_000_000, pa.int64(), mask=missing).cast(ARROW_TYPES["TIMESTAMP"])


def lay_out(name: str, columns: dict) -> pa.Table:
    """Columns in the order and types of the table's schema."""
    schema = pa.schema([(column, ARROW_TYPES[kind]) for column, kind in SCHEMAS[name]])
    return pa.table([columns[column] for column in schema.names], schema=schema)
