"""`python -m exec_svc` and its files: settings, what a crash leaves, what a start removes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from exec_svc.database import Database
from exec_svc.migrate import migrate
from exec_svc.session_store import SessionStore
from sandbox.execution.v1 import files_pb2 as pb
from sandbox.execution.v1 import files_pb2_grpc
from sandbox.executor.v1 import link_pb2

from tests.support import PATIENCE, Keys, eventually

OPEN, OLD, RECENT = (f"sess_{letter * 16}" for letter in "abc")


class Process:
    """exec_svc as a process of its own, with three sessions: two of them have ended."""

    def __init__(self, place: Path, keys: Keys) -> None:
        self.keys = keys
        self.workspaces = place / "workspaces"
        self._url = f"sqlite:///{place}/exec.db"
        self._target = f"unix:{place}/exec.sock"
        self._log = place / "exec.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "SANDBOX_LISTEN": self._target,
            "SANDBOX_SECRET_FILE": str(keys.secret_file),
            "SANDBOX_TOKENS_FILE": str(keys.tokens_file),
            "SANDBOX_DATABASE_URL": self._url,
            "SANDBOX_WORKSPACES": str(self.workspaces),
            "SANDBOX_FILES_LISTEN": f"unix:{place}/files.sock",
        }
        self.running: subprocess.Popen[bytes] | None = None
        self.channel: grpc.aio.Channel | None = None

    async def prepare(self) -> None:
        database = Database(self._url)
        await migrate(database)
        sessions = SessionStore(database)
        now = datetime.now(UTC)
        for session_id in (OPEN, OLD, RECENT):
            await sessions.register(session_id, "default", link_pb2.SessionConfig(), now)
            (self.workspaces / session_id / "dir").mkdir(parents=True)
            (self.workspaces / session_id / "dir" / "file").write_bytes(b"kept")
        await sessions.close(OLD, now - timedelta(hours=25))
        await sessions.close(RECENT, now - timedelta(hours=23))
        await database.close()

    def start(self) -> Any:
        """Starts it and answers the stub of its file service."""
        with self._log.open("ab") as log:
            self.running = subprocess.Popen(
                [sys.executable, "-m", "exec_svc"], env=self._environment, stderr=log
            )
        self.channel = grpc.aio.insecure_channel(self._target)
        return files_pb2_grpc.FileServiceStub(self.channel)

    async def kill(self) -> None:
        assert self.channel is not None
        assert self.running is not None
        self.running.kill()
        self.running.wait(PATIENCE)
        await self.channel.close()

    def stop(self) -> int:
        """Ends it in order; its exit code."""
        assert self.running is not None
        self.running.terminate()
        return self.running.wait(PATIENCE)

    def open_files(self) -> list[str]:
        assert self.running is not None
        directory = f"/proc/{self.running.pid}/fd"
        paths = []
        for name in os.listdir(directory):
            with suppress(FileNotFoundError):  # closed meanwhile
                paths.append(os.readlink(f"{directory}/{name}"))
        return paths

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest_asyncio.fixture
async def process(place: Path, keys: Keys) -> AsyncIterator[Process]:
    made = Process(place, keys)
    await made.prepare()
    yield made
    if made.running is not None:
        await made.kill()


async def listed(stub: Any, keys: Keys, session_id: str) -> list[str]:
    request = pb.ListFilesRequest(session_id=session_id)
    answer = await stub.ListFiles(request, metadata=keys.as_user(), wait_for_ready=True)
    return [file.path for file in answer.files]


async def test_old_workspaces_go_when_it_starts(process: Process, keys: Keys) -> None:
    stub = process.start()

    async def gone() -> bool:
        return not (process.workspaces / OLD).exists()

    await eventually(gone)
    for session_id, files in ((OPEN, ["dir/file"]), (RECENT, ["dir/file"]), (OLD, [])):
        assert await listed(stub, keys, session_id) == files
    assert process.stop() == 0
    assert '"exception"' not in process.log


async def test_what_a_crash_leaves_of_an_upload(process: Process, keys: Keys) -> None:
    stub = process.start()
    # As on a file system without O_TMPFILE.
    (process.workspaces / OPEN / ".upload-0123").write_bytes(b"cut off")
    call = stub.UploadFile(metadata=keys.as_user(), wait_for_ready=True)
    target = pb.UploadTarget(session_id=OPEN, path="dir/file")
    await call.write(pb.UploadFileRequest(target=target))

    async def begun() -> bool:
        return any(f"/workspaces/{OPEN}/" in path for path in process.open_files())

    for _ in range(100):
        await call.write(pb.UploadFileRequest(data=os.urandom(100_000)))
    await eventually(begun)
    await process.kill()

    assert (process.workspaces / OPEN / "dir" / "file").read_bytes() == b"kept"
    stub = process.start()

    async def swept() -> bool:
        return not (process.workspaces / OPEN / ".upload-0123").exists()

    await eventually(swept)
    assert await listed(stub, keys, OPEN) == ["dir/file"]
    assert sorted(os.listdir(process.workspaces / OPEN)) == ["dir"]


@pytest.mark.parametrize("missing", ["SANDBOX_WORKSPACES", "SANDBOX_FILES_LISTEN"])
async def test_it_does_not_start_without_its_settings(process: Process, missing: str) -> None:
    del process._environment[missing]
    process.start()
    assert process.running is not None

    assert process.running.wait(PATIENCE) != 0
    assert missing.removeprefix("SANDBOX_").lower() in process.log
