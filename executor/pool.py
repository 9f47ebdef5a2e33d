"""Sandboxes made ahead, so that a run does not wait for bwrap and an interpreter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from executor.bwrap import IsolationError
from executor.sandbox import Sandbox


class Pool:
    """Keeps `size` idle sandboxes; each is used once.

    A sandbox that cannot be made ahead is not an error here: `take` then makes one while
    the caller waits, and raises what that raises.
    """

    def __init__(self, make: Callable[[], Awaitable[Sandbox]], size: int) -> None:
        self._make = make
        self._size = size
        self._idle: deque[Sandbox] = deque()
        self._refill: asyncio.Task[None] | None = None

    async def prove(self) -> None:
        """Makes the first sandbox. Raises IsolationError where nothing may run."""
        if not self._idle:
            self._idle.append(await self._make())

    async def take(self) -> Sandbox:
        sandbox = self._idle.popleft() if self._idle else await self._make()
        self.refill()
        return sandbox

    def refill(self) -> None:
        """Starts making what is missing, in the background."""
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill())

    async def close(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        while self._idle:
            await self._idle.popleft().close()

    async def _fill(self) -> None:
        while len(self._idle) < self._size:
            try:
                self._idle.append(await self._make())
            except (IsolationError, OSError):
                return  # the next take tries again, and has somebody to tell
