"""The values that feature views serve, in the tables online_values and schemas of the state."""

import json
from collections.abc import Iterable

from lib.localcloud.vertex.base.state import State


def put(
    state: State, view: str, source: str, columns: list, rows: Iterable[tuple[str, str]]
) -> int:
    """Upsert the values of entities, each a JSON list in the order of `columns`; how many."""
    with state.transaction() as connection:
        schema = (json.dumps(columns),)
        known = connection.execute("select id from schemas where columns = ?", schema).fetchone()
        schema_id = known[0] if known else connection.execute(
            "insert into schemas (columns) values (?)", schema).lastrowid
        return connection.executemany(
            "insert or replace into online_values values (?, ?, ?, ?, ?)",
            ((view, entity, source, schema_id, data) for entity, data in rows)).rowcount


def get(state: State, view: str, entity: str) -> list[tuple[list, list]]:
    """(columns, values) of an entity, one pair for each source of the view; [] if unknown."""
    rows = state.connection().execute(
        "select columns, data from online_values join schemas on id = schema_id "
        "where view = ? and entity = ?", (view, entity))
    return [(json.loads(columns), json.loads(data)) for columns, data in rows]
