"""Calling another service of ours: our own token, deadlines, retries, typed errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox_rpc import telemetry
from sandbox_rpc.auth import Secret, current_request_id
from sandbox_rpc.errors import from_rpc_error
from sandbox_rpc.server import MAX_MESSAGE_BYTES

# Every call between our services is idempotent, so UNAVAILABLE (a service that restarts)
# is retried by gRPC itself: 3 attempts within 0.3 s. The contract wants "unavailable" said
# within a second, and the client told to come again.
_RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_RETRY)),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Channel:
    """A connection to one service, authenticated as the service `subject`."""

    def __init__(self, target: str, secret: Secret, subject: str) -> None:
        self.grpc = grpc.aio.insecure_channel(
            target, options=_OPTIONS, interceptors=telemetry.client_interceptors()
        )
        self._secret = secret
        self._subject = subject
        self._health = health_pb2_grpc.HealthStub(self.grpc)

    async def call(self, method: Any, request: Any, *, timeout: float) -> Any:
        """Makes one unary call of a stub on this channel, with a deadline in seconds.

        Raises what the service raised (see `errors`), ServiceUnavailable when it is down.
        """
        try:
            return await method(request, timeout=timeout, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def stream(self, method: Any, request: Any) -> AsyncIterator[Any]:
        """Makes one server-streaming call; it has no deadline. Raises like `call`."""
        try:
            async for message in method(request, metadata=self._metadata()):
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def is_serving(self, *, timeout: float) -> bool:
        """Whether the service answers its gRPC health check with SERVING."""
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        await self.grpc.close(None)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._secret.sign("service", self._subject)
        request_id = current_request_id()
        own = (("authorization", f"Bearer {token}"),)
        return (*own, ("x-request-id", request_id)) if request_id else own
