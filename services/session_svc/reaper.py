"""Ends sessions that have been idle for their timeout."""

from __future__ import annotations

from datetime import timedelta

from session_svc.clients import Attachments
from session_svc.clock import Clock
from session_svc.lifecycle import Lifecycle
from session_svc.queries import last_activity
from session_svc.reconciler import attempt
from session_svc.store import Store

# No session can expire within less than its timeout (60 s at least) after it was made,
# so a sleep of this length misses none.
MAX_SLEEP_SECONDS = 30.0
RETRY_SECONDS = 1.0


class Reaper:
    def __init__(
        self, store: Store, attachments: Attachments, lifecycle: Lifecycle, clock: Clock
    ) -> None:
        self._store = store
        self._attachments = attachments
        self._lifecycle = lifecycle
        self._clock = clock

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            seconds = await attempt("reaping", self.reap())
            await self._clock.sleep(RETRY_SECONDS if seconds is None else seconds)

    async def reap(self) -> float:
        """Ends what is due and answers in how many seconds to look again.

        Raises ServiceUnavailable, and ends nothing, when exec_svc does not answer.
        """
        rows = await self._store.expired()
        attachments = await self._attachments.list(row.session_id for row in rows) if rows else {}
        now = self._clock.now()
        for row in rows:
            last_activity_at = row.last_activity_at
            if attachment := attachments.get(row.session_id):
                last_activity_at = last_activity(row, attachment, now)
            if last_activity_at + timedelta(seconds=row.timeout) > now:
                await self._store.touch(row, last_activity_at)
            else:
                reason = f"idle for {row.timeout} s"
                await attempt(
                    f"ending {row.session_id}", self._lifecycle.end(row, "timeout", reason)
                )
        expiry = await self._store.next_expiry()
        if expiry is None:
            return MAX_SLEEP_SECONDS
        return min(MAX_SLEEP_SECONDS, max(0.0, (expiry - now).total_seconds()))
