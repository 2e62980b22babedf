"""The interceptor for servers on asyncio (``grpc.aio.server``)."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from ..cache import Identity
from ..call import AdmittedContext, Rules, bearer_of, with_verdict, without_credential
from ..decide import Verdict
from ..guard import StreamGuard
from ..judge import Check, Origin, call_hook
from ..requirement import PUBLIC, Requirement, Rule
from ..status import refusal_of
from .checker import Checker, LoopClock, keep


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Checks each call before its handler starts, and guards streams until they end.

    The handler gets the identity, never the credential. It is an ``async`` function, or an ``async`` generator.
    ``client_address`` takes the call's context, for services behind a proxy; by default the address is the
    connection's peer.
    """

    def __init__(
        self,
        checker: Checker,
        requirements: Mapping[str, Rule] = {},
        *,
        client_address: Callable[[grpc.aio.ServicerContext], str] | None = None,
    ) -> None:
        self._checker = checker
        self._rules = Rules(requirements, client_address)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        requirement = self._rules.of(method)
        if requirement == PUBLIC:
            return await continuation(handler_call_details)
        # grpcio takes no other class here.
        details = type(handler_call_details)(method, without_credential(handler_call_details.invocation_metadata))
        handler = await continuation(details)
        if handler is None:
            return None
        make, inner = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        if not inspect.iscoroutinefunction(inner) and not inspect.isasyncgenfunction(inner):
            raise TypeError(f"the handler of {method} is not async")
        call = _Call(self._checker, self._rules, method, requirement, inner)
        streams = handler.request_streaming or handler.response_streaming

        async def behaviour(request: Any, context: grpc.aio.ServicerContext) -> Any:
            if streams:
                return await call.stream(request, context, handler.request_streaming)
            return await call.unary(request, context)

        return make(behaviour, handler.request_deserializer, handler.response_serializer)


class _Call:
    """A call of one method."""

    def __init__(
        self, checker: Checker, rules: Rules, method: str, requirement: Requirement, handler: Callable[..., Any]
    ) -> None:
        self._checker = checker
        self._rules = rules
        self._method = method
        self._requirement = requirement
        self._handler = handler

    async def unary(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        _token, _origin, check = await self._admit(context)
        assert check.identity is not None  # it is ALLOW
        return await self._handler(request, AdmittedContext(context, check.identity))

    async def stream(self, request: Any, context: grpc.aio.ServicerContext, streams: bool) -> Any:
        token, origin, opened = await self._admit(context)
        assert opened.identity is not None  # it is ALLOW
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def end(verdict: Verdict | None) -> None:
            if not over.done():
                over.set_result(verdict)

        def recheck(done: Callable[[Check], None]) -> None:
            async def run() -> None:
                done(await self._checker.check(token, self._requirement, origin))

            keep(run())

        guard = StreamGuard(
            cache=self._checker.cache,
            check=recheck,
            end=end,
            requirement=self._requirement,
            clock=LoopClock(),
        )
        stream = _GuardedStream(context, opened.identity, guard, over)
        guard.start(opened)
        # A task of its own, so that the guard can end the call while the handler waits for anything.
        handling: asyncio.Future[Any] = keep(self._handle(stream.guarded(request) if streams else request, stream))
        try:
            await asyncio.wait((handling, over), return_when=asyncio.FIRST_COMPLETED)
            if stream.aborted:
                return await handling
            # The status waits for a suspended stream as a message does.
            if over.done() or not await stream.passage():
                verdict = over.result()
                assert verdict is not None  # only the end of this function sets none
                handling.cancel()
                call_hook(self._checker.hooks.stream_ended, verdict)
                await refuse(context, verdict)
            return handling.result()
        finally:
            guard.close()
            end(None)
            handling.cancel()

    async def _handle(self, request: Any, stream: "_GuardedStream") -> Any:
        if not inspect.isasyncgenfunction(self._handler):
            return await self._handler(request, stream)
        async with aclosing(self._handler(request, stream)) as responses:
            async for response in responses:
                await stream.write(response)

    async def _admit(self, context: grpc.aio.ServicerContext) -> tuple[str, Origin, Check]:
        token = bearer_of(context.invocation_metadata())
        origin = self._rules.origin(context, self._method)
        check = await self._checker.check(token, self._requirement, origin)
        if token is None or check.verdict != "ALLOW":
            await refuse(context, check.verdict)
        return token, origin, check


class _GuardedStream(AdmittedContext):
    """The context of a stream whose messages pass when its guard lets them. It never lets one pass once it has ended."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext,
        identity: Identity,
        guard: StreamGuard,
        over: "asyncio.Future[Any]",
    ) -> None:
        super().__init__(context, identity)
        self._guard = guard
        self._over = over
        self.aborted = False

    async def passage(self) -> bool:
        """Returns when a message may pass, in the step in which the guard says so; False once the stream is over."""
        while not self._over.done():
            passed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._guard.admit(partial(_set, passed))
            if passed.done():
                return True
            await asyncio.wait({passed, self._over}, return_when=asyncio.FIRST_COMPLETED)
        return False

    async def _pass(self) -> None:
        if not await self.passage():
            raise asyncio.CancelledError

    async def read(self) -> Any:
        message = await self._context.read()
        await self._pass()
        return message

    async def write(self, message: Any) -> None:
        await self._pass()
        await self._context.write(message)

    async def abort(self, *args: Any, **named: Any) -> NoReturn:
        await self._pass()
        self.aborted = True
        await self._context.abort(*args, **named)
        raise AssertionError("abort raises")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self._pass()
        self.aborted = True
        await self._context.abort_with_status(status)
        raise AssertionError("abort raises")

    async def guarded(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            await self._pass()
            yield request
        await self._pass()


async def refuse(context: grpc.aio.ServicerContext, verdict: str) -> NoReturn:
    """Ends a call with the status of a verdict."""
    code, details = refusal_of(verdict)
    await context.abort(code, details, with_verdict(context.trailing_metadata(), verdict))
    raise AssertionError("abort raises")


def _set(passed: "asyncio.Future[Any]") -> None:
    if not passed.done():
        passed.set_result(None)
