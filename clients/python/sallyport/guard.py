"""The guard of a stream."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from .cache import Entry, FeedCache
from .decide import Verdict, decide
from .requirement import Requirement

if TYPE_CHECKING:
    from .judge import Check

_MS: Final = 10**6
_HOLD: Final = 500 * _MS  # the longest time for which messages wait for a new check
_AGAIN: Final = 20 * _MS  # before a check is repeated that is older than a known change, or had no answer
_EVERY: Final = 1_000 * _MS  # between the checks of a stream whose token has no usable entry


class GuardClock(Protocol):
    """The clock and the timers of a guard, in nanoseconds."""

    def mono(self) -> int: ...

    def after(self, ns: int, then: Callable[[], None]) -> Callable[[], None]:
        """Calls ``then`` after a time. Returns the function that prevents it."""


class StreamGuard:
    """Keeps a stream as fresh as a unary call.

    No message passes, in either direction, on a token that is no longer usable. Such a stream is suspended and checked
    again; it then goes on or ends. ``check`` starts a check and returns at once; ``end`` is called at most once.
    """

    def __init__(
        self,
        *,
        cache: FeedCache | None,
        check: Callable[[Callable[["Check"], None]], None],
        end: Callable[[Verdict], None],
        requirement: Requirement,
        clock: GuardClock,
    ) -> None:
        self._cache = cache
        self._check = check
        self._end = end
        self._requirement = requirement
        self._clock = clock
        self._lock = threading.RLock()
        self._entry: Entry | None = None
        self._state = "open"
        self._held: list[Callable[[], None]] = []
        self._cancel: Callable[[], None] | None = None  # of the next look
        self._limit: Callable[[], None] | None = None  # of the suspension
        self._unwatch: Callable[[], None] | None = None
        self._round = 0  # the suspensions so far
        self._begun = 0

    def start(self, opened: "Check") -> None:
        """Begins, with the check that opened the stream: ALLOW."""
        self._entry = opened.entry
        if self._cache is not None:
            # Called in the step that applies an answer, so before the acknowledgement.
            self._unwatch = self._cache.watch(self._look)
        self._look()

    def admit(self, message: Callable[[], None]) -> None:
        """Lets a message pass now, or once a new check admits it. It never passes if the stream ends."""
        with self._lock:
            if self._state == "open" and self._entry is not None and not self._good():
                self._suspend()
            if self._state == "open":
                message()
            elif self._state == "suspended":
                self._held.append(message)

    def close(self) -> None:
        """The stream is over."""
        with self._lock:
            if self._state == "closed":
                return
            self._state = "closed"
            self._held = []
            for prevent in (self._cancel, self._limit, self._unwatch):
                if prevent is not None:
                    prevent()

    def _good(self) -> bool:
        """True if the entry is usable and still admits the stream. Without an entry only the timer asks."""
        cache, entry = self._cache, self._entry
        if cache is None or entry is None or not cache.usable(entry):
            return False
        return decide(entry.facts, self._requirement, cache.time())[0] == "ALLOW"

    def _look(self) -> None:
        """Suspends the stream if its entry is not good, and otherwise looks again when it can first cease to be."""
        with self._lock:
            if self._state != "open":
                return
            if self._entry is None:
                if self._cancel is None:
                    self._cancel = self._clock.after(_EVERY, self._expired)
                return
            if not self._good():
                self._suspend()
                return
            assert self._cache is not None  # a good entry is in a cache
            soonest = self._cache.lease
            expire = self._entry.facts.expire
            if expire is not None:
                soonest = min(soonest, expire - self._cache.time().upper)
            self._stop_looking()
            self._cancel = self._clock.after(max(_MS, soonest), self._look)

    def _expired(self) -> None:
        with self._lock:
            if self._state == "open":
                self._suspend()

    def _stop_looking(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _suspend(self) -> None:
        self._state = "suspended"
        self._round += 1
        self._begun = self._clock.mono()
        self._stop_looking()
        # The limit holds for a check without an answer too.
        self._limit = self._clock.after(_HOLD, self._in_round(lambda: self._finish("UNDETERMINED")))
        self._recheck()

    def _recheck(self) -> None:
        current = self._round

        def done(answer: "Check") -> None:
            with self._lock:
                if self._state == "suspended" and self._round == current:
                    self._answered(answer)

        self._check(done)

    def _in_round(self, then: Callable[[], None]) -> Callable[[], None]:
        """Runs ``then`` if the stream is still suspended, in this round."""
        current = self._round

        def run() -> None:
            with self._lock:
                if self._state == "suspended" and self._round == current:
                    then()

        return run

    def _answered(self, answer: "Check") -> None:
        if answer.verdict not in ("ALLOW", "UNDETERMINED"):
            self._finish(answer.verdict)
            return
        self._entry = answer.entry
        if answer.verdict == "ALLOW":
            if self._entry is not None and (self._cache is None or self._cache.lease == 0):
                # The answer was made after the suspension, so the held messages may pass; without a lease the entry is
                # worth nothing more, and the stream is checked by time.
                self._entry = None
            if self._entry is None or self._good():
                self._resume()
                return
        if self._clock.mono() - self._begun >= _HOLD:
            self._finish("UNDETERMINED")
            return
        self._clock.after(_AGAIN, self._in_round(self._recheck))

    def _resume(self) -> None:
        self._state = "open"
        if self._limit is not None:
            self._limit()
            self._limit = None
        held, self._held = self._held, []
        # Each of them looks again: a change may come in between.
        for message in held:
            self.admit(message)
        self._look()

    def _finish(self, verdict: Verdict) -> None:
        self.close()
        self._end(verdict)
