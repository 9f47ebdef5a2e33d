"""How many transfers there may be at once: each holds a descriptor and some memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_rpc.errors import TooManyRequests


class Slots:
    """At most `most` of `things` at once, and `each` of one session's."""

    def __init__(self, things: str, *, most: int, each: int) -> None:
        self._things = things
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, session_id: str) -> Iterator[None]:
        """Takes a slot for the block. Raises TooManyRequests at once where none is free."""
        if self._taken[session_id] >= self._each:
            raise TooManyRequests(f"the session has {self._each} {self._things} running already")
        if self._taken.total() >= self._most:
            raise TooManyRequests(f"the platform has {self._most} {self._things} running already")
        self._taken[session_id] += 1
        try:
            yield
        finally:
            self._taken[session_id] -= 1
            if not self._taken[session_id]:
                del self._taken[session_id]
