"""What a feature view serves: the tables behind its feature groups."""

from google.protobuf.message import Message

from lib.localcloud.errors import invalid
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.registry.rules import entity_columns, timestamp_column
from lib.localcloud.vertex.registry.tables import ServedTable, table_id, value_field


def served_tables(vertex: Vertex, view: Message) -> list[ServedTable]:
    """The tables of a view, by the registry and BigQuery as they are now.

    Raises:
        ApiError: NOT_FOUND for a group, feature or table; INVALID_ARGUMENT for a group without
            features.
    """
    if view.HasField("big_query_source"):
        return [_table(vertex, view.big_query_source)]
    location = "/".join(view.name.split("/")[:4])
    return [
        _group(vertex, f"{location}/featureGroups/{part.feature_group_id}", part.feature_ids)
        for part in view.feature_registry_source.feature_groups]


def _group(vertex: Vertex, group_name: str, feature_ids: list[str]) -> ServedTable:
    group = vertex.state.get(group_name)
    if not feature_ids:
        raise invalid("online.view-source", f"feature_ids of {group_name} is empty.")
    columns = {}
    for feature_id in feature_ids:
        feature = vertex.state.get(f"{group_name}/features/{feature_id}")
        columns[feature_id] = feature.version_column_name or feature_id
    return ServedTable(
        key=group_name.rsplit("/", 1)[1],
        table=table_id(group.big_query.big_query_source.input_uri),
        entity_columns=tuple(entity_columns(group)),
        columns=columns,
        order=timestamp_column(group),
        dense=group.big_query.dense and vertex.answers.take("dense") == "honoured")


def _table(vertex: Vertex, source: Message) -> ServedTable:
    """A view directly on a table: one row per entity, an arbitrary one of several."""
    keys = tuple(source.entity_id_columns)
    columns = {name: name for name, field in vertex.tables.schema(source.uri).items()
               if name not in keys and value_field(field)}
    return ServedTable("", table_id(source.uri), keys, columns, None, True)
