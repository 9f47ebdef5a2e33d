"""What tests of several folders share; the fixtures are in conftest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc.aio
from sandbox_rpc.auth import Authenticator, Secret
from sandbox_rpc.channel import Channel
from sandbox_rpc.server import Server, Service, serve

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

# Long enough for the slowest machine; a test that passes never waits for it.
PATIENCE = 60.0


@dataclass(frozen=True)
class Keys:
    """A platform's signing key and its operator's token, in files as services read them."""

    secret_file: Path
    token_file: Path

    @property
    def secret(self) -> Secret:
        return Secret.read(self.secret_file)

    @property
    def authenticator(self) -> Authenticator:
        return Authenticator.read(self.secret_file, self.token_file)

    def as_user(self, domain: str | None = None, **headers: str) -> Metadata:
        """The metadata of the operator's call; `idempotency_key` becomes `idempotency-key`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if domain is not None:
            named["x-business-domain"] = domain
        return (("authorization", f"Bearer {self.token_file.read_text()}"), *named.items())

    def as_service(self, subject: str = "test") -> Metadata:
        return (("authorization", f"Bearer {self.secret.sign('service', subject)}"),)

    def as_container(self, sandbox_id: str) -> Metadata:
        return (("authorization", f"Bearer {self.secret.sign('container', sandbox_id)}"),)


class Platform:
    """Real gRPC servers of this process on ports of their own, and channels to them."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._servers: list[Server] = []
        self._channels: list[Channel | grpc.aio.Channel] = []

    async def serve(self, *services: Service, listen: str = "127.0.0.1:0") -> str:
        """Serves them on one port and returns the target to dial."""
        server = await serve(listen, services, self.keys.authenticator)
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
