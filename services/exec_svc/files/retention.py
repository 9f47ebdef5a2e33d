"""Removes the workspaces of sessions that ended a day ago."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta

from exec_svc.files.removal import Stopped
from exec_svc.files.threads import Threads
from exec_svc.files.workspace import NoWorkspace, Workspaces
from exec_svc.journal import Clock, utc_now
from exec_svc.session_store import SessionStore

log = logging.getLogger(__name__)

KEPT = timedelta(hours=24)
_PAUSE_SECONDS = 600.0


class Retention:
    """What is to go is what the disk holds and the database calls ended: nothing is noted
    down in between, so a crash at any point costs nothing but time."""

    def __init__(
        self, sessions: SessionStore, workspaces: Workspaces, clock: Clock = utc_now
    ) -> None:
        self._sessions = sessions
        self._workspaces = workspaces
        self._clock = clock
        # Removing a million files takes a while, and nobody waits for it.
        self._threads = Threads("retention", 1)
        self._stop = threading.Event()

    async def watch(self) -> None:
        """For ever. Starts with what a crash left of uploads."""
        try:
            await self._threads.run(self._sweep_uploads)
        except Exception:  # no upload depends on it
            log.exception("what is left of earlier uploads was not removed")
        while True:
            try:
                await self.remove_old()
            except Exception:  # a database that is away for a moment must not end the watch
                log.exception("old workspaces were not removed; trying again")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def remove_old(self) -> None:
        names = await self._threads.run(self._workspaces.names)
        for session_id in await self._sessions.closed_before(self._clock() - KEPT, names):
            try:
                await self._threads.run(self._workspaces.remove, session_id, self._stop.is_set)
            except Stopped:
                return
            except OSError:  # the others must not stay for it
                log.exception("the workspace of %s was not removed", session_id)
            else:
                log.info("removed the workspace of %s", session_id)

    def close(self) -> None:
        """Stops soon; what is left of a workspace goes at the next start."""
        self._stop.set()
        self._threads.close()

    def _sweep_uploads(self) -> None:
        for session_id in self._workspaces.names():
            try:
                with self._workspaces.open(session_id) as workspace:
                    workspace.sweep()
            except (NoWorkspace, OSError):
                log.warning("uploads to %s were not looked through", session_id)
