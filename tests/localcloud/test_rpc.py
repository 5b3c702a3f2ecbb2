"""The gRPC front, apart from the rules of any service. That those answer as by REST is held by
conftest.BothWays."""

import grpc
import pytest
from google.api_core import exceptions as errors
from google.cloud.aiplatform_v1 import FeatureOnlineStoreServiceClient, types

from lib.localcloud import rest, rpc
from lib.localcloud.errors import MARK, refused
from lib.localcloud.vertex.app import GRPC_SERVICE
from lib.localcloud.vertex.base.state import new_message

ASKED = {"feature_view": "projects/7/locations/l/featureOnlineStores/s/featureViews/v"}


@pytest.fixture
def served():
    """Serve `call` as FetchFeatureValues of project p, number 7; Google's client, and its
    channel."""
    running = []

    def start(call):
        routes = rest.service_routes("google.cloud.aiplatform_v1", "feature_online_store_service")
        api = rest.Api(routes, ["FetchFeatureValues"], lambda _, request: call(request),
                       rename=lambda text: text.replace("projects/p/", "projects/7/"))
        server, address = rpc.start(api, GRPC_SERVICE, "p", 7)
        channel = grpc.insecure_channel(address)
        running.extend((lambda: server.stop(None).wait(), channel.close))
        kind = FeatureOnlineStoreServiceClient
        return kind(transport=kind.get_transport_class("grpc")(channel=channel)), channel

    yield start
    for stop in reversed(running):
        stop()


def test_a_name_has_the_project_inside_and_its_number_outside(served):
    def refuse(request):
        raise refused("a.rule", "NOT_FOUND", f"{request.feature_view} is missing")

    with pytest.raises(errors.NotFound) as failed:
        served(refuse)[0].fetch_feature_values(ASKED)
    assert failed.value.message == f"{ASKED['feature_view']} is missing"
    inside = []
    served(lambda request: inside.append(request.feature_view) or new_message(
        types.FetchFeatureValuesResponse))[0].fetch_feature_values(ASKED)
    assert inside == [ASKED["feature_view"].replace("projects/7/", "projects/p/")]


def test_a_refusal_has_its_details_and_a_defect_says_what_it_is(served):
    def refuse(_):
        raise refused("a.rule", "PERMISSION_DENIED", "no", [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED",
            "domain": "googleapis.com"}])

    with pytest.raises(errors.PermissionDenied, match="SERVICE_DISABLED") as failed:
        served(refuse)[0].fetch_feature_values(ASKED)
    assert dict(failed.value.response.trailing_metadata())[MARK] == "a.rule"
    assert failed.value.reason == "SERVICE_DISABLED"
    with pytest.raises(errors.InternalServerError, match="of the stand-in: ZeroDivisionError"):
        served(lambda _: 1 / 0)[0].fetch_feature_values(ASKED)


def test_what_is_no_method_or_no_message_is_refused_and_harms_nothing(served):
    client, channel = served(lambda _: new_message(types.FetchFeatureValuesResponse))
    with pytest.raises(errors.MethodNotImplemented, match="SearchNearestEntities is not"):
        client.search_nearest_entities(ASKED)
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/google.cloud.other.v1.Service/Fetch")(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    for sent in (b"\xff", b"\x0a\x02\xff\xff", bytes(1000)):
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(f"/{GRPC_SERVICE}/FetchFeatureValues")(sent)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert client.fetch_feature_values(ASKED) == types.FetchFeatureValuesResponse()
