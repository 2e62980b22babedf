"""Checks Sallyport tokens in a service on ``grpc.aio``. Make its objects in the running event loop."""

from ..call import identity_of
from .checker import Checker
from .interceptor import AuthInterceptor
from .validator import GrpcValidator, Validator

__all__ = ["AuthInterceptor", "Checker", "GrpcValidator", "Validator", "identity_of"]
