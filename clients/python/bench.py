"""The cost of a check that the cache answers, and of the SHA-256 in it. Prints JSON, in microseconds of CPU per call."""

import asyncio
import hashlib
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import sallyport
import sallyport.aio
from sallyport.gen.sallyport.v1 import token_validator_pb2 as pb

ROUNDS, CALLS = 7, 20_000
VECTORS = json.loads((Path(__file__).parents[1] / "vectors/offline.json").read_text())
TOKEN = next(case["token"] for case in VECTORS["cases"] if not case["refused"] and len(case["token"]) > 60)
NEEDS = sallyport.Requirement(scopes=("orders.read",))


class AlwaysLive:
    """Answers every check with ALLOW and an entry, and the first poll with a lease of an hour."""

    def __init__(self) -> None:
        self._polled = False

    def validate(self, *_: object) -> pb.ValidateTokenResponse:
        token = pb.ValidatedToken(id="tok_1", tenant="default", principal="user:ann", profile="pat")
        token.scopes.extend(["orders.read", "billing.*"])
        token.expire_time.FromSeconds(int(time.time()) + 86_400)
        entry = pb.CacheEntry(epoch=bytes(16), position=5, tags=[1, 2, 3])
        return pb.ValidateTokenResponse(verdict=pb.VERDICT_ALLOW, token=token, entry=entry)

    def watch(self, request: pb.WatchChangesRequest, _timeout: float) -> "Future[pb.WatchChangesResponse]":
        answer: Future[pb.WatchChangesResponse] = Future()
        if not self._polled:
            self._polled = True
            change = pb.WatchChangesResponse(sequence=request.sequence, epoch=bytes(16), position=5)
            change.lease.seconds = 3_600
            change.time_lower.GetCurrentTime()
            change.time_upper.GetCurrentTime()
            answer.set_result(change)
        return answer

    def close(self) -> None: ...


class AlwaysLiveAio:
    def __init__(self) -> None:
        self._server = AlwaysLive()

    async def validate(self, *_: object) -> pb.ValidateTokenResponse:
        return self._server.validate()

    async def watch(self, request: pb.WatchChangesRequest, timeout: float) -> pb.WatchChangesResponse:
        return await asyncio.wrap_future(self._server.watch(request, timeout))

    async def close(self) -> None: ...


def per_call(work: Callable[[], Any]) -> float:
    """Of this thread: the machine may be busy with other things."""
    begun = time.thread_time()
    for _ in range(CALLS):
        work()
    return (time.thread_time() - begun) / CALLS * 1e6


def threads(hooks: sallyport.Hooks) -> float:
    with sallyport.Checker(AlwaysLive(), cache="feed", hooks=hooks) as checker:
        while checker.cache is not None and checker.cache.lease == 0:
            time.sleep(0.001)
        checker.check(TOKEN, NEEDS)
        return statistics.median([per_call(lambda: checker.check(TOKEN, NEEDS)) for _ in range(ROUNDS)])


async def aio(hooks: sallyport.Hooks) -> float:
    async with sallyport.aio.Checker(AlwaysLiveAio(), cache="feed", hooks=hooks) as checker:
        while checker.cache is not None and checker.cache.lease == 0:
            await asyncio.sleep(0.001)
        await checker.check(TOKEN, NEEDS)
        rounds = []
        for _ in range(ROUNDS):
            begun = time.thread_time()
            for _ in range(CALLS):
                await checker.check(TOKEN, NEEDS)
            rounds.append((time.thread_time() - begun) / CALLS * 1e6)
        return statistics.median(rounds)


def cached(measure: Callable[[sallyport.Hooks], float]) -> float:
    """Measures, and fails unless the cache answered every check but the first."""
    seen: Counter[str] = Counter()
    figure = measure(sallyport.Hooks(checked=lambda _verdict, tier, _: seen.update((tier,))))
    if seen != {"server": 1, "cache": ROUNDS * CALLS}:
        raise SystemExit(f"the cache did not answer: {seen}")
    return figure


if __name__ == "__main__":
    figures = {"threads": cached(threads), "asyncio": cached(lambda hooks: asyncio.run(aio(hooks)))}
    sha256 = statistics.median([per_call(lambda: hashlib.sha256(TOKEN.encode()).digest()) for _ in range(ROUNDS)])
    print(json.dumps({**figures, "hash": sha256}))
