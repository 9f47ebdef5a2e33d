"""When a session ended: its files are kept for a day from then on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("closed_at", sa.BigInteger))
    # The nearest that is known of those that have ended already.
    op.execute("UPDATE sessions SET closed_at = last_activity_at WHERE NOT open")


def downgrade() -> None:
    op.drop_column("sessions", "closed_at")
