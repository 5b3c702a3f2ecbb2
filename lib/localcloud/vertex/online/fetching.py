"""FeatureOnlineStoreService: the values of one entity, as the last sync left them."""

import math

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import invalid, precondition, refused
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.online import values
from lib.localcloud.vertex.registry.tables import TIMESTAMP_COLUMN, entity_key


def fetch_feature_values(vertex: Vertex, request: Message) -> Message:
    """FetchFeatureValues, as KEY_VALUE or PROTO_STRUCT.

    Raises:
        ApiError: INVALID_ARGUMENT without a key, and as PROTO_STRUCT for a value that is NaN or
            infinite, because a Struct is JSON; NOT_FOUND, with the same message, for an entity,
            view or store that does not exist, and for a view that was never synced.
    """
    key = request.data_key
    parts = list(key.composite_key.parts) or ([key.key] if key.key else [])
    if not parts:
        raise invalid("sync.no-key", "data_key is required: key, or composite_key.parts.")
    found = values.get(vertex.state, request.feature_view, entity_key(parts))
    response, answers = new_message(types.FetchFeatureValuesResponse), vertex.answers
    if not found:
        nothing = answers.take("nothing_served")
        if vertex.state.find(request.feature_view) and nothing == "no features":
            return response
        if nothing.startswith("400") and vertex.state.children(
                request.feature_view, "featureViewSyncs") == []:
            raise precondition("sync.never-synced", "The feature view was never synced.")
        raise refused("sync.entity-missing", "NOT_FOUND", "Requested entity was not found.")
    features = _features(found)
    if answers.take("feature_timestamp") == "missing":
        features = [one for one in features if one[0] != TIMESTAMP_COLUMN]
    if request.data_format == types.FeatureViewDataFormat.PROTO_STRUCT:
        for name, _, value in features:
            if not all(map(_is_json, value if isinstance(value, list) else [value])):
                raise invalid(
                    "sync.not-json",
                    f"{name} is {value}, which PROTO_STRUCT cannot hold; use KEY_VALUE.")
        response.proto_struct.update({name: value for name, _, value in features})
        return response
    if answers.take("order") == "reversed":
        features.reverse()
    for name, kind, value in features:
        if value is not None:
            _set_value(response.key_values.features.add(name=name).value, kind, value)
        elif (nulls := answers.take("nulls")) != "left out":
            # Left out in tests of googleapis/java-vertex-feature-store.
            empty = response.key_values.features.add(name=name)
            if nulls == "empty value":
                empty.value.SetInParent()
    return response


def _features(found: list[tuple[list, list]]) -> list[tuple[str, str, object]]:
    """(name, kind, value) of each feature, and the newest feature_timestamp of the groups."""
    features, stamps = [], []
    for columns, row in found:
        for (name, kind), value in zip(columns, row, strict=True):
            (stamps if name == TIMESTAMP_COLUMN else features).append((name, kind, value))
    return features + sorted(stamps, key=lambda stamp: stamp[2] or 0)[-1:]


def _is_json(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _set_value(target: Message, kind: str, value: object) -> None:
    if kind.endswith("_array"):
        array = getattr(target, f"{kind}_value")
        array.SetInParent()  # so that an empty array is not taken for null
        array.values.extend(value)
    elif kind == "bytes":
        target.bytes_value = value.encode("latin-1")
    else:
        setattr(target, f"{kind}_value", value)
