"""Rules of online stores and feature views; each is listed with its source in ../../README.md."""

import re
import zoneinfo

from google.protobuf.message import Message

from lib.localcloud.errors import invalid, precondition, unsupported
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.online.sources import served_tables
from lib.localcloud.vertex.registry.rules import check_entity_columns, check_feature_column

ONLINE_STORE_ID = re.compile(r"[a-z_][a-z0-9_]{0,59}")  # of feature views too

# minute, hour, day of month, month, day of week: https://en.wikipedia.org/wiki/Cron
CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_NAMES = (
    {}, {}, {},
    dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True)),
    dict(zip("sun mon tue wed thu fri sat".split(), range(7), strict=True)),
)


def check_store(vertex: Vertex, store: Message) -> None:
    """Bigtable only; node counts and CPU target as the proto comment of AutoScaling says."""
    rules.check_labels(store.labels)
    if store.HasField("optimized"):
        raise unsupported(
            "divergence.optimized", "Optimized online serving (Google ends it on 2027-02-17)")
    if not store.bigtable.HasField("auto_scaling"):
        raise invalid(
            "online.autoscaling", "feature_online_store.bigtable.auto_scaling is required.")
    scaling = store.bigtable.auto_scaling
    if scaling.min_node_count < 1:
        raise invalid("online.autoscaling", "min_node_count must be at least 1.")
    if not scaling.min_node_count <= scaling.max_node_count <= 10 * scaling.min_node_count:
        raise invalid(
            "online.autoscaling",
            "max_node_count must be from min_node_count to 10 times min_node_count.")
    scaling.cpu_utilization_target = scaling.cpu_utilization_target or 50
    if not 10 <= scaling.cpu_utilization_target <= 80:
        raise invalid("online.autoscaling", "cpu_utilization_target must be from 10 to 80.")
    store.state = type(store).STABLE


def check_store_delete(vertex: Vertex, store: Message, request: Message) -> None:
    if vertex.state.children(store.name, "featureViews") and not request.force:
        raise precondition(
            "online.delete-store",
            f"{store.name} has feature views; delete them first or set force.")


def check_view(vertex: Vertex, view: Message) -> None:
    """Its source exists, with what it serves; its schedule can be read."""
    rules.check_labels(view.labels)
    if view.sync_config.continuous:
        raise unsupported("divergence.continuous", "sync_config.continuous")
    if view.HasField("index_config") or view.HasField("optimized_config"):
        raise unsupported(
            "divergence.vector-search", "Vector search (index_config, optimized_config)")
    if view.HasField("vertex_rag_source"):
        raise unsupported("divergence.vector-search", "vertex_rag_source")
    if view.sync_config.cron:
        check_cron(view.sync_config.cron)
    if view.HasField("big_query_source"):
        _check_table(vertex, view.big_query_source)
    else:
        _check_groups(vertex, view)


def _check_table(vertex: Vertex, source: Message) -> None:
    schema = vertex.tables.schema(source.uri)
    if not source.entity_id_columns:
        raise invalid("online.view-source", "big_query_source.entity_id_columns is required.")
    check_entity_columns(schema, source.entity_id_columns)
    for name in schema.keys() - set(source.entity_id_columns):
        check_feature_column(schema, name)


def _check_groups(vertex: Vertex, view: Message) -> None:
    source = view.feature_registry_source
    if not source.feature_groups:
        raise invalid(
            "online.view-source", "feature_view needs big_query_source or feature_registry_source.")
    if source.project_number not in (0, vertex.project_number):
        raise unsupported(
            "divergence.other-project", "feature_registry_source.project_number of another project")
    tables = served_tables(vertex, view)
    if len({table.entity_columns for table in tables}) > 1:
        raise invalid(
            "online.same-entity",
            "All feature groups of a view must have the same entity_id_columns.")
    if any(table.dense for table in tables) and not view.sync_config.cron:
        raise precondition(
            "online.dense-scheduled",
            "A dense feature group needs a view with a scheduled sync (cron).")


def check_cron(line: str, field: str = "sync_config.cron") -> None:
    """Raise INVALID_ARGUMENT unless it is `[TZ=zone|CRON_TZ=zone] m h dom mon dow`."""
    fields = line.split()
    if fields and "=" in fields[0]:
        variable, _, zone = fields.pop(0).partition("=")
        if variable not in ("TZ", "CRON_TZ") or zone not in zoneinfo.available_timezones():
            raise invalid(
                "online.cron", f"{field}: {variable}={zone} is no IANA time zone prefix.")
    if len(fields) != len(CRON_RANGES):
        raise invalid("online.cron", f"{field}: {line!r} must have five fields.")
    for part, bounds, names in zip(fields, CRON_RANGES, CRON_NAMES, strict=True):
        if not all(_is_cron_item(item, *bounds, names) for item in part.split(",")):
            raise invalid("online.cron", f"{field}: {part!r} in {line!r} is not valid.")


def _is_cron_item(item: str, low: int, high: int, names: dict[str, int]) -> bool:
    """One of *, 5, 1-5, each with an optional /step."""
    span, slash, step = item.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span == "*":
        return True
    values = [names.get(part.lower(), part) for part in span.split("-")]
    if len(values) > 2 or not all(str(v).isdecimal() and low <= int(v) <= high for v in values):
        return False
    return int(values[0]) <= int(values[-1])
