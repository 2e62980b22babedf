"""The stream guard in real servers: what passes while a check of the stream is under way."""

import asyncio
import threading
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import grpc
import grpc.aio

import sallyport
import sallyport.aio

from .test_checker import TOKEN, AioServer, Server, allow, leased, refused

METADATA = (("authorization", f"Bearer {TOKEN}"),)


class Gated(Server):
    """A server whose answers can be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def validate(self, request: Any, timeout: float, wait: bool) -> Any:
        if not self.gate.is_set():
            self.waiting.set()
        self.gate.wait(20)
        return super().validate(request, timeout, wait)


class GatedAio(AioServer):
    async def validate(self, request: Any, timeout: float, wait: bool) -> Any:
        return await asyncio.to_thread(self._server.validate, request, timeout, wait)


class Service:
    """Talk gives back what it gets; Tell gives what is put into its queue. Both remember what reached them."""

    def __init__(self) -> None:
        self.reached: list[bytes] = []
        self.telling: Queue[bytes | None] = Queue()

    def talk(self, texts: Any, _context: Any) -> Iterator[bytes]:
        for text in texts:
            self.reached.append(text)
            yield text

    def tell(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        while (text := self.telling.get()) is not None:
            yield text

    async def aio_talk(self, texts: Any, _context: Any) -> Any:
        async for text in texts:
            self.reached.append(text)
            yield text

    async def aio_tell(self, _request: bytes, _context: Any) -> Any:
        while (text := await asyncio.to_thread(self.telling.get)) is not None:
            yield text


class OfThreads(unittest.TestCase):
    def setUp(self) -> None:
        self.server, self.service = Gated(), Service()
        self.addCleanup(self.service.telling.put, None)
        self.addCleanup(self.server.gate.set)
        channel = grpc.insecure_channel(f"127.0.0.1:{self.serve()}")
        self.addCleanup(channel.close)
        self.talk = channel.stream_stream("/a.v1.A/Talk")
        self.tell = channel.unary_stream("/a.v1.A/Tell")
        self.server.feed(leased(5, floor=5))

    def serve(self) -> int:
        checker = sallyport.Checker(self.server, cache="feed", timeout=20)
        self.cache: Any = checker.cache
        self.addCleanup(checker.close)
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[sallyport.AuthInterceptor(checker)])
        handlers = {
            "Talk": grpc.stream_stream_rpc_method_handler(self.service.talk),
            "Tell": grpc.unary_stream_rpc_method_handler(self.service.tell),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.v1.A", handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        return port

    def open(self) -> tuple["Queue[bytes | None]", Any]:
        """A stream of which one message has passed."""
        self.server.answers = [allow()]
        sending: Queue[bytes | None] = Queue()
        stream = self.talk(iter(sending.get, None), metadata=METADATA, timeout=20)
        self.addCleanup(sending.put, None)
        sending.put(b"one")
        self.assertEqual(next(stream), b"one")
        return sending, stream

    def suspend(self, *answers: Any) -> None:
        """Returns once a change has reached the stream, and its check is under way."""
        self.server.gate.clear()
        self.server.waiting.clear()
        self.server.answers = list(answers)
        self.server.feed(leased(6, changed=[7]))
        self.assertTrue(self.server.waiting.wait(20))

    def refused(self, stream: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
        with self.assertRaises(grpc.RpcError) as ended:
            next(stream)
        return ended.exception.code(), dict(ended.exception.trailing_metadata())

    def test_a_request_waits_for_the_check_and_never_passes_if_it_refuses(self) -> None:
        sending, stream = self.open()
        self.suspend(refused(6))
        sending.put(b"two")
        threading.Event().wait(0.1)  # a broken guard lets it pass in this time
        self.server.gate.set()
        self.assertEqual(
            self.refused(stream), (grpc.StatusCode.UNAUTHENTICATED, {"sallyport-verdict": "INVALID_TOKEN"})
        )
        self.assertEqual(self.service.reached, [b"one"])

    def test_a_response_waits_for_the_check_and_never_passes_if_it_refuses(self) -> None:
        self.server.answers = [allow()]
        stream = self.tell(b"", metadata=METADATA, timeout=20)
        self.service.telling.put(b"one")
        self.assertEqual(next(stream), b"one")
        self.suspend(refused(6))
        self.service.telling.put(b"two")
        threading.Event().wait(0.1)
        self.server.gate.set()
        self.assertEqual(self.refused(stream)[0], grpc.StatusCode.UNAUTHENTICATED)

    def test_messages_pass_once_the_check_admits_them(self) -> None:
        sending, stream = self.open()
        again = allow()
        again.entry.position = 6
        self.suspend(again)
        sending.put(b"two")
        self.server.gate.set()
        self.assertEqual(next(stream), b"two")

    def test_the_end_of_the_requests_waits_for_the_check_too(self) -> None:
        sending, stream = self.open()
        self.suspend(refused(6))
        sending.put(None)
        threading.Event().wait(0.1)
        self.server.gate.set()
        self.assertEqual(self.refused(stream)[0], grpc.StatusCode.UNAUTHENTICATED)

    def test_the_status_waits_for_the_check_too(self) -> None:
        self.server.answers = [allow()]
        stream = self.tell(b"", metadata=METADATA, timeout=20)
        self.service.telling.put(b"one")
        self.assertEqual(next(stream), b"one")
        self.suspend(refused(6))
        self.service.telling.put(None)
        threading.Event().wait(0.1)
        self.server.gate.set()
        self.assertEqual(self.refused(stream)[0], grpc.StatusCode.UNAUTHENTICATED)

    def test_a_check_without_an_answer_ends_the_stream(self) -> None:
        _, stream = self.open()
        self.suspend()
        self.assertEqual(
            self.refused(stream), (grpc.StatusCode.UNAVAILABLE, {"sallyport-verdict": "UNDETERMINED"})
        )

    def test_a_client_that_leaves_frees_its_guard(self) -> None:
        _, stream = self.open()
        stream.cancel()
        for _ in range(2_000):
            if not self.cache._watchers:
                return
            threading.Event().wait(0.01)
        self.fail("the guard still watches")


class OfAsyncio(OfThreads):
    def serve(self) -> int:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def run(work: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result(30)

        async def start() -> tuple[int, Callable[[], Any]]:
            checker = sallyport.aio.Checker(GatedAio(self.server), cache="feed", timeout=20)
            self.cache = checker.cache
            server = grpc.aio.server(interceptors=[sallyport.aio.AuthInterceptor(checker)])
            handlers = {
                "Talk": grpc.stream_stream_rpc_method_handler(self.service.aio_talk),
                "Tell": grpc.unary_stream_rpc_method_handler(self.service.aio_tell),
            }
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.v1.A", handlers)])
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()

            async def stop() -> None:
                await server.stop(None)
                await checker.close()

            return port, stop

        port, stop = run(start())

        def end() -> None:
            run(stop())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        self.addCleanup(end)
        return port
