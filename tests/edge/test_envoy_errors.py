"""What Envoy itself refuses comes in the same body and the same statuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sandbox_rpc import errors
from sandbox_rpc.auth import Authenticator

from cli.edge import MAX_BODY_BYTES
from tests.edge import envoy_process, upstream
from tests.edge.conftest import TOKEN
from tests.edge.envoy_process import RunningEdge
from tests.edge.test_errors import FIELDS, body_of
from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1/nowhere?token=secret"),
        ("GET", "/api/v2/sessions"),
        ("GET", "/api/v1/sessionsx"),
        ("PUT", "/api/v1/sessions"),
        ("OPTIONS", "/api/v1/sessions"),
        ("POST", "/api/v1/sessions/s/nothing"),
        ("POST", "/sandbox.session.v1.SessionService/GetSession"),
        ("POST", "/internal/executions/e/result"),
    ],
)
async def test_unknown_routes(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path, json={}, headers={"x-request-id": "r-1"})

    assert answer.status_code == 404
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.NotFound"
    assert f"'{method} {path.partition('?')[0]}'" in body["error_detail"]
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "r-1"


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/nowhere"])
async def test_head_has_no_body(edge: RunningEdge, path: str) -> None:
    """One byte after the head would be read as the next answer on the connection."""
    answer = await _raw(edge, f"HEAD {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")

    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert rest == b""


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("unknown=1", ["unknown"]),
        ("limit=1&Limit=2", ["Limit"]),
        ("status=weird", ["status", "weird"]),
        ("limit=many", ["limit", "many"]),
        ("limit=99999999999", ["limit"]),
        ("limit=1.5", ["limit", "1.5"]),
        ("limit=", ["limit"]),
    ],
)
async def test_query_parameters(
    client: httpx.AsyncClient, script: Script, query: str, words: list[str]
) -> None:
    answer = await client.get(f"/api/v1/sessions?{query}", headers={"x-request-id": "r-1"})

    assert answer.status_code == 400
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.InvalidParameter"
    assert all(word in body["error_detail"] for word in words), body
    assert "transcode" not in body["error_detail"]
    assert answer.headers["x-request-id"] == "r-1"
    assert script.calls == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", None),
        (b'{"template_id":', ["Unexpected end"]),
        (b"not json", ["not json"]),
        (b"[]", ["list"]),
        (b'{"template_id":"a"} more', ["end of input"]),
        (b'{"template_id":1}', ["template_id", "1"]),
        (b'{"template_id":"\xff"}', ["UTF-8"]),
        (b'{"mode":"weird"}', ["mode", "weird"]),
        (b'{"timeout":"soon"}', ["timeout", "soon"]),
        (b'{"timeout":1.5}', ["timeout", "1.5"]),
        (b'{"resources":{"cpu":2}}', ["resources.cpu"]),
        (b'{"env_vars":{"A":1}}', ["env_vars"]),
        (b'{"env_vars":[]}', ["env_vars"]),
        (b'{"not_known":{"a":[1]},"template_id":"t"}', None),
    ],
)
async def test_json_bodies(
    client: httpx.AsyncClient, script: Script, content: bytes, words: list[str] | None
) -> None:
    """`words` None: the transcoder takes it. Fields that nobody knows are ignored."""
    answer = await client.post("/api/v1/sessions", content=content)

    if words is None:
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.InvalidParameter"
    assert all(word in body["error_detail"] for word in words), body
    assert script.calls == []


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/sessions/s/execute"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_limit_of_a_body(
    client: httpx.AsyncClient, script: Script, path: str, chunked: bool
) -> None:
    async def parts(size: int) -> Any:
        yield b'{"code":"'
        yield b"x" * (size - 11)
        yield b'"}'

    async def post(size: int) -> httpx.Response:
        whole = b'{"code":"' + b"x" * (size - 11) + b'"}'
        return await client.post(path, content=parts(size) if chunked else whole)

    assert (await post(MAX_BODY_BYTES)).status_code == 200
    script.reset()
    answer = await post(MAX_BODY_BYTES + 1)

    assert answer.status_code == 400
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.InvalidParameter"
    assert f"'body' must be at most {MAX_BODY_BYTES} bytes" in body["error_detail"]
    assert script.calls == []


@pytest.mark.parametrize(
    ("request_bytes", "word"),
    [
        ("GET / HTTP/1.1\r\n\r\n", "missing_host_header"),
        ("nonsense\r\n\r\n", "codec_error"),
        ("GET /api/v1/health HTTP/1.0\r\n\r\n", "low_version"),
        (f"GET / HTTP/1.1\r\nhost: a\r\nx: {'y' * 80_000}\r\n\r\n", "60 KiB"),
        ("GET / HTTP/1.1\r\nhost: a\r\n" + "x: y\r\n" * 120 + "\r\n", "100"),
        ("GET /api/v1/sessions/%00 HTTP/1.1\r\nhost: a\r\n\r\n", "path_normalization"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            "upgrade",
        ),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "upgrade"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: other\r\n\r\n", "transfer_encoding"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "codec"),
    ],
)
async def test_what_is_not_http_for_us(edge: RunningEdge, request_bytes: str, word: str) -> None:
    answer = await _raw(edge, request_bytes)

    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"\r\ncontent-type: application/json" in head
    assert b"\r\nx-request-id: " in head
    body = json.loads(rest)
    assert sorted(body) == sorted(FIELDS)
    assert body["error_code"] == "Sandbox.InvalidParameter"
    assert word in body["error_detail"]


async def test_a_service_that_is_down_is_named(
    directory: Path, authenticator: Authenticator
) -> None:
    with envoy_process.running(directory) as edge:
        async with httpx.AsyncClient(base_url=edge.url, headers=AUTHORIZED) as client:
            answers = {
                "session_svc": await client.get("/api/v1/health"),
                "exec_svc": await client.post("/api/v1/sessions/s/execute", json={}),
            }
            for service, answer in answers.items():
                assert answer.status_code == 503
                body = body_of(answer)
                assert body["error_code"] == "Sandbox.ServiceUnavailable"
                assert body["error_detail"] == f"{service} does not answer"
                assert answer.headers["retry-after"] == "1"

            # And it is asked again as soon as it is there.
            async with upstream.serving(directory, Script(), authenticator):
                assert (await client.get("/api/v1/health")).status_code == 200


async def test_a_service_that_dies_during_a_call(
    directory: Path, authenticator: Authenticator
) -> None:
    script = Script()
    asked = asyncio.Event()

    async def never(request: Any, context: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    script.answers["GetSession"] = never
    with envoy_process.running(directory) as edge:
        async with httpx.AsyncClient(base_url=edge.url, headers=AUTHORIZED) as client:
            async with upstream.serving(directory, script, authenticator):
                running = asyncio.create_task(client.get("/api/v1/sessions/s"))
                await asked.wait()
            answer = await running

    assert answer.status_code == 503
    assert body_of(answer)["error_code"] == "Sandbox.ServiceUnavailable"
    assert answer.headers["retry-after"] == "1"


async def test_a_service_that_is_too_slow(directory: Path, authenticator: Authenticator) -> None:
    script = Script()

    async def never(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    script.answers["Check"] = never

    def impatient(bootstrap: str) -> str:
        changed = bootstrap.replace("timeout: 10s }", "timeout: 0.05s }")
        assert changed != bootstrap
        return changed

    with envoy_process.running(directory, change=impatient) as edge:
        async with (
            upstream.serving(directory, script, authenticator),
            httpx.AsyncClient(base_url=edge.url) as client,
        ):
            answer = await client.get("/api/v1/health")

    assert answer.status_code == 503
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.ServiceUnavailable"
    assert body["error_detail"] == "session_svc did not answer in time"
    assert answer.headers["retry-after"] == "1"


async def test_only_statuses_of_the_contract_leave(client: httpx.AsyncClient) -> None:
    """405 and 415 have no row in the table; a method or type nobody serves is 404 or ignored."""
    answers = [
        await client.patch("/api/v1/sessions"),
        await client.post("/api/v1/sessions", content=b"{}", headers={"content-type": "text/x"}),
    ]
    assert [answer.status_code for answer in answers] == [404, 200]
    assert body_of(answers[0])["error_code"] == errors.NotFound("", "").error_code


async def _raw(edge: RunningEdge, request: str) -> bytes:
    """What comes back for these bytes until the edge ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.public_port)
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
