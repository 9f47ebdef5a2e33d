"""What every runtime must do with `usage`."""

from __future__ import annotations

from scheduler_svc.runtimes.base import Runtime, Usage

from tests.runtime.conftest import ProcessHost, spec
from tests.support import eventually

MIB = 1024 * 1024


async def test_an_idle_sandbox_uses_memory_and_no_cpu(runtime: Runtime) -> None:
    await runtime.start(spec())

    async def idle() -> Usage | None:
        usage = (await runtime.usage([spec().sandbox_id]))[spec().sandbox_id]
        return usage if usage.cpu_percent == 0 else None  # once it has started

    usage = await eventually(idle)
    assert usage is not None
    assert usage.pids >= 1
    assert 1 * MIB < usage.memory_bytes < 256 * MIB


async def test_what_its_children_use_is_its_own(host: ProcessHost, runtime: Runtime) -> None:
    host.order(spec().session_id, "busy 64")
    await runtime.start(spec())

    async def busy() -> Usage | None:
        usage = (await runtime.usage([spec().sandbox_id]))[spec().sandbox_id]
        is_up = usage.memory_bytes > 64 * MIB and usage.cpu_percent > 5
        return usage if is_up else None

    usage = await eventually(busy)
    assert usage is not None
    assert usage.pids >= 2


async def test_usage_is_told_for_those_that_run(host: ProcessHost, runtime: Runtime) -> None:
    host.order(spec("b").session_id, "exit 3")
    for letter in "abc":
        await runtime.start(spec(letter))

    async def ended() -> bool:
        state = await runtime.status(spec("b").sandbox_id)
        return state is not None and state.ended

    await eventually(ended)
    asked = [spec(letter).sandbox_id for letter in "abcz"]
    assert {*await runtime.usage(asked)} == {spec("a").sandbox_id, spec("c").sandbox_id}
    assert {*await runtime.usage(asked[:1])} == {spec("a").sandbox_id}
    assert await runtime.usage([]) == {}
