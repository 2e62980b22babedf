"""The verdict about a cached token."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from .requirement import Requirement

Verdict: TypeAlias = Literal[
    "ALLOW",
    "NO_CREDENTIAL",
    "INVALID_TOKEN",
    "INSUFFICIENT_SCOPE",
    "WRONG_AUDIENCE",
    "WRONG_TENANT",
    "ADDRESS_NOT_ALLOWED",
    "RATE_LIMITED",
    "UNDETERMINED",
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a cached token is judged by. Times are nanoseconds since 1970; None is no limit."""

    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    expire: int | None = None
    not_before: int | None = None


class TimeBounds(NamedTuple):
    """Two bounds of the database's time, in nanoseconds since 1970."""

    lower: int
    upper: int


def decide(facts: Facts, requirement: Requirement, now: TimeBounds) -> tuple[Verdict, tuple[str, ...]]:
    """Judges a token as the server does: the same verdicts in the same order. Returns the missing scopes too.

    Expiry is judged by the upper bound and not-before by the lower, so a token ends early or begins late by
    milliseconds, never the other way round.
    """
    if facts.expire is not None and now.upper >= facts.expire:
        return "INVALID_TOKEN", ()
    if facts.not_before is not None and now.lower < facts.not_before:
        return "INVALID_TOKEN", ()
    if facts.audiences and requirement.audience not in facts.audiences:
        return "WRONG_AUDIENCE", ()
    missing = tuple(scope for scope in requirement.scopes if not _covered(scope, facts.scopes))
    return ("INSUFFICIENT_SCOPE", missing) if missing else ("ALLOW", ())


def _covered(required: str, granted: tuple[str, ...]) -> bool:
    """True if a granted scope is equal, or ends in ``.*`` or ``:*`` and is the beginning."""
    if required in granted:
        return True
    return any(
        scope.endswith((".*", ":*")) and len(required) >= len(scope) and required.startswith(scope[:-1])
        for scope in granted
    )
