"""The gRPC server of a service: authentication, errors, health, reflection, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sandbox_rpc import auth, errors, telemetry
from sandbox_rpc.auth import Authenticator, Kind

log = logging.getLogger(__name__)

# One message holds a whole result as JSON: 10 MiB of stdout and 10 of stderr, each byte at worst
# six characters, and 16 MiB of return value. The edge allows as much.
MAX_MESSAGE_BYTES = 144 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two services on one port is a mistake, not a feature
    # An executor pings its link every 10 s; without these two gRPC calls that an attack.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
DRAIN_SECONDS = 10.0

# gRPC's own, not guarded: a load balancer has no token, and they tell nothing about tenants.
_OPEN = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True)
class Service:
    """One gRPC service: how to register it, and which callers it answers.

    `allowed` None: anyone, without a token; then there is no `auth.caller()`.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    allowed: frozenset[Kind] | None


class Server:
    """A running gRPC server. `port` is the bound TCP port (0 for a Unix socket)."""

    def __init__(self, server: grpc.aio.Server, checks: Any, port: int):
        self._server = server
        self._checks = checks
        self.port = port

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Takes no new calls, lets those that run end, cuts what is left after `seconds`."""
        await self._checks.enter_graceful_shutdown()
        await self._server.stop(seconds)


async def serve(listen: str, services: Sequence[Service], authenticator: Authenticator) -> Server:
    """Binds `listen` ("host:port" or "unix:/path") and starts. OSError if it is taken."""
    allowed = {service.name: service.allowed for service in services}
    server = grpc.aio.server(
        interceptors=[*telemetry.server_interceptors(), _Guard(authenticator, allowed)],
        options=OPTIONS,
    )
    for service in services:
        service.register(server)
    checks: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set at run time
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [*allowed, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:  # what grpc raises for every failure to bind
        raise OSError(f"cannot listen on {listen}: {error}") from error
    if listen.startswith("unix:"):
        # Who may connect is decided by the directory that holds the socket, and by tokens:
        # executors started by root run as users of their own.
        Path(listen.removeprefix("unix:")).chmod(0o666)  # noqa: ASYNC240  # one call, at start
    await server.start()
    for name in ("", *allowed):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("listening on %s", listen if listen.startswith("unix:") else port)
    return Server(server, checks, port)


async def until_signal() -> None:
    """Returns at the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Authenticates each call, and lets only errors of ours out of a handler."""

    def __init__(
        self, authenticator: Authenticator, allowed: Mapping[str, frozenset[Kind] | None]
    ) -> None:
        self._authenticator = authenticator
        self._allowed = allowed

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        allowed = self._allowed[details.method.split("/")[1]]
        metadata: dict[str, Any] = dict(details.invocation_metadata or ())

        def identify() -> None:
            if allowed is not None:
                auth.enter(self._authenticator.authenticate(metadata, allowed))

        return _guarded(handler, identify)


def _guarded(handler: Any, identify: Callable[[], None]) -> Handler:
    """`handler` with `identify` before it and errors translated after it."""
    behaviour = handler.unary_unary or handler.stream_unary
    if behaviour is not None:

        async def unary(request: Any, context: Any) -> Any:
            try:
                identify()
                return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001  # the last one before the wire
                await _abort(context, error)

        make = (
            grpc.unary_unary_rpc_method_handler
            if handler.unary_unary
            else grpc.stream_unary_rpc_method_handler
        )
        return make(unary, handler.request_deserializer, handler.response_serializer)

    stream = handler.unary_stream or handler.stream_stream

    async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            identify()
            async for message in stream(request, context):
                yield message
        except Exception as error:  # noqa: BLE001  # the last one before the wire
            await _abort(context, error)

    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.unary_stream
        else grpc.stream_stream_rpc_method_handler
    )
    return make(streaming, handler.request_deserializer, handler.response_serializer)


async def _abort(context: Any, error: Exception) -> None:
    """Ends the call with a status of ours; what is not ours becomes INTERNAL, and is logged."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, errors.SandboxError):
        reference = auth.current_request_id() or uuid.uuid4().hex
        log.error("unexpected error", exc_info=error, extra={"fields": {"reference": reference}})
        error = errors.InternalError(f"request {reference} failed; the service log has the reason")
    await context.abort_with_status(errors.to_status(error))
