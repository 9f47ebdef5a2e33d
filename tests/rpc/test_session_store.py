"""Rows: compare-and-set, keys, pages, times; on every database that is supported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sandbox.scheduler.v1.scheduler_pb2 import Sandbox
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import StateConflict
from session_svc import migrate as migration
from session_svc.database import Database
from session_svc.lifecycle import new_session_id
from session_svc.migrate import migrate
from session_svc.models import Base, SessionRow, Status, sandbox_id, session_of
from session_svc.store import IdempotencyKey, Store, to_message
from session_svc.template_store import TemplateStore
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from tests.rpc.doubles import ManualClock


@dataclass
class Kept:
    """A store, the database below it and the clock it goes by."""

    database: Database
    clock: ManualClock
    store: Store
    templates: TemplateStore

    def row(self, **values: object) -> SessionRow:
        now = self.clock.now()
        made = {
            "session_id": new_session_id(),
            "domain": "default",
            "template_id": "python-basic",
            "mode": "persistent",
            "status": "creating",
            "released": False,
            "generation": 1,
            "recoveries": 0,
            "runtime_type": "process",
            "cpu": "1",
            "memory": "512Mi",
            "disk": "1Gi",
            "max_processes": 128,
            "env_vars": {"A": "ä\n"},
            "labels": {},
            "timeout": 60,
            "template": {"packages": []},
            "dependencies": [],
            "created_at": now,
            "updated_at": now,
            "last_activity_at": now,
            "expires_at": now + timedelta(seconds=60),
        }
        return SessionRow(**(made | values))

    async def insert(self, **values: object) -> SessionRow:
        return await self.store.insert(self.row(**values), None)


@pytest_asyncio.fixture
async def kept(database_url: str) -> AsyncIterator[Kept]:
    database, clock = Database(database_url), ManualClock()
    await migrate(database)
    yield Kept(database, clock, Store(database, clock), TemplateStore(database, clock))
    await database.close()


async def test_migrations_make_the_tables_of_the_models(kept: Kept) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    async with kept.database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migration.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == migration.HEAD


async def test_migrating_again_changes_nothing(kept: Kept) -> None:
    row = await kept.insert()
    await asyncio.gather(*(migrate(kept.database) for _ in range(3)))
    assert await kept.store.get(row.session_id)
    assert await kept.templates.get("python-basic")


async def test_sqlite_is_durable_and_waits_for_its_lock(kept: Kept) -> None:
    if kept.database.engine.dialect.name != "sqlite":
        pytest.skip("pragmas are SQLite's")
    async with kept.database.read() as session:
        values = {
            name: await session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    full, on = 2, 1
    assert values == {
        "journal_mode": "wal",
        "synchronous": full,
        "busy_timeout": 10_000,
        "foreign_keys": on,
    }


async def test_a_row_comes_back_as_it_went_in(kept: Kept) -> None:
    row = await kept.insert(labels={"k": "v"})
    found = await kept.store.get(row.session_id)

    assert found is not None
    assert to_message(found) == to_message(row)
    assert found.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert found.env_vars == {"A": "ä\n"}
    assert await kept.store.get(new_session_id()) is None


async def test_a_session_id_that_is_taken_is_an_error(kept: Kept) -> None:
    row = await kept.insert()
    with pytest.raises(IntegrityError):
        await kept.insert(session_id=row.session_id)


async def test_of_two_that_end_a_session_one_wins(kept: Kept) -> None:
    row = await kept.insert()
    statuses: list[Status] = ["terminated", "failed", "timeout", "completed"] * 5
    ended = await asyncio.gather(*(kept.store.end(row, status, None) for status in statuses))

    winner = [found for found in ended if found]
    assert len(winner) == 1
    found = await kept.store.get(row.session_id)
    assert found is not None
    assert found.status == winner[0].status


async def test_an_ended_session_never_runs_again(kept: Kept) -> None:
    row = await kept.insert()
    await kept.store.end(row, "terminated", "deleted")

    assert await kept.store.place(row, Sandbox(node="n", container_id="c")) is None
    assert await kept.store.run(row, None) is None
    assert await kept.store.renew(row, 1, "lost") is None
    found = await kept.store.get(row.session_id)
    assert found is not None
    assert (found.status, found.status_reason, found.container_id) == (
        "terminated",
        "deleted",
        None,
    )


async def test_an_older_generation_changes_nothing(kept: Kept) -> None:
    row = await kept.insert()
    running = await kept.store.run(row, None)
    assert running is not None
    renewed = await kept.store.renew(running, 1, "lost")
    assert renewed is not None
    assert (renewed.generation, renewed.recoveries, renewed.status_reason) == (2, 1, "lost")

    assert await kept.store.renew(running, 1, "lost") is None
    assert await kept.store.place(running, Sandbox(container_id="old")) is None
    assert await kept.store.run(running, None) is None
    assert await kept.store.run(renewed, "recovered") is not None


async def test_running_begins_the_idle_time(kept: Kept) -> None:
    row = await kept.insert()
    kept.clock.advance(50)
    running = await kept.store.run(row, None)
    assert running is not None
    assert running.expires_at == kept.clock.now() + timedelta(seconds=60)
    assert running.updated_at == running.attached_at == kept.clock.now()


async def test_activity_only_moves_forward(kept: Kept) -> None:
    row = await kept.insert()
    later = kept.clock.now() + timedelta(seconds=30)
    await kept.store.touch(row, later)
    await kept.store.touch(row, later - timedelta(seconds=10))
    found = await kept.store.get(row.session_id)
    assert found is not None
    assert found.last_activity_at == later
    assert found.expires_at == later + timedelta(seconds=60)


async def test_what_is_due_is_found_with_the_time_of_the_next(kept: Kept) -> None:
    assert await kept.store.next_expiry() is None
    first = await kept.store.run(await kept.insert(timeout=60), None)
    await kept.store.run(await kept.insert(timeout=120), None)
    await kept.insert(timeout=60)  # creating: never due
    assert first is not None
    assert await kept.store.next_expiry() == first.expires_at
    assert await kept.store.expired() == []
    kept.clock.advance(60)
    assert [row.session_id for row in await kept.store.expired()] == [first.session_id]


async def test_what_is_not_released_is_found_until_it_is(kept: Kept) -> None:
    row = await kept.insert()
    await kept.store.release(row)
    assert await kept.store.unreleased() == []
    await kept.store.end(row, "failed", "no room")
    assert [found.session_id for found in await kept.store.unreleased()] == [row.session_id]
    await kept.store.release(row)
    assert await kept.store.unreleased() == []


async def test_concurrent_inserts_with_one_key_make_one_row(kept: Kept) -> None:
    key = IdempotencyKey("k", "hash")
    rows = await asyncio.gather(*(kept.store.insert(kept.row(), key) for _ in range(20)))
    assert len({row.session_id for row in rows}) == 1
    assert len(await kept.store.with_status("creating")) == 1


async def test_a_key_lives_24_hours(kept: Kept) -> None:
    first = await kept.store.insert(kept.row(), IdempotencyKey("k", "hash"))
    kept.clock.advance(24 * 3600 - 1)
    await kept.store.forget_old_keys()
    with pytest.raises(StateConflict):
        await kept.store.insert(kept.row(), IdempotencyKey("k", "other"))
    kept.clock.advance(1)
    second = await kept.store.insert(kept.row(), IdempotencyKey("k", "other"))
    assert second.session_id != first.session_id


async def test_writers_do_not_fail_each_other(kept: Kept) -> None:
    rows = [await kept.insert() for _ in range(4)]
    later = kept.clock.now()
    await asyncio.gather(
        *(
            kept.store.touch(row, later + timedelta(seconds=second))
            for second in range(25)
            for row in rows
        )
    )
    for row in rows:
        found = await kept.store.get(row.session_id)
        assert found is not None
        assert found.last_activity_at == later + timedelta(seconds=24)


def test_the_words_of_a_status_are_those_of_the_contract() -> None:
    words = set(Status.__args__)  # type: ignore[attr-defined]
    assert words == set(pb.SessionStatus.Value.keys()) - {"unspecified"}


def test_sandbox_ids_lead_back_to_their_session() -> None:
    session_id = new_session_id()
    assert session_of(sandbox_id(session_id, 12)) == (session_id, 12)
    for alien in ("", "sbx_", "sbx_warm-1", "sbx_0123456789abcdef", "sbx_0123456789ABCDEF-1"):
        assert session_of(alien) is None
