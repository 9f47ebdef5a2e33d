"""The error table of the contract, row by row, as a REST client sees it."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from sandbox.rpc.v1 import error_pb2
from sandbox_rpc import errors
from sandbox_rpc.errors import SandboxError

from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIELDS = ["error_code", "description", "error_detail", "error_link", "solution"]
PLAIN = grpc.StatusCode

TABLE: list[tuple[SandboxError, int, str]] = [
    (errors.InvalidParameter("d"), 400, "Sandbox.InvalidParameter"),
    (errors.Unauthorized("d"), 401, "Sandbox.Unauthorized"),
    (errors.Forbidden("d"), 403, "Sandbox.Forbidden"),
    (errors.NotFound("Session", "s"), 404, "Sandbox.SessionNotFound"),
    (errors.NotFound("Execution", "s"), 404, "Sandbox.ExecutionNotFound"),
    (errors.NotFound("Template", "s"), 404, "Sandbox.TemplateNotFound"),
    (errors.NotFound("Container", "s"), 404, "Sandbox.ContainerNotFound"),
    (errors.NotFound("File", "s"), 404, "Sandbox.FileNotFound"),
    (errors.NotFound("", "s"), 404, "Sandbox.NotFound"),
    (errors.StateConflict("d"), 409, "Sandbox.StateConflict"),
    (errors.TooManyRequests("d"), 503, "Sandbox.TooManyRequestsExection"),
    (errors.ServiceUnavailable("d"), 503, "Sandbox.ServiceUnavailable"),
    (errors.InternalError("d"), 500, "Sandbox.InternalError"),
]


def body_of(answer: httpx.Response) -> dict[str, str]:
    """The error body, checked for its shape."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert sorted(body) == sorted(FIELDS)
    assert all(isinstance(value, str) and value for value in body.values()), body
    assert body["error_link"] == errors.link_of(body["error_code"])
    return dict(body)


@pytest.mark.parametrize(("error", "status", "code"), TABLE, ids=[row[2] for row in TABLE])
async def test_each_row(
    client: httpx.AsyncClient, script: Script, error: SandboxError, status: int, code: str
) -> None:
    script.raises("GetSession", error)

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == status
    assert body_of(answer) == {
        "error_code": code,
        "description": error.description,
        "error_detail": error.detail,
        "error_link": errors.link_of(code),
        "solution": error.solution,
    }
    assert not [name for name in answer.headers if name.startswith(("grpc-", "x-http-code"))]


@pytest.mark.parametrize(("error", "status", "code"), TABLE, ids=[row[2] for row in TABLE])
async def test_each_row_of_a_call_that_answers_raw_bytes(
    client: httpx.AsyncClient, script: Script, error: SandboxError, status: int, code: str
) -> None:
    script.raises("ExecuteJson", error)

    answer = await client.post("/api/v1/sessions/s/execute", json={})

    assert (answer.status_code, body_of(answer)["error_code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/sessions/%ff"),
        ("GET", "/api/v1/sessions?template_id=%c3%28"),
        ("GET", "/api/v1/executions/%ed%a0%80/events"),
        ("GET", "/api/v1/sessions/s/files/a%ff"),
        ("POST", "/api/v1/sessions/%ff/files/upload"),
    ],
)
async def test_a_text_that_is_not_utf_8(
    client: httpx.AsyncClient, script: Script, method: str, path: str
) -> None:
    answer = await client.request(method, path)

    body = body_of(answer)
    assert (answer.status_code, body["error_code"]) == (400, "Sandbox.InvalidParameter")
    assert "not UTF-8" in body["error_detail"]


async def test_a_stream_that_fails_before_its_first_message(
    client: httpx.AsyncClient, script: Script
) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise errors.NotFound("Execution", request.execution_id)
        yield

    script.streams["StreamExecutionEvents"] = fail

    answer = await client.get("/api/v1/executions/e/events")

    assert answer.status_code == 404
    assert body_of(answer)["error_code"] == "Sandbox.ExecutionNotFound"


@pytest.mark.parametrize("word", ["InvalidParameter", "InvalidExecution", "StateConflict"])
async def test_internal_words_have_the_same_statuses(
    client: httpx.AsyncClient, script: Script, word: str
) -> None:
    error = errors.InternalError("d")
    error.error_code = f"Internal.{word}"
    script.raises("GetSession", error)

    answer = await client.get("/api/v1/sessions/s")

    wanted = {"InvalidParameter": 400, "InvalidExecution": 404, "StateConflict": 409}
    assert answer.status_code == wanted[word]
    assert body_of(answer)["error_code"] == f"Internal.{word}"


@pytest.mark.parametrize(
    "detail",
    [
        'quotes " and \\" and \\\\"',
        'braces {"@type":"x"}]} [{',
        '"details":[{"@type":"type.googleapis.com/sandbox.rpc.v1.ApiError"',
        "a line\nand a tab\t",
        "naïve ☃ 𝄞",
        "ends in a backslash \\",
        "\u0001\u001f</script>",
        "x" * 8000,
    ],
)
async def test_details_come_out_as_they_went_in(
    client: httpx.AsyncClient, script: Script, detail: str
) -> None:
    script.raises("GetSession", errors.InvalidParameter(detail))

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 400
    assert body_of(answer)["error_detail"] == detail


def _abort(status: status_pb2.Status) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        await context.abort_with_status(rpc_status.to_status(status))

    return answer


def _packed(*details: Any) -> list[any_pb2.Any]:
    made = []
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        made.append(packed)
    return made


API_ERROR = error_pb2.ApiError(
    error_code="Sandbox.StateConflict",
    description="State conflict",
    error_detail='} "here" {',
    error_link="/errors/state-conflict",
    solution="s",
)


@pytest.mark.parametrize("first", [True, False])
async def test_the_api_error_is_found_among_other_details(
    client: httpx.AsyncClient, script: Script, first: bool
) -> None:
    # Any detail type must be in the descriptor set, or the transcoder prints none.
    other = error_pb2.ApiError(error_code="Sandbox.InternalError")
    empty = empty_pb2.Empty()
    details = _packed(API_ERROR, other) if first else _packed(empty, API_ERROR)
    script.answers["GetSession"] = _abort(
        status_pb2.Status(code=9, message='"details":[{', details=details)
    )

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 409
    assert body_of(answer)["error_detail"] == '} "here" {'


async def test_an_api_error_with_empty_fields_still_has_five(
    client: httpx.AsyncClient, script: Script
) -> None:
    script.answers["GetSession"] = _abort(
        status_pb2.Status(
            code=3, details=_packed(error_pb2.ApiError(error_code="Sandbox.InvalidParameter"))
        )
    )

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 400
    assert sorted(answer.json()) == sorted(FIELDS)


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (PLAIN.INVALID_ARGUMENT, 400, "InvalidParameter"),
        (PLAIN.OUT_OF_RANGE, 400, "InvalidParameter"),
        (PLAIN.FAILED_PRECONDITION, 400, "InvalidParameter"),
        (PLAIN.UNAUTHENTICATED, 401, "Unauthorized"),
        (PLAIN.PERMISSION_DENIED, 403, "Forbidden"),
        (PLAIN.NOT_FOUND, 404, "NotFound"),
        (PLAIN.UNIMPLEMENTED, 404, "NotFound"),
        (PLAIN.ALREADY_EXISTS, 409, "StateConflict"),
        (PLAIN.ABORTED, 409, "StateConflict"),
        (PLAIN.INTERNAL, 500, "InternalError"),
        (PLAIN.UNKNOWN, 500, "InternalError"),
        (PLAIN.DATA_LOSS, 500, "InternalError"),
        (PLAIN.UNAVAILABLE, 503, "ServiceUnavailable"),
        (PLAIN.RESOURCE_EXHAUSTED, 503, "ServiceUnavailable"),
        (PLAIN.DEADLINE_EXCEEDED, 503, "ServiceUnavailable"),
        (PLAIN.CANCELLED, 503, "ServiceUnavailable"),
    ],
)
async def test_a_failure_without_api_error(
    client: httpx.AsyncClient, script: Script, code: grpc.StatusCode, status: int, word: str
) -> None:
    async def abort(request: Any, context: Any) -> Any:
        await context.abort(code, "said by grpc")

    script.answers["GetSession"] = abort

    answer = await client.get("/api/v1/sessions/s", headers={"x-request-id": "r-1"})

    assert answer.status_code == status
    body = body_of(answer)
    assert body["error_code"] == f"Sandbox.{word}"
    assert ("said by grpc" in body["error_detail"]) is (status < 500)
    assert ("r-1" in body["error_detail"]) is (status >= 500)
    assert ("retry-after" in answer.headers) is (status == 503)


async def test_a_detail_that_the_edge_does_not_know(
    client: httpx.AsyncClient, script: Script
) -> None:
    details = _packed(error_details_pb2.DebugInfo(detail="secret of ours"))
    script.answers["GetSession"] = _abort(
        status_pb2.Status(code=13, message="secret of ours", details=details)
    )

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 500
    assert "secret" not in str(body_of(answer))


async def test_an_unexpected_exception_does_not_leak(
    client: httpx.AsyncClient, script: Script
) -> None:
    script.raises("GetSession", RuntimeError("secret of ours"))

    answer = await client.get("/api/v1/sessions/s", headers={"x-request-id": "r-2"})

    assert answer.status_code == 500
    body = body_of(answer)
    assert body["error_code"] == "Sandbox.InternalError"
    assert "secret" not in str(body)
    assert "r-2" in body["error_detail"]


@pytest.mark.parametrize("metadata_first", [False, True])
async def test_retry_after_is_kept(
    client: httpx.AsyncClient, script: Script, metadata_first: bool
) -> None:
    async def answer(request: Any, context: Any) -> Any:
        if metadata_first:
            await context.send_initial_metadata((("x-http-code", "201"),))
        raise errors.TooManyRequests("The queue holds 100", retry_after=7)

    script.answers["GetSession"] = answer

    refused = await client.get("/api/v1/sessions/s")

    assert refused.status_code == 503
    assert body_of(refused)["error_detail"] == "The queue holds 100"
    assert refused.headers["retry-after"] == "7"


async def test_no_token_is_401(client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]

    answer = await client.get("/api/v1/sessions/s")

    assert answer.status_code == 401
    assert body_of(answer)["error_code"] == "Sandbox.Unauthorized"
