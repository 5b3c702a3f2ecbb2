"""FeatureRegistryService: feature groups and their features."""

from google.cloud.aiplatform_v1 import types
from google.protobuf.message import Message

from lib.localcloud.errors import invalid
from lib.localcloud.vertex.base import operations
from lib.localcloud.vertex.base.context import Vertex
from lib.localcloud.vertex.base.resources import Collection
from lib.localcloud.vertex.base.state import new_message
from lib.localcloud.vertex.registry import rules

GROUPS = Collection(
    types.FeatureGroup, "featureGroups", rules.check_group, rules.check_group_delete,
    id_pattern=rules.FEATURE_ID, id_rule="registry.id")
FEATURES = Collection(
    types.Feature, "features", rules.check_feature,
    id_pattern=rules.FEATURE_ID, id_rule="registry.id",
    updatable=frozenset({"labels", "description", "point_of_contact"}))


def batch_create_features(vertex: Vertex, request: Message) -> dict:
    """BatchCreateFeatures: all of them or none."""
    response = new_message(types.BatchCreateFeaturesResponse)
    with vertex.state.transaction():
        for one in request.requests:
            if one.parent and one.parent != request.parent:
                raise invalid(
                    "registry.batch-parent",
                    f"requests: parent {one.parent!r} is not {request.parent!r}.")
            one.parent = request.parent
            response.features.append(operations.stub(FEATURES.add(vertex, one)))
    return operations.done(vertex.state, "BatchCreateFeatures", request.parent, response)


METHODS = {
    **GROUPS.handlers("create", "get", "list", "delete"),
    **FEATURES.handlers("create", "get", "list", "update", "delete"),
    "BatchCreateFeatures": batch_create_features,
}
