"""Brings what is in line with what the rows say, after whatever has gone wrong.

It follows scheduler_svc's watch, so that a lost sandbox is replaced at once, and
compares everything at the start and every 30 s, so that nothing stays unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from sandbox.execution.v1.attachment_pb2 import Attachment
from sandbox.scheduler.v1.scheduler_pb2 import Sandbox, SandboxStatus
from sandbox_rpc.errors import SandboxError

from session_svc.clients import Attachments, Scheduler
from session_svc.clock import Clock
from session_svc.lifecycle import ENDED, Lifecycle, is_used_up
from session_svc.models import LIVE, SessionRow, session_of
from session_svc.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
WATCH_AGAIN_SECONDS = 1.0
# Three heartbeats of an executor, see exec_svc: after that its runs are given up too.
SILENCE_SECONDS = 15.0


class Reconciler:
    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        attachments: Attachments,
        lifecycle: Lifecycle,
        clock: Clock,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._attachments = attachments
        self._lifecycle = lifecycle
        self._clock = clock

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reconcile_for_ever())
            group.create_task(self._follow_for_ever())

    async def reconcile(self) -> None:
        """One comparison of everything. Raises when a service does not answer."""
        for row in await self._store.with_status("creating"):
            self._lifecycle.resume(row)
        for row in await self._store.unreleased():
            await attempt(f"releasing {row.session_id}", self._lifecycle.release(row))
        await self._store.forget_old_keys()
        # The rows first: what they promised must be there when the services are asked.
        rows = await self._store.with_status("running")
        sandboxes = await self._scheduler.list()
        await self._remove_orphans(sandboxes.values())
        attachments = await self._attachments.list(row.session_id for row in rows)
        for row in rows:
            attachment = attachments.get(row.session_id)
            if reason := _what_is_wrong(row, sandboxes.get(row.sandbox_id), attachment):
                await self._replace(row, reason, attachment)

    async def note_end(self, sandbox_id: str, how: str) -> None:
        """Deals with a sandbox that has ended or is gone."""
        self._lifecycle.note_end_of(sandbox_id, how)
        session_id, generation = session_of(sandbox_id) or ("", 0)
        row = await self._store.get(session_id)
        if row and row.status == "running" and row.generation == generation:
            attachments = await self._attachments.list([session_id])
            await self._replace(row, how, attachments.get(session_id))

    async def _replace(self, row: SessionRow, reason: str, attachment: Attachment | None) -> None:
        if is_used_up(row, attachment):
            await self._lifecycle.end(row, "completed", None)
        else:
            self._lifecycle.recover(row, reason)

    async def _remove_orphans(self, sandboxes: Iterable[Sandbox]) -> None:
        for sandbox in sandboxes:
            if not sandbox.session_id:
                continue  # warm: scheduler_svc's own
            # Asked for now, after the sandbox was seen: it cannot be older than its row.
            row = await self._store.get(sandbox.session_id)
            if row is None or row.status not in LIVE or row.generation != sandbox.generation:
                log.info("removing %s, which no session owns", sandbox.sandbox_id)
                await attempt(
                    f"stopping {sandbox.sandbox_id}", self._scheduler.stop(sandbox.sandbox_id)
                )

    async def _reconcile_for_ever(self) -> None:
        look_again = self._lifecycle.works.look_again
        while True:
            look_again.clear()
            await attempt("reconciling", self.reconcile())
            waits = [
                asyncio.ensure_future(wait)
                for wait in (self._clock.sleep(PERIOD_SECONDS), look_again.wait())
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    async def _follow_for_ever(self) -> None:
        while True:
            await attempt("watching sandboxes", self._follow())
            await self._clock.sleep(WATCH_AGAIN_SECONDS)

    async def _follow(self) -> None:
        async for message in self._scheduler.watch():
            match message.WhichOneof("kind"):
                case "changed" if message.changed.status == SandboxStatus.creating:
                    await self._store.note_progress(message.changed)
                case "changed" if message.changed.status in ENDED:
                    how = message.changed.reason or "the executor ended"
                    await self.note_end(message.changed.sandbox_id, how)
                case "removed":
                    await self.note_end(message.removed, "the sandbox is gone")
                case "snapshot_complete":
                    self._lifecycle.works.look_again.set()


def _what_is_wrong(
    row: SessionRow, sandbox: Sandbox | None, attachment: Attachment | None
) -> str | None:
    """Why a running session needs another sandbox; None where all is well."""
    if sandbox is None:
        return "the sandbox is gone"
    if sandbox.status in ENDED:
        return sandbox.reason or "the executor ended"
    if attachment is None or attachment.sandbox_id != row.sandbox_id:
        return "the sandbox was never attached"
    if attachment.HasField("silent_for"):
        silence = attachment.silent_for.ToTimedelta().total_seconds()
        if silence > SILENCE_SECONDS:
            return f"the executor has been silent for {silence:.0f} s"
    return None


async def attempt(what: str, awaitable: Awaitable[T]) -> T | None:
    """Its result; or None and a line in the log: a loop that ends would leave sessions for ever."""
    try:
        return await awaitable
    except SandboxError as error:
        log.warning("%s: %s", what, error.detail)
    except Exception:
        log.exception("%s: unexpected error", what)
    return None
