"""Google's gRPC conventions: a service of a rest.Api, for clients that send protobuf over HTTP/2.

The same handlers answer, inside the same middleware, and refuse by the same rules; `_Service` is
to gRPC what `rest.answer` is to REST. A status that is no OK, its details and errors.MARK are in
the trailing metadata: https://grpc.io/docs/guides/error/
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (details are found by name)

from lib.localcloud import rest
from lib.localcloud.errors import MARK, refused

# Measured with 8 callers on two cores: 4 threads answer more than 1, 16, or an event loop.
THREADS = 4


def start(
    api: rest.Api, service: str, project: str, number: int
) -> tuple[grpc.Server, str]:
    """A running server of one service, and its address, host:port.

    Args:
        api: the service's methods may be some of its routes.
        service: such as google.cloud.aiplatform.v1.PredictionService.
        project, number: in a request the number means the project.
    """
    server = grpc.server(
        ThreadPoolExecutor(THREADS, "grpc"), handlers=[_Service(api, service, project, number)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return server, address


class _Service(grpc.GenericRpcHandler):
    def __init__(self, api: rest.Api, service: str, project: str, number: int):
        self._api, self._service = api, service
        self._project, self._number = f"projects/{project}/", f"projects/{number}/"
        self._requests = {route.rpc: route.request for route in api.routes}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a call; None is answered UNIMPLEMENTED."""
        service, _, rpc = details.method.strip("/").partition("/")
        if service != self._service:
            return None
        request = self._requests.get(rpc)
        # gRPC itself answers INTERNAL to bytes that are no such message, as its documentation says:
        # https://grpc.github.io/grpc/core/md_doc_statuscodes.html
        return grpc.unary_unary_rpc_method_handler(
            partial(self._answer, rpc), request_deserializer=request and request.FromString)

    def _answer(self, rpc: str, request: Message, context: grpc.ServicerContext) -> bytes:
        try:
            if rpc not in self._api.implemented:
                raise refused("divergence.methods", "UNIMPLEMENTED", f"{rpc} is not implemented "
                              f"here: {self._service}")
            for field, value in request.ListFields():
                if isinstance(value, str):
                    setattr(request, field.name, value.replace(self._number, self._project))
            answer = self._api.serialize(rpc, self._api.call(rpc, request))
            context.set_trailing_metadata(((MARK, "ok"),))
            return answer
        except Exception as error:
            failed = rest.failure(error, rpc)
        message = self._api.rename(failed.message)
        details = json_format.ParseDict(
            {**failed.rpc_status(), "message": message, "details": failed.details or []},
            status_pb2.Status())
        context.set_trailing_metadata((
            (MARK, failed.rule or "defect"),
            ("grpc-status-details-bin", details.SerializeToString())))
        context.abort(grpc.StatusCode[failed.status], message)
