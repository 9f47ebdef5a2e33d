"""The settings of exec_svc, from environment variables with the prefix SANDBOX_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SANDBOX_")

    listen: str = Field(description='Where to serve gRPC: "host:port" or "unix:/path".')
    secret_file: Path = Field(description="The platform's signing key, at least 32 bytes.")
    token_file: Path = Field(description="The operator's bearer token, at least 32 characters.")
    database_url: str = Field(description="SQLAlchemy URL of this service's own database.")
