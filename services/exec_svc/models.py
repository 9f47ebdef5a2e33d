"""The tables of exec_svc. No other service reads or writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


class Moment(sa.TypeDecorator[datetime]):
    """A point in time: aware, UTC, microseconds since 1970 in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else round(value.timestamp() * 1e6)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value / 1e6, UTC)


metadata = sa.MetaData()

# What exec_svc knows of a session. `link_seq` is the last message of the sandbox's spool
# that is committed; it is written in the transaction that applies the message.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("session_id", sa.String(32), primary_key=True),
    sa.Column("domain", sa.String(63), nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("sandbox_id", sa.String(64), index=True),
    sa.Column("link_seq", sa.BigInteger, nullable=False),
    sa.Column("config", sa.LargeBinary, nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("last_activity_at", Moment, nullable=False),
    sa.Column("closed_at", Moment),
)

# `boot_id` is the boot of the executor that has the current attempt; null while the
# execution waits. A row changes only by compare-and-set on (status, attempt).
executions = sa.Table(
    "executions",
    metadata,
    sa.Column("execution_id", sa.String(32), primary_key=True),
    sa.Column("session_id", sa.String(32), sa.ForeignKey("sessions.session_id"), nullable=False),
    sa.Column("domain", sa.String(63), nullable=False),
    # Who submitted it (Principal.subject); null in rows that are older than quotas.
    sa.Column("principal", sa.String(260)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("boot_id", sa.String(32)),
    sa.Column("not_before", Moment),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Column("language", sa.String(16), nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("event_json", sa.LargeBinary, nullable=False),
    sa.Column("env_vars", sa.JSON, nullable=False),
    sa.Column("stdin", sa.LargeBinary),
    sa.Column("timeout", sa.Integer, nullable=False),
    sa.Column("traceparent", sa.String(64), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("completed_at", Moment),
    # The result; meaningful once completed_at is set.
    sa.Column("exit_code", sa.Integer),
    sa.Column("return_value_json", sa.LargeBinary),
    sa.Column("error_message", sa.Text),
    sa.Column("error_traceback", sa.Text),
    sa.Column("stdout_truncated", sa.Boolean),
    sa.Column("stderr_truncated", sa.Boolean),
    sa.Column("duration_ms", sa.Float),
    sa.Column("cpu_time_ms", sa.Float),
    sa.Column("peak_memory_mb", sa.Float),
    sa.Column("io_read_bytes", sa.Float),
    sa.Column("io_write_bytes", sa.Float),
    sa.Column("artifacts", sa.JSON),
    sa.Index("executions_by_session", "session_id", "created_at"),
    sa.Index("executions_by_status", "status", "session_id"),
    sa.Index("executions_by_principal", "principal", "created_at"),
)

# What readers follow. `id` is the reader's cursor, from 1 within the execution.
events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "execution_id", sa.String(32), sa.ForeignKey("executions.execution_id"), primary_key=True
    ),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),  # stdout, stderr, status, result
    sa.Column("data", sa.LargeBinary, nullable=False),  # output, or the name of the status
    sa.Column("at", Moment, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("domain", sa.String(63), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("execution_id", sa.String(32), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

WAITING = ("pending", "crashed")  # to be dispatched, now or after a pause
LIVE = (*WAITING, "running")
FINAL = ("completed", "failed", "timeout")
