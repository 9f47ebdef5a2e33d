"""Who opened a session: what quotas are counted by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Null: opened before quotas were counted.
    op.add_column("sessions", sa.Column("principal", sa.String(260)))
    op.create_index("ix_sessions_principal_status", "sessions", ["principal", "status"])


def downgrade() -> None:
    op.drop_index("ix_sessions_principal_status", "sessions")
    op.drop_column("sessions", "principal")
