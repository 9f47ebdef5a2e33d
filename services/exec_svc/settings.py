"""The settings of exec_svc, from environment variables with the prefix SANDBOX_."""

from __future__ import annotations

from pydantic import Field
from sandbox_rpc.server import ServerSettings


class Settings(ServerSettings):
    database_url: str = Field(description="SQLAlchemy URL of this service's own database.")
