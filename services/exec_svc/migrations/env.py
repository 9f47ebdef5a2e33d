"""Alembic's entry point; `migrate.py` hands it an open connection and its transaction."""

from alembic import context
from exec_svc.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,
)
context.run_migrations()
