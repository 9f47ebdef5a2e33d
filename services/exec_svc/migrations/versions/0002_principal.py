"""Who submitted an execution: what quotas are counted by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Null: submitted before quotas were counted.
    op.add_column("executions", sa.Column("principal", sa.String(260)))
    op.create_index("executions_by_principal", "executions", ["principal", "created_at"])


def downgrade() -> None:
    op.drop_index("executions_by_principal", "executions")
    op.drop_column("executions", "principal")
