"""The way to the server for asyncio."""

from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from ..gen.sallyport.v1 import token_validator_pb2 as pb
from ..validator import VALIDATE, WATCH, NotSent, channel_options, not_sent, own_metadata


class Validator(Protocol):
    """A way to the server. Each method raises when there is no answer within ``timeout`` seconds."""

    async def validate(self, request: pb.ValidateTokenRequest, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        """Raises NotSent if no byte of the request left this process; ``wait`` lets it wait for a connection."""

    async def watch(self, request: pb.WatchChangesRequest, timeout: float) -> pb.WatchChangesResponse:
        """The change feed, on a connection that no check shares: checks must not hold it back."""

    async def close(self) -> None: ...


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
        def connect() -> grpc.aio.Channel:
            if credentials is None:
                return grpc.aio.insecure_channel(target, channel_options(options))
            return grpc.aio.secure_channel(target, credentials, channel_options(options))

        self._metadata = own_metadata(bearer)
        self._checks, self._feed = connect(), connect()
        self._validate = self._checks.unary_unary(
            VALIDATE, pb.ValidateTokenRequest.SerializeToString, pb.ValidateTokenResponse.FromString
        )
        self._watch = self._feed.unary_unary(
            WATCH, pb.WatchChangesRequest.SerializeToString, pb.WatchChangesResponse.FromString
        )

    async def validate(self, request: pb.ValidateTokenRequest, timeout: float, wait: bool) -> pb.ValidateTokenResponse:
        try:
            return await self._validate(request, timeout=timeout, metadata=self._metadata, wait_for_ready=wait)
        except grpc.aio.AioRpcError as error:
            if not_sent(error.code(), error.details()):
                raise NotSent from None
            raise

    async def watch(self, request: pb.WatchChangesRequest, timeout: float) -> pb.WatchChangesResponse:
        return await self._watch(request, timeout=timeout, metadata=self._metadata, wait_for_ready=True)

    async def close(self) -> None:
        await self._checks.close(None)
        await self._feed.close(None)
