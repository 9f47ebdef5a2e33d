"""What the standard library lacks of Linux: prctl and inotify."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IN_MODIFY = 0x2
_IN_CREATE = 0x100

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on orphans below this process become its children, not init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """For a child just forked: the kernel kills it when `parent` dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call, so no signal will come
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise _last_error()


class DirectoryChanges:
    """Blocks until something is written or created in a directory."""

    def __init__(self, directory: Path) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC)
        if self._fd < 0:
            raise _last_error()
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_MODIFY | _IN_CREATE) < 0:
            os.close(self._fd)
            raise _last_error()

    def wait(self) -> None:
        """Returns at the next change, at once if there was one since the last call."""
        os.read(self._fd, 64 * 1024)

    def close(self) -> None:
        os.close(self._fd)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
