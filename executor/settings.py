"""What the scheduler tells an executor, by environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """`uid` is set only where the executor is started as root and has to drop to it;
    `packages` only for a session that has some, as a directory of installed ones,
    and `preload` names those of them that are imported ahead of runs;
    `cgroups` only where the sandbox has control groups to make its own in."""

    sandbox_id: str
    link_target: str
    token: str
    workspace: Path
    state: Path
    packages: Path | None
    preload: tuple[str, ...]
    uid: int | None
    cgroups: str

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Raises KeyError naming the first variable that is missing."""
        packages, uid = environ.get("SANDBOX_PACKAGES"), environ.get("SANDBOX_UID")
        return cls(
            sandbox_id=environ["SANDBOX_ID"],
            link_target=environ["SANDBOX_LINK_TARGET"],
            token=environ["INTERNAL_API_TOKEN"],
            workspace=Path(environ["SANDBOX_WORKSPACE"]),
            state=Path(environ["SANDBOX_STATE"]),
            packages=Path(packages) if packages else None,
            preload=tuple(filter(None, environ.get("SANDBOX_PRELOAD", "").split(","))),
            uid=int(uid) if uid else None,
            cgroups=environ.get("SANDBOX_CGROUPS", ""),
        )
