"""Fixtures of the flow tests: several real parts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.flow.execution import ExecService
from tests.support import Keys, Platform


@pytest_asyncio.fixture
async def exec_service(place: Path, keys: Keys, platform: Platform) -> AsyncIterator[ExecService]:
    service = ExecService(place, keys, platform)
    await service.start()
    yield service
    await service.close()
