"""Rules that several resources share: ids, labels, cron lines, update masks, etags.

Each is listed with its source in ../README.md.
"""

import re
import zoneinfo

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from lib.localcloud.vertex.errors import ApiError, invalid

FEATURE_ID = re.compile(r"[a-z_][a-z0-9_]{0,127}")
ONLINE_STORE_ID = re.compile(r"[a-z_][a-z0-9_]{0,59}")
MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
ENDPOINT_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}|0")
VERSION_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
LABEL = re.compile(r"[\w-]{0,64}")
MAX_LABELS = 64
MAX_DISPLAY_NAME = 128

# minute, hour, day of month, month, day of week: https://en.wikipedia.org/wiki/Cron
CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_NAMES = (
    {}, {}, {},
    dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True)),
    dict(zip("sun mon tue wed thu fri sat".split(), range(7), strict=True)),
)


def check_id(value: str, pattern: re.Pattern, field: str) -> None:
    """Raise INVALID_ARGUMENT unless the id is given and matches."""
    if not value:
        raise invalid(f"{field} is required.")
    if not pattern.fullmatch(value):
        raise invalid(f"{field}: {value!r} does not match {pattern.pattern!r}.")


def check_display_name(value: str) -> None:
    if not 0 < len(value) <= MAX_DISPLAY_NAME:
        raise invalid(f"display_name must have 1 to {MAX_DISPLAY_NAME} characters.")


def check_labels(labels: dict[str, str]) -> None:
    """At most 64; keys and values of lower case, digits, "_" and "-", at most 64 characters."""
    if len(labels) > MAX_LABELS:
        raise invalid(f"labels: {len(labels)} given, at most {MAX_LABELS} allowed.")
    for key, value in labels.items():
        for text in (key, value):
            if not LABEL.fullmatch(text) or text != text.lower():
                raise invalid(
                    f"labels: {text!r} must be lower case letters, digits, '_' and '-', "
                    "64 characters at most.")
        if not key:
            raise invalid("labels: a key is empty.")


def check_cron(line: str) -> None:
    """Raise INVALID_ARGUMENT unless it is `[TZ=zone|CRON_TZ=zone] m h dom mon dow`."""
    fields = line.split()
    if fields and "=" in fields[0]:
        variable, _, zone = fields.pop(0).partition("=")
        if variable not in ("TZ", "CRON_TZ") or zone not in zoneinfo.available_timezones():
            raise invalid(f"sync_config.cron: {variable}={zone} is no IANA time zone prefix.")
    if len(fields) != len(CRON_RANGES):
        raise invalid(f"sync_config.cron: {line!r} must have five fields.")
    for field, bounds, names in zip(fields, CRON_RANGES, CRON_NAMES, strict=True):
        if not all(_cron_item(item, *bounds, names) for item in field.split(",")):
            raise invalid(f"sync_config.cron: {field!r} in {line!r} is not valid.")


def _cron_item(item: str, low: int, high: int, names: dict[str, int]) -> bool:
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


def merge(
    stored: Message, sent: Message, mask: field_mask_pb2.FieldMask, updatable: set[str]
) -> Message:
    """`stored` with the masked fields of `sent`; without a mask, with every field that is set.

    Raises:
        ApiError: INVALID_ARGUMENT for a field that is unknown or cannot be updated; ABORTED if
            an etag was sent and the resource has changed since.
    """
    fields = stored.DESCRIPTOR.fields_by_name
    if "etag" in fields and sent.etag and sent.etag != stored.etag:
        raise ApiError("ABORTED", f"etag {sent.etag!r} is not the current one.")
    paths = list(mask.paths)
    if not paths or paths == ["*"]:
        set_fields = {field.name for field, _ in sent.ListFields()}
        paths = sorted(set_fields & {path.split(".")[0] for path in updatable})
    for path in paths:
        if path not in updatable:
            allowed = ", ".join(sorted(updatable))
            raise invalid(f"update_mask: {path!r} cannot be updated; allowed: {allowed}.")
    merged = type(stored)()
    merged.CopyFrom(stored)
    field_mask_pb2.FieldMask(paths=paths).MergeMessage(
        sent, merged, replace_message_field=True, replace_repeated_field=True)
    # MergeMessage adds the entries of a map; Google replaces the map that a mask names.
    for path in paths:
        if path in fields and path in ("labels", "traffic_split"):
            getattr(merged, path).clear()
            getattr(merged, path).update(getattr(sent, path))
    return merged
