"""What every runtime must do. Nothing here knows which one it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scheduler_svc.runtimes.base import (
    Change,
    Changed,
    Removed,
    Runtime,
    SandboxState,
    SnapshotComplete,
)

from tests.runtime.conftest import ProcessHost, spec
from tests.support import PATIENCE, eventually, only


async def next_of(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(PATIENCE):
        return await anext(changes)


async def ended(runtime: Runtime, sandbox_id: str) -> SandboxState:
    async for change in runtime.watch():
        state = change.state if isinstance(change, Changed) else None
        if state and state.sandbox_id == sandbox_id and state.ended:
            return state
    raise AssertionError("the watch ended first")


async def test_a_started_sandbox_runs_and_carries_its_labels(runtime: Runtime) -> None:
    state = await runtime.start(spec("a", 3))

    assert (state.sandbox_id, state.session_id, state.generation) == (
        "sbx_aaaaaaaaaaaaaaaa-3",
        "sess_aaaaaaaaaaaaaaaa",
        3,
    )
    assert state.status in ("creating", "running")
    assert state.node
    assert state.container_id
    assert await runtime.status(state.sandbox_id) == state


async def test_a_second_start_finds_the_first(runtime: Runtime) -> None:
    first = await runtime.start(spec())
    second = await runtime.start(spec())

    assert second.created_at == first.created_at
    assert len(await runtime.list()) == 1


async def test_concurrent_starts_make_one_sandbox(runtime: Runtime) -> None:
    states = await asyncio.gather(*(runtime.start(spec()) for _ in range(10)))

    assert len({state.created_at for state in states}) == 1
    assert len(await runtime.list()) == 1


async def test_generations_are_different_sandboxes(runtime: Runtime) -> None:
    await runtime.start(spec("a", 1))
    await runtime.start(spec("a", 2))
    await runtime.stop("sbx_aaaaaaaaaaaaaaaa-1")

    assert only(await runtime.list()).generation == 2


async def test_a_stopped_sandbox_leaves_no_trace(runtime: Runtime) -> None:
    state = await runtime.start(spec())
    await runtime.stop(state.sandbox_id)

    assert await runtime.status(state.sandbox_id) is None
    assert list(await runtime.list()) == []


async def test_stopping_what_is_absent_succeeds(runtime: Runtime) -> None:
    state = await runtime.start(spec())
    await asyncio.gather(*(runtime.stop(state.sandbox_id) for _ in range(3)))
    await runtime.stop(state.sandbox_id)
    await runtime.stop("sbx_zzzzzzzzzzzzzzzz-1")


async def test_a_stop_goes_on_when_its_caller_is_cancelled(runtime: Runtime) -> None:
    state = await runtime.start(spec())
    caller = asyncio.create_task(runtime.stop(state.sandbox_id))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()

    async def gone() -> bool:
        return await runtime.status(state.sandbox_id) is None

    await eventually(gone)


async def test_start_during_a_stop_makes_a_new_one(runtime: Runtime) -> None:
    first = await runtime.start(spec())
    stop = asyncio.create_task(runtime.stop(first.sandbox_id))
    await asyncio.sleep(0)
    second = await runtime.start(spec())
    await stop

    assert second.created_at > first.created_at
    assert only(await runtime.list()).status in ("creating", "running")


@pytest.mark.parametrize(
    ("order", "status", "code"), [("exit 0", "completed", 0), ("exit 3", "failed", 3)]
)
async def test_the_end_of_an_executor_is_told_with_its_exit_code(
    host: ProcessHost, runtime: Runtime, order: str, status: str, code: int
) -> None:
    host.order(spec().session_id, order)
    await runtime.start(spec())
    state = await ended(runtime, spec().sandbox_id)

    assert (state.status, state.exit_code) == (status, code)
    assert (state.reason is None) == (code == 0)
    assert await runtime.status(state.sandbox_id) == state


async def test_starting_what_has_ended_finds_its_end(host: ProcessHost, runtime: Runtime) -> None:
    host.order(spec().session_id, "exit 3")
    await runtime.start(spec())
    state = await ended(runtime, spec().sandbox_id)

    assert await runtime.start(spec()) == state


async def test_a_watch_gives_a_snapshot_and_then_each_change(runtime: Runtime) -> None:
    first = await runtime.start(spec("a"))
    watches = [runtime.watch() for _ in range(3)]

    for watch in watches:
        assert await next_of(watch) == Changed(first)
        assert await next_of(watch) == SnapshotComplete()

    second = await runtime.start(spec("b"))
    for watch in watches:
        assert await next_of(watch) == Changed(second)

    await runtime.stop(first.sandbox_id)
    for watch in watches:
        change = await next_of(watch)
        while isinstance(change, Changed):  # its end may be told before
            change = await next_of(watch)
        assert change == Removed(first.sandbox_id)


async def test_a_watch_ends_when_the_runtime_closes(runtime: Runtime) -> None:
    watch = runtime.watch()
    assert await next_of(watch) == SnapshotComplete()
    await runtime.close()

    with pytest.raises(StopAsyncIteration):
        await next_of(watch)


async def test_sandboxes_outlive_the_runtime_and_the_next_one_finds_them(
    host: ProcessHost, runtime: Runtime
) -> None:
    before = await runtime.start(spec())
    await runtime.close()
    runtime = host.start_runtime()

    assert list(await runtime.list()) == [before]
    assert await runtime.start(spec()) == before
    await runtime.stop(before.sandbox_id)
    assert list(await runtime.list()) == []


async def test_an_end_is_remembered_by_the_next_runtime(
    host: ProcessHost, runtime: Runtime
) -> None:
    host.order(spec().session_id, "exit 3")
    await runtime.start(spec())
    before = await ended(runtime, spec().sandbox_id)
    await runtime.close()

    assert list(await host.start_runtime().list()) == [before]
