"""Brings the database's tables up to date when the service starts."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from session_svc.database import Database

# The newest revision in migrations/versions; a test compares them.
HEAD = "0003"
MIGRATIONS = Path(__file__).with_name("migrations")


async def migrate(database: Database) -> None:
    """Does nothing to a database that is up to date; one transaction otherwise."""
    async with database.engine.connect() as connection:
        if await connection.run_sync(_revision) == HEAD:
            return
    async with database.writing.begin() as connection:
        await connection.run_sync(_upgrade)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    # Imported here: it takes 0.3 s, and most starts find nothing to do.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
