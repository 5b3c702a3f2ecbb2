"""Where a prediction comes from: read from the live resources, and drawn.

A resource that does not exist is not in the picture. Arrows between tables are what sql/ reads;
any other arrow is drawn only if one live resource names the other.
"""

import re
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from lib import endpoint, feature_store, model_registry, warehouse
from lib.charts import style
from lib.cloud import Cloud
from lib.errors import existing
from lib.language import mark, tr
from lib.stages import short


@dataclass(frozen=True)
class LineageNode:
    """One resource. name: its short name. facts: lines about it."""

    name: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """The existing resources by kind (a key of BOXES), and which comes from which.

    edges: (from kind, to kind, label). place: project and region.
    """

    nodes: dict[str, LineageNode] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    place: str = ""

    def origins(self, kind: str) -> set[str]:
        """The kinds of everything that `kind` comes from, at any distance."""
        direct = {a for a, b, _ in self.edges if b == kind}
        return direct.union(*(self.origins(a) for a in direct))


# -- reading ---------------------------------------------------------------------------------


def read(cloud: Cloud) -> Lineage:
    """The app's resources as they are now, each read through Google's clients."""
    found = Lineage(place=f"{cloud.settings.project}, {cloud.settings.region}")
    _read_tables(cloud, found)
    _read_feature_store(cloud, found)
    _read_serving(cloud, found)
    found.edges[:] = [e for e in found.edges if e[0] in found.nodes and e[1] in found.nodes]
    return found


def _read_tables(cloud: Cloud, found: Lineage) -> None:
    """Sources, features, labels and training rows; the arrows are what sql/ reads (BUILDS)."""
    raw = warehouse.BUILDS["02_build_features"][1]
    sources = {key: warehouse.find_table(cloud, key) for key in raw}
    if all(sources.values()):
        facts = tuple(f"{t.num_rows:,} {t.table_id.removeprefix('raw_')}" for t in sources.values())
        found.nodes["sources"] = LineageNode(cloud.settings.names.dataset, facts)
    for kind, build in (("features", "02_build_features"), ("labels", "03_build_labels_churn"),
                        ("train", "04_build_train")):
        table = warehouse.find_table(cloud, kind)
        if table is None:
            continue
        facts = (tr("{rows:,} rows", rows=table.num_rows), tr("by sql/{file}", file=build[:2]))
        found.nodes[kind] = LineageNode(table.table_id, facts)
        reads = warehouse.BUILDS[build][1]
        for origin in dict.fromkeys("sources" if r in sources else r for r in reads):
            label = tr("point-in-time") if (origin, kind) == ("features", "train") else ""
            found.edges.append((origin, kind, label))


def _read_feature_store(cloud: Cloud, found: Lineage) -> None:
    group = existing(cloud.registry.get_feature_group, name=feature_store.group_name(cloud))
    if group is None:
        return
    features = list(cloud.registry.list_features(parent=group.name))
    dense = tr("dense: newest row") if group.big_query.dense else tr(
        "sparse: newest non-null values")
    found.nodes["group"] = LineageNode(
        short(group.name), (tr("{count} features", count=len(features)), dense))
    if group.big_query.big_query_source.input_uri == f"bq://{cloud.settings.table('features')}":
        found.edges.append(("features", "group", ""))
    if store := feature_store.find_store(cloud):
        found.nodes["store"] = LineageNode(short(store.name), (_nodes(store),))
    view = existing(cloud.online_admin.get_feature_view, name=feature_store.view_name(cloud))
    if view is None:
        return
    found.nodes["view"] = LineageNode(short(view.name), (tr("synced by a schedule"),))
    found.edges.append(("view", "store", ""))
    served = [g.feature_group_id for g in view.feature_registry_source.feature_groups]
    if cloud.settings.names.feature_group in served:
        found.edges.append(("group", "view", ""))
    _add_sync(cloud, found)


def _nodes(store) -> str:
    scaling = store.bigtable.auto_scaling
    least, most = scaling.min_node_count, scaling.max_node_count
    if most == 1:
        return tr("Bigtable, 1 node")
    return (tr("Bigtable, {nodes} nodes", nodes=most) if least == most else
            tr("Bigtable, {least} to {most} nodes", least=least, most=most))


def _add_sync(cloud: Cloud, found: Lineage) -> None:
    """The newest sync that succeeded: when, and how many rows."""
    done = [s for s in feature_store.list_syncs(cloud)
            if s.final_status.code == 0 and feature_store.is_done(s)]
    node = found.nodes["store"]
    facts = (tr("never synced"),) if not done else (
        tr("{rows:,} rows synced", rows=done[0].sync_summary.row_synced),
        f"{done[0].run_time.end_time.ToDatetime():%Y-%m-%d %H:%M} UTC")
    found.nodes["store"] = LineageNode(node.name, node.facts + facts)


def _read_serving(cloud: Cloud, found: Lineage) -> None:
    model = model_registry.find(cloud)
    if model is not None:
        facts = (tr("version {version}, {type}", version=model.version_id,
                    type=model.labels.get("model_type", "model")),
                 tr("model {id}", id=short(model.name)))
        found.nodes["model"] = LineageNode(model.display_name, facts)
        # The description of the version names the table that it was trained on.
        if f" {cloud.settings.table('train')}, " in f"{model.version_description}, ":
            found.edges.append(("train", "model", ""))
    service = endpoint.find(cloud)
    if service is None:
        return
    deployed = service.deployed_models
    versions = ", ".join(sorted(d.model_version_id for d in deployed)) or tr("none")
    found.nodes["endpoint"] = LineageNode(service.display_name, (
        tr("serves version {version}", version=versions),
        tr("endpoint {id}", id=short(service.name))))
    if model is not None and any(endpoint.serves(d, model) for d in deployed):
        found.edges.append(("model", "endpoint", ""))


# -- drawing ---------------------------------------------------------------------------------

BOXES = {  # kind: (column, row from the bottom, title, fill)
    "sources": (0, 0.5, mark("Source tables"), style.PALE),
    "features": (1, 0, mark("Feature table"), "white"),
    "labels": (1, 1, mark("Label table"), "white"),
    "group": (2, 0, mark("Feature Group"), "#CDEBE1"),
    "train": (2, 1, mark("Training table"), "white"),
    "view": (3, 0, mark("Feature View"), "#CDEBE1"),
    "model": (3, 1, mark("Model Registry"), "#CFE4F2"),
    "store": (4, 0, mark("Online Store"), "#CDEBE1"),
    "endpoint": (4, 1, mark("Endpoint"), "#CFE4F2"),
}
WIDE, HIGH, GAP, RISE = 1.92, 1.5, 0.31, 2.2  # inches: a box, and the space between boxes
LARGEST = 11  # font size in points


@style.styled
def lineage(found: Lineage) -> style.Chart:
    """The picture; its title says whether both paths to a prediction start at one table."""
    if not found.nodes:
        raise ValueError("nothing to draw: no resource exists")
    figure, axes = style.new_figure(
        finding(found), tr("Read from the live resources in {place}. Top: how the model is made. "
                           "Bottom: how the values it gets are made", place=found.place), 5.5)
    figure.set_layout_engine("none")
    axes.set(xlim=(0, 11), ylim=(-0.85, RISE + 0.8), position=(0.005, 0, 0.99, 4.35 / 5.5))
    axes.set_axis_off()
    boxes = {kind: _box(axes, kind, node) for kind, node in found.nodes.items()}
    for start, end, label in found.edges:
        _arrow(axes, start, end, label, boxes)
    return figure


def finding(found: Lineage) -> str:
    """One sentence on what the arrows show."""
    missing = [kind for kind in BOXES if kind not in found.nodes]
    if missing:
        return tr("{existing} of {all} resources exist; not created yet: {missing}",
                  existing=len(found.nodes), all=len(BOXES),
                  missing=", ".join(tr(BOXES[kind][2]) for kind in missing))
    name = found.nodes["features"].name
    if all("features" in found.origins(kind) for kind in ("endpoint", "store")):
        return tr("The model and the values it gets both come from {table}", table=name)
    apart = [tr(BOXES[k][2]) for k in ("endpoint", "store") if "features" not in found.origins(k)]
    return tr("Not traced back to {table}: {apart}", table=name, apart=", ".join(apart))


def _middle(kind: str) -> tuple[float, float]:
    column, row, *_ = BOXES[kind]
    return 0.06 + WIDE / 2 + column * (WIDE + GAP), row * RISE


def _box(axes: Axes, kind: str, node: LineageNode) -> FancyBboxPatch:
    x, y = _middle(kind)
    _, _, title, fill = BOXES[kind]
    box = FancyBboxPatch((x - WIDE / 2, y - HIGH / 2), WIDE, HIGH,
                         "round,pad=0,rounding_size=0.08", fc=fill, ec=style.GREY)
    axes.add_patch(box)
    names, facts = _lines(node.name, 0.67), [
        line for fact in node.facts for line in _lines(fact, 0.59)]
    lines = [(tr(title), LARGEST, "normal"),
             *((name, _size(name, 0.67), "bold") for name in names),
             *((fact, _size(fact, 0.59), "normal") for fact in facts)]
    for row, (text, size, weight) in enumerate(lines):
        axes.text(x, y + (len(lines) / 2 - row - 0.5) * 0.225, text, size=size, weight=weight,
                  ha="center", va="center")
    return box


def _lines(text: str, width: float) -> list[str]:
    """The text, broken where its box ends: at a space, else after "_"; `width` as in `_size`."""
    most = int(72 * (WIDE - 0.14) / (width * LARGEST))
    ends = list(re.finditer(" ", text[:most])) or list(re.finditer("_", text[:most]))
    if style.letters(text) <= most or not ends:
        return [text]
    end = ends[-1].end()
    return [text[:end].rstrip(), *_lines(text[end:], width)]


def _size(text: str, width: float) -> float:
    """Font size at which a line fits its box; `width`: of a letter, as a share of its height."""
    return min(LARGEST, round(72 * (WIDE - 0.14) / (width * style.letters(text)), 1))


def _arrow(axes: Axes, start: str, end: str, label: str, boxes: dict) -> None:
    a, b = _middle(start), _middle(end)
    axes.annotate("", b, a, arrowprops={
        "arrowstyle": "-|>", "fc": style.INK, "mutation_scale": 14,
        "patchA": boxes[start], "patchB": boxes[end]})
    if label:
        axes.text((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, label, color=style.BLUE, weight="bold",
                  ha="center", va="center", bbox={"fc": "white", "ec": "none", "pad": 1.5})
