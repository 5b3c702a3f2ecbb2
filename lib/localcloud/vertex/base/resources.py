"""Create, get, list, update and delete: the same for every kind of resource."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.vertex.base import listing, operations, rules
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import new_message

Handler = Callable[[Vertex, Message], Message | dict]


def _no_rule(vertex: Vertex, *messages: Message) -> None:
    pass


@dataclass(frozen=True)
class Collection:
    """One kind of resource. RPC and field names follow from the name of its message.

    Attributes:
        kind: the message, such as types.FeatureGroup.
        segment: what its collection is called in names, such as featureGroups.
        check: every rule on the resource, for create and update; may fill in defaults.
        check_delete: gets the resource and the delete request.
        id_pattern: of ids that the user chooses; None if the server does.
        id_rule: which rule of rules.toml the pattern is.
        id_optional: whether the server chooses an id if the user gives none.
        updatable: paths that an update mask may have.
    """

    kind: type
    segment: str
    check: Callable[[Vertex, Message], None] = _no_rule
    check_delete: Callable[[Vertex, Message, Message], None] = _no_rule
    id_pattern: re.Pattern | None = None
    id_rule: str = ""
    id_optional: bool = False
    updatable: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """FeatureGroup"""
        return self.kind.__name__

    @property
    def field(self) -> str:
        """feature_group"""
        return re.sub(r"(?<=.)([A-Z])", r"_\1", self.name).lower()

    def handlers(self, *verbs: str) -> dict[str, Handler]:
        """RPC name -> handler, for some of create, get, list, update, delete."""
        return {f"{verb.title()}{self.name}{'s' if verb == 'list' else ''}": getattr(self, verb)
                for verb in verbs}

    def add(self, vertex: Vertex, request: Message) -> Message:
        """Check and store the resource of a create request."""
        vertex.state.check_parent(request.parent)
        resource_id = getattr(request, f"{self.field}_id", "")
        if self.id_optional and not resource_id:
            resource_id = operations.new_id()
        else:
            rules.check_id(
                self.id_rule, resource_id, self.id_pattern, f"{self.field}_id")
        message = getattr(request, self.field)
        message.name = f"{request.parent}/{self.segment}/{resource_id}"
        self.check(vertex, message)
        return vertex.state.insert(message)

    def create(self, vertex: Vertex, request: Message) -> dict:
        message = self.add(vertex, request)
        return operations.done(
            vertex.state, f"Create{self.name}", message.name, operations.stub(message))

    def get(self, vertex: Vertex, request: Message) -> Message:
        return vertex.state.get(request.name)

    def list(self, vertex: Vertex, request: Message) -> Message:
        vertex.state.check_parent(request.parent)
        return self.page(vertex.state.children(request.parent, self.segment), request)

    def page(self, found: Sequence[Message], request: Message) -> Message:
        """One page of the list method's answer."""
        response = new_message(getattr(types, f"List{self.name}sResponse"))
        return listing.page(found, request, response)

    def update(self, vertex: Vertex, request: Message) -> dict:
        sent = getattr(request, self.field)
        changed = rules.merge(
            vertex.state.get(sent.name), sent, request.update_mask, self.updatable)
        self.check(vertex, changed)
        return operations.done(vertex.state, f"Update{self.name}", sent.name,
                               operations.stub(vertex.state.put(changed)))

    def delete(self, vertex: Vertex, request: Message) -> dict:
        self.check_delete(vertex, vertex.state.get(request.name), request)
        vertex.state.delete(request.name)
        return operations.done(vertex.state, f"Delete{self.name}", request.name)
