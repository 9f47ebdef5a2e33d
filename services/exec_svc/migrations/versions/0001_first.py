"""Sessions, executions, events, idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(32), primary_key=True),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("sandbox_id", sa.String(64)),
        sa.Column("link_seq", sa.BigInteger, nullable=False),
        sa.Column("config", sa.LargeBinary, nullable=False),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("last_activity_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_sessions_sandbox_id", "sessions", ["sandbox_id"])
    op.create_table(
        "executions",
        sa.Column("execution_id", sa.String(32), primary_key=True),
        sa.Column(
            "session_id", sa.String(32), sa.ForeignKey("sessions.session_id"), nullable=False
        ),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("boot_id", sa.String(32)),
        sa.Column("not_before", sa.BigInteger),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("event_json", sa.LargeBinary, nullable=False),
        sa.Column("env_vars", sa.JSON, nullable=False),
        sa.Column("stdin", sa.LargeBinary),
        sa.Column("timeout", sa.Integer, nullable=False),
        sa.Column("traceparent", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
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
    )
    op.create_index("executions_by_session", "executions", ["session_id", "created_at"])
    op.create_index("executions_by_status", "executions", ["status", "session_id"])
    op.create_table(
        "events",
        sa.Column(
            "execution_id",
            sa.String(32),
            sa.ForeignKey("executions.execution_id"),
            primary_key=True,
        ),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("execution_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("idempotency_keys", "events", "executions", "sessions"):
        op.drop_table(table)
