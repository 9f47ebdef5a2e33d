"""Wakes readers when something they follow is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

# Executions that a transaction changed, and whether each has ended with it.
Changes = Mapping[str, bool]


@dataclass
class _Readers:
    of_all: set[asyncio.Event] = field(default_factory=set)
    of_end: set[asyncio.Event] = field(default_factory=set)


class Hub:
    """Readers subscribe before they look at the database, so no change slips between."""

    def __init__(self) -> None:
        self._readers: dict[str, _Readers] = {}

    @contextmanager
    def subscribe(self, execution_id: str, *, only_end: bool = False) -> Iterator[asyncio.Event]:
        """An event that is set at every change, or at the end alone; the reader clears it."""
        event = asyncio.Event()
        readers = self._readers.setdefault(execution_id, _Readers())
        mine = readers.of_end if only_end else readers.of_all
        mine.add(event)
        try:
            yield event
        finally:
            mine.discard(event)
            if not readers.of_all and not readers.of_end:
                self._readers.pop(execution_id, None)

    def notify(self, changes: Changes) -> None:
        for execution_id, ended in changes.items():
            readers = self._readers.get(execution_id)
            if readers is None:
                continue
            for event in readers.of_all | readers.of_end if ended else readers.of_all:
                event.set()
