import asyncio
import threading
import unittest
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import Future
from queue import Queue
from typing import Any

import grpc

import sallyport
import sallyport.aio
from sallyport.call import AdmittedContext, CallDetails, address_of, bearer_of
from sallyport.gen.sallyport.v1 import token_validator_pb2 as pb
from sallyport.judge import monotonic
from sallyport.requirement import LIVE, Requirement
from sallyport.timers import Timers

from .vectors import read

Pair = namedtuple("Pair", ("key", "value"))
TOKEN = "sp_pat_1Tag8Tag8SecretSecretSecretSecretSecretSecretSecretS0Gp8Ra"
EPOCH = bytes([0, 200, 255])


def allow(tags: tuple[int, ...] = (7,), **more: Any) -> pb.ValidateTokenResponse:
    token = pb.ValidatedToken(id="tok_1", tenant="default", profile="pat", principal="user:ann", scopes=["orders.*"])
    token.expire_time.seconds = 4_000_000_000
    entry = pb.CacheEntry(epoch=EPOCH, position=5, tags=tags)
    return pb.ValidateTokenResponse(verdict=pb.VERDICT_ALLOW, token=token, entry=entry, **more)


def refused(position: int) -> pb.ValidateTokenResponse:
    entry = pb.CacheEntry(epoch=EPOCH, position=position)
    return pb.ValidateTokenResponse(verdict=pb.VERDICT_INVALID_TOKEN, entry=entry)


def leased(position: int, **more: Any) -> pb.WatchChangesResponse:
    answer = pb.WatchChangesResponse(**{"epoch": EPOCH, "position": position, "instance_id": "i1", **more})
    answer.lease.nanos = 900_000_000
    answer.lease.seconds = 60  # the tests are slower than a server
    answer.time_lower.seconds = answer.time_upper.seconds = 1_000
    return answer


class Server:
    """A server by hand: answers of checks and of the feed, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[pb.ValidateTokenRequest] = []
        self.calls: list[tuple[float, bool]] = []
        self.watched: list[pb.WatchChangesRequest] = []
        self.answers: list[Any] = []
        self.closed = False
        self._watches: Queue[Future[Any]] = Queue()

    def validate(self, request: pb.ValidateTokenRequest, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        self.asked.append(request)
        self.calls.append((timeout, wait))
        answer = self.answers.pop(0) if self.answers else OSError("no answer")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watch(self, request: pb.WatchChangesRequest, _timeout: float) -> "Future[Any]":
        self.watched.append(request)
        answer: Future[Any] = Future()
        if request.leaving:
            answer.set_exception(OSError("left"))
        else:
            self._watches.put(answer)
        return answer

    def feed(self, answer: pb.WatchChangesResponse) -> None:
        """Answers the request in flight, and returns once the next one is in flight: then the answer is applied."""
        flight = self._watches.get(timeout=20)
        if answer.sequence == 0:
            answer.sequence = self.watched[-1].sequence
        flight.set_result(answer)
        following = self._watches.get(timeout=20)
        self._watches.put(following)

    def watched_first(self) -> int:
        """The sequence of the request in flight, once there is one."""
        self._watches.put(self._watches.get(timeout=20))
        return self.watched[-1].sequence

    def close(self) -> None:
        self.closed = True


class AioServer:
    """The same server for asyncio."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def validate(self, request: Any, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        return self._server.validate(request, timeout, wait)

    async def watch(self, request: pb.WatchChangesRequest, timeout: float) -> pb.WatchChangesResponse:
        return await asyncio.wrap_future(self._server.watch(request, timeout))

    async def close(self) -> None:
        self._server.close()


class InLoop:
    """The checker for asyncio, in the loop of another thread, to be used like the one for threads."""

    def __init__(self, server: Server, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def make() -> sallyport.aio.Checker:
            return sallyport.aio.Checker(AioServer(server), **options)

        self._checker = self._run(make())
        self.cache = self._checker.cache

    def check(self, *args: Any) -> sallyport.Check:
        return self._run(self._checker.check(*args))

    def close(self) -> None:
        self._run(self._checker.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


class OfThreads(unittest.TestCase):
    make: Callable[..., Any] = staticmethod(sallyport.Checker)

    def checker(self, server: Server, **options: Any) -> Any:
        made = self.make(server, **options)
        self.addCleanup(made.close)
        return made

    def test_each_verdict_of_the_server(self) -> None:
        for number, verdict in {
            pb.VERDICT_INVALID_TOKEN: "INVALID_TOKEN",
            pb.VERDICT_INSUFFICIENT_SCOPE: "INSUFFICIENT_SCOPE",
            pb.VERDICT_WRONG_AUDIENCE: "WRONG_AUDIENCE",
            pb.VERDICT_ADDRESS_NOT_ALLOWED: "ADDRESS_NOT_ALLOWED",
            pb.VERDICT_RATE_LIMITED: "RATE_LIMITED",
            pb.VERDICT_WRONG_TENANT: "WRONG_TENANT",
            pb.VERDICT_UNDETERMINED: "UNDETERMINED",
            pb.VERDICT_UNSPECIFIED: "UNDETERMINED",
            99: "UNDETERMINED",
        }.items():
            with self.subTest(verdict):
                server = Server()
                server.answers = [pb.ValidateTokenResponse(verdict=number, token=allow().token)]  # type: ignore[arg-type]
                check = self.checker(server).check(TOKEN)
                self.assertEqual((check.verdict, check.identity), (verdict, None))

    def test_an_allow_carries_the_identity_and_one_without_a_token_is_none(self) -> None:
        server = Server()
        server.answers = [allow(), pb.ValidateTokenResponse(verdict=pb.VERDICT_ALLOW)]
        checker = self.checker(server)
        identity = checker.check(TOKEN).identity
        self.assertEqual((identity.token_id, identity.principal), ("tok_1", "user:ann"))
        self.assertEqual(identity.expire.timestamp(), 4_000_000_000)
        self.assertEqual(checker.check(TOKEN).verdict, "UNDETERMINED")

    def test_no_credential_and_no_token_are_refused_without_a_call(self) -> None:
        server = Server()
        checker = self.checker(server)
        self.assertEqual(checker.check(None).verdict, "NO_CREDENTIAL")
        self.assertEqual(checker.check("sp_pat_x").verdict, "INVALID_TOKEN")
        self.assertEqual(server.asked, [])

    def test_a_text_that_cannot_be_sent_is_no_allow(self) -> None:
        self.assertEqual(self.checker(Server(), cache="feed").check("\ud800").verdict, "UNDETERMINED")

    def test_the_requirement_and_the_origin_reach_the_server(self) -> None:
        server = Server()
        self.checker(server).check(TOKEN, Requirement(("a",), "b"), sallyport.Origin("10.0.0.1", "/x"))
        asked = server.asked[0]
        self.assertEqual((list(asked.required_scopes), asked.audience, asked.want_entry), (["a"], "b", False))
        self.assertEqual((asked.context.client_address, asked.context.path), ("10.0.0.1", "/x"))

    def test_a_call_that_was_not_sent_is_repeated_once_and_a_sent_one_is_not(self) -> None:
        server = Server()
        checker = self.checker(server)
        server.answers = [sallyport.NotSent(), allow()]
        self.assertEqual(checker.check(TOKEN).verdict, "ALLOW")
        (first, waits), (second, waited) = server.calls
        self.assertTrue(0 < second < first <= 0.3 and waited and not waits)
        server.answers = [sallyport.NotSent(), sallyport.NotSent(), allow()]
        self.assertEqual(checker.check(TOKEN).verdict, "UNDETERMINED")
        server.answers = [OSError("reset"), allow()]
        self.assertEqual(checker.check(TOKEN).verdict, "UNDETERMINED")
        self.assertEqual(len(server.asked), 5)

    def test_a_tenant_is_the_servers_to_judge_and_its_allow_must_name_it(self) -> None:
        """The vectors that the client of every language must satisfy."""
        cases = read("tenant")["cases"]
        self.assertGreater(len(cases), 5)
        for case in cases:
            with self.subTest(case["name"]):
                server = Server()
                checker = self.checker(server, cache="feed")
                server.feed(leased(5, floor=5))
                answer = allow()
                answer.verdict = pb.Verdict.Value(f"VERDICT_{case['answer']['verdict']}")
                if (token := case["answer"]["token"]) is None:
                    answer.ClearField("token")
                else:
                    answer.token.MergeFrom(pb.ValidatedToken(**token))
                server.answers = [answer, answer]
                for _ in range(2):
                    check = checker.check(TOKEN, Requirement(tenant=case["tenant"]))
                    self.assertEqual(check.verdict, case["verdict"])
                    self.assertIs(check.identity is not None, check.verdict == "ALLOW")
                    self.assertIs(check.entry is not None, case["entry"])
                self.assertEqual([request.tenant for request in server.asked], [case["tenant"]] * case["calls"])

    def test_hooks_see_verdict_and_tier_never_the_string_and_cannot_fail_a_check(self) -> None:
        server = Server()
        server.answers = [allow()]
        seen: list[tuple[Any, ...]] = []

        def checked(*args: Any) -> None:
            seen.append(args)
            raise RuntimeError("a broken hook")

        checker = self.checker(server, hooks=sallyport.Hooks(checked=checked))
        self.assertEqual(checker.check(TOKEN).verdict, "ALLOW")
        checker.check("sp_x")
        self.assertEqual([args[:2] for args in seen], [("ALLOW", "server"), ("INVALID_TOKEN", "offline")])
        self.assertNotIn(TOKEN, repr(seen))

    def test_a_check_is_answered_from_the_cache_until_a_change_reaches_its_token(self) -> None:
        server = Server()
        tiers: list[str] = []
        checker = self.checker(
            server, cache="feed", hooks=sallyport.Hooks(checked=lambda _verdict, tier, _: tiers.append(tier))
        )
        server.feed(leased(5, floor=5))
        server.answers = [allow(), refused(6)]
        self.assertEqual(checker.check(TOKEN).verdict, "ALLOW")
        self.assertTrue(server.asked[0].want_entry)
        self.assertEqual(checker.check(TOKEN, Requirement(("orders.read",))).verdict, "ALLOW")
        missing = checker.check(TOKEN, Requirement(("stock.read",)))
        self.assertEqual((missing.verdict, missing.missing_scopes), ("INSUFFICIENT_SCOPE", ("stock.read",)))
        server.feed(leased(6, changed=[7]))
        self.assertEqual(checker.check(TOKEN).verdict, "INVALID_TOKEN")
        self.assertEqual(checker.check(TOKEN).verdict, "INVALID_TOKEN")
        self.assertEqual(tiers, ["server", "cache", "cache", "server", "cache"])

    def test_a_tenant_and_an_answer_without_entry_or_tag_are_never_answered_from_the_cache(self) -> None:
        server = Server()
        checker = self.checker(server, cache="feed")
        server.feed(leased(5, floor=5))
        without = allow()
        without.ClearField("entry")
        for string, requirement, answer in [
            (TOKEN, Requirement(tenant="default"), allow()),
            ("another", LIVE, without),
            ("a third", LIVE, allow(tags=())),
        ]:
            before = len(server.asked)
            server.answers = [answer, answer]
            checker.check(string, requirement)
            checker.check(string, requirement)
            self.assertEqual(len(server.asked), before + 2)

    def test_the_feed_acknowledges_what_is_applied_and_says_when_it_leaves(self) -> None:
        server = Server()
        states: list[str] = []
        checker = self.make(server, cache="feed", hooks=sallyport.Hooks(feed=states.append))
        server.feed(leased(5, floor=5))
        first, second = server.watched
        self.assertEqual((first.epoch, first.position, first.instance_id), (b"", 0, ""))
        self.assertEqual((second.epoch, second.position, second.instance_id), (EPOCH, 5, "i1"))
        self.assertEqual(first.cache_id, second.cache_id)
        self.assertFalse(second.leaving)
        self.assertGreater(checker.cache.lease, 0)
        checker.close()
        self.assertEqual(checker.cache.lease, 0)
        self.assertEqual((server.watched[-1].leaving, server.watched[-1].position), (True, 5))
        self.assertEqual(states, ["following", "left"])
        self.assertTrue(server.closed)

    def test_a_lease_counts_from_the_moment_before_the_send(self) -> None:
        now = [10**9]
        server = Server()
        checker = self.checker(server, cache="feed", mono=lambda: now[0])
        self.assertEqual(server.watched_first(), 1)
        now[0] += 10**9
        server.feed(leased(5))
        self.assertEqual(checker.cache.lease, 60_900_000_000 - 10**9)

    def test_an_answer_to_another_request_and_one_without_an_epoch_are_ignored(self) -> None:
        server = Server()
        checker = self.checker(server, cache="feed")
        server.feed(leased(5, sequence=77))
        server.feed(leased(5, epoch=b""))
        self.assertEqual(checker.cache.lease, 0)
        self.assertEqual(checker.cache.version, (b"", -1))


class OfAsyncio(OfThreads):
    make = InLoop


class Calls(unittest.TestCase):
    def test_the_context_of_an_admitted_call_hides_only_the_credential(self) -> None:
        class Context:
            def invocation_metadata(self) -> Any:
                return (Pair("authorization", "Bearer x"), Pair("trace", "1"))

            def peer(self) -> str:
                return "ipv4:10.0.0.1:1"

        identity = sallyport.Identity("tok_1", "default", "user:ann", "pat")
        context = AdmittedContext(Context(), identity)
        self.assertEqual([(item.key, item.value) for item in context.invocation_metadata()], [("trace", "1")])
        self.assertEqual(context.peer(), "ipv4:10.0.0.1:1")
        self.assertIs(sallyport.identity_of(context), identity)
        self.assertIsInstance(context, grpc.ServicerContext)
        with self.assertRaises(LookupError):
            sallyport.identity_of(Context())

    def test_a_handler_for_asyncio_must_be_async(self) -> None:
        async def of(handler: Any) -> Any:
            checker = sallyport.aio.Checker(AioServer(Server()))
            made = grpc.unary_unary_rpc_method_handler(handler)

            async def continuation(_: Any) -> Any:
                return made

            interceptor = sallyport.aio.AuthInterceptor(checker, {})
            return await interceptor.intercept_service(continuation, CallDetails("/a.v1.A/B", ()))

        async def good(_request: Any, _context: Any) -> None: ...

        self.assertIsNotNone(asyncio.run(of(good)).unary_unary)
        with self.assertRaises(TypeError):
            asyncio.run(of(lambda _request, _context: None))

    def test_timers_run_in_order_until_they_are_prevented(self) -> None:
        timers, ran = Timers(monotonic), Queue[str]()
        timers.after(30_000_000, lambda: ran.put("third"))
        timers.after(10_000_000, lambda: ran.put("first"))
        timers.after(15_000_000, lambda: ran.put("never"))()
        with self.assertLogs("sallyport"):
            timers.after(20_000_000, lambda: 1 // 0)  # logged; the others run
            got = [ran.get(timeout=20), ran.get(timeout=20)]
        self.assertEqual(got, ["first", "third"])
        timers.after(0, lambda: ran.put("again"))
        self.assertEqual(ran.get(timeout=20), "again")

    def test_the_bearer(self) -> None:
        for values, expected in [
            (["Bearer abc"], "abc"),
            (["bearer  abc "], "abc"),
            (["Basic abc"], None),
            (["Bearer"], None),
            (["Bearer a b"], None),
            (["Bearer a,b"], None),
            (["Bearer abc\n"], None),
            ([b"Bearer abc"], None),
            (["Bearer a", "Bearer b"], None),
            ([], None),
        ]:
            with self.subTest(values):
                self.assertEqual(bearer_of([("authorization", value) for value in values]), expected)

    def test_the_address_of_a_peer(self) -> None:
        for peer, expected in [
            ("ipv4:10.0.0.1:50123", "10.0.0.1"),
            ("ipv6:%5B::1%5D:50123", "::1"),
            ("ipv6:[fe80::1%25eth0]:50123", "fe80::1"),
            ("unix:/run/x.sock", ""),
            ("ipv4:nonsense:1", ""),
        ]:
            with self.subTest(peer):
                self.assertEqual(address_of(peer), expected)

    def test_no_connection_is_not_sent_and_the_retry_waits(self) -> None:
        validator = sallyport.GrpcValidator("127.0.0.1:1", None)
        self.addCleanup(validator.close)
        with self.assertRaises(sallyport.NotSent):
            validator.validate(pb.ValidateTokenRequest(token_string="x"), 5, False)
        with self.assertRaises(grpc.RpcError) as failed:
            validator.validate(pb.ValidateTokenRequest(token_string="x"), 0.1, True)
        self.assertEqual(failed.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
