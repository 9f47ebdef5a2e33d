"""What tests of several folders share; the fixtures are in conftest.py."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import grpc.aio
from sandbox_rpc.auth import NO_QUOTAS, Authenticator, Secret
from sandbox_rpc.channel import Channel
from sandbox_rpc.guard import AuditLog
from sandbox_rpc.server import Server, Service, serve
from sandbox_rpc.tokens import Quotas, Role, new_token

from cli.tokens import create, register_operator

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

# Long enough for the slowest machine; a test that passes never waits for it.
PATIENCE = 60.0


@dataclass(frozen=True)
class Keys:
    """A platform's signing key and its users' tokens, in files as services read them."""

    secret_file: Path
    # The operator's token itself, for clients; services read the other file.
    token_file: Path
    tokens_file: Path

    @classmethod
    def make(cls, directory: Path) -> Keys:
        made = cls(directory / "secret", directory / "token", directory / "tokens.json")
        for path in (made.secret_file, made.token_file):
            path.write_text(secrets.token_urlsafe(48))
        register_operator(made.tokens_file, made.token_file.read_text())
        return made

    @property
    def secret(self) -> Secret:
        return Secret.read(self.secret_file)

    @property
    def authenticator(self) -> Authenticator:
        return Authenticator.read(self.secret_file, self.tokens_file)

    def issue(
        self,
        *,
        role: Role = "user",
        domains: Iterable[str] | None = ("default",),
        quotas: Quotas = NO_QUOTAS,
        lifetime: timedelta | None = None,
    ) -> str:
        """A new token; `domains` None means all."""
        token = new_token()
        create(
            self.tokens_file,
            "made by a test",
            role=role,
            domains=None if domains is None else frozenset(domains),
            quotas=quotas,
            lifetime=lifetime,
            token=token,
        )
        return token

    def as_user(
        self, domain: str | None = None, *, token: str | None = None, **headers: str
    ) -> Metadata:
        """The metadata of a call, the operator's by default.

        `idempotency_key` becomes `idempotency-key`.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if domain is not None:
            named["x-business-domain"] = domain
        token = token or self.token_file.read_text()
        return (("authorization", f"Bearer {token}"), *named.items())

    def as_service(self, subject: str = "test") -> Metadata:
        return (("authorization", f"Bearer {self.secret.sign('service', subject)}"),)

    def as_container(self, sandbox_id: str) -> Metadata:
        return (("authorization", f"Bearer {self.secret.sign('container', sandbox_id)}"),)


class Platform:
    """Real gRPC servers of this process on ports of their own, and channels to them."""

    def __init__(self, keys: Keys, audit: AuditLog | None = None) -> None:
        self.keys = keys
        self._audit = audit
        self._servers: list[Server] = []
        self._channels: list[Channel | grpc.aio.Channel] = []

    async def serve(self, *services: Service, listen: str = "127.0.0.1:0") -> str:
        """Serves them on one port and returns the target to dial."""
        server = await serve(listen, services, self.keys.authenticator, self._audit)
        self._servers.append(server)
        return f"127.0.0.1:{server.port}" if server.port > 1 else listen

    def dial(self, target: str, subject: str = "test") -> Channel:
        """A channel as services of ours have it: retries, a token, typed errors."""
        channel = Channel(target, self.keys.secret, subject)
        self._channels.append(channel)
        return channel

    def dial_plainly(self, target: str) -> grpc.aio.Channel:
        """A channel as a client has it: what is sent is what the test says, once."""
        channel = grpc.aio.insecure_channel(target)
        self._channels.append(channel)
        return channel

    async def stop_serving(self) -> None:
        """Cuts every server off at once, as a crash would."""
        while self._servers:
            await self._servers.pop().drain(0)

    async def close(self) -> None:
        for channel in self._channels:
            await (channel.close() if isinstance(channel, Channel) else channel.close(None))
        await self.stop_serving()


async def eventually(look: Callable[[], Awaitable[T]], *, every: float = 0.02) -> T:
    """The first true thing that `look` returns; for what gives no signal of its own.

    TimeoutError after PATIENCE.
    """
    async with asyncio.timeout(PATIENCE):
        while not (found := await look()):  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(every)
        return found


def only(items: Sequence[T]) -> T:
    """The one item there is."""
    (item,) = items
    return item
