"""The part of a check that needs no waiting. The checkers of threads and of asyncio share it."""

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from .cache import Entry, FeedAnswer, FeedCache, Identity, Version
from .decide import Facts, TimeBounds, Verdict, decide
from .gen.sallyport.v1 import token_validator_pb2 as pb
from .offline import refused_offline
from .requirement import Requirement

CHECK_TIME: Final = 0.3
GIVE_UP: Final = 1.5  # the longest wait for an answer of the feed; a later one is ignored
LEAVE_TIME: Final = 0.5
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0

Tier: TypeAlias = Literal["offline", "cache", "server"]
FeedState: TypeAlias = Literal["following", "lost", "left"]

_VERDICTS: Final[dict[int, Verdict]] = {
    pb.VERDICT_ALLOW: "ALLOW",
    pb.VERDICT_INVALID_TOKEN: "INVALID_TOKEN",
    pb.VERDICT_INSUFFICIENT_SCOPE: "INSUFFICIENT_SCOPE",
    pb.VERDICT_WRONG_AUDIENCE: "WRONG_AUDIENCE",
    pb.VERDICT_ADDRESS_NOT_ALLOWED: "ADDRESS_NOT_ALLOWED",
    pb.VERDICT_RATE_LIMITED: "RATE_LIMITED",
    pb.VERDICT_WRONG_TENANT: "WRONG_TENANT",
}
_LIVE: Final = frozenset({"ALLOW", "INSUFFICIENT_SCOPE", "WRONG_AUDIENCE"})  # a cache can judge these tokens again
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called with what happens. A hook never sees a token string; one that raises changes nothing.

    A hook must be quick: the feed and the guards of streams call it too.
    """

    checked: Callable[[Verdict, Tier, float], object] | None = None
    """Verdict, where it came from, and seconds."""
    lease: Callable[[float], object] | None = None
    """The seconds of the lease after each answer of the feed."""
    feed: Callable[[FeedState], object] | None = None
    stream_ended: Callable[[Verdict], object] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a request."""

    client_address: str = ""
    """The client's IP address, without a port."""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The answer about a request."""

    verdict: Verdict
    identity: Identity | None = None
    """Present for ALLOW only."""
    missing_scopes: tuple[str, ...] = field(default=())
    entry: Entry | None = None
    """What the verdict rests on, if it may be cached."""


NOWHERE: Final = Origin()


def call_hook(hook: Callable[..., object] | None, *args: object) -> None:
    """Calls a hook. It observes; it must not decide."""
    if hook is not None:
        try:
            hook(*args)
        except Exception:  # noqa: S110
            pass


class Judge:
    """Knows what can be said without the server, and learns from its answers."""

    def __init__(
        self, cache: FeedCache | None, checked_prefixes: Sequence[str], hooks: Hooks, mono: Callable[[], int]
    ) -> None:
        if isinstance(checked_prefixes, str):
            raise TypeError("checked_prefixes is a sequence of prefixes, not one string")
        self.cache = cache
        self.hooks = hooks
        self.mono = mono
        self._prefixes = tuple(checked_prefixes)

    def known(self, token: str | None, requirement: Requirement) -> tuple[Check, Tier] | bytes:
        """The answer that needs no server, or the token's key in the cache."""
        if token is None:
            return Check("NO_CREDENTIAL"), "offline"
        if refused_offline(token, self._prefixes):
            return Check("INVALID_TOKEN"), "offline"
        cache = self.cache
        if cache is None:
            return b""
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        # A check that names a tenant is the server's: it knows which tenants a token may act in.
        if requirement.tenant:
            return key
        entry = cache.entry(key)
        if entry is None:
            return (Check("INVALID_TOKEN"), "cache") if cache.refused(key) else key
        verdict, missing = decide(entry.facts, requirement, cache.time())
        if verdict == "ALLOW":
            return Check("ALLOW", entry.identity, (), entry), "cache"
        return Check(verdict, None, missing), "cache"

    def request(self, token: str, requirement: Requirement, origin: Origin) -> pb.ValidateTokenRequest:
        return pb.ValidateTokenRequest(
            token_string=token,
            required_scopes=requirement.scopes,
            audience=requirement.audience,
            context=pb.RequestContext(client_address=origin.client_address, path=origin.path),
            tenant=requirement.tenant,
            want_entry=self.cache is not None,
        )

    def judge(self, key: bytes, answer: pb.ValidateTokenResponse, requirement: Requirement, begun: int) -> Check:
        """The verdict of an answer, after the cache has learnt from it."""
        verdict = _VERDICTS.get(answer.verdict, "UNDETERMINED")
        entry = self._learn(key, answer, verdict, begun)
        if verdict != "ALLOW":
            return Check(verdict, None, tuple(answer.missing_scopes))
        if not answer.HasField("token"):
            return Check("UNDETERMINED")
        if requirement.tenant and answer.token.tenant != requirement.tenant:
            # A server that does not know the field answers ALLOW. An entry says nothing about further tenants.
            if requirement.tenant not in answer.token.tenants:
                return Check("WRONG_TENANT")
            entry = None
        return Check("ALLOW", entry.identity if entry is not None else identity_of(answer.token), (), entry)

    def done(self, check: Check, tier: Tier, begun: int) -> Check:
        if self.hooks.checked is not None:
            call_hook(self.hooks.checked, check.verdict, tier, (self.mono() - begun) / 1e9)
        return check

    def _learn(self, key: bytes, answer: pb.ValidateTokenResponse, verdict: Verdict, since: int) -> Entry | None:
        if self.cache is None or not answer.HasField("entry"):
            return None
        version = Version(answer.entry.epoch, answer.entry.position)
        if verdict == "INVALID_TOKEN":
            self.cache.store_refusal(key, version, since)
            return None
        # Without a tag no change would reach it.
        if verdict not in _LIVE or not answer.HasField("token") or not answer.entry.tags:
            return None
        token = answer.token
        facts = Facts(
            scopes=tuple(token.scopes),
            audiences=tuple(token.audiences),
            expire=_nanoseconds(token.expire_time) if token.HasField("expire_time") else None,
            not_before=_nanoseconds(answer.entry.not_before_time) if answer.entry.HasField("not_before_time") else None,
        )
        entry = Entry(*version, tuple(answer.entry.tags), facts, identity_of(token))
        self.cache.store(key, entry, since)
        return entry


class FeedSession:
    """What a follower asks and applies: one request in flight, and the next only after its answer is applied."""

    def __init__(self, cache: FeedCache, hooks: Hooks, mono: Callable[[], int]) -> None:
        self.mono = mono
        self._cache = cache
        self._hooks = hooks
        self._cache_id = str(uuid.uuid4())
        self._instance_id = ""
        self._sequence = 0
        self._state: FeedState | None = None

    def request(self, leaving: bool = False) -> pb.WatchChangesRequest:
        self._sequence += 1
        epoch, position = self._cache.version
        return pb.WatchChangesRequest(
            cache_id=self._cache_id,
            sequence=self._sequence,
            epoch=epoch,
            position=position if epoch else 0,
            instance_id=self._instance_id,
            leaving=leaving,
        )

    def answered(self, request: pb.WatchChangesRequest, answer: pb.WatchChangesResponse, sent: int) -> None:
        """Applies the answer to a request that was sent at ``sent``: a lease counts from there."""
        if answer.sequence != request.sequence:
            raise ValueError("the answer is not this request's")
        if not answer.epoch:
            raise ValueError("the answer has no epoch")
        self._instance_id = answer.instance_id
        timed = answer.HasField("time_lower") and answer.HasField("time_upper")
        self._cache.apply(
            FeedAnswer(
                epoch=answer.epoch,
                position=answer.position,
                lease=_nanoseconds(answer.lease) if answer.HasField("lease") else None,
                changed=tuple(answer.changed),
                floor=answer.floor,
                time=TimeBounds(_nanoseconds(answer.time_lower), _nanoseconds(answer.time_upper)) if timed else None,
            ),
            sent,
        )
        call_hook(self._hooks.lease, self._cache.lease / 1e9)
        self.enter("following")

    def enter(self, state: FeedState) -> None:
        if self._state != state:
            self._state = state
            call_hook(self._hooks.feed, state)

    def end_lease(self) -> None:
        """Ends the lease. No answer may be applied after it."""
        self._cache.drop_lease()


def monotonic() -> int:
    return time.monotonic_ns()


def identity_of(token: pb.ValidatedToken) -> Identity:
    expire = None
    if token.HasField("expire_time"):
        expire = _BEGINNING + timedelta(seconds=token.expire_time.seconds, microseconds=token.expire_time.nanos // 1000)
    return Identity(
        token_id=token.id,
        tenant=token.tenant,
        principal=token.principal,
        profile=token.profile,
        scopes=tuple(token.scopes),
        audiences=tuple(token.audiences),
        expire=expire,
        annotations=dict(token.annotations),
    )


def _nanoseconds(time: "Timestamp | Any") -> int:
    """A Timestamp since 1970, or a Duration. Whole: a bound must not be rounded."""
    return int(time.seconds) * 10**9 + int(time.nanos)
