"""The state machine of executions, and the only code that moves them.

    pending ──▶ running ──▶ completed | failed | timeout
       │           │
       │           ▼ executor or container died
       │        crashed ──▶ running (attempt + 1) … ──▶ failed after 3 retries
       └──▶ failed (cancelled, or the session ended)

Every change goes through here: it is one transaction, compares status and attempt first,
and appends to the event log that readers follow. What an older attempt says changes
nothing. Nothing leaves a final state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sandbox.executor.v1 import link_pb2

from exec_svc.database import Database, Row, writing
from exec_svc.models import FINAL, LIVE, events, executions, sessions

MAX_RETRIES = 3
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 10.0

Clock = Callable[[], datetime]

_STATUS = {
    link_pb2.Outcome.STATUS_SUCCESS: "completed",
    link_pb2.Outcome.STATUS_FAILED: "failed",
    link_pb2.Outcome.STATUS_TIMEOUT: "timeout",
    link_pb2.Outcome.STATUS_CANCELLED: "failed",
}


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Change:
    """What one transaction does to one execution."""

    row: Row
    values: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        return str(self.values.get("status", self.row.status))

    def all_values(self) -> dict[str, Any]:
        """The parameters of `_EXECUTION`: what has changed, and the rest as it is."""
        values = {
            f"new_{column.name}": self.values.get(column.name, getattr(self.row, column.name))
            for column in _MUTABLE
        }
        return {"key": self.row.execution_id, **values}

    def log(self, kind: str, data: bytes, at: datetime) -> None:
        number = self.values.get("last_event", self.row.last_event) + 1
        self.values["last_event"] = number
        self.events.append(
            {
                "execution_id": self.row.execution_id,
                "id": number,
                "attempt": self.row.attempt,
                "kind": kind,
                "data": data,
                "at": at,
            }
        )

    def become(self, status: str, at: datetime, **values: Any) -> None:
        self.values.update(status=status, **values)
        self.log("status", status.encode(), at)
        if status in FINAL:
            self.values["completed_at"] = at
            self.log("result", b"", at)


class Journal:
    """Applies what happens to executions. Answers which ones changed, for the readers."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    @writing
    def apply(
        self,
        connection: sa.Connection,
        sandbox_id: str,
        messages: Sequence[link_pb2.ConnectRequest],
    ) -> dict[str, bool]:
        """Commits numbered messages of a sandbox's spool, in order, each exactly once."""
        now = self._clock()
        session = connection.execute(_SESSION, {"sandbox_id": sandbox_id}).one_or_none()
        if session is None:
            return {}  # the session has another sandbox now: all of this is too late
        new = [message for message in messages if message.seq > session.link_seq]
        if not new:
            return {}
        changes = _load(connection, {_run_of(message).execution_id for message in new})
        for message in new:
            run = _run_of(message)
            change = changes.get(run.execution_id)
            if (
                change is not None
                and change.row.session_id == session.session_id
                and change.row.attempt == run.attempt
                and change.status in LIVE
            ):
                _apply(change, message)
        _store(connection, changes.values())
        position = {"key": session.session_id, "seq": new[-1].seq, "now": now}
        connection.execute(_POSITION, position)
        return {name: change.status in FINAL for name, change in changes.items()}

    @writing
    def crash(self, connection: sa.Connection, execution_ids: Iterable[str]) -> dict[str, bool]:
        """What was dispatched and will never report: retried with a pause, or given up."""
        now = self._clock()
        changes = _load(connection, set(execution_ids))
        for change in changes.values():
            if change.status not in LIVE or change.row.boot_id is None:
                continue
            if change.row.cancelled:
                _fail(change, "the execution was cancelled", now)
            elif change.row.attempt > MAX_RETRIES:
                count = change.row.attempt
                _fail(change, f"the sandbox died in each of {count} attempts", now)
            else:
                pause = min(FIRST_RETRY_SECONDS * 2 ** (change.row.attempt - 1), LAST_RETRY_SECONDS)
                change.become(
                    "crashed",
                    now,
                    attempt=change.row.attempt + 1,
                    boot_id=None,
                    started_at=None,
                    not_before=now + timedelta(seconds=pause),
                )
        _store(connection, changes.values())
        return {name: change.status in FINAL for name, change in changes.items()}

    @writing
    def fail(
        self, connection: sa.Connection, execution_ids: Iterable[str], message: str
    ) -> dict[str, bool]:
        """Ends executions that have not ended, without a result of their own."""
        now = self._clock()
        changes = _load(connection, set(execution_ids))
        for change in changes.values():
            if change.status in LIVE:
                _fail(change, message, now)
        _store(connection, changes.values())
        return {name: change.status in FINAL for name, change in changes.items()}


def _apply(change: _Change, message: link_pb2.ConnectRequest) -> None:
    kind = message.WhichOneof("kind")
    if kind == "output":
        is_stdout = message.output.stream == link_pb2.Output.STREAM_STDOUT
        change.log("stdout" if is_stdout else "stderr", message.output.data, utc_now())
    elif kind == "started":
        started_at = message.started.started_at.ToDatetime(UTC)
        change.become("running", started_at, started_at=started_at, not_before=None)
    elif kind == "finished":
        outcome = message.finished.outcome
        change.become(
            _STATUS[outcome.status],
            message.finished.finished_at.ToDatetime(UTC),
            boot_id=None,
            exit_code=outcome.exit_code,
            return_value_json=(
                outcome.return_value_json if outcome.HasField("return_value_json") else None
            ),
            error_message=outcome.error.message if outcome.HasField("error") else None,
            error_traceback=outcome.error.traceback if outcome.HasField("error") else None,
            stdout_truncated=outcome.stdout_truncated,
            stderr_truncated=outcome.stderr_truncated,
            duration_ms=outcome.duration_ms,
            cpu_time_ms=outcome.cpu_time_ms,
            peak_memory_mb=outcome.peak_memory_mb,
            io_read_bytes=outcome.io_read_bytes,
            io_write_bytes=outcome.io_write_bytes,
            artifacts=list(outcome.artifacts),
        )


def _fail(change: _Change, message: str, now: datetime) -> None:
    change.become(
        "failed",
        now,
        boot_id=None,
        exit_code=137,
        error_message=message,
        error_traceback="",
        stdout_truncated=False,
        stderr_truncated=False,
        artifacts=[],
    )


def _run_of(message: link_pb2.ConnectRequest) -> link_pb2.RunRef:
    run: link_pb2.RunRef = getattr(message, message.WhichOneof("kind") or "finished").run
    return run


def _load(connection: sa.Connection, ids: set[str]) -> dict[str, _Change]:
    rows = connection.execute(_EXECUTIONS, {"ids": list(ids)})
    return {row.execution_id: _Change(row) for row in rows}


def _store(connection: sa.Connection, changes: Iterable[_Change]) -> None:
    log: list[dict[str, Any]] = []
    for change in changes:
        if change.values:
            connection.execute(_EXECUTION, change.all_values())
        log += change.events
    if log:
        connection.execute(_EVENTS, log)


# Made once: building a statement takes SQLAlchemy longer than SQLite takes to run it.
_c = executions.c
_MUTABLE = (
    *(_c.status, _c.attempt, _c.boot_id, _c.not_before, _c.last_event),
    *(_c.started_at, _c.completed_at, _c.exit_code, _c.return_value_json),
    *(_c.error_message, _c.error_traceback, _c.stdout_truncated, _c.stderr_truncated),
    *(_c.duration_ms, _c.cpu_time_ms, _c.peak_memory_mb, _c.io_read_bytes, _c.io_write_bytes),
    _c.artifacts,
)
_SESSION = (
    sa.select(sessions.c.session_id, sessions.c.link_seq)
    .where(sessions.c.sandbox_id == sa.bindparam("sandbox_id"))
    .with_for_update()
)
_POSITION = (
    sa.update(sessions)
    .where(sessions.c.session_id == sa.bindparam("key"))
    .values(link_seq=sa.bindparam("seq"), last_activity_at=sa.bindparam("now"))
)
_EXECUTIONS = (
    sa.select(_c.execution_id, _c.session_id, _c.cancelled, *_MUTABLE)
    .where(_c.execution_id.in_(sa.bindparam("ids", expanding=True)))
    .with_for_update()
)
_EXECUTION = (
    sa.update(executions)
    .where(_c.execution_id == sa.bindparam("key"))
    .values({column.name: sa.bindparam(f"new_{column.name}") for column in _MUTABLE})
)
_EVENTS = sa.insert(events)
