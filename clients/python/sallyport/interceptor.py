"""The interceptor for servers on threads (``grpc.server``)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from .call import AdmittedContext, CallDetails, Rules, bearer_of, without_credential
from .checker import Checker
from .judge import Check, Origin
from .requirement import PUBLIC, Requirement, Rule
from .stream import GuardedStream, refuse


class AuthInterceptor(grpc.ServerInterceptor):
    """Checks each call before its handler starts, and guards streams until they end.

    The handler gets the identity, never the credential. ``client_address`` takes the call's context, for services
    behind a proxy; by default the address is the connection's peer.
    """

    def __init__(
        self,
        checker: Checker,
        requirements: Mapping[str, Rule] = {},
        *,
        client_address: Callable[[grpc.ServicerContext], str] | None = None,
    ) -> None:
        self._checker = checker
        self._rules = Rules(requirements, client_address)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        requirement = self._rules.of(method)
        if requirement == PUBLIC:
            return continuation(handler_call_details)
        handler = continuation(CallDetails(method, without_credential(handler_call_details.invocation_metadata)))
        if handler is None:
            return None
        make, inner = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        call = _Call(self._checker, self._rules, method, requirement, inner)

        def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
            if handler.response_streaming:
                return call.responses(request, context, handler.request_streaming)
            return call.requests(request, context) if handler.request_streaming else call.unary(request, context)

        return make(behaviour, handler.request_deserializer, handler.response_serializer)


class _Call:
    """A call of one method, in the thread of its handler."""

    def __init__(
        self, checker: Checker, rules: Rules, method: str, requirement: Requirement, handler: Callable[..., Any]
    ) -> None:
        self._checker = checker
        self._rules = rules
        self._method = method
        self._requirement = requirement
        self._handler = handler

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        _token, _origin, check = self._admit(context)
        assert check.identity is not None  # it is ALLOW
        return self._handler(request, AdmittedContext(context, check.identity))

    def requests(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self._stream(context) as stream:
            response = self._handler(stream.guarded(requests), stream)
            stream.wait()
            return response

    def responses(self, request: Any, context: grpc.ServicerContext, streams: bool) -> Iterator[Any]:
        with self._stream(context) as stream:
            responses = self._handler(stream.guarded(request) if streams else request, stream)
            try:
                for response in responses:
                    stream.wait()
                    yield response
                    stream.check()
            finally:
                close = getattr(responses, "close", None)
                if close is not None:
                    close()
            stream.wait()

    def _stream(self, context: grpc.ServicerContext) -> GuardedStream:
        token, origin, check = self._admit(context)
        return GuardedStream(context, self._checker, token, self._requirement, origin, check)

    def _admit(self, context: grpc.ServicerContext) -> tuple[str, Origin, Check]:
        token = bearer_of(context.invocation_metadata())
        origin = self._rules.origin(context, self._method)
        check = self._checker.check(token, self._requirement, origin)
        if token is None or check.verdict != "ALLOW":
            refuse(context, check.verdict)
        return token, origin, check
