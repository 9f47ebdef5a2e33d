"""What is particular to the process runtime."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_rpc.errors import ServiceUnavailable, TooManyRequests
from scheduler_svc.runtimes import feed
from scheduler_svc.runtimes.base import Changed, Removed, SandboxSpec, SandboxState
from scheduler_svc.runtimes.feed import Feed
from scheduler_svc.runtimes.proc import Identity
from scheduler_svc.runtimes.process import ProcessRuntime
from scheduler_svc.runtimes.records import Record
from scheduler_svc.runtimes.users import UIDS

from tests.runtime.conftest import ProcessHost, spec, text
from tests.support import PATIENCE, eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def record(host: ProcessHost, of: SandboxSpec) -> Record:
    found = Record.read(host.sandboxes / of.sandbox_id)
    assert found is not None
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def executors(host: ProcessHost) -> Iterator[int]:
    """The pids of all stand-in executors of this host, known to a runtime or not."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (proc / "cmdline").read_bytes().split(b"\0")
            workspace = environment(int(proc.name)).get("SANDBOX_WORKSPACE", "")
        except (OSError, ValueError):  # it ended meanwhile, or is somebody else's
            continue
        # The shell that waits for its go has the same arguments behind its own.
        if (
            len(arguments) > 1
            and arguments[1].endswith(b"stand_in.py")
            and workspace.startswith(str(host.workspaces))
        ):
            yield int(proc.name)


async def line(runtime: ProcessRuntime, word: bytes) -> list[bytes]:
    """The words of the line that the executor printed and that starts with `word`."""

    async def look() -> list[bytes]:
        for printed in (await text(runtime, spec().sandbox_id)).splitlines():
            if printed.startswith(word):
                return printed.split()
        return []

    return await eventually(look)


async def crash(host: ProcessHost, moment: str) -> None:
    """Runs a scheduler that starts spec() and is killed at this moment, see crash.py."""
    scheduler = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.runtime.crash", str(host.sandboxes.parent), moment)
    )
    assert await scheduler.wait() == -signal.SIGKILL


async def test_an_executor_inherits_nothing(
    host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://nowhere")
    monkeypatch.setenv("A_SECRET", "of scheduler_svc")
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    runtime = host.start_runtime()
    await runtime.start(spec())
    await line(runtime, b"ready")
    proc = Path("/proc") / str(record(host, spec()).process.pid)
    os.close(leak)

    given = environment(int(proc.name))
    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    of_root = {"SANDBOX_UID", "SANDBOX_CGROUPS"} if os.geteuid() == 0 else set()
    assert given.keys() - shell - of_root == {
        "PATH",
        "LANG",
        "PYTHONDONTWRITEBYTECODE",
        "SANDBOX_ID",
        "SANDBOX_LINK_TARGET",
        "SANDBOX_WORKSPACE",
        "SANDBOX_STATE",
        "INTERNAL_API_TOKEN",
    }
    assert given["SANDBOX_ID"] == spec().sandbox_id
    assert given["INTERNAL_API_TOKEN"] == spec().token
    assert {fd.name: os.readlink(fd) for fd in (proc / "fd").iterdir()} == {
        "0": "/dev/null",
        "1": str(host.sandboxes / spec().sandbox_id / "executor.log"),
        "2": str(host.sandboxes / spec().sandbox_id / "executor.log"),
    }
    assert os.readlink(proc / "cwd") == "/"
    assert os.getsid(int(proc.name)) == int(proc.name)
    assert os.getpgid(int(proc.name)) == int(proc.name)


async def test_the_token_is_on_no_disk_and_in_no_log(host: ProcessHost) -> None:
    await host.start_runtime().start(spec())
    assert spec().token not in repr(spec())
    for path in host.sandboxes.rglob("*"):
        if path.is_file():
            assert spec().token not in path.read_text()


@pytest.mark.parametrize(("order", "grace"), [("stubborn", 0), ("untidy", PATIENCE)])
async def test_nothing_of_a_stopped_executor_runs_on(
    host: ProcessHost, order: str, grace: float
) -> None:
    host.order(spec().session_id, order)
    runtime = host.start_runtime(grace=grace)
    await runtime.start(spec())
    child = int((await line(runtime, b"child"))[1])
    await line(runtime, b"ready")
    pid = record(host, spec()).process.pid
    assert runs(child)
    assert runs(pid)

    await runtime.stop(spec().sandbox_id)

    assert not runs(child)
    assert not runs(pid)


async def test_the_workspace_is_private_and_is_kept(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec())
    workspace = host.workspaces / spec().session_id
    (workspace / "kept").write_text("x")
    assert workspace.stat().st_mode & 0o777 == 0o700
    await runtime.stop(spec().sandbox_id)

    assert (workspace / "kept").read_text() == "x"
    assert not (host.sandboxes / spec().sandbox_id).exists()


async def test_a_killed_executor_is_noticed(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec())
    watch = runtime.watch()
    os.kill(record(host, spec()).process.pid, signal.SIGKILL)

    async with asyncio.timeout(PATIENCE):
        async for change in watch:
            if isinstance(change, Changed) and change.state.ended:
                break
    assert change.state.exit_code == 128 + signal.SIGKILL
    assert change.state.reason == "the executor was killed by signal 9"


async def test_a_failed_executor_leaves_its_last_words(
    host: ProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.order(spec().session_id, "exit 3")
    runtime = host.start_runtime()
    await runtime.start(spec())

    async def over() -> SandboxState | None:
        state = await runtime.status(spec().sandbox_id)
        return state if state and state.ended else None

    state = await eventually(over)
    assert state is not None
    # Without its time, and without our directory.
    assert state.reason == "the executor ended with exit code 3: ERROR exit 3: …/b c"
    assert state.ended_at is not None
    [line] = [record for record in caplog.records if "exit code 3" in record.message]
    assert line.levelname == "WARNING"
    assert line.__dict__["fields"]["executor_log"] == [
        "ready",
        "1970-01-01T00:00:00.000Z ERROR exit 3: /a/b c",
    ]


@pytest.mark.parametrize("order", ["exit 0", "run"])
async def test_an_expected_end_is_no_warning(
    host: ProcessHost, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    caplog.set_level("INFO")
    host.order(spec().session_id, order)
    runtime = host.start_runtime()
    await runtime.start(spec())
    if order == "run":
        await line(runtime, b"ready")
        await runtime.stop(spec().sandbox_id)

    async def told() -> bool:
        return "ended with exit code 0" in caplog.text

    await eventually(told)
    told_of_it = [record for record in caplog.records if "ended with" in record.message]
    assert [record.levelno for record in told_of_it] == [logging.INFO]


async def test_a_sandbox_that_stops_says_so(host: ProcessHost) -> None:
    host.order(spec().session_id, "stubborn")
    runtime = host.start_runtime(grace=0.1)
    await runtime.start(spec())
    await line(runtime, b"ready")
    stop = asyncio.create_task(runtime.stop(spec().sandbox_id))
    await asyncio.sleep(0)  # it is under way
    state = await runtime.status(spec().sandbox_id)
    await stop

    assert state is not None
    assert (state.stopping, state.status) == (True, "running")


async def test_a_program_cannot_hide_behind_its_name(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec())
    # The second field of /proc/PID/stat: bytes that are no text, and what looks like its end.
    rename = "import ctypes, signal\nctypes.CDLL(None).prctl(15, b'\\xff) Z 1')\nprint(flush=True)"
    odd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{rename}\nsignal.pause()"), stdout=asyncio.subprocess.PIPE
    )
    assert odd.stdout
    await odd.stdout.readline()

    assert Identity.of(odd.pid).started > 0
    assert spec().sandbox_id in await runtime.usage([spec().sandbox_id])
    await runtime.stop(spec().sandbox_id)
    odd.kill()
    await odd.wait()


async def test_kill_9_of_the_scheduler_leaves_the_executor_to_the_next_one(
    host: ProcessHost,
) -> None:
    await crash(host, "after")
    process = record(host, spec()).process
    runtime = host.start_runtime()

    state = await runtime.start(spec())
    assert state.status == "running"
    assert record(host, spec()).process == process
    await line(runtime, b"ready")

    watch = runtime.watch()
    os.kill(process.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        async for change in watch:
            if isinstance(change, Changed) and change.state.ended:
                break
    assert change.state.status == "failed"
    assert change.state.exit_code is None  # not our child


async def test_kill_9_between_the_process_and_its_record_leaves_no_executor(
    host: ProcessHost,
) -> None:
    await crash(host, "before")
    home = host.sandboxes / spec().sandbox_id
    assert home.is_dir()
    assert Record.read(home) is None
    runtime = host.start_runtime()

    assert list(await runtime.list()) == []
    await runtime.start(spec())
    await line(runtime, b"ready")
    assert list(executors(host)) == [record(host, spec()).process.pid]


async def test_another_process_with_the_same_pid_is_left_alone(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec())
    await runtime.close()
    bystander = await asyncio.create_subprocess_exec("sleep", "1000000")
    true = record(host, spec())
    # Any earlier tick will do: the executor has to be older than what took over its pid.
    reused = replace(true.process, pid=bystander.pid, started=true.process.started - 1)
    replace(true, process=reused).write(host.sandboxes / spec().sandbox_id)

    runtime = host.start_runtime()
    state = await runtime.status(spec().sandbox_id)
    assert state is not None
    assert state.status == "failed"
    await runtime.stop(spec().sandbox_id)
    assert bystander.returncode is None
    assert runs(bystander.pid)

    bystander.kill()
    await bystander.wait()
    (host.sandboxes / spec().sandbox_id).mkdir()
    true.write(host.sandboxes / spec().sandbox_id)  # for the host to clean up by


async def test_the_limit_of_sandboxes_is_named(host: ProcessHost) -> None:
    runtime = host.start_runtime(max_sandboxes=1)
    await runtime.start(spec("a"))
    with pytest.raises(TooManyRequests, match=r"all 1 sandboxes .*SANDBOX_MAX_SANDBOXES"):
        await runtime.start(spec("b"))
    await runtime.start(spec("a"))

    await runtime.stop(spec("a").sandbox_id)
    await runtime.start(spec("b"))


async def test_a_closed_runtime_starts_nothing(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.close()
    with pytest.raises(ServiceUnavailable, match="going down"):
        await runtime.start(spec())


@as_root
async def test_as_root_each_session_has_a_user_of_its_own(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    for letter in "abc":
        await runtime.start(spec(letter))
    owners = [(host.workspaces / spec(letter).session_id).stat().st_uid for letter in "abc"]
    assert len({*owners}) == 3
    assert {*owners} <= {*UIDS}
    for letter, owner in zip("abc", owners, strict=True):
        state = host.sandboxes / spec(letter).sandbox_id / "state"
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (owner, 0o700)
        given = environment(record(host, spec(letter)).process.pid)
        assert given["SANDBOX_UID"] == str(owner)


@as_root
async def test_as_root_a_recovered_session_keeps_its_user(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec("a"))
    await runtime.start(spec("b", 1))
    workspace = host.workspaces / spec("b").session_id
    owner = workspace.stat().st_uid
    await runtime.stop(spec("a").sandbox_id)
    (host.workspaces / spec("a").session_id).rmdir()
    await runtime.stop(spec("b", 1).sandbox_id)
    await runtime.start(spec("b", 2))

    assert workspace.stat().st_uid == owner
    await runtime.start(spec("c"))
    assert (host.workspaces / spec("c").session_id).stat().st_uid == UIDS[0]


async def test_a_reader_that_falls_behind_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_BEHIND", 3)
    changes = Feed()
    slow, quick = changes.read(list), changes.read(list)
    seen = []
    for number in range(5):
        wanted = asyncio.ensure_future(anext(quick))
        lagging = asyncio.ensure_future(anext(slow)) if number == 0 else None
        await asyncio.sleep(0)
        changes.publish(Removed(str(number)))
        seen.append(await wanted)
        if lagging:
            await lagging

    assert seen == [Removed(str(number)) for number in range(5)]
    with pytest.raises(ServiceUnavailable, match="3 changes behind"):
        async for _ in slow:
            pass
