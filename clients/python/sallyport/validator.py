"""The ways to the server."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import grpc

from .gen.sallyport.v1 import token_validator_pb2 as pb

VALIDATE: Final = "/sallyport.v1.TokenValidator/ValidateToken"
WATCH: Final = "/sallyport.v1.TokenValidator/WatchChanges"
_NO_CONNECTION: Final = ("failed to connect to all addresses", "DNS resolution failed")


class NotSent(Exception):
    """No byte of a request left this process, so it may be sent again."""


class Answer(Protocol):
    """An answer that is awaited by a thread."""

    def result(self, timeout: float | None = None) -> pb.WatchChangesResponse: ...

    def cancel(self) -> object: ...


class Validator(Protocol):
    """A way to the server. Each method raises when there is no answer within ``timeout`` seconds."""

    def validate(self, request: pb.ValidateTokenRequest, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        """Raises NotSent if no byte of the request left this process; ``wait`` lets it wait for a connection."""

    def watch(self, request: pb.WatchChangesRequest, timeout: float) -> Answer:
        """The change feed, on a connection that no check shares: checks must not hold it back."""

    def close(self) -> None: ...


def channel_options(more: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A connection of its own for each channel, and a lost one is tried again within a second."""
    return [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000), *more]


def own_metadata(bearer: str | None) -> tuple[tuple[str, str], ...]:
    """This service's own credential; what its caller sent is not forwarded."""
    return () if bearer is None else (("authorization", f"Bearer {bearer}"),)


def not_sent(code: grpc.StatusCode | None, details: str | None) -> bool:
    """True if grpcio had no connection to send the call on."""
    return code is grpc.StatusCode.UNAVAILABLE and (details or "").startswith(_NO_CONNECTION)


class GrpcValidator:
    """A way to the server at a gRPC target, with one connection for checks and one for the feed.

    ``credentials`` None means plaintext. ``bearer`` is a token with ``sallyport.validate``, where the server asks for
    one. ``options`` are further options of the channels.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        *,
        bearer: str | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        def connect() -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(target, channel_options(options))
            return grpc.secure_channel(target, credentials, channel_options(options))

        self._metadata = own_metadata(bearer)
        self._checks, self._feed = connect(), connect()
        self._validate = self._checks.unary_unary(
            VALIDATE, pb.ValidateTokenRequest.SerializeToString, pb.ValidateTokenResponse.FromString
        )
        self._watch = self._feed.unary_unary(
            WATCH, pb.WatchChangesRequest.SerializeToString, pb.WatchChangesResponse.FromString
        )

    def validate(self, request: pb.ValidateTokenRequest, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        try:
            return self._validate(request, timeout=timeout, metadata=self._metadata, wait_for_ready=wait)
        except grpc.RpcError as error:
            if not_sent(error.code(), error.details()):
                raise NotSent from None
            raise

    def watch(self, request: pb.WatchChangesRequest, timeout: float) -> Answer:
        return self._watch.future(request, timeout=timeout, metadata=self._metadata, wait_for_ready=True)

    def close(self) -> None:
        self._checks.close()
        self._feed.close()
