"""Rules of feature groups and features; each is listed with its source in ../../README.md."""

import re

from google.cloud import bigquery
from google.protobuf.message import Message

from lib.localcloud.errors import invalid, precondition
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.registry.tables import TIMESTAMP_COLUMN, value_field

FEATURE_ID = re.compile(r"[a-z_][a-z0-9_]{0,127}")  # of feature groups too
DEFAULT_ENTITY_COLUMN = "entity_id"
ENTITY_TYPES = ("STRING", "INTEGER", "INT64")

Schema = dict[str, bigquery.SchemaField]  # column name -> field


def entity_columns(group: Message) -> list[str]:
    """The group's entity id columns; `entity_id` if none were given."""
    return list(group.big_query.entity_id_columns) or [DEFAULT_ENTITY_COLUMN]


def timestamp_column(group: Message) -> str | None:
    """The group's timestamp column; None for a static source."""
    if group.big_query.static_data_source:
        return None
    return group.big_query.time_series.timestamp_column or TIMESTAMP_COLUMN


def check_group(vertex: Vertex, group: Message) -> None:
    """The table exists, with its entity id and timestamp columns."""
    rules.check_labels(group.labels)
    group.description = ""  # Google does not return it: Terraform's provider ignores it on reading
    spec = group.big_query
    if not spec.big_query_source.input_uri:
        raise invalid(
            "registry.source-uri",
            "feature_group.big_query.big_query_source.input_uri is required.")
    if spec.static_data_source and spec.HasField("time_series"):
        raise invalid(
            "registry.static-or-series",
            "static_data_source and time_series are mutually exclusive.")
    schema = vertex.tables.schema(spec.big_query_source.input_uri)
    check_entity_columns(schema, entity_columns(group))
    if name := timestamp_column(group):
        field = schema.get(name)
        if field is None:
            raise invalid(
                "registry.timestamp-column", f"The source has no timestamp column {name!r}.")
        if field.field_type != "TIMESTAMP" or field.mode == "REPEATED":
            raise invalid(
                "registry.timestamp-column",
                f"Timestamp column {name!r} is {field.field_type}; it must be TIMESTAMP.")


def check_group_delete(vertex: Vertex, group: Message, request: Message) -> None:
    if vertex.state.children(group.name, "features") and not request.force:
        raise precondition(
            "registry.delete-group", f"{group.name} has features; delete them first or set force.")


def check_feature(vertex: Vertex, feature: Message) -> None:
    """Its column (version_column_name, else its id) is in the group's table, and no entity id."""
    rules.check_labels(feature.labels)
    group_name, _, feature_id = feature.name.rsplit("/", 2)
    group = vertex.state.get(group_name)
    schema = vertex.tables.schema(group.big_query.big_query_source.input_uri)
    column = feature.version_column_name or feature_id
    if column in entity_columns(group):  # the text: terraform-provider-google#21169
        raise invalid(
            "registry.feature-not-entity",
            f"The BigQuery source {group.big_query.big_query_source.input_uri} has an "
            f"invalid schema. Feature column {column} is same as entity id column "
            "registered.")
    check_feature_column(schema, column)


def check_entity_columns(schema: Schema, columns: list[str]) -> None:
    """Raise INVALID_ARGUMENT unless every entity id column exists and is STRING or INT64."""
    for name in columns:
        field = schema.get(name)
        if field is None:
            raise invalid(
                "registry.entity-columns", f"entity_id_columns: the source has no column {name!r}.")
        if field.field_type not in ENTITY_TYPES or field.mode == "REPEATED":
            raise invalid(
                "registry.entity-columns",
                f"entity_id_columns: {name!r} is {field.field_type}; it must be STRING or INT64.")


def check_feature_column(schema: Schema, name: str) -> None:
    """Raise INVALID_ARGUMENT unless the column exists and has a type that can be served."""
    field = schema.get(name)
    if field is None:
        raise invalid(
            "registry.feature-column",
            f"The source has no column {name!r}; set version_column_name.")
    if value_field(field) is None:
        kind = f"ARRAY of {field.field_type}" if field.mode == "REPEATED" else field.field_type
        raise invalid(
            "registry.feature-type",
            f"Column {name!r} is {kind}, which a feature cannot be; cast it.")
