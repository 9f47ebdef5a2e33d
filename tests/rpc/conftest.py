"""Fixtures of the services' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.rpc.doubles import MemoryRuntime, PromptExecutors
from tests.rpc.world import World, sqlite_url
from tests.support import Keys

MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that is supported."""
    assert request.param == "sqlite"
    return sqlite_url(tmp_path)


@pytest_asyncio.fixture
async def make_world(keys: Keys, tmp_path: Path) -> AsyncIterator[MakeWorld]:
    worlds: list[World] = []

    async def make(
        runtime: MemoryRuntime | None = None,
        executors: PromptExecutors | None = None,
        attach_seconds: float = 60,
    ) -> World:
        world = World(
            keys,
            sqlite_url(tmp_path),
            runtime or MemoryRuntime(),
            executors or PromptExecutors(),
            attach_seconds,
        )
        await world.open()
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.close()


@pytest_asyncio.fixture
async def world(make_world: MakeWorld) -> World:
    """All is well: sandboxes start and executors come at once."""
    return await make_world()
