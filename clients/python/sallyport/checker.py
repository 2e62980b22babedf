"""The checker for threads."""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from .cache import FeedCache
from .gen.sallyport.v1 import token_validator_pb2 as pb
from .judge import (
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
from .offline import CHECKED_PREFIXES
from .requirement import LIVE, Requirement
from .timers import Timers
from .validator import Answer, NotSent, Validator

_RECHECKS = 16  # threads that check streams again


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
        self.timers = Timers(mono)
        self._validator = validator
        self._timeout = int(timeout * 1e9)
        self._judge = Judge(self.cache, checked_prefixes, hooks, mono)
        self._rechecks = ThreadPoolExecutor(_RECHECKS, thread_name_prefix="sallyport-check")
        self._follower = None
        if self.cache is not None:
            self._follower = _Follower(validator, FeedSession(self.cache, hooks, mono))

    def check(self, token: str | None, requirement: Requirement = LIVE, origin: Origin = NOWHERE) -> Check:
        """Judges a token string against a requirement. None: the request carries none. Never raises."""
        judge = self._judge
        begun = judge.mono()
        known = judge.known(token, requirement)
        if isinstance(known, tuple):
            return judge.done(*known, begun)
        assert token is not None  # without one, the answer is known
        try:
            answer = self._ask(token, requirement, origin, begun)
            return judge.done(judge.judge(known, answer, requirement, begun), "server", begun)
        except Exception:
            return judge.done(Check("UNDETERMINED"), "server", begun)

    def check_soon(
        self, token: str, requirement: Requirement, origin: Origin, done: Callable[[Check], None]
    ) -> None:
        """Checks in another thread. For the guard of a stream."""
        try:
            self._rechecks.submit(lambda: done(self.check(token, requirement, origin)))
        except RuntimeError:  # the checker is closed
            done(Check("UNDETERMINED"))

    def close(self) -> None:
        """Leaves the feed and closes the connections."""
        if self._follower is not None:
            self._follower.leave()
        self._validator.close()
        self._rechecks.shutdown(wait=False)

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, token: str, requirement: Requirement, origin: Origin, begun: int) -> pb.ValidateTokenResponse:
        request = self._judge.request(token, requirement, origin)

        def left() -> float:
            return (self._timeout - (self._judge.mono() - begun)) / 1e9

        try:
            return self._validator.validate(request, left(), False)
        except NotSent:
            if left() <= 0:
                raise
            return self._validator.validate(request, left(), True)


class _Follower:
    """Follows the change feed in a thread of its own."""

    def __init__(self, validator: Validator, session: FeedSession) -> None:
        self._validator = validator
        self._session = session
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._call: Answer | None = None
        self._left = False
        self._thread = threading.Thread(target=self._run, name="sallyport-feed", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Ends the lease and tells the server, so that no change waits for this cache."""
        with self._lock:
            if self._left:
                return
            self._left = True
            self._stop.set()
            if self._call is not None:
                self._call.cancel()
        self._thread.join()
        self._session.end_lease()
        try:
            self._validator.watch(self._session.request(leaving=True), LEAVE_TIME).result(LEAVE_TIME)
        except Exception:  # noqa: S110
            pass  # the server then waits for the end of the lease that it gave
        self._session.enter("left")

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._once()
                pause = FIRST_PAUSE
            except Exception:
                if self._stop.is_set():
                    return
                self._session.enter("lost")
                self._stop.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self) -> None:
        request = self._session.request()
        sent = self._session.mono()  # before the send: a lease counts from here
        call = self._validator.watch(request, GIVE_UP)
        with self._lock:
            self._call = call
            if self._stop.is_set():
                call.cancel()
        try:
            answer = call.result(GIVE_UP)
        finally:
            call.cancel()  # a late answer is nobody's
        if not self._stop.is_set():
            self._session.answered(request, answer, sent)
