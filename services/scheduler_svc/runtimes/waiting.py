"""Sandboxes of the process runtime that wait for their packages before they start."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sandbox_rpc.errors import SandboxError, StateConflict

from scheduler_svc.packages.environments import Environment, Environments
from scheduler_svc.runtimes.base import Changed, Removed, SandboxSpec, SandboxState
from scheduler_svc.runtimes.feed import Feed

log = logging.getLogger(__name__)

Launch = Callable[[SandboxSpec, Environment], SandboxState]


@dataclass(slots=True)
class _Waiting:
    spec: SandboxSpec
    created_at: datetime
    reason: str = ""
    task: asyncio.Task[SandboxState] = field(init=False)


class WaitingRoom:
    """What is `creating`. It goes on when whoever asked for it goes away; `stop` ends it.

    `launch` starts a sandbox whose packages are there, in one step of the event loop.
    """

    def __init__(self, environments: Environments, feed: Feed, node: str, launch: Launch) -> None:
        self._environments = environments
        self._feed = feed
        self._node = node
        self._launch = launch
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._waiting

    async def start(self, spec: SandboxSpec) -> SandboxState:
        """Answers when the sandbox runs. Raises InstallError, and what `launch` raises;
        StateConflict when it was stopped before that."""
        waiting = self._waiting.get(spec.sandbox_id)
        if waiting is None:
            waiting = self._waiting[spec.sandbox_id] = _Waiting(spec, datetime.now(UTC))
            waiting.task = asyncio.get_running_loop().create_task(
                self._prepare(waiting), context=contextvars.Context()
            )
            waiting.task.add_done_callback(lambda task: _note_end(spec.sandbox_id, task))
        await asyncio.wait({waiting.task})
        if waiting.task.cancelled():
            raise StateConflict("the sandbox was stopped before it had started")
        return waiting.task.result()

    async def stop(self, sandbox_id: str) -> None:
        """Ends the wait; absent is fine."""
        if waiting := self._waiting.get(sandbox_id):
            waiting.task.cancel()
            await asyncio.wait({waiting.task})

    def states(self) -> Sequence[SandboxState]:
        return [self._state(waiting) for waiting in self._waiting.values()]

    def state(self, sandbox_id: str) -> SandboxState | None:
        waiting = self._waiting.get(sandbox_id)
        return self._state(waiting) if waiting else None

    async def close(self) -> None:
        for sandbox_id in tuple(self._waiting):
            await self.stop(sandbox_id)

    async def _prepare(self, waiting: _Waiting) -> SandboxState:
        spec = waiting.spec

        def report(progress: str) -> None:
            if progress != waiting.reason:
                waiting.reason = progress
                self._feed.publish(Changed(self._state(waiting)))

        try:
            async with self._environments.hold(spec.packages, report) as environment:
                state = self._launch(spec, environment)
        except BaseException:
            del self._waiting[spec.sandbox_id]
            self._feed.publish(Removed(spec.sandbox_id))
            raise
        del self._waiting[spec.sandbox_id]
        return state

    def _state(self, waiting: _Waiting) -> SandboxState:
        spec = waiting.spec
        return SandboxState(
            sandbox_id=spec.sandbox_id,
            session_id=spec.session_id,
            generation=spec.generation,
            template_id=spec.template_id,
            domain=spec.domain,
            resources=spec.resources,
            status="creating",
            node=self._node,
            container_id=spec.sandbox_id,
            created_at=waiting.created_at,
            reason=waiting.reason or None,
        )


def _note_end(sandbox_id: str, task: asyncio.Task[SandboxState]) -> None:
    """For the log; and whoever waited may be gone, so that nobody else reads the error."""
    if not task.cancelled() and (error := task.exception()):
        detail = error.detail if isinstance(error, SandboxError) else repr(error)
        log.warning("%s was not started: %s", sandbox_id, detail)
