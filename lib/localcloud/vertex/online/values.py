"""The values that feature views serve, in the tables online_values and schemas of the state."""

import json
import pickle
from collections.abc import Iterable

from lib.localcloud.vertex.base.state import State


def put(
    state: State, view: str, source: str, columns: list, rows: Iterable[tuple[str, tuple]]
) -> int:
    """Upsert the values of entities, each a row in the order of `columns`; how many.

    They are pickled, which takes a fifth of the time that JSON takes.
    """
    with state.transaction() as connection:
        schema = (json.dumps(columns),)
        known = connection.execute("select id from schemas where columns = ?", schema).fetchone()
        schema_id = known[0] if known else connection.execute(
            "insert into schemas (columns) values (?)", schema).lastrowid
        return connection.executemany(
            "insert or replace into online_values values (?, ?, ?, ?, ?)",
            ((view, entity, source, schema_id, pickle.dumps(row)) for entity, row in rows)).rowcount


def get(state: State, view: str, entity: str) -> list[tuple[list, tuple]]:
    """(columns, values) of an entity, one pair for each source of the view; [] if unknown."""
    rows = state.connection().execute(
        "select columns, data from online_values join schemas on id = schema_id "
        "where view = ? and entity = ?", (view, entity))
    # Text: JSON, from a sync by an older version of this module.
    return [(json.loads(columns), (json if isinstance(data, str) else pickle).loads(data))
            for columns, data in rows]
