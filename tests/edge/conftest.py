from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from sandbox_rpc.auth import Authenticator, Secret

from cli.tokens import register_operator
from tests.edge import envoy_process, upstream
from tests.edge.envoy_process import RunningEdge
from tests.edge.upstream import Script

TOKEN = "operator-token-of-the-edge-tests-0123456789"
SECRET = "secret-of-the-edge-tests-0123456789abcdef"


def short_directory() -> Path:
    """Unix socket paths hold 107 bytes, which pytest's own directories use up."""
    return Path(tempfile.mkdtemp(prefix="edge-"))


@pytest.fixture
def directory() -> Iterator[Path]:
    made = short_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def edge() -> Iterator[RunningEdge]:
    """One Envoy for all tests that do not need one of their own."""
    made = short_directory()
    with envoy_process.running(made) as running:
        yield running
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    directory = tmp_path_factory.mktemp("auth")
    (directory / "secret").write_text(SECRET)
    register_operator(directory / "tokens.json", TOKEN)
    return Authenticator.read(directory / "secret", directory / "tokens.json")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(edge: RunningEdge, authenticator: Authenticator) -> AsyncIterator[Script]:
    script = Script()
    async with upstream.serving(edge.directory, script, authenticator):
        yield script


@pytest.fixture
def script(served: Script) -> Script:
    served.reset()
    return served


@pytest_asyncio.fixture(loop_scope="session")
async def client(edge: RunningEdge, script: Script) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the public REST API, with the operator's token."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def channel(edge: RunningEdge, script: Script) -> AsyncIterator[grpc.aio.Channel]:
    """A native gRPC channel to the public listener."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.public_port}") as made:
        yield made


@pytest.fixture
def metadata() -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture
def container_token() -> str:
    return Secret(SECRET.encode()).sign("container", "sbx_0123456789abcdef-1")
