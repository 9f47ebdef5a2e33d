"""One stack for the tests of the contract; each test has a business domain of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.contract.callers import Native, Rest
from tests.flow.stack import Stack
from tests.support import PATIENCE


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack. What a test leaves in it ends with it."""
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)  # executors that root started are other users
    made = Stack(place / "data")
    try:
        made.sandbox("up")
        yield made
    finally:
        made.sandbox("down")
        shutil.rmtree(place)


@pytest.fixture
def domain() -> str:
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def http(stack: Stack) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{stack.port}"
    # One for all: making one reads a store of certificates, which takes longer than a call.
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as made:
        yield made


@pytest.fixture
def rest(stack: Stack, http: httpx.Client, domain: str) -> Rest:
    return Rest(http, stack.places.token.read_text().strip(), domain)


@pytest.fixture
def native(stack: Stack, domain: str) -> Iterator[Native]:
    with Native(stack, domain) as made:
        yield made


@pytest.fixture(scope="module")
def shared(stack: Stack, http: httpx.Client) -> tuple[Rest, str]:
    """A client and its session, for tests that leave nothing behind that others would see."""
    rest = Rest(http, stack.places.token.read_text().strip(), f"shared-{uuid4().hex[:8]}")
    return rest, str(rest.session()["session_id"])


@pytest.fixture(scope="session")
def limited(stack: Stack) -> str:
    """A token that is good for one domain and nothing else."""
    return stack.sandbox("token", "create", "limited", "--domain", "only-here").strip()
