"""An issuer's JWTs at a real server, with the keys fetched over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm
from pydantic import ValidationError
from sandbox.session.v1 import session_pb2 as pb
from sandbox.session.v1 import session_pb2_grpc
from sandbox_rpc.auth import caller
from sandbox_rpc.errors import ServiceUnavailable, Unauthorized
from sandbox_rpc.server import Server, ServerSettings, Service, serve

from tests.rpc.world import refusal
from tests.support import Keys, Metadata

KEY = ed25519.Ed25519PrivateKey.generate()
KEY_SET = {"keys": [OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True) | {"kid": "1"}]}
GET = pb.GetSessionRequest(session_id="s")


class KeyServer:
    """Answers with the key set, once it may, and counts how often it was asked."""

    def __init__(self) -> None:
        self.body = json.dumps(KEY_SET).encode()
        self.status = "200 OK"
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.was_asked = asyncio.Event()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks"

    async def close(self) -> None:
        self.may_answer.set()
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        self.was_asked.set()
        await self.may_answer.wait()
        head = f"HTTP/1.1 {self.status}\r\ncontent-length: {len(self.body)}\r\n"
        writer.write(head.encode() + b"connection: close\r\n\r\n" + self.body)
        writer.close()
        await writer.wait_closed()


class Whoami(session_pb2_grpc.SessionServiceServicer):
    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.Session:
        return pb.Session(status_reason=caller().principal.subject)


@pytest_asyncio.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    made = KeyServer()
    await made.open()
    yield made
    await made.close()


class Platform:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        self.stub = session_pb2_grpc.SessionServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(None)
        await self._server.drain(0)


Start = Callable[[], Awaitable[Platform]]


def settings(keys: Keys, /, **jwt_settings: str) -> ServerSettings:
    return ServerSettings(
        listen="127.0.0.1:0",
        secret_file=keys.secret_file,
        tokens_file=keys.tokens_file,
        **{f"jwt_{name}": value for name, value in jwt_settings.items()},
    )


@pytest_asyncio.fixture
async def start(keys: Keys, key_server: KeyServer) -> AsyncIterator[Start]:
    """Starts a server, which asks for the keys at once: the test says first what it gets."""
    made: list[Platform] = []

    def register(server: grpc.aio.Server) -> None:
        session_pb2_grpc.add_SessionServiceServicer_to_server(Whoami(), server)

    async def start() -> Platform:
        service = Service("sandbox.session.v1.SessionService", register, frozenset({"user"}))
        chosen = settings(keys, issuer="https://i", audience="sandbox", keys=key_server.url)
        made.append(Platform(await serve(chosen.listen, [service], chosen.authenticator())))
        return made[-1]

    yield start
    for platform in made:
        await platform.close()


@pytest_asyncio.fixture
async def platform(start: Start) -> Platform:
    return await start()


def bearer(kid: str = "1", **claims: Any) -> Metadata:
    made = {"iss": "https://i", "aud": "sandbox", "sub": "ada", "exp": int(time.time()) + 300}
    made |= {"sandbox_domains": ["default"]} | claims
    return (("authorization", "Bearer " + jwt.encode(made, KEY, "EdDSA", headers={"kid": kid})),)


async def test_a_jwt_is_as_good_as_a_token(platform: Platform) -> None:
    answer = await platform.stub.GetSession(GET, metadata=bearer())
    assert answer.status_reason == "jwt:ada"


async def test_keys_are_fetched_once_however_many_ask(
    platform: Platform, key_server: KeyServer
) -> None:
    await asyncio.gather(
        *(platform.stub.GetSession(GET, metadata=bearer()) for _ in range(20)),
        *(refusal(platform.stub.GetSession(GET, metadata=bearer("unknown"))) for _ in range(20)),
    )
    assert key_server.asked == 1


async def test_an_issuer_that_hangs_holds_nobody_else_up(
    start: Start, keys: Keys, key_server: KeyServer
) -> None:
    key_server.may_answer.clear()
    platform = await start()
    waiting = asyncio.ensure_future(platform.stub.GetSession(GET, metadata=bearer()))
    await key_server.was_asked.wait()
    await platform.stub.GetSession(GET, metadata=keys.as_user())
    assert not waiting.done()
    key_server.may_answer.set()
    assert (await waiting).status_reason == "jwt:ada"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oops", b""),
        ("302 Found", b""),
        ("200 OK", b"<html>"),
        ("200 OK", b" " * 300_000),
        ("200 OK", b'{"keys": []}'),
    ],
    ids=["an error", "a redirect", "no JSON", "too large", "empty"],
)
async def test_without_keys_it_is_not_the_tokens_fault(
    start: Start, key_server: KeyServer, status: str, body: bytes
) -> None:
    key_server.status, key_server.body = status, body
    refused = await refusal((await start()).stub.GetSession(GET, metadata=bearer()))
    assert isinstance(refused, ServiceUnavailable)
    assert refused.retry_after == 30


async def test_a_bad_one_is_401(platform: Platform) -> None:
    for bad in (bearer(aud="other"), bearer(exp=1), bearer("2")):
        refused = await refusal(platform.stub.GetSession(GET, metadata=bad))
        assert isinstance(refused, Unauthorized)


async def test_off_by_default(keys: Keys) -> None:
    assert settings(keys).authenticator().issuer is None
    with pytest.raises(Unauthorized):
        await settings(keys).authenticator().authenticate(dict(bearer()))


def test_settings_that_belong_together(keys: Keys) -> None:
    with pytest.raises(ValueError, match="SANDBOX_JWT_AUDIENCE"):
        settings(keys, issuer="https://i").authenticator()
    with pytest.raises(ValidationError):
        ServerSettings(listen="x", secret_file=keys.secret_file)
