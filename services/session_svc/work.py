"""Work on one session that outlives the request which asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sandbox_rpc.errors import InternalError, SandboxError

T = TypeVar("T")


class Work:
    """A creation or a recovery under way. `task` answers with the error to be told, if any."""

    task: asyncio.Task[SandboxError | None]

    def __init__(self) -> None:
        self._given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._deaths: dict[str, asyncio.Future[str]] = {}

    def give_up(self, reason: str) -> None:
        """The session has ended meanwhile: what the work waits for is worth nothing."""
        _settle(self._given_up, reason)

    def note_death(self, sandbox_id: str, how: str) -> None:
        _settle(self._death_of(sandbox_id), how)

    @property
    def has_seen_death(self) -> bool:
        return any(death.done() for death in self._deaths.values())

    async def wait(self, awaitable: Awaitable[T], *, sandbox_id: str | None = None) -> T:
        """Waits, but not past the end of the session or of the sandbox that is named.

        Raises InternalError with the reason of that end, and what `awaitable` raises.
        """
        waiting = asyncio.ensure_future(awaitable)
        ends = [self._given_up, *([self._death_of(sandbox_id)] if sandbox_id else [])]
        first: list[asyncio.Future[Any]] = [waiting, *ends]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            reason = next(end.result() for end in ends if end.done())
        finally:
            waiting.cancel()
        raise InternalError(reason)

    def _death_of(self, sandbox_id: str) -> asyncio.Future[str]:
        if sandbox_id not in self._deaths:
            self._deaths[sandbox_id] = asyncio.get_running_loop().create_future()
        return self._deaths[sandbox_id]


class Works:
    """At most one work for each session."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}
        # Set when a sandbox died during a work: what the work left may need another look.
        self.look_again = asyncio.Event()

    def get(self, session_id: str) -> Work | None:
        return self._works.get(session_id)

    def start(
        self, session_id: str, make: Callable[[Work], Awaitable[SandboxError | None]]
    ) -> Work:
        """The session's work: the one under way, or a new one."""
        if session_id in self._works:
            return self._works[session_id]
        work = self._works[session_id] = Work()

        async def run() -> SandboxError | None:
            try:
                return await make(work)
            finally:
                del self._works[session_id]
                if work.has_seen_death:
                    self.look_again.set()

        work.task = asyncio.create_task(run())
        return work

    async def close(self) -> None:
        """Cuts all work off; the next session_svc takes it up from the rows."""
        tasks = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _settle(future: asyncio.Future[str], reason: str) -> None:
    if not future.done():
        future.set_result(reason)
