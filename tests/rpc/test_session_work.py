"""Work on a session: what it waits for, and what cuts the wait short."""

from __future__ import annotations

import asyncio

import pytest
from sandbox_rpc.errors import InternalError, SandboxError
from session_svc.work import Work, Works

from tests.support import PATIENCE

SESSION = "sess_0123456789abcdef"
SANDBOX = "sbx_0123456789abcdef-1"


async def never() -> None:
    await asyncio.Event().wait()


async def waits_for_ever(work: Work) -> SandboxError | None:
    try:
        await work.wait(never(), sandbox_id=SANDBOX)
    except InternalError as error:
        return error
    return None


async def test_a_session_has_one_work_at_a_time() -> None:
    works = Works()
    first = works.start(SESSION, waits_for_ever)
    assert works.start(SESSION, waits_for_ever) is first

    first.give_up("deleted")
    async with asyncio.timeout(PATIENCE):
        error = await first.task
    assert error is not None
    assert error.detail == "deleted"
    assert works.get(SESSION) is None


@pytest.mark.parametrize(("sandbox_id", "looks_again"), [(SANDBOX, True), (None, False)])
async def test_a_death_ends_the_wait_and_asks_for_another_look(
    sandbox_id: str | None, looks_again: bool
) -> None:
    works = Works()
    work = works.start(SESSION, waits_for_ever)
    if sandbox_id:
        work.note_death(sandbox_id, "exit code 1")
    else:
        work.give_up("deleted")
    async with asyncio.timeout(PATIENCE):
        assert await work.task is not None
    assert works.look_again.is_set() == looks_again


async def test_a_death_of_another_sandbox_does_not_end_the_wait() -> None:
    works = Works()
    work = works.start(SESSION, waits_for_ever)
    work.note_death("sbx_0123456789abcdef-2", "exit code 1")
    done, _ = await asyncio.wait({work.task}, timeout=0.05)
    assert not done
    await works.close()
    assert work.task.cancelled()


async def test_a_result_that_is_there_is_not_thrown_away() -> None:
    work = Work()
    work.note_death(SANDBOX, "exit code 0")
    result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    result.set_result("attached")
    assert await work.wait(result, sandbox_id=SANDBOX) == "attached"
