"""Sessions, idempotency keys and templates, with the first template."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(21), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("template_id", sa.String(63), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_reason", sa.String()),
        sa.Column("released", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("recoveries", sa.Integer(), nullable=False),
        sa.Column("attached_at", _time),
        sa.Column("runtime_type", sa.String(16), nullable=False),
        sa.Column("runtime_node", sa.String()),
        sa.Column("container_id", sa.String()),
        sa.Column("pod_name", sa.String()),
        sa.Column("cpu", sa.String(), nullable=False),
        sa.Column("memory", sa.String(), nullable=False),
        sa.Column("disk", sa.String(), nullable=False),
        sa.Column("max_processes", sa.Integer(), nullable=False),
        sa.Column("env_vars", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("timeout", sa.Integer(), nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("updated_at", _time, nullable=False),
        sa.Column("last_activity_at", _time, nullable=False),
        sa.Column("expires_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_domain_created_at", "sessions", ["domain", "created_at"])
    op.create_index("ix_sessions_status_expires_at", "sessions", ["status", "expires_at"])

    op.create_table(
        "idempotency_keys",
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(21), nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("domain", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="fk_idempotency_keys_session_id"
        ),
    )
    op.create_index("ix_idempotency_keys_session_id", "idempotency_keys", ["session_id"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])

    templates = op.create_table(
        "templates",
        sa.Column("template_id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("cpu", sa.String(), nullable=False),
        sa.Column("memory", sa.String(), nullable=False),
        sa.Column("disk", sa.String(), nullable=False),
        sa.Column("max_processes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("template_id", name="pk_templates"),
    )
    op.bulk_insert(
        templates,
        [
            {
                "template_id": "python-basic",
                "name": "Python, standard library",
                "image": "sandbox/python-basic",
                "cpu": "1",
                "memory": "512Mi",
                "disk": "1Gi",
                "max_processes": 128,
            }
        ],
    )


def downgrade() -> None:
    for table in ("templates", "idempotency_keys", "sessions"):
        op.drop_table(table)
