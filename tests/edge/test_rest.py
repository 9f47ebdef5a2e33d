"""What REST clients rely on of the transcoder: successes, bindings, raw bytes, streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import empty_pb2
from sandbox.session.v1 import session_pb2
from sandbox_rpc.errors import InvalidParameter

from tests.edge.envoy_process import RunningEdge, ask_admin
from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

SESSION = session_pb2.Session(
    session_id="sess_0123456789abcdef",
    template_id="python-basic",
    mode=session_pb2.SessionMode.persistent,
    status=session_pb2.SessionStatus.running,
    runtime_type=session_pb2.RuntimeType.process,
    workspace_path="/workspace",
    timeout=300,
)
# Numbers that a Struct would round, key order, a repeated key, an odd float, white space.
FREE_JSON = b'{ "z":9223372036854775808, "a":1.0, "a":1e400,\n"\\u00e9":"\xc3\xa9", "n":-0 }'


async def test_created_is_201_with_a_body(client: httpx.AsyncClient, script: Script) -> None:
    script.returns("CreateSession", SESSION, ("x-http-code", "201"))

    answer = await client.post("/api/v1/sessions", json={"template_id": "python-basic"})

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert "x-http-code" not in answer.headers
    assert answer.json() == {
        "session_id": "sess_0123456789abcdef",
        "template_id": "python-basic",
        "mode": "persistent",
        "status": "running",
        "runtime_type": "process",
        "workspace_path": "/workspace",
        "env_vars": {},
        "metadata": {},
        "timeout": 300,
    }


async def test_deleted_is_204_without_a_body(client: httpx.AsyncClient, script: Script) -> None:
    script.returns("DeleteSession", empty_pb2.Empty(), ("x-http-code", "204"))

    for _ in range(3):  # on one connection, where a stray byte would break the next answer
        answer = await client.delete("/api/v1/sessions/sess_0123456789abcdef")

        assert answer.status_code == 204
        assert answer.content == b""
        assert not {"content-type", "content-length", "x-http-code"} & set(answer.headers)


async def test_a_redirection(client: httpx.AsyncClient, script: Script) -> None:
    where = "https://files.example/a%20b?signature=1"
    metadata = (("x-http-code", "307"), ("location", where))
    script.returns("GetExecutionJson", HttpBody(data=b"moved"), *metadata)

    answer = await client.get("/api/v1/executions/e")

    assert answer.status_code == 307
    assert answer.headers["location"] == where
    assert answer.content == b""


@pytest.mark.parametrize("code", ["200", "299", "404", "500", "x"])
async def test_other_codes_are_not_a_services_to_choose(
    client: httpx.AsyncClient, script: Script, code: str
) -> None:
    script.returns("GetSession", SESSION, ("x-http-code", code))

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 200
    assert "x-http-code" not in answer.headers


@pytest.mark.parametrize(
    ("query", "wait"), [("", None), ("?wait=false", False), ("?wait=true", True)]
)
async def test_wait_is_a_query_parameter_beside_the_body(
    client: httpx.AsyncClient, script: Script, query: str, wait: bool | None
) -> None:
    body = {
        "template_id": "t",
        "mode": "ephemeral",
        "timeout": 60,
        "resources": {"cpu": "0.5", "max_processes": 32},
        "env_vars": {"A": "1"},
    }
    await client.post(f"/api/v1/sessions{query}", json=body)

    request = script.calls[-1].request
    assert request.HasField("wait") is (wait is not None)
    assert request.wait is bool(wait)
    assert request.session == session_pb2.SessionSpec(
        template_id="t",
        mode=session_pb2.SessionMode.ephemeral,
        timeout=60,
        resources=session_pb2.Resources(cpu="0.5", max_processes=32),
        env_vars={"A": "1"},
    )


async def test_a_list_takes_its_filter_from_the_query(
    client: httpx.AsyncClient, script: Script
) -> None:
    sessions = [SESSION, session_pb2.Session(session_id="s")]
    script.returns("ListSessions", session_pb2.ListSessionsResponse(sessions=sessions, total=12))

    answer = await client.get("/api/v1/sessions?status=running&template_id=a+b&limit=2&offset=0")

    request = script.calls[-1].request
    assert (request.status, request.template_id) == (session_pb2.SessionStatus.running, "a b")
    assert (request.limit, request.HasField("offset"), request.offset) == (2, True, 0)
    body = answer.json()
    assert body["total"] == 12
    assert [each["session_id"] for each in body["sessions"]] == [SESSION.session_id, "s"]


async def test_numbers_are_numbers_and_times_are_rfc_3339(
    client: httpx.AsyncClient, script: Script
) -> None:
    session = session_pb2.Session(timeout=3600)
    session.created_at.FromJsonString("2026-01-02T03:04:05.678Z")
    script.returns("GetSession", session)

    body = (await client.get("/api/v1/sessions/s")).json()

    assert body["timeout"] == 3600
    assert body["created_at"] == "2026-01-02T03:04:05.678Z"
    assert "expires_at" not in body


@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("GET", "/api/v1/health", "Check"),
        ("GET", "/api/v1/sessions/s", "GetSession"),
        ("DELETE", "/api/v1/sessions/s", "DeleteSession"),
        ("POST", "/api/v1/sessions/s/execute", "ExecuteJson"),
        ("POST", "/api/v1/sessions/s/execute?wait=3600", "ExecuteJson"),
        ("GET", "/api/v1/sessions/s/executions?status=running&limit=1", "ListExecutions"),
        ("GET", "/api/v1/executions/e", "GetExecutionJson"),
        ("GET", "/api/v1/executions/e/status", "GetExecutionStatus"),
        ("POST", "/api/v1/executions/e/cancel", "CancelExecution"),
        ("GET", "/api/v1/executions/e/result?wait=0.5", "GetExecutionResultJson"),
        ("GET", "/api/v1/sessions/s/files?prefix=a%2Fb&limit=1&offset=0", "ListFiles"),
        ("GET", "/api/v1/sessions/s/files/f", "GetFileContent"),
        ("GET", "/api/v1/sessions/s/files/dir/upload", "GetFileContent"),
        ("DELETE", "/api/v1/sessions/s/files/dir/f", "DeleteFile"),
        ("POST", "/api/v1/sessions/s/files/upload", "UploadFileForm"),
    ],
)
async def test_each_call_has_its_route(
    client: httpx.AsyncClient, script: Script, method: str, path: str, rpc: str
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == 200
    assert [call.method for call in script.calls] == [rpc]


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a/b/c", "a/b/c"),
        ("a%2Fb", "a/b"),
        ("..%2Fb", "../b"),
        ("%2Fetc", "/etc"),
        ("100%25", "100%"),
        ("a%252Fb", "a%2Fb"),
        ("a%3Fb%23c%26d%3Be", "a?b#c&d;e"),
        ("a+b%20c", "a+b c"),
        ("a:b", "a:b"),
        ("%E6%97%A5", "日"),
        ("a%0Ab%22%5C", 'a\nb"\\'),
    ],
)
async def test_a_files_path_is_unescaped_once_and_whole(
    client: httpx.AsyncClient, script: Script, written: str, path: str
) -> None:
    answer = await client.get(f"/api/v1/sessions/s/files/{written}")

    assert answer.status_code == 200
    assert (script.calls[-1].request.session_id, script.calls[-1].request.path) == ("s", path)


async def test_an_upload_comes_in_pieces(client: httpx.AsyncClient, script: Script) -> None:
    """Far larger than what may be buffered, and answered only after its end."""
    received = []

    async def note(request: Any, context: Any) -> None:
        received.append((request.session_id, request.body.content_type, len(request.body.data)))

    script.answers["UploadFileForm"] = note
    headers = {"content-type": "multipart/form-data; boundary=b"}

    answer = await client.post(
        "/api/v1/sessions/s/files/upload", content=bytes(20 * 2**20), headers=headers
    )

    assert answer.status_code == 200
    assert received[0][:2] == ("s", "multipart/form-data; boundary=b")
    assert sum(size for _, _, size in received) == 20 * 2**20
    assert max(size for _, _, size in received) <= 2 * 2**20


async def test_an_upload_is_not_kept(
    client: httpx.AsyncClient, edge: RunningEdge, script: Script
) -> None:
    """Not for a retry either: it is the memory of the edge that many uploads share."""
    received, allocated = 0, 0

    async def weigh(request: Any, context: Any) -> None:
        nonlocal received, allocated
        received += len(request.body.data)
        _, memory = await asyncio.to_thread(ask_admin, edge.admin_socket, "/memory")
        allocated = max(allocated, int(json.loads(memory)["allocated"]))

    script.answers["UploadFileForm"] = weigh

    await client.post("/api/v1/sessions/s/files/upload", content=bytes(80 * 2**20))

    assert received == 80 * 2**20
    assert allocated < 40 * 2**20


async def test_an_upload_that_is_refused_before_its_end(
    client: httpx.AsyncClient, script: Script
) -> None:
    script.raises("UploadFileForm", InvalidParameter("Field 'path' is wrong"))

    answer = await client.post("/api/v1/sessions/s/files/upload", content=bytes(1000))

    assert answer.status_code == 400
    assert answer.json()["error_detail"] == "Field 'path' is wrong"


async def test_downloads_are_plain_http(
    client: httpx.AsyncClient, edge: RunningEdge, script: Script
) -> None:
    """The answer of the file server passes as it is: length, ranges, and a cut."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0])
        status = b"200 OK"
        if b"range:" in head:
            status = b"206 Partial Content\r\ncontent-range: bytes 0-4/9"
        writer.write(b'HTTP/1.1 %b\r\ncontent-length: 5\r\netag: "e"\r\n\r\n' % status)
        writer.write(b"" if head.startswith(b"HEAD") else b"12" if b"cut" in head else b"12345")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, edge.directory / "files.sock")
    async with server:
        url = "/api/v1/downloads/s/a%2Fb%20c?file=1&signature=2"
        whole = await client.get(url)
        part = await client.get(url, headers={"range": "bytes=0-4"})
        head = await client.head(url)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/api/v1/downloads/cut")

    assert (whole.status_code, whole.content) == (200, b"12345")
    assert (whole.headers["content-length"], whole.headers["etag"]) == ("5", '"e"')
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 0-4/9")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")
    assert asked[0] == f"GET {url} HTTP/1.1".encode()
    assert script.calls == []


async def test_health_needs_no_token(client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]

    answer = await client.get("/api/v1/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_free_json_passes_byte_for_byte(client: httpx.AsyncClient, script: Script) -> None:
    async def echo(request: Any, context: Any) -> Any:
        return HttpBody(content_type="application/json", data=request.body.data)

    script.answers["ExecuteJson"] = echo

    answer = await client.post(
        "/api/v1/sessions/s/execute?wait=2.5",
        content=FREE_JSON,
        headers={"content-type": "application/json"},
    )

    request = script.calls[-1].request
    assert (request.session_id, request.wait) == ("s", 2.5)
    assert request.body.content_type == "application/json"
    assert request.body.data == FREE_JSON
    assert answer.content == FREE_JSON
    assert answer.headers["content-type"] == "application/json"


async def test_a_result_of_the_largest_size_arrives_whole(
    client: httpx.AsyncClient, script: Script
) -> None:
    """10 MiB each of stdout and stderr and 16 MiB of return value."""
    result = {"stdout": "o" * 10 * 2**20, "stderr": "e" * 10 * 2**20, "return_value": "r" * 2**24}
    data = json.dumps(result).encode()
    script.returns("GetExecutionResultJson", HttpBody(content_type="application/json", data=data))

    answer = await client.get("/api/v1/executions/e/result")

    assert answer.status_code == 200
    assert answer.content == data


async def test_events_arrive_one_by_one(client: httpx.AsyncClient, script: Script) -> None:
    """Each event is sent only when the one before it has been read: none may be held back."""
    proceed: asyncio.Queue[None] = asyncio.Queue()

    async def events(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        for number in range(1, 4):
            data = f"id: {number}\nevent: stdout\ndata: {number}\n\n".encode()
            yield HttpBody(content_type="text/event-stream", data=data)
            await proceed.get()

    script.streams["StreamExecutionEvents"] = events
    seen = []
    headers = {"last-event-id": "0"}
    async with client.stream("GET", "/api/v1/executions/e/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        async for chunk in answer.aiter_bytes():
            seen.append(chunk)
            proceed.put_nowait(None)

    assert seen == [f"id: {n}\nevent: stdout\ndata: {n}\n\n".encode() for n in (1, 2, 3)]
    assert script.calls[-1].metadata["last-event-id"] == "0"


async def test_a_reader_that_leaves_ends_its_stream(
    client: httpx.AsyncClient, script: Script
) -> None:
    ended = asyncio.Event()

    async def events(request: Any, context: Any) -> AsyncIterator[HttpBody]:
        try:
            yield HttpBody(content_type="text/event-stream", data=b"id: 1\n\n")
            await asyncio.Event().wait()
        finally:
            ended.set()

    script.streams["StreamExecutionEvents"] = events
    async with client.stream("GET", "/api/v1/executions/e/events") as answer:
        await anext(answer.aiter_bytes())

    async with asyncio.timeout(30):
        await ended.wait()
