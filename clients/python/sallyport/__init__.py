"""Checks Sallyport tokens in a gRPC service, with an optional cache that a revocation reaches at once.

This module is for servers on threads (``grpc.server``); ``sallyport.aio`` has the same for ``grpc.aio``.
"""

from .cache import Identity
from .call import identity_of
from .checker import Checker
from .decide import Verdict
from .interceptor import AuthInterceptor
from .judge import Check, Hooks, Origin
from .requirement import PUBLIC, Requirement
from .status import VERDICT_TRAILER, refusal_of
from .validator import GrpcValidator, NotSent, Validator

__all__ = [
    "PUBLIC",
    "VERDICT_TRAILER",
    "AuthInterceptor",
    "Check",
    "Checker",
    "GrpcValidator",
    "Hooks",
    "Identity",
    "NotSent",
    "Origin",
    "Requirement",
    "Validator",
    "Verdict",
    "identity_of",
    "refusal_of",
]
