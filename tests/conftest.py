"""Fixtures for tests of every folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import Keys, Platform


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets (107 bytes), which other users
    may pass through: started as root, executors run as one. pytest's own offers neither."""
    path = Path(tempfile.mkdtemp(prefix="sbx"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.make(tmp_path)


@pytest_asyncio.fixture
async def platform(keys: Keys) -> AsyncIterator[Platform]:
    made = Platform(keys)
    yield made
    await made.close()
