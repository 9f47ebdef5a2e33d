"""What every runtime must do with `logs`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sandbox_rpc.errors import NotFound, ServiceUnavailable
from scheduler_svc.runtimes.base import Runtime

from tests.runtime.conftest import ProcessHost, spec, text
from tests.support import PATIENCE, eventually

# Unix seconds of the lines that the stand-in says; so long ago that all of ours are later.
SECONDS = (1_000_000_000, 1_000_000_100, 1_000_000_200)


def line(second: int) -> bytes:
    stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return f"{stamp} INFO at {second}\n  and more of it\n".encode()


async def said(host: ProcessHost, runtime: Runtime) -> None:
    """A sandbox that has printed a line and one that continues it, thrice, and "ready"."""
    host.order(spec().session_id, "say " + " ".join(map(str, SECONDS)))
    await runtime.start(spec())

    async def complete() -> bool:
        return (await text(runtime, spec().sandbox_id)).endswith(b"ready\n")

    await eventually(complete)


async def test_logs_are_what_the_executor_printed(host: ProcessHost, runtime: Runtime) -> None:
    await said(host, runtime)
    whole = b"".join(map(line, SECONDS)) + b"ready\n"
    assert await text(runtime, spec().sandbox_id) == whole


@pytest.mark.parametrize("tail", [1, 2, 6, 7, 8, 10_000])
async def test_a_tail_is_the_last_lines(host: ProcessHost, runtime: Runtime, tail: int) -> None:
    await said(host, runtime)
    lines = (b"".join(map(line, SECONDS)) + b"ready\n").splitlines(keepends=True)
    assert await text(runtime, spec().sandbox_id, tail=tail) == b"".join(lines[-tail:])


@pytest.mark.parametrize(
    ("since", "first"),
    [(SECONDS[0], 0), (SECONDS[0] + 1, 1), (SECONDS[1], 1), (SECONDS[2], 2)],
)
async def test_since_is_a_moment_with_the_lines_that_continue_one(
    host: ProcessHost, runtime: Runtime, since: int, first: int
) -> None:
    await said(host, runtime)
    moment = datetime.fromtimestamp(since, UTC)
    expected = b"".join(map(line, SECONDS[first:])) + b"ready\n"
    assert await text(runtime, spec().sandbox_id, since=moment) == expected
    # The tail of what there is since then: never more than that.
    assert await text(runtime, spec().sandbox_id, since=moment, tail=1) == b"ready\n"
    assert await text(runtime, spec().sandbox_id, since=moment, tail=100) == expected


async def test_since_a_moment_after_the_last_line_is_nothing(
    host: ProcessHost, runtime: Runtime
) -> None:
    await said(host, runtime)
    later = datetime.fromtimestamp(SECONDS[2] + 1, UTC)
    assert await text(runtime, spec().sandbox_id, since=later) == b""


async def test_lines_without_any_time_are_as_old_as_the_sandbox(
    host: ProcessHost, runtime: Runtime
) -> None:
    state = await runtime.start(spec())

    async def complete() -> bytes:
        return await text(runtime, spec().sandbox_id)

    assert await eventually(complete) == b"ready\n"
    second = timedelta(seconds=1)
    before, after = state.created_at - second, state.created_at + second
    assert await text(runtime, spec().sandbox_id, since=before) == b"ready\n"
    assert await text(runtime, spec().sandbox_id, since=after) == b""


async def test_a_reader_that_follows_gets_whole_lines_as_they_come(
    host: ProcessHost, runtime: Runtime
) -> None:
    host.order(spec().session_id, "tick")
    await runtime.start(spec())
    seen = b""
    async with asyncio.timeout(PATIENCE):
        following = runtime.logs(spec().sandbox_id, tail=10, follow=True)
        async for piece in following:
            assert not piece or piece.endswith(b"\n")
            seen += piece
            if seen.count(b"tick") > 10:
                break
    first = int(seen.split(b"tick ")[1].split()[0])
    ticks = [b"tick %d" % (first + count) for count in range(seen.count(b"tick"))]
    assert [line for line in seen.splitlines() if line != b"ready"] == ticks


@pytest.mark.parametrize("end", ["stop", "exit"])
async def test_a_reader_that_follows_ends_with_the_sandbox(
    host: ProcessHost, runtime: Runtime, end: str
) -> None:
    host.order(spec().session_id, "exit 3" if end == "exit" else "run")
    await runtime.start(spec())
    following = runtime.logs(spec().sandbox_id, tail=10, follow=True)
    seen = b""
    async with asyncio.timeout(PATIENCE):
        async for piece in following:
            seen += piece
            if end == "stop" and b"ready" in seen:
                await runtime.stop(spec().sandbox_id)
    assert seen.startswith(b"ready\n")
    assert seen.endswith(b"ERROR exit 3: /a/b c\n" if end == "exit" else b"ready\n")


async def test_many_may_follow_one_log(host: ProcessHost, runtime: Runtime) -> None:
    host.order(spec().session_id, "tick")
    await runtime.start(spec())

    async def follow() -> bytes:
        return await text(runtime, spec().sandbox_id, tail=10_000, follow=True)

    readers = [asyncio.create_task(follow()) for _ in range(5)]
    leaver = asyncio.create_task(follow())

    async def under_way() -> bool:
        return (await text(runtime, spec().sandbox_id)).count(b"tick") > 5

    await eventually(under_way)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await runtime.stop(spec().sandbox_id)

    async with asyncio.timeout(PATIENCE):
        everything = await asyncio.gather(*readers)
    assert leaver.cancelled()
    assert len({*everything}) == 1
    assert everything[0].count(b"tick") > 5


async def test_a_reader_that_follows_is_told_that_the_runtime_closes(
    host: ProcessHost, runtime: Runtime
) -> None:
    await said(host, runtime)
    following = runtime.logs(spec().sandbox_id, tail=1, follow=True)
    async with asyncio.timeout(PATIENCE):
        assert await anext(following) + await anext(following) == b"ready\n"
        await runtime.close()
        with pytest.raises(ServiceUnavailable, match="going down"):
            await anext(following)


@pytest.mark.parametrize("follow", [False, True])
async def test_the_log_of_one_that_has_ended_is_kept_until_it_is_removed(
    host: ProcessHost, runtime: Runtime, follow: bool
) -> None:
    host.order(spec().session_id, "exit 3")
    await runtime.start(spec())

    async def over() -> bool:
        state = await runtime.status(spec().sandbox_id)
        return state is not None and state.ended

    await eventually(over)
    assert b"exit 3" in await text(runtime, spec().sandbox_id, follow=follow)

    await runtime.stop(spec().sandbox_id)
    with pytest.raises(NotFound):
        await text(runtime, spec().sandbox_id, follow=follow)


async def test_logs_of_an_absent_sandbox_are_not_found(runtime: Runtime) -> None:
    with pytest.raises(NotFound):
        await text(runtime, "sbx_zzzzzzzzzzzzzzzz-1")
