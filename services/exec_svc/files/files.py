"""What FileService, its REST form and the file server call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sandbox.executor.v1 import link_pb2
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import NotFound, StateConflict

from exec_svc.database import Row
from exec_svc.files import limits
from exec_svc.files.disk import Disk
from exec_svc.files.paths import checked, checked_prefix
from exec_svc.files.slots import Slots
from exec_svc.files.threads import Threads
from exec_svc.files.transfers import PATH, Download, Upload
from exec_svc.files.turns import Turns
from exec_svc.files.version import Version
from exec_svc.files.workspace import NoWorkspace, Workspace, Workspaces
from exec_svc.journal import Clock, utc_now
from exec_svc.session_store import SessionStore

T = TypeVar("T")


class Files:
    """The files of all sessions. A foreign session is the same NotFound as an unknown one."""

    def __init__(
        self, sessions: SessionStore, workspaces: Workspaces, clock: Clock = utc_now
    ) -> None:
        self._sessions = sessions
        self._workspaces = workspaces
        self._clock = clock
        self._transfers = Threads("transfer", limits.TRANSFER_THREADS)
        # Apart, so that looking through millions of files holds no transfer up.
        self._walks = Threads("walk", limits.WALK_THREADS)
        self._turns = Turns()
        self._uploads = Slots("uploads", most=limits.UPLOADS, each=limits.UPLOADS_OF_A_SESSION)
        self._downloads = Slots(
            "downloads", most=limits.DOWNLOADS, each=limits.DOWNLOADS_OF_A_SESSION
        )
        self._disk = Disk(lambda session_id: self._walk(session_id, Workspace.bytes_used))

    def close(self) -> None:
        """Waits for the file work that runs."""
        self._transfers.close()
        self._walks.close()

    @asynccontextmanager
    async def uploading(self, session_id: str, caller: Caller) -> AsyncIterator[Upload]:
        """An upload; nothing is left of it after the block unless it was published.

        Raises NotFound for the session, StateConflict where it has ended or has no
        workspace yet, TooManyRequests.
        """
        row = await self._session(session_id, caller)
        await self._use(session_id)
        config = link_pb2.SessionConfig.FromString(row.config)
        disk = config.disk_bytes or limits.DEFAULT_DISK_BYTES
        with self._uploads.one(session_id):
            async with self._disk.reserve(session_id, disk) as reservation:
                upload = Upload(self._transfers, reservation, lambda: self._use(session_id))
                try:
                    await self._transfers.run(upload.open, self._opener(session_id))
                    yield upload
                finally:
                    await self._transfers.run(upload.close)

    @asynccontextmanager
    async def downloading(
        self, session_id: str, path: str, caller: Caller
    ) -> AsyncIterator[Download]:
        """A file, open for the block. Raises NotFound, InvalidParameter, TooManyRequests."""
        await self._session(session_id, caller)
        async with self.granted(session_id, path) as download:
            yield download

    @asynccontextmanager
    async def granted(self, session_id: str, path: str) -> AsyncIterator[Download]:
        """Like `downloading`, for someone whose right to the file is settled already."""
        path = checked(path, PATH)
        with self._downloads.one(session_id):
            download = Download(self._transfers)
            try:
                try:
                    await self._transfers.run(download.open, self._opener(session_id), path)
                except NoWorkspace:
                    raise NotFound("File", path) from None
                yield download
            finally:
                await self._transfers.run(download.close)

    async def page(
        self, session_id: str, prefix: str, caller: Caller, *, offset: int, limit: int
    ) -> tuple[list[Version], int]:
        """Some of the files whose path begins with `prefix`, by path, and how many there are."""
        await self._session(session_id, caller)
        directory, start = checked_prefix(prefix)

        def look(workspace: Workspace) -> tuple[list[Version], int]:
            return workspace.page(directory, start, offset=offset, limit=limit)

        try:
            return await self._walk(session_id, look)
        except NoWorkspace:
            return [], 0

    async def delete(self, session_id: str, path: str, caller: Caller) -> None:
        """Raises NotFound, InvalidParameter."""
        await self._session(session_id, caller)
        path = checked(path, PATH)

        def remove() -> None:
            with self._workspaces.open(session_id) as workspace:
                workspace.delete(path, PATH)

        try:
            await self._transfers.run(remove)
        except NoWorkspace:
            raise NotFound("File", path) from None
        await self._sessions.touch(session_id, self._clock())

    async def _session(self, session_id: str, caller: Caller) -> Row:
        row = await self._sessions.get(session_id)
        caller.require(row.domain, "Session", session_id)
        telemetry.note(session__id=session_id)
        return row

    async def _use(self, session_id: str) -> None:
        if not await self._sessions.touch(session_id, self._clock()):
            raise StateConflict(f"session '{session_id}' has ended")

    async def _walk(self, session_id: str, work: Callable[[Workspace], T]) -> T:
        """Looks through a workspace; one at a time for each session."""

        def look() -> T:
            with self._workspaces.open(session_id) as workspace:
                return work(workspace)

        async with self._turns.of(session_id):
            return await self._walks.run(look)

    def _opener(self, session_id: str) -> Callable[[], Workspace]:
        return lambda: self._workspaces.open(session_id)
