"""Rules that several services share: ids, labels, display names, updates.

The rules of one service are in its own rules.py; each is listed with its source in
../../README.md.
"""

import re
from collections.abc import Iterable

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from lib.localcloud.errors import invalid, refused

LABEL = re.compile(r"[\w-]{0,64}")
MAX_LABELS = 64
MAX_DISPLAY_NAME = 128


def check_id(rule: str, value: str, pattern: re.Pattern, field: str) -> None:
    """Raise INVALID_ARGUMENT by `rule` unless the id is given and matches."""
    if not value:
        raise invalid(rule, f"{field} is required.")
    if not pattern.fullmatch(value):
        raise invalid(rule, f"{field}: {value!r} does not match {pattern.pattern!r}.")


def check_display_name(value: str) -> None:
    """From 1 to 128 characters."""
    if not 0 < len(value) <= MAX_DISPLAY_NAME:
        raise invalid(
            "every.display-name", f"display_name must have 1 to {MAX_DISPLAY_NAME} characters.")


def check_labels(labels: dict[str, str]) -> None:
    """At most 64; keys and values of lower case, digits, "_" and "-", at most 64 characters."""
    if len(labels) > MAX_LABELS:
        raise invalid("every.labels", f"labels: {len(labels)} given, at most {MAX_LABELS} allowed.")
    for text in (*labels, *labels.values()):
        if not LABEL.fullmatch(text) or text != text.lower():
            raise invalid(
                "every.labels",
                f"labels: {text!r} must be lower case letters, digits, '_' and '-', "
                "64 characters at most.")
    if "" in labels:
        raise invalid("every.labels", "labels: a key is empty.")


def merge(
    stored: Message, sent: Message, mask: field_mask_pb2.FieldMask, updatable: Iterable[str]
) -> Message:
    """`stored` with the masked fields of `sent`; without a mask, with every field that is set.

    Raises:
        ApiError: INVALID_ARGUMENT for a field that is unknown or cannot be updated; ABORTED if
            an etag was sent and the resource has changed since.
    """
    if sent.etag and sent.etag != stored.etag:
        raise refused("every.etag", "ABORTED", f"etag {sent.etag!r} is not the current one.")
    paths = list(mask.paths)
    if not paths or paths == ["*"]:
        set_fields = {field.name for field, _ in sent.ListFields()}
        paths = sorted(set_fields & {path.split(".")[0] for path in updatable})
    for path in paths:
        if path not in updatable:
            raise invalid(
                "every.update-mask", f"update_mask: {path!r} cannot be updated; allowed: "
                f"{', '.join(sorted(updatable))}.")
    merged = type(stored)()
    merged.CopyFrom(stored)
    if "labels" in paths:  # MergeMessage adds to a map; Google replaces the map
        merged.labels.clear()
    field_mask_pb2.FieldMask(paths=paths).MergeMessage(
        sent, merged, replace_message_field=True, replace_repeated_field=True)
    return merged
