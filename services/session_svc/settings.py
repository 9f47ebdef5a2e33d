"""What the operator sets, by environment variables SANDBOX_…."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from sandbox_rpc.server import ServerSettings


class Settings(ServerSettings):
    """session_svc's settings."""

    database_url: str = Field(
        description="Database of the service, e.g. sqlite+aiosqlite:////var/lib/sandbox/session.db."
    )
    scheduler_target: str = Field(description="gRPC target of scheduler_svc.")
    exec_target: str = Field(description="gRPC target of exec_svc.")
    runtime: Literal["process"] = Field(
        "process", description="What runs the sandboxes: child processes isolated by bwrap."
    )
