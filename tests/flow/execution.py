"""A real exec_svc in this process and real executors beside it, for the flow tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exec_svc.__main__ import services
from exec_svc.database import Database
from exec_svc.execution_store import ExecutionStore
from exec_svc.executions import Executions
from exec_svc.hub import Hub
from exec_svc.journal import Journal
from exec_svc.links import Links
from exec_svc.migrate import migrate
from exec_svc.session_store import SessionStore
from exec_svc.spans import Spans
from sandbox.execution.v1 import attachment_pb2, attachment_pb2_grpc, execution_pb2_grpc
from sandbox.execution.v1 import execution_pb2 as pb
from sandbox.executor.v1 import link_pb2
from sandbox_rpc.server import Server, Service, serve
from sandbox_rpc.telemetry import ForeignSpans
from scheduler_svc.runtimes.cgroups import Cgroups

from tests.support import PATIENCE, Keys, Platform

UNPRIVILEGED_UID = 61_999


class ExecService:
    """exec_svc on a Unix socket; it can be stopped like a crash and started again."""

    def __init__(self, place: Path, keys: Keys, platform: Platform) -> None:
        self.place = place
        self.keys = keys
        self._platform = platform
        self.target = f"unix:{place}/exec.sock"
        self._server: Server | None = None
        self.links: Any = None
        self._database: Database | None = None
        self.executors: list[subprocess.Popen[bytes]] = []
        self._cgroups = Cgroups()
        self._sandboxes: list[str] = []

    async def start(self) -> None:
        self._database = Database(f"sqlite:///{self.place}/exec.db")
        await migrate(self._database)
        sessions, store = SessionStore(self._database), ExecutionStore(self._database)
        journal, hub = Journal(self._database), Hub()
        spans = Spans(ForeignSpans(None, "executor"))
        self.links = Links(sessions, store, journal, hub, spans)
        executions = Executions(sessions, store, journal, self.links, hub)
        every = [*services(executions, sessions, self.links), *self.more_services(sessions)]
        self._server = await serve(self.target, every, self.keys.authenticator)
        channel = self._platform.dial(self.target).grpc
        self.api = execution_pb2_grpc.ExecutionServiceStub(channel)
        self.attachments = attachment_pb2_grpc.AttachmentServiceStub(channel)

    def more_services(self, sessions: SessionStore) -> list[Service]:
        """What a test of other parts serves beside them."""
        return []

    async def crash(self) -> None:
        """Cuts every call and link; what was not committed is gone."""
        assert self._server is not None
        assert self._database is not None
        await self._server.drain(0)
        await self._database.close()

    async def close(self) -> None:
        for executor in self.executors:
            end(executor)
        for sandbox_id in self._sandboxes:
            self._cgroups.remove(sandbox_id)
        await self.crash()

    async def session(
        self,
        name: str,
        *,
        ephemeral: bool = False,
        domain: str = "default",
        disk: int = 0,
        **env: str,
    ) -> str:
        """Registers a session and answers its id; `disk` is in bytes."""
        session_id = f"sess_{name}{secrets.token_hex(8)}"[:21]
        config = link_pb2.SessionConfig(
            env_vars=env,
            memory_bytes=512 * 1024 * 1024,
            max_processes=64,
            concurrency=1,
            ephemeral=ephemeral,
            disk_bytes=disk,
        )
        request = attachment_pb2.RegisterSessionRequest(
            session_id=session_id, domain=domain, config=config
        )
        await self.attachments.RegisterSession(request, metadata=self.keys.as_service())
        return session_id

    def executor(
        self, session_id: str, generation: int = 1, wrapper: Sequence[str] = (), **extra: str
    ) -> str:
        """Starts a real executor, as the process runtime does, and answers its sandbox id.

        `wrapper` is a command that starts it in an environment of the test's making; it
        then runs as whom that makes it.
        """
        sandbox_id = f"sbx_{session_id[5:]}-{generation}"
        workspace = self.place / session_id
        state = self.place / sandbox_id
        environment = {
            "PATH": os.environ["PATH"],
            "SANDBOX_ID": sandbox_id,
            "SANDBOX_LINK_TARGET": self.target,
            "INTERNAL_API_TOKEN": self.keys.secret.sign("container", sandbox_id),
            "SANDBOX_WORKSPACE": str(workspace),
            "SANDBOX_STATE": str(state),
        }
        environment |= extra
        for path in (workspace, state):
            path.mkdir(exist_ok=True)
            if os.geteuid() == 0 and not wrapper:
                shutil.chown(path, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        if os.geteuid() == 0 and not wrapper:
            environment["SANDBOX_UID"] = str(UNPRIVILEGED_UID)
            environment["SANDBOX_CGROUPS"] = self._cgroups.create(sandbox_id, UNPRIVILEGED_UID)
            self._sandboxes.append(sandbox_id)
        log = (self.place / f"{sandbox_id}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "executor"], env=environment, cwd="/", stderr=log
            )
        self.executors.append(process)
        return sandbox_id

    async def attach(self, session_id: str, sandbox_id: str) -> str:
        request = attachment_pb2.AttachSessionRequest(session_id=session_id, sandbox_id=sandbox_id)
        answer = await self.attachments.AttachSession(
            request, metadata=self.keys.as_service(), timeout=PATIENCE
        )
        return answer.executor_version

    async def ready_session(self, name: str, **options: Any) -> str:
        """A session whose executor is attached."""
        session_id = await self.session(name, **options)
        await self.attach(session_id, self.executor(session_id))
        return session_id

    async def submit(self, session_id: str, code: str, **fields: Any) -> str:
        fields.setdefault("language", pb.Language.python)
        request = pb.ExecuteRequest(session_id=session_id, code=code, **fields)
        answer = await self.api.Execute(request, metadata=self.keys.as_user())
        return answer.execution_id

    async def result(self, execution_id: str) -> pb.ExecutionResult:
        request = pb.GetExecutionResultRequest(execution_id=execution_id, wait=PATIENCE)
        return await self.api.GetExecutionResult(request, metadata=self.keys.as_user())

    async def run(self, session_id: str, code: str, **fields: Any) -> pb.ExecutionResult:
        return await self.result(await self.submit(session_id, code, **fields))

    async def said(self, execution_id: str, text: bytes) -> None:
        """Returns when the program has written `text`."""
        request = pb.WatchExecutionRequest(execution_id=execution_id)
        call = self.api.WatchExecution(request, metadata=self.keys.as_user())
        seen = b""
        async for event in call:
            seen += event.stdout
            if text in seen:
                call.cancel()
                return
        raise AssertionError(f"{text!r} was never written: {seen!r}")

    async def state(self, execution_id: str) -> pb.ExecutionState:
        request = pb.GetExecutionStatusRequest(execution_id=execution_id)
        return await self.api.GetExecutionStatus(request, metadata=self.keys.as_user())

    async def detach(self, session_id: str, reason: str = "the session was deleted") -> None:
        request = attachment_pb2.DetachSessionRequest(session_id=session_id, reason=reason)
        await self.attachments.DetachSession(request, metadata=self.keys.as_service())

    async def events(self, execution_id: str, after: int = 0) -> list[pb.ExecutionEvent]:
        request = pb.WatchExecutionRequest(execution_id=execution_id, after=after)
        call = self.api.WatchExecution(request, metadata=self.keys.as_user())
        return [event async for event in call]


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Ends one executor, stopped or not, and reaps it."""
    if process.poll() is None:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.wait(PATIENCE)
