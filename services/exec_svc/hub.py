"""Wakes readers when something they follow is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Hub:
    """Readers subscribe before they look at the database, so no change slips between."""

    def __init__(self) -> None:
        self._readers: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def subscribe(self, execution_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change; the reader clears it before it looks."""
        event = asyncio.Event()
        self._readers.setdefault(execution_id, set()).add(event)
        try:
            yield event
        finally:
            readers = self._readers[execution_id]
            readers.discard(event)
            if not readers:
                del self._readers[execution_id]

    def notify(self, execution_ids: Iterable[str]) -> None:
        for execution_id in execution_ids:
            for event in self._readers.get(execution_id, ()):
                event.set()
