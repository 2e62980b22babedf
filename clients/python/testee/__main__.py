"""An echo service for the tests of the client: ``python -m testee aio`` or ``threads``.

SALLYPORT is the address of the data listener; CACHE is off or feed. It prints its port, and ends with its input.
"""

import asyncio
import json
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

import sallyport
import sallyport.aio

SERVICE = "test.v1.Echo"
REQUIREMENTS = {
    f"{SERVICE}/Read": sallyport.Requirement(scopes=("history:read",)),
    f"{SERVICE}/Write": sallyport.Requirement(scopes=("orders.write",)),
    f"{SERVICE}/Audience": sallyport.Requirement(audience="orders"),
    f"{SERVICE}/Tenant": sallyport.Requirement(tenant="another"),
    f"{SERVICE}/Seen": sallyport.PUBLIC,
}
UNARY = ("Say", "Read", "Write", "Audience", "Tenant")

seen: Counter[str] = Counter()
hooks = sallyport.Hooks(
    checked=lambda verdict, tier, _: seen.update([tier, f"{tier} {verdict}"]),
    lease=lambda _: seen.update(["lease"]),
    feed=lambda state: seen.update([state]),
    stream_ended=lambda reason: seen.update([f"ended {reason}"]),
)


def answered(text):
    """The bytes of an answer. grpc.aio has made bytes of a text by itself."""
    return StringValue(value=text.decode() if isinstance(text, bytes) else text).SerializeToString()


def said(text, context):
    authorization = [value for key, value in context.invocation_metadata() if key == "authorization"]
    return json.dumps([getattr(text, "value", text), sallyport.identity_of(context).principal, authorization])


class Threads:
    """The methods for ``grpc.server``."""

    def say(self, text, context):
        return said(text, context)

    def seen(self, _, context):
        return json.dumps(seen)

    def count(self, text, context):
        yield said(text, context)
        for number in range(10**9):  # a client that reads slowly holds it up
            yield f"{number} " + "x" * 10_000

    def stuck(self, text, context):
        yield said(text, context)
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait()

    def talk(self, texts, context):
        for text in texts:
            yield said(text, context)

    def stubborn(self, texts, context):
        try:
            yield from self.talk(texts, context)
        except Exception:
            yield said("after the end", context)

    def gone(self, text, context):
        yield said(text, context)
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    def total(self, texts, context):
        return said(" ".join(text.value for text in texts), context)

    def handlers(self):
        return {
            **{name: grpc.unary_unary_rpc_method_handler(self.say, StringValue.FromString, answered) for name in UNARY},
            "Seen": grpc.unary_unary_rpc_method_handler(self.seen, StringValue.FromString, answered),
            "Count": grpc.unary_stream_rpc_method_handler(self.count, StringValue.FromString, answered),
            "Stuck": grpc.unary_stream_rpc_method_handler(self.stuck, StringValue.FromString, answered),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk, StringValue.FromString, answered),
            "Stubborn": grpc.stream_stream_rpc_method_handler(self.stubborn, StringValue.FromString, answered),
            "Gone": grpc.unary_stream_rpc_method_handler(self.gone, StringValue.FromString, answered),
            "Total": grpc.stream_unary_rpc_method_handler(self.total, StringValue.FromString, answered),
        }


class Aio(Threads):
    """The methods for ``grpc.aio``."""

    async def say(self, text, context):
        return said(text, context)

    async def seen(self, _, context):
        return json.dumps(seen)

    async def count(self, text, context):
        yield said(text, context)
        for number in range(10**9):
            yield f"{number} " + "x" * 10_000

    async def stuck(self, text, context):
        await context.write(said(text, context))
        await asyncio.Event().wait()

    async def talk(self, texts, context):
        async for text in texts:
            yield said(text, context)

    async def stubborn(self, texts, context):
        try:
            async for text in texts:
                yield said(text, context)
        except asyncio.CancelledError:
            yield said("after the end", context)

    async def gone(self, text, context):
        yield said(text, context)
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async def total(self, texts, context):
        return said(" ".join([text.value async for text in texts]), context)


def threads(target: str, cache: str) -> None:
    validator = sallyport.GrpcValidator(target, None)
    with sallyport.Checker(validator, cache=cache, hooks=hooks) as checker:
        auth = sallyport.AuthInterceptor(checker, REQUIREMENTS)
        server = grpc.server(ThreadPoolExecutor(32), interceptors=[auth])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, Threads().handlers())])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(json.dumps({"port": port}), flush=True)
        sys.stdin.read()
        server.stop(None).wait()


async def aio(target: str, cache: str) -> None:
    validator = sallyport.aio.GrpcValidator(target, None)
    async with sallyport.aio.Checker(validator, cache=cache, hooks=hooks) as checker:
        auth = sallyport.aio.AuthInterceptor(checker, REQUIREMENTS)
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, Aio().handlers())])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(json.dumps({"port": port}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)


if __name__ == "__main__":
    at, kept = os.environ["SALLYPORT"], os.environ.get("CACHE", "off")
    asyncio.run(aio(at, kept)) if sys.argv[1] == "aio" else threads(at, kept)
    print(json.dumps({"left": seen["left"]}), flush=True)
