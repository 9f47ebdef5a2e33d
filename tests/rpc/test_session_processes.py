"""`python -m session_svc` and `python -m scheduler_svc` as an operator starts them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from sandbox.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from sandbox.session.v1 import session_pb2, session_pb2_grpc

from tests.rpc.world import sqlite_url
from tests.support import PATIENCE, Keys, Platform, eventually


async def start(
    module: str, keys: Keys, place: Path, **settings: str
) -> asyncio.subprocess.Process:
    environment = {
        "PATH": os.environ["PATH"],
        "SANDBOX_LISTEN": f"unix:{place / module}",
        "SANDBOX_SECRET_FILE": str(keys.secret_file),
        "SANDBOX_TOKENS_FILE": str(keys.tokens_file),
    }
    named = {f"SANDBOX_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        env=environment | named,
        stderr=asyncio.subprocess.PIPE,
    )


async def stop(process: asyncio.subprocess.Process) -> str:
    """SIGTERM; what the service has logged. It must have ended by itself, in order."""
    process.terminate()
    async with asyncio.timeout(PATIENCE):
        _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    return log.decode()


async def test_both_start_serve_and_drain(keys: Keys, platform: Platform, place: Path) -> None:
    scheduler = await start(
        "scheduler_svc",
        keys,
        place,
        sandboxes=str(place / "sandboxes"),
        workspaces=str(place / "workspaces"),
        environments=str(place / "environments"),
        link_target=f"unix:{place / 'exec_svc'}",
    )
    session = await start(
        "session_svc",
        keys,
        place,
        database_url=sqlite_url(place),
        scheduler_target=f"unix:{place / 'scheduler_svc'}",
        exec_target=f"unix:{place / 'exec_svc'}",
    )
    to_scheduler = platform.dial(f"unix:{place / 'scheduler_svc'}")
    to_session = platform.dial(f"unix:{place / 'session_svc'}")

    async def both_serve() -> bool:
        channels = (to_scheduler, to_session)
        return all([await channel.is_serving(timeout=1) for channel in channels])

    await eventually(both_serve)
    schedulers = scheduler_pb2_grpc.SchedulerServiceStub(to_scheduler.grpc)
    sandboxes = await to_scheduler.call(
        schedulers.ListSandboxes, scheduler_pb2.ListSandboxesRequest(), timeout=PATIENCE
    )
    assert len(sandboxes.sandboxes) == 0
    sessions = session_pb2_grpc.SessionServiceStub(to_session.grpc)
    listed = await sessions.ListSessions(session_pb2.ListSessionsRequest(), metadata=keys.as_user())
    assert listed.total == 0

    # session_svc holds a watch on scheduler_svc, which must not hold up its end.
    assert '"listening on' in await stop(scheduler)
    assert '"listening on' in await stop(session)


@pytest.mark.parametrize("module", ["session_svc", "scheduler_svc", "exec_svc"])
@pytest.mark.parametrize("content", [None, '{"tokens": []}'], ids=["no file", "no token"])
async def test_without_tokens_nothing_starts(
    keys: Keys, place: Path, module: str, content: str | None
) -> None:
    keys.tokens_file.unlink()
    if content is not None:
        keys.tokens_file.write_text(content)
    process = await start(
        module,
        keys,
        place,
        database_url=sqlite_url(place),
        scheduler_target="unix:/nowhere",
        exec_target="unix:/nowhere",
        sandboxes=str(place / "sandboxes"),
        workspaces=str(place / "workspaces"),
        environments=str(place / "environments"),
        files_listen=f"unix:{place / 'files'}",
        link_target="unix:/nowhere",
    )
    _, log = await process.communicate()
    assert process.returncode == 1
    assert (b"holds no valid token" if content else b"FileNotFoundError") in log
    assert not (place / module).exists()  # its socket


async def test_without_a_secret_it_does_not_start(keys: Keys, place: Path) -> None:
    keys.secret_file.write_text("short")
    process = await start(
        "session_svc",
        keys,
        place,
        database_url=sqlite_url(place),
        scheduler_target="unix:/nowhere",
        exec_target="unix:/nowhere",
    )
    _, log = await process.communicate()
    assert process.returncode == 1
    assert b"the secret must have at least 32 bytes" in log
