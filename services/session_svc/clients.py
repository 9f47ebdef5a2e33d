"""The two services that session_svc gives orders to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from sandbox.execution.v1 import attachment_pb2 as execution
from sandbox.execution.v1 import attachment_pb2_grpc
from sandbox.executor.v1 import link_pb2 as executor
from sandbox.scheduler.v1 import scheduler_pb2 as scheduler
from sandbox.scheduler.v1 import scheduler_pb2_grpc
from sandbox.session.v1 import session_pb2 as session
from sandbox_rpc.channel import Channel

from session_svc.models import SessionRow
from session_svc.validation import bytes_of

# Seconds. Longer than the calls take at their worst, so that a hung peer is noticed.
_START = 30.0
# More than an installation may take (see scheduler_svc), with a wait for others before it.
_START_WITH_PACKAGES = 1200.0
_STOP = 30.0
_REGISTER = 10.0
_DETACH = 10.0
_LIST = 10.0
# A look for a client's answer, which has a stored value to fall back on.
_GLANCE = 1.0


class Scheduler:
    """scheduler_svc. Methods raise what it raised, ServiceUnavailable when it is down."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(channel.grpc)

    async def start(self, row: SessionRow) -> scheduler.Sandbox:
        """Starts the sandbox of the row's generation, or finds it."""
        request = scheduler.StartSandboxRequest(
            session_id=row.session_id,
            generation=row.generation,
            template_id=row.template_id,
            runtime_type=session.RuntimeType.Value.Value(row.runtime_type),
            resources=session.Resources(
                cpu=row.cpu, memory=row.memory, disk=row.disk, max_processes=row.max_processes
            ),
            domain=row.domain,
            packages=row.packages,
            # With packages of the client's choice among them, which version of a module the
            # template's own would import is the client's choice, too.
            preload=[] if row.dependencies else row.template["packages"],
        )
        timeout = _START_WITH_PACKAGES if row.packages else _START
        sandbox: scheduler.Sandbox = await self.channel.call(
            self._stub.StartSandbox, request, timeout=timeout
        )
        return sandbox

    async def stop(self, sandbox_id: str) -> None:
        request = scheduler.StopSandboxRequest(sandbox_id=sandbox_id)
        await self.channel.call(self._stub.StopSandbox, request, timeout=_STOP)

    async def list(self) -> dict[str, scheduler.Sandbox]:
        """All sandboxes by their id."""
        request = scheduler.ListSandboxesRequest()
        answer = await self.channel.call(self._stub.ListSandboxes, request, timeout=_LIST)
        return {sandbox.sandbox_id: sandbox for sandbox in answer.sandboxes}

    def watch(self) -> AsyncIterator[scheduler.WatchSandboxesResponse]:
        return self.channel.stream(self._stub.WatchSandboxes, scheduler.WatchSandboxesRequest())


class Attachments:
    """exec_svc. Methods raise what it raised, ServiceUnavailable when it is down."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._stub = attachment_pb2_grpc.AttachmentServiceStub(channel.grpc)

    async def register(self, row: SessionRow) -> None:
        ephemeral = row.mode == "ephemeral"
        request = execution.RegisterSessionRequest(
            session_id=row.session_id,
            domain=row.domain,
            config=executor.SessionConfig(
                env_vars=row.env_vars,
                memory_bytes=bytes_of(row.memory),
                max_processes=row.max_processes,
                concurrency=1,  # runs share a workspace, so one at a time
                ephemeral=ephemeral,
                disk_bytes=bytes_of(row.disk),
                cpus=float(row.cpu),
            ),
        )
        await self.channel.call(self._stub.RegisterSession, request, timeout=_REGISTER)

    async def attach(self, session_id: str, sandbox_id: str, *, timeout: float) -> None:
        request = execution.AttachSessionRequest(session_id=session_id, sandbox_id=sandbox_id)
        await self.channel.call(self._stub.AttachSession, request, timeout=timeout)

    async def detach(self, session_id: str, reason: str) -> None:
        request = execution.DetachSessionRequest(session_id=session_id, reason=reason)
        await self.channel.call(self._stub.DetachSession, request, timeout=_DETACH)

    async def list(
        self, session_ids: Iterable[str], *, glance: bool = False
    ) -> dict[str, execution.Attachment]:
        """What exec_svc knows of these sessions, by their id; unknown ones are left out."""
        request = execution.ListAttachmentsRequest(session_ids=session_ids)
        timeout = _GLANCE if glance else _LIST
        answer = await self.channel.call(self._stub.ListAttachments, request, timeout=timeout)
        return {attachment.session_id: attachment for attachment in answer.attachments}
