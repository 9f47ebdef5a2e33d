"""Native gRPC on the public listener, and who may reach what on which listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from sandbox.execution.v1 import (
    attachment_pb2,
    attachment_pb2_grpc,
    execution_pb2,
    execution_pb2_grpc,
    rest_pb2,
    rest_pb2_grpc,
)
from sandbox.executor.v1 import link_pb2, link_pb2_grpc
from sandbox.rpc.v1 import error_pb2
from sandbox.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from sandbox.session.v1 import health_pb2 as session_health_pb2
from sandbox.session.v1 import health_pb2_grpc as session_health_pb2_grpc
from sandbox.session.v1 import session_pb2, session_pb2_grpc
from sandbox_rpc import errors

from tests.edge.envoy_process import RunningEdge
from tests.edge.test_errors import FIELDS, TABLE
from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Metadata = tuple[tuple[str, str], ...]


@pytest.mark.parametrize("error", [row[0] for row in TABLE], ids=[row[2] for row in TABLE])
async def test_errors_keep_code_and_details(
    channel: grpc.aio.Channel, script: Script, metadata: Metadata, error: errors.SandboxError
) -> None:
    script.raises("GetSession", error)
    stub = session_pb2_grpc.SessionServiceStub(channel)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetSession(session_pb2.GetSessionRequest(session_id="s"), metadata=metadata)

    assert caught.value.code() is error.status
    assert caught.value.details() == error.description
    trailers: dict[str, Any] = dict(caught.value.trailing_metadata() or ())
    api = error_pb2.ApiError.FromString(
        status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].value
    )
    assert (api.error_code, api.error_detail) == (error.error_code, error.detail)
    assert (trailers.get("retry-after") == "1") is (error.retry_after is not None)


async def test_a_success_is_not_touched(
    channel: grpc.aio.Channel, script: Script, metadata: Metadata
) -> None:
    session = session_pb2.Session(session_id="s", timeout=300)
    script.returns("CreateSession", session, ("x-http-code", "201"))
    stub = session_pb2_grpc.SessionServiceStub(channel)
    request = session_pb2.CreateSessionRequest(session=session_pb2.SessionSpec(template_id="t"))

    call = stub.CreateSession(request, metadata=(*metadata, ("x-request-id", "mine")))

    assert await call == session
    initial = dict(await call.initial_metadata())
    assert initial["x-request-id"] == "mine"
    assert "x-http-code" not in initial
    assert script.calls[-1].request == request
    assert script.calls[-1].metadata["x-request-id"] == "mine"


async def test_large_messages_pass(
    channel: grpc.aio.Channel, script: Script, metadata: Metadata
) -> None:
    """The limit of JSON bodies is not one of gRPC messages."""
    stub = execution_pb2_grpc.ExecutionServiceStub(channel)
    request = execution_pb2.ExecuteRequest(session_id="s", stdin=b"x" * 3_000_000)

    await stub.Execute(request, metadata=metadata)

    assert script.calls[-1].request == request


async def test_a_stream_flows_message_by_message(
    channel: grpc.aio.Channel, script: Script, metadata: Metadata
) -> None:
    proceed: asyncio.Queue[None] = asyncio.Queue()

    async def events(request: Any, context: Any) -> AsyncIterator[execution_pb2.ExecutionEvent]:
        for number in (1, 2, 3):
            yield execution_pb2.ExecutionEvent(id=number)
            await proceed.get()

    script.streams["WatchExecution"] = events
    stub = execution_pb2_grpc.ExecutionServiceStub(channel)
    request = execution_pb2.WatchExecutionRequest(execution_id="e")

    seen = []
    async for event in stub.WatchExecution(request, metadata=metadata):
        seen.append(event.id)
        proceed.put_nowait(None)

    assert seen == [1, 2, 3]


async def test_health_needs_no_token(channel: grpc.aio.Channel, script: Script) -> None:
    stub = session_health_pb2_grpc.HealthServiceStub(channel)

    answer = await stub.Check(session_health_pb2.CheckRequest())

    assert answer.status == "ok"


async def test_a_plain_word_where_envoy_answers(channel: grpc.aio.Channel) -> None:
    stub = rest_pb2_grpc.ExecutionRestServiceStub(channel)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetExecutionJson(rest_pb2.GetExecutionJsonRequest())

    assert "{" not in (caught.value.details() or "")


async def _codes(calls: dict[str, Any]) -> dict[str, grpc.StatusCode]:
    async with asyncio.timeout(30):
        return {name: await call.code() for name, call in calls.items()}


async def test_the_public_listener_has_no_inner_services(
    channel: grpc.aio.Channel, script: Script
) -> None:
    """They are there, behind the edge or beside it, and would answer something else."""
    codes = await _codes(
        {
            "attachment": attachment_pb2_grpc.AttachmentServiceStub(channel).ListAttachments(
                attachment_pb2.ListAttachmentsRequest()
            ),
            "scheduler": scheduler_pb2_grpc.SchedulerServiceStub(channel).ListSandboxes(
                scheduler_pb2.ListSandboxesRequest()
            ),
            "rest form": rest_pb2_grpc.ExecutionRestServiceStub(channel).GetExecutionJson(
                rest_pb2.GetExecutionJsonRequest()
            ),
            "health": health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            "reflection": reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(),
            "link": link_pb2_grpc.ExecutorLinkServiceStub(channel).Connect(),
        }
    )

    assert codes == dict.fromkeys(codes, grpc.StatusCode.UNIMPLEMENTED)
    assert script.calls == []


@pytest.fixture(params=["tcp", "socket"])
def internal_target(request: pytest.FixtureRequest, edge: RunningEdge) -> str:
    if request.param == "tcp":
        return f"127.0.0.1:{edge.internal_port}"
    return f"unix:{edge.internal_socket}"


async def test_the_internal_listeners_carry_the_link(
    internal_target: str, script: Script, container_token: str
) -> None:
    async with grpc.aio.insecure_channel(internal_target) as channel:
        stub = link_pb2_grpc.ExecutorLinkServiceStub(channel)
        stream = stub.Connect(metadata=(("authorization", f"Bearer {container_token}"),))
        for seq in (1, 2, 3):  # each answered before the next is sent
            await stream.write(link_pb2.ConnectRequest(seq=seq))
            answer = await stream.read()
            assert answer.ack.seq == seq
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    assert script.calls[-1].metadata["x-request-id"]


async def test_a_link_without_a_token_is_refused(internal_target: str, script: Script) -> None:
    async with grpc.aio.insecure_channel(internal_target) as channel:
        codes = await _codes({"link": link_pb2_grpc.ExecutorLinkServiceStub(channel).Connect()})

    assert codes == {"link": grpc.StatusCode.UNAUTHENTICATED}
    assert script.calls == []


async def test_the_internal_listeners_have_nothing_else(
    internal_target: str, script: Script, metadata: Metadata
) -> None:
    async with grpc.aio.insecure_channel(internal_target) as channel:
        codes = await _codes(
            {
                "sessions": session_pb2_grpc.SessionServiceStub(channel).ListSessions(
                    session_pb2.ListSessionsRequest(), metadata=metadata
                ),
                "executions": execution_pb2_grpc.ExecutionServiceStub(channel).ListExecutions(
                    execution_pb2.ListExecutionsRequest(), metadata=metadata
                ),
                "attachment": attachment_pb2_grpc.AttachmentServiceStub(channel).ListAttachments(
                    attachment_pb2.ListAttachmentsRequest(), metadata=metadata
                ),
                "health": health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest()
                ),
                "reflection": reflection_pb2_grpc.ServerReflectionStub(
                    channel
                ).ServerReflectionInfo(),
            }
        )

    assert codes == dict.fromkeys(codes, grpc.StatusCode.UNIMPLEMENTED)
    assert script.calls == []


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/health", "/internal/nothing"])
@pytest.mark.parametrize("way", ["tcp", "socket"])
async def test_rest_on_the_internal_listeners_is_404(
    edge: RunningEdge, script: Script, metadata: Metadata, way: str, path: str
) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(edge.internal_socket)) if way == "socket" else None
    headers = dict(metadata) | {"x-request-id": "mine"}
    async with httpx.AsyncClient(transport=transport, base_url=edge.internal_url) as inner:
        answer = await inner.get(path, headers=headers)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine"
    body = answer.json()
    assert sorted(body) == sorted(FIELDS)
    assert body["error_code"] == "Internal.NotFound"
    assert script.calls == []
