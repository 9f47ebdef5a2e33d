"""One stream of changes, any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from sandbox_rpc.errors import SandboxError, ServiceUnavailable

from scheduler_svc.runtimes.base import Change

# A reader that is this many changes behind is cut off: a new snapshot tells it the same.
MAX_BEHIND = 4096


@dataclass(frozen=True, slots=True)
class _Last:
    """Ends a reader: with an error, or without one when the feed has closed."""

    error: SandboxError | None


class Feed:
    """Hands each change to every reader; a slow reader never holds up the others."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[Change | _Last]] = set()
        self._closed = False

    def publish(self, change: Change) -> None:
        for reader in tuple(self._readers):
            if reader.full():
                self._end(reader, ServiceUnavailable(f"the watch fell {MAX_BEHIND} changes behind"))
            else:
                reader.put_nowait(change)

    async def read(self, snapshot: Callable[[], Sequence[Change]]) -> AsyncIterator[Change]:
        """What `snapshot` returns, then every change since. Ends when the feed closes.

        Raises ServiceUnavailable when the reader has fallen too far behind.
        """
        if self._closed:
            return
        reader: asyncio.Queue[Change | _Last] = asyncio.Queue(MAX_BEHIND)
        # No await between these two: nothing can happen that neither of them holds.
        changes = snapshot()
        self._readers.add(reader)
        try:
            for change in changes:
                yield change
            while not isinstance(item := await reader.get(), _Last):
                yield item
            if item.error:
                raise item.error
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        self._closed = True
        for reader in tuple(self._readers):
            self._end(reader, None)

    def _end(self, reader: asyncio.Queue[Change | _Last], error: SandboxError | None) -> None:
        self._readers.discard(reader)
        if reader.full():
            reader.get_nowait()
        reader.put_nowait(_Last(error))
