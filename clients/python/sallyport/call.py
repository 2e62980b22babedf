"""What the interceptors of threads and of asyncio share."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

import grpc

from .cache import Identity
from .judge import Origin
from .requirement import RequirementMap, Rule
from .status import VERDICT_TRAILER

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

_BEARER: Final = re.compile(r"bearer +([^\s,]+) *", re.IGNORECASE)


def bearer_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The token string of a call; None if there is not exactly one ``authorization``, of the scheme Bearer."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    found = _BEARER.fullmatch(values[0])
    return None if found is None else found[1]


def without_credential(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(item for item in metadata or () if item[0] != "authorization")


def address_of(peer: str) -> str:
    """The IP address of grpcio's text for a peer (``ipv6:%5B::1%5D:50123``); empty for a unix socket."""
    family, _, rest = unquote(peer).partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return ""


def with_verdict(trailers: Metadata | None, verdict: str) -> tuple[tuple[str, str | bytes], ...]:
    others = (trailer for trailer in trailers or () if trailer[0] != VERDICT_TRAILER)
    return (*others, (VERDICT_TRAILER, verdict))


class _CallDetails(NamedTuple):
    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]


class CallDetails(_CallDetails, grpc.HandlerCallDetails):
    """The details of a call without its credential."""


class Rules:
    """What an interceptor demands of each method, and how it finds a call's origin."""

    def __init__(self, requirements: Mapping[str, Rule], client_address: Callable[[Any], str] | None) -> None:
        self._map = RequirementMap(requirements)
        self._client_address = client_address

    def of(self, method: str) -> Rule:
        return self._map.of(method)

    def origin(self, context: Any, method: str) -> Origin:
        address = address_of(context.peer()) if self._client_address is None else self._client_address(context)
        return Origin(address, method)


class AdmittedContext:
    """The context of an admitted call: the service's own, with the identity and without the credential."""

    def __init__(self, context: Any, identity: Identity) -> None:
        self._context = context
        self.sallyport_identity = identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return without_credential(self._context.invocation_metadata())


grpc.ServicerContext.register(AdmittedContext)
grpc.aio.ServicerContext.register(AdmittedContext)


def identity_of(context: Any) -> Identity:
    """The identity that admitted a call, in its handler. Raises LookupError for a public method: there is none."""
    identity = getattr(context, "sallyport_identity", None)
    if not isinstance(identity, Identity):
        raise LookupError("the call was admitted without a token")
    return identity
