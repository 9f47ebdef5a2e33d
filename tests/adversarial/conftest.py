"""One stack for all attacks of a worker: what one of them breaks, the next one would notice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversarial.arena import Arena, Attack, remove


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)  # executors that root starts are other users, and pass through
    try:
        made = Arena(place)
        yield made
        made.close()
    finally:
        remove(place)


@pytest.fixture
def attack(arena: Arena) -> Iterator[Attack]:
    """A session for one attack; after the test, what must still hold is checked."""
    made = arena.attack()
    yield made
    made.check()
