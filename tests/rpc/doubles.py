"""What stands around session_svc in its tests: real services over gRPC whose sandboxes and
executors live in memory, and a clock that only tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
from sandbox.execution.v1 import attachment_pb2 as pb
from sandbox.execution.v1 import attachment_pb2_grpc
from sandbox.executor.v1.link_pb2 import SessionConfig
from sandbox_rpc.errors import NotFound, StateConflict, TooManyRequests
from sandbox_rpc.server import Service
from scheduler_svc.runtimes.base import (
    Change,
    Changed,
    Removed,
    RuntimeType,
    SandboxSpec,
    SandboxState,
    SnapshotComplete,
    Usage,
)
from scheduler_svc.runtimes.feed import Feed


class ManualClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + timedelta(seconds=seconds), wake))
        await wake

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        for due, wake in self._sleepers:
            if due <= self._now and not wake.done():
                wake.set_result(None)


class MemoryRuntime:
    """Sandboxes that are nothing but their state."""

    type: RuntimeType = "process"

    def __init__(self) -> None:
        self.sandboxes: dict[str, SandboxState] = {}
        self.specs: list[SandboxSpec] = []
        self.measured: list[list[str]] = []
        self._feed = Feed()

    async def start(self, spec: SandboxSpec) -> SandboxState:
        if spec.sandbox_id not in self.sandboxes:
            self.specs.append(spec)
            self._set(
                SandboxState(
                    sandbox_id=spec.sandbox_id,
                    session_id=spec.session_id,
                    generation=spec.generation,
                    template_id=spec.template_id,
                    domain=spec.domain,
                    resources=spec.resources,
                    status="running",
                    node="node-1",
                    container_id=f"container-of-{spec.sandbox_id}",
                    created_at=datetime.now(UTC),
                )
            )
        return self.sandboxes[spec.sandbox_id]

    async def stop(self, sandbox_id: str) -> None:
        if self.sandboxes.pop(sandbox_id, None):
            self._feed.publish(Removed(sandbox_id))

    async def status(self, sandbox_id: str) -> SandboxState | None:
        return self.sandboxes.get(sandbox_id)

    async def list(self) -> Sequence[SandboxState]:
        return tuple(self.sandboxes.values())

    def watch(self) -> AsyncIterator[Change]:
        return self._feed.read(lambda: [*map(Changed, self.sandboxes.values()), SnapshotComplete()])

    async def usage(self, sandbox_ids: Sequence[str]) -> Mapping[str, Usage]:
        self.measured.append(list(sandbox_ids))
        return {
            name: Usage(cpu_percent=12.5, memory_bytes=1 << 33, pids=3)
            for name in sandbox_ids
            if not self.sandboxes[name].ended
        }

    async def logs(
        self, sandbox_id: str, *, tail: int, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        if sandbox_id not in self.sandboxes:
            raise NotFound("Container", sandbox_id)
        yield b""
        yield f"tail={tail} since={since} follow={follow}\n".encode()

    async def close(self) -> None:
        self._feed.close()

    def die(self, sandbox_id: str, exit_code: int = 137) -> None:
        """The executor of this sandbox ends."""
        self._set(
            replace(
                self.sandboxes[sandbox_id],
                status="completed" if exit_code == 0 else "failed",
                exit_code=exit_code,
                reason=None if exit_code == 0 else f"exit code {exit_code}",
            )
        )

    def _set(self, state: SandboxState) -> None:
        self.sandboxes[state.sandbox_id] = state
        self._feed.publish(Changed(state))


class FullRuntime(MemoryRuntime):
    """Has no room for as long as `full` is true."""

    full = True

    async def start(self, spec: SandboxSpec) -> SandboxState:
        if self.full:
            raise TooManyRequests("all 1 sandboxes are in use", retry_after=7)
        return await super().start(spec)


class StillbornRuntime(MemoryRuntime):
    """Its executors end as soon as they have started."""

    async def start(self, spec: SandboxSpec) -> SandboxState:
        started = await super().start(spec)
        self.die(spec.sandbox_id, exit_code=1)
        return started


@dataclass
class Attached:
    """What exec_svc holds of one session."""

    config: SessionConfig
    domain: str
    sandbox_id: str = ""
    detached: bool = False
    detach_reason: str = ""
    open_executions: int = 0
    ended_executions: int = 0
    last_activity_at: datetime | None = None
    silent_for: timedelta | None = None
    change: asyncio.Event = field(default_factory=asyncio.Event)


class PromptExecutors(attachment_pb2_grpc.AttachmentServiceServicer):
    """exec_svc's AttachmentService whose executors come at once."""

    def __init__(self) -> None:
        self.sessions: dict[str, Attached] = {}
        self.attaching = asyncio.Event()

    def service(self) -> Service:
        def register(server: grpc.aio.Server) -> None:
            attachment_pb2_grpc.add_AttachmentServiceServicer_to_server(self, server)

        name = "sandbox.execution.v1.AttachmentService"
        return Service(name, register, allowed=frozenset({"service"}))

    async def arrival(self, session: Attached) -> None:
        """Returns when the session's executor has applied its configuration."""

    async def RegisterSession(
        self, request: pb.RegisterSessionRequest, context: Any
    ) -> pb.RegisterSessionResponse:
        registered = Attached(config=request.config, domain=request.domain)
        self.sessions.setdefault(request.session_id, registered)
        return pb.RegisterSessionResponse()

    async def AttachSession(
        self, request: pb.AttachSessionRequest, context: Any
    ) -> pb.AttachSessionResponse:
        session = self.sessions[request.session_id]
        session.sandbox_id = request.sandbox_id
        session.silent_for = None
        self.attaching.set()
        arrival = asyncio.ensure_future(self.arrival(session))
        detached = asyncio.ensure_future(session.change.wait())
        try:
            await asyncio.wait({arrival, detached}, return_when=asyncio.FIRST_COMPLETED)
            if session.detached:
                raise StateConflict("the session is detached")
            arrival.result()
        finally:
            arrival.cancel()
            detached.cancel()
        return pb.AttachSessionResponse(executor_version="executor/test")

    async def DetachSession(
        self, request: pb.DetachSessionRequest, context: Any
    ) -> pb.DetachSessionResponse:
        if session := self.sessions.get(request.session_id):
            if not session.detached:
                session.detach_reason = request.reason
            session.detached = True
            session.change.set()
        return pb.DetachSessionResponse()

    async def ListAttachments(
        self, request: pb.ListAttachmentsRequest, context: Any
    ) -> pb.ListAttachmentsResponse:
        response = pb.ListAttachmentsResponse()
        for session_id in request.session_ids:
            if session := self.sessions.get(session_id):
                attachment = response.attachments.add(
                    session_id=session_id,
                    sandbox_id=session.sandbox_id,
                    open_executions=session.open_executions,
                    ended_executions=session.ended_executions,
                )
                if session.last_activity_at:
                    attachment.last_activity_at.FromDatetime(session.last_activity_at)
                if session.silent_for:
                    attachment.silent_for.FromTimedelta(session.silent_for)
        return response


class AwaitedExecutors(PromptExecutors):
    """Its executors come when `come` is set, and never before."""

    def __init__(self) -> None:
        super().__init__()
        self.come = asyncio.Event()

    async def arrival(self, session: Attached) -> None:
        await self.come.wait()


class RefusingExecutors(PromptExecutors):
    """Its executors cannot isolate."""

    async def arrival(self, session: Attached) -> None:
        raise StateConflict("isolation cannot be set up: no user namespaces")
