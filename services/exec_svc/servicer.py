"""The typed gRPC services for clients and for session_svc: unpack, call once, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sandbox.execution.v1 import attachment_pb2, attachment_pb2_grpc, execution_pb2_grpc
from sandbox.execution.v1 import execution_pb2 as pb
from sandbox_rpc.auth import caller

from exec_svc.executions import Executions
from exec_svc.journal import Clock, utc_now
from exec_svc.links import Links
from exec_svc.messages import to_result, to_state, to_summary, to_timestamp
from exec_svc.session_store import SessionStore
from exec_svc.validation import typed_execution


class ExecutionServicer(execution_pb2_grpc.ExecutionServiceServicer):
    def __init__(self, executions: Executions) -> None:
        self._executions = executions

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:
        accepted = await self._executions.accept(typed_execution(request), caller())
        return pb.ExecuteResponse(
            execution_id=accepted.execution_id,
            session_id=accepted.session_id,
            status="submitted",
            submitted_at=to_timestamp(accepted.created_at),
        )

    async def GetExecution(self, request: pb.GetExecutionRequest, context: Any) -> pb.Execution:
        found = await self._executions.look(request.execution_id, caller())
        row = found.row
        result = to_result(row, found.output) if found.has_ended else None
        return pb.Execution(
            summary=to_summary(row), code=row.code, event_json=row.event_json, result=result
        )

    async def GetExecutionStatus(
        self, request: pb.GetExecutionStatusRequest, context: Any
    ) -> pb.ExecutionState:
        return to_state(await self._executions.get(request.execution_id, caller()))

    async def GetExecutionResult(
        self, request: pb.GetExecutionResultRequest, context: Any
    ) -> pb.ExecutionResult:
        seconds = request.wait if request.HasField("wait") else None
        return await self._executions.result(request.execution_id, caller(), seconds)

    async def ListExecutions(
        self, request: pb.ListExecutionsRequest, context: Any
    ) -> pb.ListExecutionsResponse:
        rows, total = await self._executions.page(request, caller())
        return pb.ListExecutionsResponse(executions=map(to_summary, rows), total=total)

    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: Any
    ) -> pb.ExecutionState:
        return to_state(await self._executions.cancel(request.execution_id, caller()))

    async def WatchExecution(
        self, request: pb.WatchExecutionRequest, context: Any
    ) -> AsyncIterator[pb.ExecutionEvent]:
        async for event in self._executions.follow(request.execution_id, request.after, caller()):
            yield event


class AttachmentServicer(attachment_pb2_grpc.AttachmentServiceServicer):
    def __init__(self, sessions: SessionStore, links: Links, clock: Clock = utc_now) -> None:
        self._sessions = sessions
        self._links = links
        self._clock = clock

    async def RegisterSession(
        self, request: attachment_pb2.RegisterSessionRequest, context: Any
    ) -> attachment_pb2.RegisterSessionResponse:
        await self._sessions.register(
            request.session_id, request.domain, request.config, self._clock()
        )
        return attachment_pb2.RegisterSessionResponse()

    async def AttachSession(
        self, request: attachment_pb2.AttachSessionRequest, context: Any
    ) -> attachment_pb2.AttachSessionResponse:
        version = await self._links.attach(request.session_id, request.sandbox_id)
        return attachment_pb2.AttachSessionResponse(executor_version=version)

    async def DetachSession(
        self, request: attachment_pb2.DetachSessionRequest, context: Any
    ) -> attachment_pb2.DetachSessionResponse:
        await self._links.detach(request.session_id, request.reason)
        return attachment_pb2.DetachSessionResponse()

    async def ListAttachments(
        self, request: attachment_pb2.ListAttachmentsRequest, context: Any
    ) -> attachment_pb2.ListAttachmentsResponse:
        rows = await self._sessions.activity(request.session_ids)
        return attachment_pb2.ListAttachmentsResponse(
            attachments=[
                attachment_pb2.Attachment(
                    session_id=row.session_id,
                    sandbox_id=row.sandbox_id or "",
                    open_executions=row.open_executions,
                    ended_executions=row.ended_executions,
                    last_activity_at=to_timestamp(
                        max(row.last_activity_at, row.last_accepted_at or row.last_activity_at)
                    ),
                    silent_for=_duration(self._links.silent_for(row.session_id)),
                )
                for row in rows
            ]
        )


def _duration(seconds: float | None) -> Duration | None:
    return None if seconds is None else Duration(seconds=int(seconds))
