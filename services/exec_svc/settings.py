"""The settings of exec_svc, from environment variables with the prefix SANDBOX_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from sandbox_rpc.server import ServerSettings


class Settings(ServerSettings):
    database_url: str = Field(description="SQLAlchemy URL of this service's own database.")
    workspaces: Path = Field(description="Directory with one workspace for each session.")
    files_listen: str = Field(
        description='Where large files are served over HTTP: "unix:/path" or "host:port".'
    )
