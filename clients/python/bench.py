"""The time of a check that the cache answers: ``python3 -m bench``. Prints the median of 50 rounds in microseconds."""

import asyncio
import statistics
import time

import sallyport.aio
from sallyport.cache import Entry, FeedAnswer, Identity
from sallyport.decide import Facts, TimeBounds
from sallyport.requirement import Requirement

TOKEN = "sp_pat_1Tag8Tag8SecretSecretSecretSecretSecretSecretSecretS0Gp8Ra"
CHECKS, ROUNDS = 2_000, 50


class Silent:
    """A server that gives no answer: every check must be the cache's."""

    def validate(self, *_):
        raise OSError

    def watch(self, *_):
        raise OSError

    def close(self):
        pass


def fill(checker):
    """Gives the cache a lease and an entry, as the feed and a first check do."""
    judge = checker._judge
    now, wall = judge.mono(), time.time_ns()
    checker.cache.apply(FeedAnswer(b"e", 5, 60 * 10**9, (), 0, TimeBounds(wall, wall)), now)
    facts = Facts(("orders.*",), (), wall + 3_600 * 10**9)
    entry = Entry(b"e", 5, (1, 2, 3), facts, Identity("tok_1", "default", "user:ann", "pat"))
    checker.cache.store(judge.known(TOKEN, Requirement(tenant="x")), entry, now)


def of_threads(requirement):
    checker = sallyport.Checker(Silent(), cache="feed")
    fill(checker)
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(CHECKS):
            assert checker.check(TOKEN, requirement).verdict == "ALLOW"
        yield time.thread_time() - begun
    checker.close()


async def of_asyncio(requirement):
    checker = sallyport.aio.Checker(Silent(), cache="feed")
    fill(checker)
    took = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(CHECKS):
            assert (await checker.check(TOKEN, requirement)).verdict == "ALLOW"
        took.append(time.thread_time() - begun)
    checker._following.cancel()
    return took


if __name__ == "__main__":
    needs = Requirement(("orders.read",))
    for name, took in [("threads", list(of_threads(needs))), ("asyncio", asyncio.run(of_asyncio(needs)))]:
        print(f"{name}: {statistics.median(took) / CHECKS * 1e6:.2f} µs")
