"""Runs migrations on the connection, and in the transaction, that migrate.py made."""

from alembic import context
from session_svc.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
