"""What the operator sets, by environment variables SANDBOX_…."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from sandbox_rpc.server import ServerSettings


class Settings(ServerSettings):
    """scheduler_svc's settings."""

    runtime: Literal["process"] = Field(
        "process", description="What runs the sandboxes: child processes isolated by bwrap."
    )
    max_sandboxes: int = Field(
        200, ge=1, le=3000, description="How many sandboxes may run at the same time."
    )
    sandboxes: Path = Field(description="Directory of the process runtime's state and logs.")
    workspaces: Path = Field(description="Directory with one workspace for each session.")
    link_target: str = Field(description="gRPC target at which executors reach exec_svc.")
