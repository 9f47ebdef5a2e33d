"""Sandboxes made ahead, so that a run does not wait for bwrap and an interpreter."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from executor.bwrap import IsolationError
from executor.cell import Cell

log = logging.getLogger(__name__)


class Pool:
    """Keeps `size` idle sandboxes; each is used once.

    A sandbox that cannot be made ahead is not an error here: `take` then makes one while
    the caller waits, and raises what that raises.
    """

    def __init__(self, make: Callable[[], Awaitable[Cell]], size: int) -> None:
        self._make = make
        self._size = size
        self._idle: deque[Cell] = deque()
        self._refill: asyncio.Task[None] | None = None
        self._first = asyncio.Event()  # the first refill made a sandbox, or gave up

    async def prove(self) -> None:
        """Returns when there is a sandbox. Raises IsolationError where nothing may run."""
        if not self._idle and self._refill is not None:
            await self._first.wait()
        if not self._idle:
            self._idle.append(await self._make())

    async def take(self) -> Cell:
        cell = self._idle.popleft() if self._idle else await self._make()
        self.refill()
        return cell

    def refill(self) -> None:
        """Starts making what is missing, in the background."""
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill())

    def idle(self) -> list[Cell]:
        return list(self._idle)

    async def close(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        while self._idle:
            await self._idle.popleft().close()

    async def _fill(self) -> None:
        try:
            while len(self._idle) < self._size:
                self._idle.append(await self._make())
                self._first.set()
        except (IsolationError, OSError) as error:
            log.warning("no sandbox ahead: %s", error)  # the next take tries again
        finally:
            self._first.set()
