"""Containers as their clients may see them: which there are, their usage, their logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import NotFound

from scheduler_svc.runtimes.base import Runtime, SandboxState, Usage


@dataclass(frozen=True, slots=True)
class Container:
    """A sandbox and what it uses now; None where nothing of it runs."""

    state: SandboxState
    usage: Usage | None


class Containers:
    """Reads the runtime's sandboxes, for one caller at a time."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def page(
        self,
        *,
        status: str | None,
        runtime_type: str | None,
        limit: int,
        offset: int,
        caller: Caller,
    ) -> tuple[Sequence[Container], int]:
        """Those that match, newest first, and how many do. Usage is measured for a page."""
        states = await self._runtime.list() if runtime_type in (None, self._runtime.type) else ()
        found = [
            state
            for state in states
            if _may_see(caller, state) and status in (None, status_of(state))
        ]
        found.sort(key=lambda state: (state.created_at, state.sandbox_id), reverse=True)
        return await self._measured(found[offset : offset + limit]), len(found)

    async def get(self, container_id: str, caller: Caller) -> Container:
        """Raises NotFound where the caller may not see it."""
        (container,) = await self._measured([await self._find(container_id, caller)])
        return container

    async def logs(
        self, container_id: str, *, tail: int, since: datetime | None, follow: bool, caller: Caller
    ) -> AsyncIterator[bytes]:
        """See `Runtime.logs`. Raises NotFound where the caller may not see it."""
        state = await self._find(container_id, caller)
        async for piece in self._runtime.logs(
            state.sandbox_id, tail=tail, since=since, follow=follow
        ):
            yield piece

    async def _find(self, container_id: str, caller: Caller) -> SandboxState:
        # The engine's name is what clients know; the runtime's verbs go by sandbox id.
        for state in await self._runtime.list():
            if state.container_id == container_id and _may_see(caller, state):
                return state
        raise NotFound("Container", container_id)

    async def _measured(self, states: Sequence[SandboxState]) -> list[Container]:
        usage = await self._runtime.usage([state.sandbox_id for state in states])
        return [Container(state, usage.get(state.sandbox_id)) for state in states]


def status_of(state: SandboxState) -> str:
    """The word of `ContainerStatus` for it."""
    return "terminated" if state.stopping else state.status


def _may_see(caller: Caller, state: SandboxState) -> bool:
    """A warm sandbox belongs to no domain: it is the platform's, and so its admins' to see."""
    if not state.session_id:
        return caller.principal.role == "admin"
    return caller.may_see(state.domain)
