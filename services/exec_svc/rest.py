"""The REST form of the calls that carry free JSON: bytes in, bytes out, nothing rounded."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.execution.v1 import execution_pb2 as pb
from sandbox.execution.v1 import rest_pb2, rest_pb2_grpc
from sandbox_rpc.auth import caller
from sandbox_rpc.errors import InvalidParameter

from exec_svc.executions import Executions
from exec_svc.json_fields import top_level_fields
from exec_svc.messages import to_result, to_summary
from exec_svc.validation import NewExecution, new_execution

_TYPES: dict[str, tuple[type, str]] = {
    "code": (str, "a string"),
    "language": (str, "a string"),
    "timeout": (int, "an integer"),
    "event": (dict, "a JSON object"),
    "env_vars": (dict, "an object of strings"),
    "stdin": (str, "a string"),
}


class ExecutionRestServicer(rest_pb2_grpc.ExecutionRestServiceServicer):
    def __init__(self, executions: Executions) -> None:
        self._executions = executions

    async def ExecuteJson(self, request: rest_pb2.ExecuteJsonRequest, context: Any) -> HttpBody:
        new = parse(request.session_id, request.body.data)
        seconds = request.wait if request.HasField("wait") else None
        if seconds is None:
            accepted = await self._executions.accept(new, caller())
            status = "submitted"
        else:
            accepted, found = await self._executions.accept_and_wait(new, caller(), seconds)
            if found.has_ended:
                return _json(result_json(to_result(found.row, found.output)))
            status = found.row.status
        return _json(
            _object(
                execution_id=_text(accepted.execution_id),
                session_id=_text(accepted.session_id),
                status=_text(status),
                submitted_at=_text(accepted.created_at.isoformat().replace("+00:00", "Z")),
            )
        )

    async def GetExecutionJson(
        self, request: rest_pb2.GetExecutionJsonRequest, context: Any
    ) -> HttpBody:
        found = await self._executions.look(request.execution_id, caller())
        row = found.row
        result = result_json(to_result(row, found.output)) if found.has_ended else b"null"
        summary = _summary(to_summary(row))
        return _json(_object(**summary, code=_text(row.code), event=row.event_json, result=result))

    async def GetExecutionResultJson(
        self, request: rest_pb2.GetExecutionResultJsonRequest, context: Any
    ) -> HttpBody:
        seconds = request.wait if request.HasField("wait") else None
        result = await self._executions.result(request.execution_id, caller(), seconds)
        return _json(result_json(result))

    async def StreamExecutionEvents(
        self, request: rest_pb2.StreamExecutionEventsRequest, context: Any
    ) -> AsyncIterator[HttpBody]:
        metadata = dict(context.invocation_metadata())
        after = _last_event_id(metadata.get("last-event-id", ""))
        await self._executions.look(request.execution_id, caller())
        # The answer begins at once, also where the first event is far or there is none.
        yield HttpBody(content_type="text/event-stream", data=b": begin\n\n")
        async for event in self._executions.follow(request.execution_id, after, caller()):
            yield HttpBody(content_type="text/event-stream", data=_sse(event))


def parse(session_id: str, body: bytes) -> NewExecution:
    """Reads the body of an execute request. `event` stays the bytes that the client wrote."""
    fields = top_level_fields(body)
    timeout = fields.get("timeout")
    if timeout is not None and isinstance(timeout[0], float) and timeout[0].is_integer():
        fields["timeout"] = int(timeout[0]), timeout[1]  # 30.0 is an integer in JSON
    for name, (value, _) in fields.items():
        kind, words = _TYPES.get(name, (object, ""))
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidParameter(f"Field '{name}' must be {words}")
    for name in ("code", "language"):
        if name not in fields:
            raise InvalidParameter(f"Field '{name}' is required")
    values = {name: value for name, (value, _) in fields.items()}
    env_vars = values.get("env_vars", {})
    if not all(isinstance(value, str) for value in env_vars.values()):
        raise InvalidParameter("Field 'env_vars' must be an object of strings")
    stdin = values.get("stdin")
    return new_execution(
        session_id=session_id,
        code=values["code"],
        language=values["language"],
        timeout=values.get("timeout"),
        event_json=fields["event"][1].encode() if "event" in fields else b"",
        env_vars=env_vars,
        stdin=None if stdin is None else stdin.encode("utf-8", "surrogatepass"),
    )


def result_json(result: pb.ExecutionResult) -> bytes:
    """The contract's ExecutionResult; the return value is spliced in as it is."""
    value = result.return_value_json if result.HasField("return_value_json") else b"null"
    error = b"null"
    if result.HasField("error"):
        error = _dumps(
            {
                "error_code": result.error.error_code,
                "message": result.error.message,
                "traceback": result.error.traceback,
            }
        )
    metrics = {field.name: getattr(result.metrics, field.name) for field in _METRICS}
    return _object(
        execution_id=_text(result.execution_id),
        status=_text(pb.ResultStatus.Value.Name(result.status)),
        stdout=_text(result.stdout.decode(errors="replace")),
        stderr=_text(result.stderr.decode(errors="replace")),
        stdout_truncated=_dumps(result.stdout_truncated),
        stderr_truncated=_dumps(result.stderr_truncated),
        exit_code=_dumps(result.exit_code),
        execution_time=_dumps(result.execution_time),
        return_value=value,
        error=error,
        metrics=_dumps(metrics),
        artifacts=_dumps(list(result.artifacts)),
        attempt=_dumps(result.attempt),
    )


_METRICS = pb.ExecutionMetrics.DESCRIPTOR.fields


def _summary(summary: pb.ExecutionSummary) -> dict[str, bytes]:
    fields = {
        "execution_id": _text(summary.execution_id),
        "session_id": _text(summary.session_id),
        "status": _text(pb.ExecutionStatus.Value.Name(summary.status)),
        "language": _text(pb.Language.Value.Name(summary.language)),
        "timeout": _dumps(summary.timeout),
        "attempt": _dumps(summary.attempt),
    }
    return fields | _times(summary)


def _state(state: pb.ExecutionState) -> dict[str, bytes]:
    fields = {
        "execution_id": _text(state.execution_id),
        "session_id": _text(state.session_id),
        "status": _text(pb.ExecutionStatus.Value.Name(state.status)),
    }
    return fields | _times(state)


def _times(message: pb.ExecutionSummary | pb.ExecutionState) -> dict[str, bytes]:
    """A moment that has not come yet is left out."""
    return {
        name: _text(_moment(getattr(message, name)))
        for name in ("created_at", "started_at", "completed_at")
        if message.HasField(name)
    }


def _moment(timestamp: Timestamp) -> str:
    moment: datetime = timestamp.ToDatetime(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def _sse(event: pb.ExecutionEvent) -> bytes:
    kind = event.WhichOneof("kind") or ""
    if kind in ("stdout", "stderr"):
        data = _dumps({"data": getattr(event, kind).decode(errors="replace")})
    elif kind == "status":
        data = _object(**_state(event.status))
    else:
        data = result_json(event.result)
    data = b" ".join(data.splitlines())  # between tokens only: a string holds none raw
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, kind.encode(), data)


def _last_event_id(value: str) -> int:
    if not value:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise InvalidParameter("Header 'Last-Event-ID' must be the id of an event")
    return int(value)


def _object(**members: bytes) -> bytes:
    return (
        b"{"
        + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items())
        + b"}"
    )


def _dumps(value: Mapping[str, Any] | list[Any] | float | bool) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _text(value: str) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _json(data: bytes) -> HttpBody:
    return HttpBody(content_type="application/json", data=data)
