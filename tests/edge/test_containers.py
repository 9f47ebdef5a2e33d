"""Containers as REST: the bindings, numbers that stay numbers, and logs that flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from sandbox.scheduler.v1 import container_pb2 as pb
from sandbox.scheduler.v1 import container_pb2_grpc
from sandbox.session.v1.session_pb2 import Resources, RuntimeType
from sandbox_rpc import errors

from tests.edge.test_errors import body_of
from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTAINER = pb.Container(
    container_id="sbx_0123456789abcdef-1",
    runtime_type=RuntimeType.process,
    status=pb.ContainerStatus.running,
    session_id="sess_0123456789abcdef",
    template_id="python-basic",
    node_name="node-1",
    resources=Resources(cpu="1", memory="512Mi", disk="1Gi", max_processes=128),
    usage=pb.ContainerUsage(cpu_percent=12.5, memory_bytes=(8 << 30) + 1, pids=7),
    uptime_seconds=0.25,
)
JSON = {
    "container_id": "sbx_0123456789abcdef-1",
    "runtime_type": "process",
    "status": "running",
    "session_id": "sess_0123456789abcdef",
    "template_id": "python-basic",
    "node_name": "node-1",
    "resources": {"cpu": "1", "memory": "512Mi", "disk": "1Gi", "max_processes": 128},
    "usage": {"cpu_percent": 12.5, "memory_bytes": (8 << 30) + 1, "pids": 7},
    "uptime_seconds": 0.25,
}


@pytest.mark.parametrize(
    ("path", "call"), [("", "GetContainer"), ("/status", "GetContainerStatus")]
)
async def test_a_container(client: httpx.AsyncClient, script: Script, path: str, call: str) -> None:
    script.returns(call, CONTAINER)

    answer = await client.get(f"/api/v1/containers/sbx_1{path}")

    assert (answer.status_code, answer.json()) == (200, JSON)
    assert b'"memory_bytes":8589934593,' in answer.content
    assert script.calls[-1].request.container_id == "sbx_1"


async def test_what_is_absent_is_left_out(client: httpx.AsyncClient, script: Script) -> None:
    warm = pb.Container(container_id="c", status=pb.ContainerStatus.creating)
    script.returns("GetContainer", warm)

    answer = await client.get("/api/v1/containers/c")

    left_out = {"pod_name", "session_id", "usage", "uptime_seconds"}
    assert not left_out & answer.json().keys()


async def test_a_list(client: httpx.AsyncClient, script: Script) -> None:
    page = pb.ListContainersResponse(containers=[CONTAINER], total=7)
    script.returns("ListContainers", page)

    answer = await client.get(
        "/api/v1/containers?status=running&runtime_type=process&limit=1&offset=6"
    )

    assert answer.json() == {"containers": [JSON], "total": 7}
    request = script.calls[-1].request
    assert request.status == pb.ContainerStatus.running
    assert request.runtime_type == RuntimeType.process
    assert (request.limit, request.offset) == (1, 6)


async def test_an_empty_list(client: httpx.AsyncClient, script: Script) -> None:
    answer = await client.get("/api/v1/containers")
    assert answer.json() == {"containers": [], "total": 0}


@pytest.mark.parametrize(
    "query", ["status=sleeping", "runtime_type=vm", "limit=many", "offset=1.5", "domain=x"]
)
async def test_a_query_that_is_none(client: httpx.AsyncClient, script: Script, query: str) -> None:
    answer = await client.get(f"/api/v1/containers?{query}")

    assert answer.status_code == 400
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.InvalidParameter"
    assert query.split("=")[0] in body["error_detail"]
    assert script.calls == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_containers_are_read_only(
    client: httpx.AsyncClient, script: Script, method: str
) -> None:
    answer = await client.request(method, "/api/v1/containers/c")

    assert (answer.status_code, body_of(answer)["error_code"]) == (404, "Sandbox.NotFound")
    assert script.calls == []


async def test_logs_flow_piece_by_piece(client: httpx.AsyncClient, script: Script) -> None:
    proceed: asyncio.Queue[None] = asyncio.Queue()

    async def pieces(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        yield HttpBody(content_type="text/plain; charset=utf-8")  # there is such a log
        for number in (1, 2, 3):
            yield HttpBody(
                content_type="text/plain; charset=utf-8", data=b"line %d \xc3\xa9\n" % number
            )
            await proceed.get()

    script.streams["GetContainerLogs"] = pieces
    query = "tail=5&follow=true&since=2026-01-31T12:00:00%2B01:00"
    seen = []
    async with client.stream("GET", f"/api/v1/containers/c/logs?{query}") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        async for line in answer.aiter_lines():
            seen.append(line)
            proceed.put_nowait(None)

    assert seen == ["line 1 é", "line 2 é", "line 3 é"]
    request = script.calls[-1].request
    assert (request.container_id, request.tail, request.follow) == ("c", 5, True)
    assert request.since == "2026-01-31T12:00:00+01:00"


async def test_an_empty_log_is_empty_text(client: httpx.AsyncClient, script: Script) -> None:
    async def nothing(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        yield HttpBody(content_type="text/plain; charset=utf-8")

    script.streams["GetContainerLogs"] = nothing

    answer = await client.get("/api/v1/containers/c/logs")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert not script.calls[-1].request.HasField("since")


async def test_headers_come_before_the_first_line(
    client: httpx.AsyncClient, script: Script
) -> None:
    """A reader that follows a quiet log knows that it is connected."""
    proceed = asyncio.Event()

    async def quiet(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        yield HttpBody(content_type="text/plain; charset=utf-8")
        await proceed.wait()

    script.streams["GetContainerLogs"] = quiet
    async with (
        asyncio.timeout(30),
        client.stream("GET", "/api/v1/containers/c/logs?follow=true") as answer,
    ):
        assert answer.status_code == 200
        proceed.set()
        assert await answer.aread() == b""


async def test_a_log_that_is_refused(client: httpx.AsyncClient, script: Script) -> None:
    async def refuse(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        raise errors.NotFound("Container", request.container_id)
        yield

    script.streams["GetContainerLogs"] = refuse

    answer = await client.get("/api/v1/containers/c/logs")

    assert (answer.status_code, body_of(answer)["error_code"]) == (404, "Sandbox.ContainerNotFound")


async def test_native_grpc(
    channel: grpc.aio.Channel, script: Script, metadata: tuple[tuple[str, str], ...]
) -> None:
    script.returns("GetContainer", CONTAINER)
    stub = container_pb2_grpc.ContainerServiceStub(channel)

    request = pb.GetContainerRequest(container_id="c")
    assert await stub.GetContainer(request, metadata=metadata) == CONTAINER
