"""What a method demands of a token."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

_METHOD = re.compile(r"[A-Za-z_][\w.]*/(\*|[A-Za-z_]\w*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a token must fulfil. Without any part: it must be live."""

    scopes: tuple[str, ...] = ()
    """Scopes that the token must have, all of them; exact scopes, at most 32."""
    audience: str = ""
    """The audience that must be among the token's, unless the token has none."""
    tenant: str = ""
    """The tenant in which the token must be live: its own, or one that it is attached to."""

    def __post_init__(self) -> None:
        if isinstance(self.scopes, str):
            raise TypeError("scopes is a sequence of scopes, not one string")
        object.__setattr__(self, "scopes", tuple(self.scopes))
        if len(self.scopes) > 32:
            raise ValueError("a requirement has at most 32 scopes")
        if len(self.audience) > 256:
            raise ValueError("an audience has at most 256 characters")
        if len(self.tenant) > 63:
            raise ValueError("a tenant has at most 63 characters")


PUBLIC: Final = "public"
"""The requirement of a method that needs no token."""

Rule: TypeAlias = Requirement | Literal["public"]

LIVE: Final = Requirement()


class RequirementMap:
    """The requirements of full methods (``orders.v1.Orders/Get``) and of all methods of a service (``orders.v1.Orders/*``).

    A method that is not listed needs a live token. Only health checks are public by themselves.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        for method, rule in rules.items():
            if _METHOD.fullmatch(method) is None:
                raise ValueError(f"{method!r} is no method: write package.Service/Method or package.Service/*")
            if rule != PUBLIC and not isinstance(rule, Requirement):
                raise TypeError(f"{method}: {rule!r} is neither a Requirement nor PUBLIC")
        self._rules = dict(rules)

    def of(self, method: str) -> Rule:
        """Returns the requirement of a method, with or without a slash before it."""
        name = method.removeprefix("/")
        service = name.split("/", 1)[0]
        rule = self._rules.get(name) or self._rules.get(f"{service}/*")
        if rule is not None:
            return rule
        return PUBLIC if service == "grpc.health.v1.Health" else LIVE
