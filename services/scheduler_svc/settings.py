"""What the operator sets, by environment variables SANDBOX_…."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
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
    environments: Path = Field(
        description="Directory of installed packages, kept by what they were made from."
    )
    environments_gib: int = Field(
        20,
        ge=1,
        description="How many GiB of them to keep, besides those in use; "
        "the least recently used go first.",
    )
    package_index_url: SecretStr | None = Field(
        None,
        description="The one index that packages are installed from; "
        "absent: as pip is configured on this machine.",
    )
    package_find_links: str | None = Field(
        None, description="Directory of wheels, or a page with links to some, to install from too."
    )
    package_offline: bool = Field(
        False, description="Ask no index: packages come from links and directories alone."
    )
    link_target: str = Field(description="gRPC target at which executors reach exec_svc.")
