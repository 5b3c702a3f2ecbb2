"""Rules of config.yaml that a type cannot state, and those over more than one key.

Each rule takes the `Settings` of lib/config.py and yields (key, value, what is allowed) for each
violation. It imports nothing of `lib`, because lib/config.py imports it.
"""

import math
import re
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

# Columns of features_customer and of the labels; the files in sql/ name them literally.
ENTITY, TIMESTAMP, LABEL_TIMESTAMP = "customer_id", "feature_timestamp", "label_timestamp"
PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
UNNAMED = "your-project-id"  # what config.yaml has before it is edited

# BigQuery's multi-regions, and the first part of the names of the Vertex AI regions in them.
# Google's "BigQuery locations": US is "data centers in the contiguous US", EU "within member
# states of the European Union", which leaves out London and Zurich.
MULTI_REGIONS = {"US": "us", "EU": "europe"}
OUTSIDE_EU = ("europe-west2", "europe-west6")

# Google's "Lexical structure and syntax in GoogleSQL": reserved keywords, which no column can be
# called without backticks. The same list is in sqlglot, and a test compares them.
RESERVED = frozenset("""
    all and any array as asc assert_rows_modified at between by case cast collate contains create
    cross cube current default define desc distinct else end enum escape except exclude exists
    extract false fetch following for from full group grouping groups hash having if ignore in
    inner intersect interval into is join lateral left like limit lookup merge natural new no not
    null nulls of on or order outer over partition preceding proto qualify range recursive respect
    right rollup rows select set some struct tablesample then to treat true unbounded union unnest
    using when where window with within""".split())

# minute, hour, day of the month, month, day of the week: lowest, highest, names of the values.
CRON_FIELDS = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of the month", 1, 31, ()),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec".split()),
    ("day of the week", 0, 7, "sun mon tue wed thu fri sat".split()))
CRON_FORM = ("five fields (minute, hour, day of the month, month, day of the week), with an "
             "optional TZ=Area/City before them, such as TZ=Etc/UTC 0 3 * * 1")


def shortest_history(settings) -> int:
    """Days from the first label date to the last, at the least, for three splits by time with a
    gap of one horizon between them (see lib/components/data_load)."""
    step = settings.snapshots.step_days
    return 2 * step * math.ceil(settings.label.horizon_days / step)


def check_cron(line: str) -> str:
    """The line, if it is a schedule as feature views take it.

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    fields = line.split(" ")
    if fields[0].startswith(("TZ=", "CRON_TZ=")):
        zone = fields.pop(0).partition("=")[2]
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"there is no time zone {zone!r}; allowed: {CRON_FORM}") from None
    if len(fields) != len(CRON_FIELDS):
        raise ValueError(f"allowed: {CRON_FORM}")
    for text, (what, low, high, names) in zip(fields, CRON_FIELDS, strict=True):
        if not all(_is_cron_part(part, low, high, names) for part in text.split(",")):
            raise ValueError(f"{text!r} is no {what}, {low} to {high}; allowed: {CRON_FORM}")
    return line


def _is_cron_part(part: str, low: int, high: int, names: list[str] | tuple) -> bool:
    """Is it *, 5 or 1-5, the first and last with an optional /step?"""
    found = re.fullmatch(r"(\*|\w{1,3}(?:-\w{1,3})?)(?:/0*[1-9]\d{0,2})?", part, re.ASCII)
    if not found:
        return False
    if found[1] == "*":
        return True
    first = 1 if low else 0  # months count from 1, days of the week from 0
    ends = [str(names.index(end.lower()) + first) if end.lower() in names else end
            for end in found[1].split("-")]
    if not all(end.isdecimal() and low <= int(end) <= high for end in ends):
        return False
    return int(ends[0]) <= int(ends[-1])


# --- over more than one key ----------------------------------------------------------------------

Problems = Iterator[tuple[str, object, str]]


def _source(settings) -> Problems:
    known = {f"thelook_only.sources.{n}": name
             for n, name in enumerate(settings.thelook_only.sources)}
    for key, name in {"source": settings.source, **known}.items():
        try:
            settings.folder(name).exists()
        except (OSError, RuntimeError):  # too long a name, a "~name" that nobody has
            yield key, name, "a BigQuery dataset (project.dataset) or a folder"


def _names(settings) -> Problems:
    for key, name in settings.names.model_dump().items():
        if key in ("bucket", "service_account"):
            wanted = f"{settings.app}-{settings.env}"
            if wanted not in name:
                yield f"names.{key}", name, f"must contain {wanted}"
        else:
            wanted = f"{settings.app}_{settings.env}"
            if not f"{name}_".startswith(f"{wanted}_"):
                yield f"names.{key}", name, f"must start with {wanted}"
    source = settings.names.source_dataset
    if source.lower() == settings.names.dataset.lower():
        yield "names.source_dataset", source, "another name than names.dataset"


def _tables(settings) -> Problems:
    seen = {}
    for key, name in settings.tables.model_dump().items():
        # BigQuery tells upper from lower case, the local one does not.
        if other := seen.get(name.lower()):
            yield f"tables.{key}", name, f"another name than tables.{other}"
        seen[name.lower()] = key


def _targets(settings) -> Problems:
    if settings.project == UNNAMED:
        yield (f"targets.{settings.target}.project", UNNAMED,
               "your Google Cloud project id: 6 to 30 of a-z, 0-9 and '-'")
    for key, target in settings.targets.items():
        yield from _place(settings, f"targets.{key}", target)


def _place(settings, key: str, target) -> Problems:
    """The region must have a Feature Store, and BigQuery's location must be or contain it.

    So a location that does not exist is refused without a list of all that do.
    """
    offered, region = settings.feature_store_regions, target.region
    if region not in offered:
        yield (f"{key}.region", region,
               "the Feature Store is not offered there; the nearest region that has it is "
               f"{_nearest(settings, region)}, all are {', '.join(offered)}")
    around = [name for name, continent in MULTI_REGIONS.items()
              if region.split("-")[0] == continent and not (name == "EU" and region in OUTSIDE_EU)]
    if target.location not in (*around, region):
        multi = f", or the multi-region that contains it ({around[0]})" if around else ""
        yield f"{key}.location", target.location, f"the region itself ({region}){multi}"


def _nearest(settings, region: str) -> str:
    """The nearest region with a Feature Store; for a region that is not in the table, one of the
    same continent, with which the region's name begins."""
    offered = settings.feature_store_regions
    continent = [name for name in offered if name.split("-")[0] == region.split("-")[0]]
    near = [settings.nearest_regions.get(region), *continent]
    return next((name for name in near if name in offered), offered[0])


def _features(settings) -> Problems:
    names, label = settings.feature_names, settings.label.column
    columns = {ENTITY: "the customer", TIMESTAMP: "the time of a row",
               LABEL_TIMESTAMP: "the time of a label", label: "the label"}
    for row, name in enumerate(names):
        key = f"features.{row}.name"
        if name in names[:row]:
            yield key, name, "given more than once"
        elif name in columns:
            yield key, name, f"names {columns[name]}, not a feature"
        elif name.startswith("label_churn_"):
            yield key, name, "names a label of another horizon, not a feature"
        elif name in RESERVED:
            yield key, name, "another name: this is a reserved word of BigQuery's SQL"


def _training(settings) -> Problems:
    train, serve = settings.train, settings.serve
    for key, band in (("label", settings.label.positive_rate_band),
                      ("thelook_only", settings.thelook_only.positive_rate_band)):
        if band and not band[0] < band[1]:
            yield f"{key}.positive_rate_band", list(band), "the lower bound comes first"
    least = shortest_history(settings)
    if settings.snapshots.history_days < least:
        yield ("snapshots.history_days", settings.snapshots.history_days,
               f"at least {least}: three splits with label.horizon_days between them")
    if abs(sum(train.split_ratios) - 1) > 1e-9:
        yield "train.split_ratios", list(train.split_ratios), "must add up to 1"
    if train.model_type not in train.params:
        yield (f"train.params.{train.model_type}", None,
               "a block, if only {}, for this train.model_type")
    if serve.min_replica_count > serve.max_replica_count:
        yield ("serve.max_replica_count", serve.max_replica_count,
               f"at least serve.min_replica_count ({serve.min_replica_count})")
    if not (Path(__file__).parent / serve.image / "Dockerfile").is_file():
        yield "serve.image", serve.image, "a folder in lib/ with a Dockerfile"


def _pauses(settings) -> Problems:
    for key, block in (("waits", settings.waits), ("retries", settings.retries)):
        if block.first_pause_seconds > block.longest_pause_seconds:
            yield (f"{key}.longest_pause_seconds", block.longest_pause_seconds,
                   f"at least {key}.first_pause_seconds ({block.first_pause_seconds:g})")


def _plan(settings) -> Problems:
    planned = [step.name for step in settings.plan]
    for row, step in enumerate(settings.plan):
        if planned.count(step.name) > 1:
            yield "plan.name", step.name, "given more than once"
        for name in step.after:
            if name not in planned:
                yield f"plan.{step.name}.after", name, "no step has that name"
            elif name in planned[row:]:
                yield (f"plan.{step.name}.after", name,
                       "must be above it in the list, or steps wait for each other in a cycle")


RULES = (_source, _names, _tables, _targets, _features, _training, _pauses, _plan)
