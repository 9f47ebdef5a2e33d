"""The migrations of exec_svc make the tables that its code uses, and can be undone."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from exec_svc import migrate as module
from exec_svc.database import Database
from exec_svc.migrate import HEAD, migrate
from exec_svc.models import metadata


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/exec.db"


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


async def test_migrations_make_what_the_models_say(url: str) -> None:
    database = Database(url)
    await migrate(database)
    await migrate(database)  # nothing left to do

    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await database.read(differences) == []
    await database.close()
