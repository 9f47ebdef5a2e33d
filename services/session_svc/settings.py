"""What the operator sets, by environment variables SANDBOX_…."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """session_svc's settings."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_")

    listen: str = Field(description='Where the service listens: "unix:/path" or "host:port".')
    secret_file: Path = Field(description="File with the signing key, at least 32 bytes.")
    token_file: Path = Field(description="File with the operator's bearer token.")
    database_url: str = Field(
        description="Database of the service, e.g. sqlite+aiosqlite:////var/lib/sandbox/session.db."
    )
    scheduler_target: str = Field(description="gRPC target of scheduler_svc.")
    exec_target: str = Field(description="gRPC target of exec_svc.")
    runtime: Literal["process"] = Field(
        "process", description="What runs the sandboxes: child processes isolated by bwrap."
    )
