"""The same rules through native gRPC: status code, ApiError and ErrorInfo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from sandbox.execution.v1 import execution_pb2 as ex
from sandbox.session.v1 import health_pb2
from sandbox.session.v1 import session_pb2 as se

from tests.contract.callers import Native, refusal_of

Code = grpc.StatusCode
SESSION, EXECUTION = "sess_0000000000000000", "exec_20200101_00000000"
Call = Callable[[Native], Any]


def create(**fields: Any) -> Call:
    request = se.CreateSessionRequest(session=se.SessionSpec(**fields))
    return lambda native: native.sessions.CreateSession(request, metadata=native.metadata)


def execute(session_id: str = SESSION, **fields: Any) -> Call:
    given = {"code": "1", "language": ex.Language.python} | fields
    request = ex.ExecuteRequest(session_id=session_id, **given)
    return lambda native: native.executions.Execute(request, metadata=native.metadata)


def session_call(name: str, request: Any) -> Call:
    return lambda native: getattr(native.sessions, name)(request, metadata=native.metadata)


def execution_call(name: str, request: Any) -> Call:
    return lambda native: getattr(native.executions, name)(request, metadata=native.metadata)


def watch(native: Native) -> Any:
    request = ex.WatchExecutionRequest(execution_id=EXECUTION)
    return list(native.executions.WatchExecution(request, metadata=native.metadata))


ROWS: list[tuple[str, Call, grpc.StatusCode, str, str]] = [
    ("no template_id", create(), Code.INVALID_ARGUMENT, "InvalidParameter", "template_id"),
    (
        "timeout below",
        create(template_id="python-basic", timeout=59),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "timeout",
    ),
    (
        "mode unknown",
        create(template_id="python-basic", mode=99),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "mode",
    ),
    (
        "memory beyond",
        create(template_id="python-basic", resources=se.Resources(memory="9Gi")),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "memory",
    ),
    ("template", create(template_id="no-such"), Code.NOT_FOUND, "TemplateNotFound", "no-such"),
    (
        "limit beyond",
        session_call("ListSessions", se.ListSessionsRequest(limit=201)),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "limit",
    ),
    (
        "status unknown",
        session_call("ListSessions", se.ListSessionsRequest(status=99)),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "status",
    ),
    (
        "get session",
        session_call("GetSession", se.GetSessionRequest(session_id=SESSION)),
        Code.NOT_FOUND,
        "SessionNotFound",
        SESSION,
    ),
    (
        "delete session",
        session_call("DeleteSession", se.DeleteSessionRequest(session_id=SESSION)),
        Code.NOT_FOUND,
        "SessionNotFound",
        SESSION,
    ),
    ("no code", execute(code=""), Code.INVALID_ARGUMENT, "InvalidParameter", "code"),
    (
        "code beyond",
        execute(code="#" * 102_401),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "code",
    ),
    (
        "language absent",
        execute(language=ex.Language.unspecified),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "language",
    ),
    (
        "language unknown",
        execute(language=99),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "language",
    ),
    ("timeout", execute(timeout=3601), Code.INVALID_ARGUMENT, "InvalidParameter", "timeout"),
    ("event", execute(event_json=b"[]"), Code.INVALID_ARGUMENT, "InvalidParameter", "event"),
    ("execute", execute(), Code.NOT_FOUND, "SessionNotFound", SESSION),
    (
        "executions",
        execution_call("ListExecutions", ex.ListExecutionsRequest(session_id=SESSION)),
        Code.NOT_FOUND,
        "SessionNotFound",
        SESSION,
    ),
    (
        "executions' status unknown",
        execution_call("ListExecutions", ex.ListExecutionsRequest(session_id=SESSION, status=99)),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "status",
    ),
    *(
        (
            name,
            execution_call(name, getattr(ex, f"{name}Request")(execution_id=EXECUTION)),
            Code.NOT_FOUND,
            "ExecutionNotFound",
            EXECUTION,
        )
        for name in (
            *("GetExecution", "GetExecutionStatus"),
            *("GetExecutionResult", "CancelExecution"),
        )
    ),
    (
        "wait beyond",
        execution_call(
            "GetExecutionResult", ex.GetExecutionResultRequest(execution_id=EXECUTION, wait=3601)
        ),
        Code.INVALID_ARGUMENT,
        "InvalidParameter",
        "wait",
    ),
    ("watch", watch, Code.NOT_FOUND, "ExecutionNotFound", EXECUTION),
]


@pytest.mark.parametrize(
    ("call", "status", "code", "mentions"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_refusal(
    native: Native, call: Call, status: grpc.StatusCode, code: str, mentions: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(native)

    told, api = refusal_of(refused.value)
    assert (told, api.error_code) == (status, f"Sandbox.{code}")
    assert mentions in api.error_detail


@pytest.mark.parametrize("call", [create(template_id="python-basic"), execute(), watch])
def test_every_call_needs_a_token(native: Native, call: Call) -> None:
    native.metadata = ()

    with pytest.raises(grpc.RpcError) as refused:
        call(native)

    assert refusal_of(refused.value)[0] == Code.UNAUTHENTICATED


def test_a_token_stays_in_its_domains(native: Native, limited: str) -> None:
    native.metadata = (("authorization", f"Bearer {limited}"), ("x-business-domain", "elsewhere"))

    with pytest.raises(grpc.RpcError) as refused:
        create(template_id="python-basic")(native)

    status, api = refusal_of(refused.value)
    assert (status, api.error_code) == (Code.PERMISSION_DENIED, "Sandbox.Forbidden")


def test_health_needs_no_token(native: Native) -> None:
    assert native.health.Check(health_pb2.CheckRequest()).status == "ok"


def test_a_session_and_its_executions(native: Native) -> None:
    """The states that a call conflicts with, and what succeeds on the way."""
    session = create(template_id="python-basic", mode=se.SessionMode.ephemeral)(native)
    assert session.status == se.SessionStatus.running
    code = "import time\ndef handler(event):\n    print('x')\n    time.sleep(600)\n"
    accepted = execute(session.session_id, code=code, timeout=900)(native)
    assert accepted.status == "submitted"

    with pytest.raises(grpc.RpcError) as refused:
        execute(session.session_id)(native)
    status, api = refusal_of(refused.value)
    assert (status, api.error_code) == (Code.FAILED_PRECONDITION, "Sandbox.StateConflict")
    request = ex.GetExecutionResultRequest(execution_id=accepted.execution_id)
    with pytest.raises(grpc.RpcError) as early:
        native.executions.GetExecutionResult(request, metadata=native.metadata)
    assert refusal_of(early.value)[0] == Code.FAILED_PRECONDITION

    cancel = ex.CancelExecutionRequest(execution_id=accepted.execution_id)
    ended = native.executions.CancelExecution(cancel, metadata=native.metadata)
    assert ended.status == ex.ExecutionStatus.failed
    watching = ex.WatchExecutionRequest(execution_id=accepted.execution_id)
    events = list(native.executions.WatchExecution(watching, metadata=native.metadata))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].result.status == ex.ResultStatus.failed
    delete = se.DeleteSessionRequest(session_id=session.session_id)
    for _ in range(2):
        native.sessions.DeleteSession(delete, metadata=native.metadata)


def test_json_is_exact_in_bytes(native: Native) -> None:
    session = create(template_id="python-basic")(native)
    code = "def handler(event):\n    return event\n"
    text = b'{"z": 9223372036854775808, "a": [1.5, null]}'

    accepted = execute(session.session_id, code=code, event_json=text)(native)

    request = ex.GetExecutionResultRequest(execution_id=accepted.execution_id, wait=60)
    result = native.executions.GetExecutionResult(request, metadata=native.metadata)
    assert result.return_value_json.replace(b" ", b"") == text.replace(b" ", b"")
