"""Fixtures of the flow tests: several real parts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.edge import envoy_process
from tests.flow.execution import ExecService
from tests.flow.files import FileService
from tests.support import Keys, Platform


@pytest_asyncio.fixture
async def exec_service(place: Path, keys: Keys, platform: Platform) -> AsyncIterator[ExecService]:
    service = ExecService(place, keys, platform)
    await service.start()
    yield service
    await service.close()


@pytest_asyncio.fixture
async def file_service(place: Path, keys: Keys, platform: Platform) -> AsyncIterator[FileService]:
    service = FileService(place, keys, platform)
    await service.start()
    with envoy_process.running(place) as edge:
        service.connect(edge.url)
        yield service
        await service.disconnect()
    await service.close()
