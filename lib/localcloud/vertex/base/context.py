"""What every handler gets as its first argument."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from lib.localcloud.vertex.base.answers import Answers
from lib.localcloud.vertex.base.background import Background
from lib.localcloud.vertex.base.state import State
from lib.localcloud.vertex.programs.images import Images
from lib.localcloud.vertex.programs.mount import Storage
from lib.localcloud.vertex.programs.runner import Runner
from lib.localcloud.vertex.programs.servers import Servers

# middleware(name, request, proceed): `name` is an RPC, or "sync" for the work of a feature view
# sync; `proceed()` does the work. It returns what proceed() gave, or an answer of its own.
Middleware = Callable[[str, Any, Callable[[], Any]], Any]


@dataclass
class Vertex:
    """The running stand-in.

    Attributes:
        data_dir: folder of the database and the logs.
        addresses: where programs that it runs find Google's services: "storage", "bigquery",
            "bigquery_grpc".
        tables: BigQuery, for the tables that features come from (registry/tables.py).
        answers: which way an answer takes where Google may choose (base/answers.py).
        syncs: running feature view syncs (online/sync.py).
        middleware: wraps every call, the first outermost: see Middleware.
    """

    project: str
    project_number: int
    data_dir: Path
    addresses: dict[str, str]
    state: State
    objects: Storage
    images: Images
    servers: Servers
    runner: Runner
    background: Background
    tables: Any
    answers: Answers = field(default_factory=Answers)
    syncs: Any = None
    middleware: list[Middleware] = field(default_factory=list)

    def call(self, name: str, request: Message, work: Callable[[], Any]) -> Any:
        """Do `work` inside all middleware."""
        for wrap in reversed(self.middleware):
            work = partial(wrap, name, request, work)
        return work()
