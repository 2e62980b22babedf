"""The status of a refused call."""

from typing import Final

import grpc

from .decide import Verdict

VERDICT_TRAILER: Final = "sallyport-verdict"
"""The trailer that tells a client the verdict."""

_CODE = grpc.StatusCode
_REFUSALS: Final[dict[str, tuple[grpc.StatusCode, str]]] = {
    "NO_CREDENTIAL": (_CODE.UNAUTHENTICATED, "a bearer token is required"),
    "INVALID_TOKEN": (_CODE.UNAUTHENTICATED, "the token is not valid"),
    "WRONG_AUDIENCE": (_CODE.UNAUTHENTICATED, "the token is not for this service"),
    "INSUFFICIENT_SCOPE": (_CODE.PERMISSION_DENIED, "the token lacks a scope"),
    "WRONG_TENANT": (_CODE.PERMISSION_DENIED, "the token is not valid in this tenant"),
    "ADDRESS_NOT_ALLOWED": (_CODE.PERMISSION_DENIED, "the token is not accepted from this address"),
    "RATE_LIMITED": (_CODE.RESOURCE_EXHAUSTED, "too many requests with this token"),
    "UNDETERMINED": (_CODE.UNAVAILABLE, "the token cannot be checked now"),
}


def refusal_of(verdict: Verdict | str) -> tuple[grpc.StatusCode, str]:
    """Returns code and message of every verdict but ALLOW.

    A verdict that this version does not know is an outage, never an allow. The message never says why a token is not
    live.
    """
    return _REFUSALS.get(verdict, _REFUSALS["UNDETERMINED"])
