"""List methods: filter, order_by and pages, the same for every collection."""

import base64
import fnmatch
import re
from collections.abc import Callable
from datetime import UTC, datetime

from google.protobuf.message import Message

from lib.localcloud.vertex.errors import invalid

MAX_PAGE = 1000
OUTSIDE_QUOTES = r'(?=(?:[^"]*"[^"]*")*[^"]*$)'
TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z_]+)(?:\.(?P<key>"[^"]*"|[\w-]+))?
        \s*(?P<operator>=!|!=|>=|<=|=|:|<|>)\s*
        (?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"']+)\s*""",
    re.VERBOSE,
)
TIMES = ("create_time", "update_time", "version_create_time", "version_update_time")
ALL_TIMES = (*TIMES, "start_time", "end_time")  # the last two: jobs only


def page(
    found: list[Message], request: Message, response: Message, field: str,
    fields: tuple[str, ...] = ("labels", *TIMES), wildcards: bool = False,
) -> Message:
    """Fill `response` with what the request's filter, order_by and page_token ask for.

    Args:
        found: everything in the collection, in order of creation.
        field: the repeated field of the response.
        fields: what the filter may name (AND of comparisons; OR of such).
        wildcards: whether texts can be compared with `:`, as in `display_name:"*step*"`.

    Raises:
        ApiError: INVALID_ARGUMENT for what the filter or order_by may not hold.
    """
    known = request.DESCRIPTOR.fields_by_name
    if "filter" in known and request.filter.strip():
        matches = _filter(request.filter, fields, wildcards)
        found = [message for message in found if matches(message)]
    if "order_by" in known and request.order_by.strip():
        found = _ordered(found, request.order_by)
    if "read_mask" in known and request.read_mask.paths:
        found = [_masked(message, request.read_mask) for message in found]
    start = _offset(request.page_token)
    size = min(request.page_size, MAX_PAGE) if request.page_size > 0 else 100
    getattr(response, field).extend(found[start : start + size])
    if start + size < len(found):
        response.next_page_token = base64.urlsafe_b64encode(f"at:{start + size}".encode()).decode()
    return response


def _offset(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("at:")) if token else 0
    except ValueError:
        raise invalid(f"page_token {token!r} is not valid.") from None


def _masked(message: Message, mask: Message) -> Message:
    result = type(message)()
    mask.MergeMessage(message, result)
    return result


def _ordered(found: list[Message], order_by: str) -> list[Message]:
    for part in reversed(order_by.split(",")):
        name, _, direction = part.strip().partition(" ")
        name = _snake(name)
        known = name in ("display_name", *ALL_TIMES) and (
            not found or name in found[0].DESCRIPTOR.fields_by_name)
        if not known or direction not in ("", "asc", "desc"):
            raise invalid(f"order_by: {part.strip()!r} is not supported.")
        found = sorted(found, key=lambda m: _sortable(m, name), reverse=direction == "desc")
    return found


def _sortable(message: Message, name: str) -> str | int:
    value = getattr(message, name)
    return value.ToNanoseconds() if name in ALL_TIMES else value


def _filter(
    text: str, fields: tuple[str, ...], wildcards: bool
) -> Callable[[Message], bool]:
    """A disjunction of conjunctions; parentheses and NOT are refused."""
    any_of = [
        [_term(term, fields, wildcards)
         for term in re.split(r"\s+AND\s+" + OUTSIDE_QUOTES, branch.strip())]
        for branch in re.split(r"\s+OR\s+" + OUTSIDE_QUOTES, text)
    ]
    return lambda message: any(all(term(message) for term in terms) for terms in any_of)


def _term(text: str, fields: tuple[str, ...], wildcards: bool) -> Callable[[Message], bool]:
    match = TERM.fullmatch(text)
    field = _snake(match["field"]) if match else ""
    if field not in fields:
        raise invalid(f"filter: {text!r} is not supported; fields: {', '.join(fields)}.")
    operator, value = match["operator"], re.sub(r"\\(.)", r"\1", match["value"].strip("\"'"))
    if field == "labels":
        return _label_term((match["key"] or "").strip('"'), operator, value, text)
    if field in ALL_TIMES:
        return _time_term(field, operator, value, text)
    if operator == ":" and wildcards and not match["key"] and field != "state":
        return lambda message: fnmatch.fnmatchcase(_text(message, field), value)
    if operator not in ("=", "!=", "=!") or match["key"]:
        raise invalid(f"filter: {text!r}: only = and != are supported.")
    return lambda message: (operator == "=") == (_text(message, field) == value)


def _text(message: Message, field: str) -> str:
    if field in ("display_name", "template_uri"):
        return getattr(message, field)
    if field == "state":
        return message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[
            message.state].name
    if field == "pipeline_name":
        return message.pipeline_spec.fields["pipelineInfo"].struct_value.fields["name"].string_value
    return message.name.rsplit("/", 1)[-1]  # `model`, `endpoint`, `pipeline_job_user_id`


def _label_term(key: str, operator: str, value: str, text: str) -> Callable[[Message], bool]:
    if not key and operator == ":":  # labels:key
        return lambda message: value in message.labels
    if key and operator == ":" and value == "*":  # labels.key:*
        return lambda message: key in message.labels
    if key and operator in ("=", "!="):
        return lambda message: (operator == "=") == (message.labels.get(key) == value)
    raise invalid(f"filter: {text!r} is not supported.")


def _time_term(field: str, operator: str, value: str, text: str) -> Callable[[Message], bool]:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise invalid(f"filter: {text!r}: the value must be an RFC 3339 time.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def matches(message: Message) -> bool:
        at = getattr(message, field).ToDatetime(tzinfo=UTC)
        return {"=": at == moment, "!=": at != moment, "<": at < moment, ">": at > moment,
                "<=": at <= moment, ">=": at >= moment}[operator]

    if operator not in ("=", "!=", "<", ">", "<=", ">="):
        raise invalid(f"filter: {text!r} is not supported.")
    return matches


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), name)
