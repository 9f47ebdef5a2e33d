"""Executions per minute: counted by token, over any 60 seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from exec_svc.database import Database
from exec_svc.execution_store import Accepted, ExecutionStore, new_id
from exec_svc.migrate import migrate
from exec_svc.session_store import SessionStore
from exec_svc.validation import new_execution
from sandbox.executor.v1 import link_pb2
from sandbox_rpc.auth import Caller, Principal
from sandbox_rpc.errors import TooManyRequests
from sandbox_rpc.tokens import Quotas

BEGIN = datetime(2026, 11, 23, 12, tzinfo=UTC)
SESSION = "sess_0123456789abcdef"


class Submitter:
    def __init__(self, store: ExecutionStore) -> None:
        self._store = store

    async def submit(
        self,
        seconds: float,
        *,
        principal: str = "tok_1",
        limit: int | None = 2,
        key: str | None = None,
        code: str = "1",
    ) -> Accepted:
        """Submits at `seconds` after the beginning."""
        quotas = Quotas(executions_per_minute=limit)
        now = BEGIN + timedelta(seconds=seconds)
        return await self._store.insert(
            new_execution(
                session_id=SESSION,
                code=code,
                language="python",
                timeout=None,
                event_json=b"",
                env_vars={},
                stdin=None,
            ),
            caller=Caller(Principal("user", principal, quotas=quotas), "default", "r", key),
            idempotency_key=key,
            traceparent="",
            now=now,
            boot_id=None,
            execution_id=new_id(now),
        )


@pytest_asyncio.fixture
async def user(tmp_path: Path) -> AsyncIterator[Submitter]:
    database = Database(f"sqlite:///{tmp_path}/exec.db")
    await migrate(database)
    config = link_pb2.SessionConfig(concurrency=4)
    await SessionStore(database).register(SESSION, "default", config, BEGIN)
    yield Submitter(ExecutionStore(database))
    await database.close()


async def test_the_oldest_makes_room_when_it_is_a_minute_old(user: Submitter) -> None:
    await user.submit(0)
    await user.submit(10.5)
    with pytest.raises(TooManyRequests, match="at most 2 executions per minute") as caught:
        await user.submit(20)
    assert caught.value.retry_after == 40
    with pytest.raises(TooManyRequests):
        await user.submit(59.9)
    await user.submit(60)
    with pytest.raises(TooManyRequests) as caught:
        await user.submit(60)
    assert caught.value.retry_after == 11  # 10.5, rounded up: the client must not come too early


async def test_each_token_by_itself(user: Submitter) -> None:
    await user.submit(0, principal="tok_1", limit=1)
    await user.submit(0, principal="tok_2", limit=1)
    await user.submit(0, principal="tok_1", limit=None)


async def test_a_repeated_request_is_none_of_its_own(user: Submitter) -> None:
    first = await user.submit(0, limit=1, key="same")
    again = await user.submit(1, limit=1, key="same")
    assert again.execution_id == first.execution_id
