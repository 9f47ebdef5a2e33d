"""Waiting for files to grow, by inotify(7): no reader has to look again and again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_MODIFY = 0x2
# struct inotify_event: watch, mask, cookie, length of the name that follows.
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Growth:
    """Wakes the readers of files that are written to.

    One inotify instance for all of them: a user may have no more than 128
    (/proc/sys/fs/inotify/max_user_instances), but thousands of watches. It is made for
    the first reader. Used from one event loop.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._readers: dict[int, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def watch(self, path: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever the file was written to. Raises OSError."""
        fd = self._open()
        # The same file gives the same watch; a file that is removed ends its watch.
        watch = _checked(_libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY))
        grown = asyncio.Event()
        readers = self._readers[watch]
        readers.add(grown)
        try:
            yield grown
        finally:
            readers.discard(grown)
            if not readers and self._readers.pop(watch, None) is not None:
                _libc.inotify_rm_watch(fd, watch)

    def wake(self) -> None:
        """Sets every reader's event: something else has happened that they should see."""
        for readers in self._readers.values():
            for reader in readers:
                reader.set()

    def close(self) -> None:
        self.wake()
        self._readers.clear()
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self._fd

    def _read(self) -> None:
        assert self._fd is not None
        data = os.read(self._fd, _READ_BYTES)
        at = 0
        while at < len(data):
            watch, _, _, size = _EVENT.unpack_from(data, at)
            at += _EVENT.size + size
            if watch < 0:  # the kernel's queue has overflowed: it could be anybody
                self.wake()
            for reader in self._readers.get(watch, ()):
                reader.set()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
