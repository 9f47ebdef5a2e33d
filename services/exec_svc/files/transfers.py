"""One upload and one download: open descriptors, and threads that work on them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sandbox_rpc.errors import InvalidParameter, StateConflict

from exec_svc.files.disk import Reservation
from exec_svc.files.faults import in_words
from exec_svc.files.limits import CHUNK_BYTES, MAX_FILE_BYTES
from exec_svc.files.paths import checked
from exec_svc.files.staging import Staged
from exec_svc.files.threads import Threads
from exec_svc.files.version import Version
from exec_svc.files.workspace import Workspace

PATH = "Field 'path'"
# A slow upload is use of its session: the shortest idle time that ends one is 60 s.
_IN_USE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Uploaded:
    path: str
    size: int
    sha256: str


class Upload:
    """Bytes on their way into a workspace. `open` first, `close` at last, in any case.

    Methods that are not coroutines block: they are for `run`.
    """

    def __init__(
        self,
        threads: Threads,
        reservation: Reservation,
        in_use: Callable[[], Awaitable[None]],
    ) -> None:
        """`in_use` notes that the session is; it raises StateConflict once that has ended."""
        self._threads = threads
        self._reservation = reservation
        self._in_use = in_use
        self._noted = time.monotonic()
        self._workspace: Workspace | None = None
        self._staged: Staged | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    async def run(self, work: Callable[[bytes], None], data: bytes) -> None:
        """Has a thread take `data` the way to `write`: `write` itself, or a parser before it."""
        await self._threads.run(work, data)
        if time.monotonic() - self._noted > _IN_USE_SECONDS:
            self._noted = time.monotonic()
            await self._in_use()

    async def aim(self, path: str) -> None:
        """Raises at once for a path that `publish` would refuse as things are."""
        await self._threads.run(self.check, path)

    async def publish(self, path: str) -> Uploaded:
        """Puts what was written under `path`. Raises StateConflict, InvalidParameter."""
        await self._in_use()
        await self._threads.run(self._publish, path)
        return Uploaded(path, self._size, self._digest.hexdigest())

    def open(self, workspace: Callable[[], Workspace]) -> None:
        self._workspace = workspace()
        self._staged = self._workspace.stage()

    def check(self, path: str) -> None:
        assert self._workspace is not None
        self._workspace.check_target(checked(path, PATH), PATH)

    def write(self, data: bytes | memoryview) -> None:
        """Raises InvalidParameter where it is too much, ServiceUnavailable on a full disk."""
        assert self._staged is not None
        self._size += len(data)
        if self._size > MAX_FILE_BYTES:
            raise InvalidParameter(f"Field 'file' must have at most {MAX_FILE_BYTES} bytes")
        self._reservation.take(len(data))
        with in_words("Field 'file'", "the workspace", reading=False):
            self._staged.write(data)
        self._digest.update(data)

    def close(self) -> None:
        if self._staged is not None:
            self._staged.close()
        if self._workspace is not None:
            self._workspace.close()

    def _publish(self, path: str) -> None:
        assert self._workspace is not None
        assert self._staged is not None
        self._workspace.publish(self._staged, checked(path, PATH), PATH)
        self._reservation.settle(kept=True)


class Download:
    """A file that is open. `open` first, `close` at last, in any case; both block."""

    version: Version

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._descriptor: int | None = None

    def open(self, workspaces: Callable[[], Workspace], path: str) -> None:
        with workspaces() as workspace:
            self._descriptor, self.version = workspace.open(path, PATH)

    async def chunks(self, offset: int, size: int) -> AsyncIterator[bytes]:
        """`size` bytes from `offset` on, CHUNK_BYTES at a time.

        Raises StateConflict where the file has become shorter: what came before is not it.
        """
        assert self._descriptor is not None
        end = offset + size
        while offset < end:
            wanted = min(CHUNK_BYTES, end - offset)
            data = await self._threads.run(os.pread, self._descriptor, wanted, offset)
            if not data:
                raise StateConflict(f"'{self.version.path}' became shorter while it was read")
            offset += len(data)
            yield data

    async def whole(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks(0, self.version.size)])

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
