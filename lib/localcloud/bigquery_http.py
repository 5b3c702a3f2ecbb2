"""In front of bqemulator's REST API: what it would do wrongly or slowly is refused at once.

Google's client retries status 500 for ten minutes; 400 and 501 reach the caller immediately.
"""

import json
import logging
import re
from contextvars import ContextVar

import bqemulator
from bqemulator.api import app as bqemulator_api
from bqemulator.api.dependencies import AppContext
from bqemulator.api.middleware import GzipRequestMiddleware
from bqemulator.jobs.executor import JOB_RESULTS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.localcloud import bigquery_results
from lib.localcloud.errors import MARK
from lib.localcloud.guard import Guard

MAX_REST_ROWS = 1_000_000  # at some 10,000 rows a second
PROJECT = r"/bigquery/v2/projects/(?P<project>[^/]+)"
JOBS = re.compile(rf"(/upload)?{PROJECT}/(?P<kind>jobs|queries)")
RESULT = re.compile(rf"{PROJECT}/queries/(?P<job>[^/]+)")
ROWS = re.compile(rf"{PROJECT}/datasets/(?P<dataset>[^/]+)/tables/(?P<table>[^/]+)/data")
EXPORT = re.compile(r"\bexport\s+data\b\s*(options|with)\b", re.IGNORECASE)
# The parts of configuration.load that bqemulator respects, or that change no row.
LOAD_OPTIONS = {
    "sourceUris", "sourceFormat", "destinationTable", "schema", "writeDisposition",
    "createDisposition", "autodetect", "skipLeadingRows", "parquetOptions", "timePartitioning",
    "rangePartitioning", "clustering",
}
# Of a query that failed; of any other reason 400.
STATUSES = {"accessDenied": 403, "duplicate": 409, "notFound": 404}
LOAD_DEFAULTS = {"fieldDelimiter": ",", "encoding": "UTF-8", "quote": '"', "maxBadRecords": "0"}

# Whether the request that is being answered is a dry run.
DRY_RUN: ContextVar[bool] = ContextVar("dry_run", default=False)

_log = logging.getLogger(__name__)


def create_app(context: AppContext) -> Starlette:
    """bqemulator's application with the middleware around it.

    DuckDB gets a third of the memory, and writes what needs more beside its file. By default it
    takes four fifths of the machine's or of the container's, but the training and a notebook run on
    the same machine. It tries no dictionary for the texts that it writes: most are ids, and trying
    took a fifth of the time.
    """
    context.engine.execute(
        "set memory_limit = parse_formatted_bytes(current_setting('memory_limit')) * 5 // 12 "
        "|| ' B'")
    context.engine.execute("set disabled_compression_methods = 'dictionary'")
    app = bqemulator_api.create_app(context)
    # Its access log and metrics, which nobody reads, take a tenth of a small request.
    app.user_middleware = [one for one in app.user_middleware if one.cls is GzipRequestMiddleware]
    app.add_middleware(Middleware, context=context)
    app.add_middleware(Guard)  # the outermost
    return app


class Middleware:
    """Refuses what is not served, and turns defects of bqemulator into errors with a cause."""

    def __init__(self, app: ASGIApp, context: AppContext):
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        send = _marked(send)
        path = scope["path"]
        is_job = scope["method"] == "POST" and JOBS.fullmatch(path)
        if is_job:
            body = await Request(scope, receive).body()
            job = _job(body)
            DRY_RUN.set(bool(job.get("dryRun")))
            found = refusal(job)
            answer = _error(found[0], 501, "notImplemented", found[1]) if found else None
            receive = _replay(_with_accepted_type(body), receive)
        else:
            answer = self._refuse_rows(Request(scope)) if scope["method"] == "GET" else None
        if answer:
            return await answer(scope, receive, send)
        query = bool(is_job) and is_job["kind"] == "queries"
        await self._call(scope, receive, _failing(send) if query else send)
        if is_job:
            bigquery_results.bound_results()

    def _refuse_rows(self, request: Request) -> JSONResponse | None:
        """Refuse a result that is no longer kept, and more rows than REST can read in time."""
        if result := RESULT.fullmatch(request.url.path):
            job = result["job"]
            table = JOB_RESULTS.get(job)
            meta = self._context.catalog.get_job(result["project"], job)
            if table is None and meta and not meta.error_result:
                return _error("divergence.results-in-memory", 404, "notFound",
                              bigquery_results.GONE.format(job))
        elif found := ROWS.fullmatch(request.url.path):
            table = self._context.catalog.get_table(*found.group("project", "dataset", "table"))
        else:
            return None
        if table and table.num_rows > MAX_REST_ROWS and "maxResults" not in request.query_params:
            return _error("divergence.rest-rows", 400, "responseTooLarge", (
                f"{table.num_rows:,} rows would take the local cloud minutes over REST (the limit "
                f"is {MAX_REST_ROWS:,}). Please use the Storage Read API: "
                "to_arrow(bqstorage_client=...) or to_dataframe(bqstorage_client=...); or read a "
                "part: max_results, page_size, or a limit in the query."))
        return None

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call bqemulator; its 500 becomes a 501, which Google's client does not retry."""
        failed = b""
        status = 0

        async def send_unless_failed(message: Message) -> None:
            nonlocal failed, status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status != 500:
                return await send(message)
            failed += message.get("body", b"")

        try:
            await self._app(scope, receive, send_unless_failed)
        except Exception as error:
            if status not in (0, 500):
                raise  # in the middle of an answer
            _log.exception("bqemulator failed at %s %s", scope["method"], scope["path"])
            cause = f"{type(error).__name__}: {error}"
        else:
            if status != 500:
                return
            cause = json.loads(failed)["error"]["message"]
        answer = _error("divergence.emulator-failure", 501, "notImplemented", (
            f"{cause}\n(The local cloud's BigQuery, bqemulator {bqemulator.__version__}, failed at "
            "this request; repeating it does not help. See Known divergences in "
            "lib/localcloud/README.md.)"))
        await answer(scope, receive, send)


def _job(body: bytes) -> dict:
    """The configuration of a job, from the body of jobs.insert, jobs.query or an upload; {} for a
    malformed one: bqemulator says what is wrong."""
    try:
        if body.startswith(b"--"):  # multipart: the JSON, then the file
            body = body.split(b"\r\n\r\n", 2)[1].split(b"\r\n--")[0]
        job = json.loads(body)
        found = job.get("configuration", {"query": job, "dryRun": job.get("dryRun")})
        return found if isinstance(found, dict) else {}
    except (ValueError, LookupError, AttributeError, RecursionError):
        return {}


def refusal(configuration: dict) -> tuple[str, str] | None:
    """Rule and reason why a job is not served, None if it is."""
    try:
        return _job_refusal(configuration)
    except (AttributeError, TypeError):
        return None  # malformed


def _job_refusal(configuration: dict) -> tuple[str, str] | None:
    query, load = configuration.get("query", {}), configuration.get("load")
    if "extract" in configuration or EXPORT.search(query.get("query") or ""):
        return ("divergence.export",
                "The local cloud does not export tables to gs://. Please read the table "
                "(list_rows(...).to_arrow(bqstorage_client=...)) and upload the file.")
    if query.get("destinationTable"):
        return ("divergence.destination", "The local cloud does not write a query's result to a "
                "destination table. Please use a statement: create or replace table ... as "
                "select ...")
    return _load_refusal(load) if load else None


def _load_refusal(load: dict) -> tuple[str, str] | None:
    ignored = sorted(
        name for name, value in load.items()
        if name not in LOAD_OPTIONS and value and str(value) != LOAD_DEFAULTS.get(name))
    if ignored:
        return ("divergence.load-options",
                f"The local cloud ignores {', '.join(ignored)} of a load job. Please prepare the "
                "rows in Python and load them with load_table_from_dataframe.")
    header = str(load.get("skipLeadingRows")) == "1" or load.get("autodetect")
    if load.get("sourceFormat", "CSV") == "CSV" and not header:
        return ("divergence.csv-header",
                "The local cloud takes the first line of a CSV file as its header. Please say "
                "skip_leading_rows=1, and have a header in the file.")
    return None


def _with_accepted_type(body: bytes) -> bytes:
    """Name the type of an uploaded file as bqemulator accepts it; Google's client says */*."""
    if not body.startswith(b"--"):
        return body
    parts = body.split(b"\r\n\r\n", 2)  # headers; JSON and headers; file
    parts[1] = parts[1].replace(b"content-type: */*", b"content-type: application/octet-stream")
    return b"\r\n\r\n".join(parts)


def _error(rule: str, status: int, reason: str, message: str) -> JSONResponse:
    """An error in BigQuery's form: https://cloud.google.com/bigquery/docs/error-messages"""
    return JSONResponse({"error": {"code": status, "message": message, "errors": [
        {"domain": "global", "reason": reason, "message": message}]}}, status, {MARK: rule})


def _marked(send: Send) -> Send:
    """A `send` that marks every answer as one of the local cloud."""

    async def send_marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if MARK.encode() not in dict(headers):
                headers.append((MARK.encode(), b"ok"))
            message = {**message, "headers": headers}
        await send(message)

    return send_marked


def _failing(send: Send) -> Send:
    """A `send` for jobs.query: bqemulator answers a query that failed with 200, no rows and its
    errors, which query_and_wait() takes for an empty result. BigQuery answers with the reason's
    status.

    https://cloud.google.com/bigquery/docs/error-messages
    """
    start: Message = {}
    content = b""

    async def send_whole(message: Message) -> None:
        nonlocal start, content
        if message["type"] == "http.response.start":
            start = message
            return
        content += message.get("body", b"")
        if message.get("more_body"):
            return
        errors = json.loads(content).get("errors") if start["status"] == 200 else None
        if errors:
            reason = errors[0]["reason"]
            answer = _error("bigquery.failed-query", STATUSES.get(reason, 400), reason,
                            errors[0]["message"])
            start = {**start, "status": answer.status_code, "headers": answer.raw_headers}
            content = answer.body
        await send(start)
        await send({"type": "http.response.body", "body": content})

    return send_whole


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
