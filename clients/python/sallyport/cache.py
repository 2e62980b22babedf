"""The cache of a client that follows the change feed."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeVar

from .decide import Facts, TimeBounds

_MAX_ENTRIES: Final = 10_000
_MAX_TAGS: Final = 100_000
_ENTRY_LIFE: Final = 60 * 10**9  # absolute: so the server's record of last use is exact to a minute
_REFUSAL_LIFE: Final = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Identity:
    """What a live token says about its caller."""

    token_id: str
    tenant: str
    principal: str
    profile: str
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    expire: datetime | None = None
    """In UTC. None: the token never expires."""
    annotations: Mapping[str, str] = field(default_factory=dict)


class Version(NamedTuple):
    """Which changes an answer includes."""

    epoch: bytes
    position: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A live token's facts as of a version. They are no verdict: that is made anew at each use."""

    epoch: bytes
    position: int
    tags: tuple[int, ...]
    facts: Facts
    identity: Identity


@dataclass(frozen=True, slots=True)
class FeedAnswer:
    """An answer of the change feed."""

    epoch: bytes
    position: int
    lease: int | None = None
    """Nanoseconds from the send of the request. None: no new lease."""
    changed: tuple[int, ...] = ()
    floor: int = 0
    time: TimeBounds | None = None
    """None: no new bounds; the earlier ones move on. An answer without it gives no lease."""


_T = TypeVar("_T")


class _Stored(Generic[_T]):
    __slots__ = ("value", "since")

    def __init__(self, value: _T, since: int) -> None:
        self.value = value
        self.since = since


class FeedCache:
    """Nothing in it is used without a lease, and nothing that a change has reached.

    The clock is monotonic, in nanoseconds. Threads may share the cache.
    """

    def __init__(self, mono: Callable[[], int]) -> None:
        self._mono = mono
        self._lock = threading.Lock()
        self._watchers: dict[object, Callable[[], None]] = {}
        self._clock: tuple[TimeBounds, int, int] | None = None  # bounds, sent, received
        self._epoch = b""
        self._position = -1
        self._floor = 0
        self._lease_until: int | None = None
        self._entries: dict[bytes, _Stored[Entry]] = {}
        self._refusals: dict[bytes, _Stored[Version]] = {}
        self._changed: dict[int, int] = {}  # the highest position at which each tag changed

    @property
    def version(self) -> Version:
        """What is applied: the next request acknowledges it."""
        with self._lock:
            return Version(self._epoch, self._position)

    @property
    def lease(self) -> int:
        """Nanoseconds for which entries may still be used; 0 without a lease."""
        with self._lock:
            return 0 if self._lease_until is None else max(0, self._lease_until - self._mono())

    def usable(self, entry: Entry) -> bool:
        """True if the entry may be used now."""
        with self._lock:
            return self._usable(entry)

    def time(self) -> TimeBounds:
        """Bounds of the database's time now. They mean something only with a lease."""
        with self._lock:
            if self._clock is None:
                return TimeBounds(-(2**63), 2**63)
            bounds, sent, received = self._clock
            now = self._mono()
            return TimeBounds(bounds.lower + now - received, bounds.upper + now - sent)

    def entry(self, key: bytes) -> Entry | None:
        """The usable entry of a key. One that is not usable is dropped, unless only the lease is missing."""
        with self._lock:
            stored = self._entries.get(key)
            if stored is None:
                return None
            if self._mono() - stored.since < _ENTRY_LIFE:
                if self._usable(stored.value):
                    return stored.value
                if not self._leased():
                    return None
            del self._entries[key]
            return None

    def refused(self, key: bytes) -> bool:
        """True if the key was refused lately and nothing at all has changed since, so that the refusal still stands."""
        with self._lock:
            stored = self._refusals.get(key)
            if stored is None:
                return False
            if self._mono() - stored.since < _REFUSAL_LIFE and self._stands(stored.value):
                return self._leased()
            del self._refusals[key]
            return False

    def store(self, key: bytes, entry: Entry, since: int) -> None:
        """Keeps the facts of a token that was asked for at ``since``."""
        with self._lock:
            if self._usable(entry):
                self._refusals.pop(key, None)
                _put(self._entries, key, _Stored(entry, since))

    def store_refusal(self, key: bytes, version: Version, since: int) -> None:
        """Keeps the answer that a string is no live token, asked for at ``since``."""
        with self._lock:
            self._entries.pop(key, None)
            if self._stands(version):
                _put(self._refusals, key, _Stored(version, since))

    def apply(self, answer: FeedAnswer, sent: int) -> None:
        """Applies an answer to the request that was sent at ``sent``, whole and in one step.

        It tells the watchers before the next request can acknowledge the answer.
        """
        with self._lock:
            if answer.epoch != self._epoch:
                self._forget(answer.epoch)
            for tag in answer.changed:
                self._changed[tag] = max(self._changed.get(tag, -1), answer.position)
            self._floor = max(self._floor, answer.floor)
            self._position = max(self._position, answer.position)
            if len(self._changed) > _MAX_TAGS:
                self._floor = self._position
                self._changed.clear()
            if answer.time is not None:
                self._clock = (answer.time, sent, self._mono())
                if answer.lease is not None:
                    until = sent + answer.lease
                    self._lease_until = until if self._lease_until is None else max(self._lease_until, until)
        self._tell()

    def drop_lease(self) -> None:
        """Ends the lease, for a cache that leaves the feed."""
        with self._lock:
            self._lease_until = None
        self._tell()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Calls ``watcher`` in the step of every answer. Returns the function that ends it."""
        key = object()
        with self._lock:
            self._watchers[key] = watcher

        def unwatch() -> None:
            with self._lock:
                self._watchers.pop(key, None)

        return unwatch

    def _tell(self) -> None:
        with self._lock:
            watchers = list(self._watchers.values())
        failed: Exception | None = None
        for watcher in watchers:
            try:
                watcher()
            except Exception as error:  # the others must know nevertheless
                failed = error
        if failed is not None:
            raise failed

    def _leased(self) -> bool:
        return self._lease_until is not None and self._mono() < self._lease_until

    def _usable(self, entry: Entry) -> bool:
        if entry.epoch != self._epoch or not self._leased() or entry.position < self._floor:
            return False
        changed = self._changed
        for tag in entry.tags:
            if entry.position < changed.get(tag, -1):
                return False
        return True

    def _stands(self, version: Version) -> bool:
        return version.epoch == self._epoch and self._position <= version.position

    def _forget(self, epoch: bytes) -> None:
        self._epoch = epoch
        self._position = -1
        self._floor = 0
        self._lease_until = None
        self._entries = {}
        self._refusals = {}
        self._changed = {}


def _put(into: dict[bytes, _Stored[_T]], key: bytes, value: _Stored[_T]) -> None:
    """Stores a value as the newest; the oldest goes if there are too many."""
    into.pop(key, None)
    into[key] = value
    if len(into) > _MAX_ENTRIES:
        del into[next(iter(into))]
