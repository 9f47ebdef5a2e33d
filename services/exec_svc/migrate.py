"""Brings the database to the schema that this code needs."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from exec_svc.database import Database

# The newest revision below migrations/versions; a test compares them.
HEAD = "0003"


async def migrate(database: Database) -> None:
    """Upgrades to HEAD. Two processes that start at once: the second finds it done."""
    await database.write(_upgrade)


def _upgrade(connection: sa.Connection) -> None:
    if sa.inspect(connection).has_table("alembic_version"):
        current = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        if current == HEAD:
            return
    # Imported when needed only: it takes 0.3 s, and most starts find nothing to do.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
