"""The seam between scheduler_svc and whatever runs the sandboxes.

`tests/runtime/` holds the contract as tests that run unchanged against every
implementation.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from sandbox_rpc.errors import InvalidParameter

RuntimeType = Literal["process", "docker", "kubernetes"]
Status = Literal["creating", "running", "completed", "failed"]

_SESSION_ID = re.compile(r"sess_([a-z0-9]{16})")


@dataclass(frozen=True, slots=True)
class Resources:
    """As the session has them, e.g. cpu "1", memory "512Mi", disk "1Gi", 128 processes."""

    cpu: str
    memory: str
    disk: str
    max_processes: int


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox that shall run. `token` is the executor's own; it is kept out of logs.

    `packages` are Python requirements that code in it can import; `preload` names those
    whose modules its interpreter imports ahead.
    """

    sandbox_id: str
    session_id: str
    generation: int
    template_id: str
    domain: str
    resources: Resources
    token: str = field(repr=False)
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxState:
    """A sandbox as the runtime sees it.

    `exit_code` is 128 + n after signal n, and None while it runs or where the runtime
    could not learn it. `reason` says in words how it ended, or what it waits
    for while it is `creating`; it is shown to clients.
    `ended_at` is None also where nobody saw the end. `stopping`: told to stop, not yet gone.
    `session_id` and `domain` are empty for a warm sandbox that no session has claimed.
    """

    sandbox_id: str
    session_id: str
    generation: int
    template_id: str
    domain: str
    resources: Resources
    status: Status
    node: str
    container_id: str
    created_at: datetime
    pod_name: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    ended_at: datetime | None = None
    stopping: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of a sandbox use: CPU in percent of one core, memory in bytes, and
    how many processes and threads there are."""

    cpu_percent: float
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A sandbox as it is now."""

    state: SandboxState


@dataclass(frozen=True, slots=True)
class Removed:
    """There is no trace of the sandbox any more."""

    sandbox_id: str


@dataclass(frozen=True, slots=True)
class SnapshotComplete:
    """What came before is what there was at the start of the watch."""


Change = Changed | Removed | SnapshotComplete


class Runtime(Protocol):
    """Starts, stops and watches sandboxes. Every verb may be repeated."""

    @property
    def type(self) -> RuntimeType: ...

    async def start(self, spec: SandboxSpec) -> SandboxState:
        """Starts a sandbox, or finds the one of this id, ended or not.

        Installs its packages before, which may take minutes: it is `creating` meanwhile, and
        becomes so without the caller, should that go away. `stop` ends it.

        Raises TooManyRequests where there is no room, StateConflict where the runtime
        cannot isolate or the packages cannot be installed, ServiceUnavailable where its
        engine is down.
        """

    async def stop(self, sandbox_id: str) -> None:
        """Ends its processes and removes all trace of it but the workspace; absent is success."""

    async def status(self, sandbox_id: str) -> SandboxState | None:
        """One sandbox; None when there is no trace of it."""

    async def list(self) -> Sequence[SandboxState]:
        """All sandboxes, ended ones too, oldest first."""

    def watch(self) -> AsyncIterator[Change]:
        """All sandboxes, SnapshotComplete, then each change.

        Ends when the runtime closes; raises ServiceUnavailable when the reader falls too
        far behind. Either way the reader watches again.
        """

    async def usage(self, sandbox_ids: Sequence[str]) -> Mapping[str, Usage]:
        """What each of these uses now, by its id; one that does not run is left out.

        Takes a fraction of a second, for all together: CPU use is measured over a time.
        """

    def logs(
        self, sandbox_id: str, *, tail: int, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """The last `tail` lines that the executor printed, and of these only those since
        `since`. Each begins with its time (RFC 3339, UTC), unless it continues another.

        The first piece may be empty: it says that there is such a log. With `follow` new
        lines come as they are written, until the sandbox has ended. Raises NotFound without
        a trace of the sandbox, ServiceUnavailable where the runtime closes meanwhile.
        """

    async def close(self) -> None:
        """Ends the watches and lets go. Sandboxes run on."""


def sandbox_id(session_id: str, generation: int) -> str:
    """`sess_0123456789abcdef`, 1 -> `sbx_0123456789abcdef-1`: the same each time.

    Raises InvalidParameter: names of containers and directories are made of it.
    """
    session = _SESSION_ID.fullmatch(session_id)
    if session is None:
        raise InvalidParameter("Field 'session_id' must match ^sess_[a-z0-9]{16}$")
    if generation < 1:
        raise InvalidParameter("Field 'generation' must be at least 1")
    return f"sbx_{session[1]}-{generation}"
