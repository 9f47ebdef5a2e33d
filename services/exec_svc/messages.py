"""Database rows as messages: the only place that knows both shapes."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.execution.v1 import execution_pb2 as pb
from sandbox.executor.v1 import link_pb2

from exec_svc.database import Row

_RESULT_STATUS = {"completed": "success", "failed": "failed", "timeout": "timeout"}


def to_state(row: Row) -> pb.ExecutionState:
    return pb.ExecutionState(
        execution_id=row.execution_id,
        session_id=row.session_id,
        status=pb.ExecutionStatus.Value.Value(row.status),
        created_at=to_timestamp(row.created_at),
        started_at=to_timestamp(row.started_at),
        completed_at=to_timestamp(row.completed_at),
    )


def to_summary(row: Row) -> pb.ExecutionSummary:
    return pb.ExecutionSummary(
        execution_id=row.execution_id,
        session_id=row.session_id,
        status=pb.ExecutionStatus.Value.Value(row.status),
        language=pb.Language.Value.Value(row.language),
        timeout=row.timeout,
        attempt=row.attempt,
        created_at=to_timestamp(row.created_at),
        started_at=to_timestamp(row.started_at),
        completed_at=to_timestamp(row.completed_at),
    )


def to_result(row: Row, output: dict[str, bytes]) -> pb.ExecutionResult:
    started = row.started_at or row.completed_at
    result = pb.ExecutionResult(
        execution_id=row.execution_id,
        status=pb.ResultStatus.Value.Value(_RESULT_STATUS[row.status]),
        stdout=output["stdout"],
        stderr=output["stderr"],
        stdout_truncated=row.stdout_truncated,
        stderr_truncated=row.stderr_truncated,
        exit_code=row.exit_code,
        execution_time=(row.duration_ms or 0.0) / 1000,
        return_value_json=row.return_value_json,
        metrics=pb.ExecutionMetrics(
            duration_ms=row.duration_ms or 0.0,
            cpu_time_ms=row.cpu_time_ms or 0.0,
            peak_memory_mb=row.peak_memory_mb or 0.0,
            io_read_bytes=row.io_read_bytes or 0.0,
            io_write_bytes=row.io_write_bytes or 0.0,
            # The two clocks may be two machines'.
            queue_ms=max(0.0, (started - row.created_at).total_seconds() * 1000),
        ),
        artifacts=row.artifacts or [],
        attempt=row.attempt,
    )
    if row.error_message is not None:
        result.error.message = row.error_message
        result.error.traceback = row.error_traceback or ""
        timed_out = row.status == "timeout"
        result.error.error_code = "Sandbox.ExecTimeout" if timed_out else "Sandbox.ExecException"
    return result


def to_run(row: Row) -> link_pb2.Run:
    return link_pb2.Run(
        run=link_pb2.RunRef(execution_id=row.execution_id, attempt=row.attempt),
        language=row.language,
        code=row.code.encode(),
        event_json=row.event_json,
        env_vars=row.env_vars,
        stdin=row.stdin,
        timeout_seconds=row.timeout,
        traceparent=row.traceparent,
    )


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
