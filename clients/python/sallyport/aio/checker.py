"""The checker for asyncio."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from ..cache import FeedCache
from ..gen.sallyport.v1 import token_validator_pb2 as pb
from ..judge import (
    CHECK_TIME,
    FIRST_PAUSE,
    GIVE_UP,
    LEAVE_TIME,
    LONGEST_PAUSE,
    NOWHERE,
    Check,
    FeedSession,
    Hooks,
    Judge,
    Origin,
    monotonic,
)
from ..offline import CHECKED_PREFIXES
from ..requirement import LIVE, Requirement
from ..validator import NotSent
from .validator import Validator


class Checker:
    """Checks the tokens of requests. There is no setting by which an outage admits a request.

    ``cache="feed"`` keeps the facts of live tokens and follows the server's changes; ``"off"`` asks the server each
    time. ``timeout`` is the longest time of one check in seconds, its retry included.
    """

    def __init__(
        self,
        validator: Validator,
        *,
        cache: Literal["off", "feed"] = "off",
        checked_prefixes: Sequence[str] = CHECKED_PREFIXES,
        hooks: Hooks = Hooks(),
        timeout: float = CHECK_TIME,
        mono: Callable[[], int] = monotonic,
    ) -> None:
        if cache not in ("off", "feed"):
            raise ValueError(f"cache is off or feed, not {cache!r}")
        self.cache = FeedCache(mono) if cache == "feed" else None
        self.hooks = hooks
        self._validator = validator
        self._timeout = int(timeout * 1e9)
        self._judge = Judge(self.cache, checked_prefixes, hooks, mono)
        self._session: FeedSession | None = None
        self._following: asyncio.Task[None] | None = None
        if self.cache is not None:
            self._session = FeedSession(self.cache, hooks, mono)
            self._following = asyncio.get_running_loop().create_task(_follow(validator, self._session))

    async def check(self, token: str | None, requirement: Requirement = LIVE, origin: Origin = NOWHERE) -> Check:
        """Judges a token string against a requirement. None: the request carries none. Never raises."""
        judge = self._judge
        begun = judge.mono()
        known = judge.known(token, requirement)
        if isinstance(known, tuple):
            return judge.done(*known, begun)
        assert token is not None  # without one, the answer is known
        try:
            answer = await self._ask(token, requirement, origin, begun)
            return judge.done(judge.judge(known, answer, requirement, begun), "server", begun)
        except Exception:
            return judge.done(Check("UNDETERMINED"), "server", begun)

    async def close(self) -> None:
        """Leaves the feed and closes the connections."""
        if self._following is not None and self._session is not None:
            session, following = self._session, self._following
            self._session = self._following = None
            following.cancel()
            await asyncio.wait({following})
            session.end_lease()
            try:
                await asyncio.wait_for(self._validator.watch(session.request(leaving=True), LEAVE_TIME), LEAVE_TIME)
            except Exception:  # noqa: S110
                pass  # the server then waits for the end of the lease that it gave
            session.enter("left")
        await self._validator.close()

    async def __aenter__(self) -> "Checker":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, token: str, requirement: Requirement, origin: Origin, begun: int) -> pb.ValidateTokenResponse:
        request = self._judge.request(token, requirement, origin)

        def left() -> float:
            return (self._timeout - (self._judge.mono() - begun)) / 1e9

        try:
            return await self._validator.validate(request, left(), False)
        except NotSent:
            if left() <= 0:
                raise
            return await self._validator.validate(request, left(), True)


async def _follow(validator: Validator, session: FeedSession) -> None:
    """Follows the change feed until it is cancelled."""
    pause = FIRST_PAUSE
    while True:
        try:
            request = session.request()
            sent = session.mono()  # before the send: a lease counts from here
            answer = await asyncio.wait_for(validator.watch(request, GIVE_UP), GIVE_UP)
            session.answered(request, answer, sent)
            pause = FIRST_PAUSE
        except Exception:
            session.enter("lost")
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)


class LoopClock:
    """The clock of guards in an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def mono(self) -> int:
        return monotonic()

    def after(self, ns: int, then: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(ns / 1e9, then).cancel


_TASKS: set[asyncio.Task[Any]] = set()  # a loop holds its tasks weakly


def keep(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Runs a coroutine as a task that lives until it ends."""
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: "asyncio.Task[Any]") -> None:
    _TASKS.discard(task)
    if not task.cancelled():
        task.exception()  # it is somebody's already, or nobody's
