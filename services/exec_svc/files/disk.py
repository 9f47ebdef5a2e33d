"""How much of its disk each session has left for uploads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sandbox_rpc.errors import InvalidParameter

# A measurement is good for this many times as long as it took, so that a session with a
# million files keeps a thread busy for at most a tenth of the time.
_GOOD_FOR = 10


@dataclass(eq=False)
class _Account:
    """All in bytes. `added` came since `used` was measured, `pending` has no name yet."""

    used: int = 0
    added: int = 0
    pending: int = 0
    uploads: int = 0
    good_until: float = 0.0
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)
    changing: threading.Lock = field(default_factory=threading.Lock)


class Reservation:
    """What one upload takes. `take` is for the upload's thread, which counts as it writes."""

    def __init__(self, account: _Account, limit: int) -> None:
        self._account = account
        self._limit = limit
        self._taken = 0

    def take(self, size: int) -> None:
        """Raises InvalidParameter where `size` more bytes do not fit."""
        account = self._account
        with account.changing:
            left = self._limit - account.used - account.added - account.pending
            if size > left:
                raise InvalidParameter(
                    f"Field 'file' does not fit on the session's disk of {self._limit} bytes, "
                    f"of which {max(0, left + self._taken)} are left"
                )
            account.pending += size
        self._taken += size

    def settle(self, *, kept: bool) -> None:
        """The upload has its name, or is gone."""
        with self._account.changing:
            self._account.pending -= self._taken
            self._account.added += self._taken if kept else 0
        self._taken = 0


class Disk:
    """The sessions' disks. Uploads of one session at the same time share what is left."""

    def __init__(
        self,
        measure: Callable[[str], Awaitable[int]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`measure` answers how many bytes a session's workspace takes."""
        self._measure = measure
        self._monotonic = monotonic
        self._accounts: dict[str, _Account] = {}

    @asynccontextmanager
    async def reserve(self, session_id: str, limit: int) -> AsyncIterator[Reservation]:
        """A reservation of nothing yet, given back at the end unless it was settled.

        Raises what `measure` raises.
        """
        self._forget_old()
        account = self._accounts.setdefault(session_id, _Account())
        account.uploads += 1
        reservation = Reservation(account, limit)
        try:
            await self._keep_true(session_id, account)
            yield reservation
        finally:
            reservation.settle(kept=False)
            account.uploads -= 1

    async def _keep_true(self, session_id: str, account: _Account) -> None:
        async with account.measuring:
            began = self._monotonic()
            if account.good_until <= began:
                added = account.added
                account.used = await self._measure(session_id)
                with account.changing:
                    account.added -= added  # the measurement has seen it
                ended = self._monotonic()
                account.good_until = ended + _GOOD_FOR * (ended - began)

    def _forget_old(self) -> None:
        now = self._monotonic()
        for session_id, account in list(self._accounts.items()):
            if not account.uploads and account.good_until <= now:
                del self._accounts[session_id]
