"""Opening what a path names strictly beneath a directory, whatever user code does meanwhile.

The kernel resolves the path and refuses to leave the directory or to follow any link
(openat2(2), Linux 5.6). Where openat2 is missing or a seccomp filter forbids it, the
path is walked by directory descriptors, each opened with O_NOFOLLOW. Either way there
is no moment between a check and its use in which a directory could become a link.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable

Open = Callable[[int, str, int], int]

_OPENAT2 = 437  # the same number on every architecture but alpha
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH (linux/openat2.h)
_MISSING = {errno.ENOSYS, errno.EPERM, errno.EACCES}

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def by_openat2(directory: int, path: str, flags: int) -> int:
    # With O_NOFOLLOW, O_DIRECTORY would call a link "not a directory".
    how = _OpenHow(flags=flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, mode=0, resolve=_RESOLVE)
    descriptor: int = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def by_walking(directory: int, path: str, flags: int) -> int:
    *parents, last = path.split("/")
    current = os.dup(directory)
    try:
        for part in parents:
            below = _step(current, part, os.O_PATH | os.O_DIRECTORY)
            os.close(current)
            current = below
        return _step(current, last, flags)
    finally:
        os.close(current)


def _step(directory: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError:
        # What O_DIRECTORY makes of a link; callers are to hear of the link.
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


def supported() -> Open:
    """The kernel's way where this process may use it, else the walk."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(by_openat2(root, ".", os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        return by_walking
    finally:
        os.close(root)
    return by_openat2


_open = supported()


def open_beneath(directory: int, path: str, flags: int) -> int:
    """A descriptor for `path`, a relative path without '.' and '..' (paths.py).

    Raises OSError; ELOOP where there is a link on the way or at its end.
    """
    return _open(directory, path, flags)
