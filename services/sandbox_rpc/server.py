"""The gRPC server of a service: its settings, health, reflection, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sandbox_rpc import telemetry
from sandbox_rpc.auth import Authenticator, Issuer, Kind
from sandbox_rpc.guard import AuditLog, Guard

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


class ServerSettings(BaseSettings):
    """What every service is told, by environment variables SANDBOX_…."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_")

    listen: str = Field(description='Where the service listens: "unix:/path" or "host:port".')
    secret_file: Path = Field(description="File with the signing key, at least 32 bytes.")
    tokens_file: Path = Field(
        description="File of the users' tokens, as `sandbox token` writes it; read again when "
        "it changes."
    )
    audit_file: Path | None = Field(
        None, description="File to which the audit log is appended; absent: none is written."
    )
    jwt_issuer: str | None = Field(
        None, description="Issuer (`iss`) whose JWTs are accepted; absent: none are."
    )
    jwt_audience: str | None = Field(None, description="Audience (`aud`) that they must name.")
    jwt_keys: str | None = Field(
        None, description="The issuer's JWKS: an https:// URL or an absolute path."
    )
    jwt_claim_prefix: str = Field(
        "sandbox_", description="What the claims `role`, `domains` and `quotas` begin with."
    )

    def authenticator(self) -> Authenticator:
        """Raises OSError and ValueError: without a secret and a token, no service starts."""
        return Authenticator.read(self.secret_file, self.tokens_file, self._issuer())

    def audit_log(self, service: str) -> AuditLog | None:
        """Raises OSError for a file that cannot be written."""
        return AuditLog(self.audit_file, service) if self.audit_file else None

    def _issuer(self) -> Issuer | None:
        if self.jwt_issuer is self.jwt_audience is self.jwt_keys is None:
            return None
        if not (self.jwt_issuer and self.jwt_audience and self.jwt_keys):
            raise ValueError(
                "SANDBOX_JWT_ISSUER, SANDBOX_JWT_AUDIENCE and SANDBOX_JWT_KEYS belong together"
            )
        # Imported here: cryptography and an HTTP client, for those who have an issuer.
        from sandbox_rpc import issuer

        return issuer.Issuer(
            issuer=self.jwt_issuer,
            audience=self.jwt_audience,
            keys=self.jwt_keys,
            claim_prefix=self.jwt_claim_prefix,
        )


@dataclass(frozen=True)
class Service:
    """One gRPC service: how to register it, and which callers it answers.

    `allowed` None: anyone, without a token; then there is no `auth.caller()`.
    Users call the methods in `admin_only` with an admin's token or not at all.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    allowed: frozenset[Kind] | None
    admin_only: frozenset[str] = frozenset()


class Server:
    """A running gRPC server. `port` is the bound TCP port (0 for a Unix socket)."""

    def __init__(
        self, server: grpc.aio.Server, checks: Any, port: int, keys: asyncio.Task[None] | None
    ) -> None:
        self._server = server
        self._checks = checks
        self._keys = keys
        self.port = port

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Takes no new calls, lets those that run end, cuts what is left after `seconds`."""
        await self._checks.enter_graceful_shutdown()
        await self._server.stop(seconds)
        if self._keys is not None:
            self._keys.cancel()
            await asyncio.gather(self._keys, return_exceptions=True)


async def serve(
    listen: str,
    services: Sequence[Service],
    authenticator: Authenticator,
    audit: AuditLog | None = None,
) -> Server:
    """Binds `listen` ("host:port" or "unix:/path") and starts. OSError if it is taken."""
    server = grpc.aio.server(
        interceptors=[
            *telemetry.server_interceptors(),
            Guard(authenticator, {service.name: service for service in services}, audit),
        ],
        options=OPTIONS,
    )
    for service in services:
        service.register(server)
    names = [service.name for service in services]
    checks: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set at run time
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
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
    issuer = authenticator.issuer
    keys = asyncio.create_task(issuer.run()) if issuer is not None else None
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("listening on %s", listen if listen.startswith("unix:") else port)
    return Server(server, checks, port, keys)


async def until_signal() -> None:
    """Returns at the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
