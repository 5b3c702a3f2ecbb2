"""List methods: filter, read_mask and pages, the same for every collection."""

import base64
import re
from collections.abc import Callable, Sequence

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from lib.localcloud.errors import invalid, unsupported

MAX_PAGE = 1000
DEFAULT_PAGE = 100
FIELDS = ("labels", "display_name", "state")  # that a filter may name
OUTSIDE_QUOTES = r'(?=(?:[^"]*"[^"]*")*[^"]*$)'
TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z_]+)(?:\.(?P<key>"[^"]*"|[\w-]+))?
        \s*(?P<operator>!=|=|:)\s*(?P<value>"[^"]*"|'[^']*'|[^\s"']+)\s*""", re.VERBOSE)


def page(found: Sequence[Message], request: Message, response: Message) -> Message:
    """Fill `response` with the resources that match the request, one page of them.

    Args:
        found: the whole collection, in the order to answer in.

    Raises:
        ApiError: INVALID_ARGUMENT for a filter or page token that is malformed or not supported.
    """
    fields = request.DESCRIPTOR.fields_by_name
    if "order_by" in fields and request.order_by:
        raise unsupported("divergence.order-by", "order_by")
    if "filter" in fields and request.filter.strip():
        matches = _filter(request.filter)
        found = [message for message in found if matches(message)]
    if "read_mask" in fields and request.read_mask.paths:
        found = [_masked(message, request.read_mask.paths) for message in found]
    return cut(found, request, response)


def cut(found: Sequence[Message], request: Message, response: Message) -> Message:
    """Fill `response` with the page that the request asks for."""
    start = _offset(request.page_token)
    size = min(request.page_size, MAX_PAGE) if request.page_size > 0 else DEFAULT_PAGE
    getattr(response, repeated_field(response)).extend(found[start : start + size])
    if start + size < len(found):
        response.next_page_token = base64.urlsafe_b64encode(f"at:{start + size}".encode()).decode()
    return response


def repeated_field(response: Message) -> str:
    """The field of a list method's answer that holds the resources."""
    return next(f.name for f in response.DESCRIPTOR.fields if f.is_repeated)


def _offset(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("at:")) if token else 0
    except ValueError:
        raise invalid("every.page-token", f"page_token {token!r} is not valid.") from None


def _masked(message: Message, paths: list[str]) -> Message:
    result = type(message)()
    # A path into a Struct (pipeline_spec.pipeline_info) gives the whole Struct.
    whole = ["pipeline_spec" if p.startswith("pipeline_spec.") else p for p in paths]
    field_mask_pb2.FieldMask(paths=whole).MergeMessage(message, result)
    return result


def _filter(text: str) -> Callable[[Message], bool]:
    """Comparisons with AND and OR; AND binds tighter. Parentheses and NOT are refused."""
    any_of = [
        [_term(term) for term in re.split(r"\s+AND\s+" + OUTSIDE_QUOTES, branch.strip())]
        for branch in re.split(r"\s+OR\s+" + OUTSIDE_QUOTES, text)]
    return lambda message: any(all(term(message) for term in terms) for terms in any_of)


def _term(text: str) -> Callable[[Message], bool]:
    match = TERM.fullmatch(text)
    field = re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), match["field"]) if match else ""
    if field not in FIELDS:
        raise invalid(
            "divergence.order-by",
            f"filter: {text!r} is not supported; fields: {', '.join(FIELDS)}.")
    key, value = (match["key"] or "").strip('"'), match["value"].strip("\"'")
    operator = match["operator"]
    if field == "labels" and key and operator == ":" and value == "*":  # labels.key:*
        return lambda message: key in message.labels
    if field == "labels" and not key and operator == ":":  # labels:key
        return lambda message: value in message.labels
    if operator == ":" or bool(key) != (field == "labels"):
        raise invalid("divergence.order-by", f"filter: {text!r}: only = and != are supported.")
    return lambda message: (operator == "=") == (_text(message, field, key) == value)


def _text(message: Message, field: str, key: str) -> str | None:
    if field == "labels":
        return message.labels.get(key)
    if field == "state":
        return message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[
            message.state].name
    return getattr(message, field)
