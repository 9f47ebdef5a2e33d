"""From root to an unprivileged user, before anything else happens.

As root neither RLIMIT_NPROC nor file modes hold, so an executor that is started as root
gives root up for good. What it still needs (its interpreter, its packages, the socket of
the link) may lie below a directory that only root may enter, such as /root. So it first
makes a mount namespace of its own, in which each such closed directory is replaced by an
empty one that holds the needed trees and nothing else. Paths keep their names, and the
rest of the closed directory is out of reach. Measured: 2 ms.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 12, 1 << 14, 1 << 18


def drop_root(uid: int, needed: Iterable[Path]) -> None:
    """Becomes user and group `uid`, still able to reach the trees in `needed`.

    Raises OSError; the caller must then refuse to run.
    """
    if uid == 0:
        raise PermissionError("the unprivileged user of an executor cannot be root")
    os.umask(0o022)  # the directories made on the way must be open to the new user
    _open_up([path.resolve() for path in needed])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o077)


def _open_up(needed: list[Path]) -> None:
    closed = {path: _closed_ancestor(path) for path in needed}
    if not any(closed.values()):
        return
    if _libc.unshare(_CLONE_NEWNS):
        raise _error("unshare")
    _mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
    # Opened first: once the empty directories are in place, the trees have no path.
    trees = {path: os.open(path, os.O_PATH) for path, ancestor in closed.items() if ancestor}
    for ancestor in {ancestor for ancestor in closed.values() if ancestor}:
        _mount("tmpfs", ancestor, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for path, descriptor in sorted(trees.items()):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        _mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
        os.close(descriptor)


def _closed_ancestor(path: Path) -> Path | None:
    """The topmost directory above `path` that others may not enter."""
    for ancestor in reversed(path.parents):
        if not ancestor.stat().st_mode & stat.S_IXOTH:
            return ancestor
    return None


def _mount(source: str | None, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    arguments = (
        source.encode() if source else None,
        bytes(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if _libc.mount(*arguments):
        raise _error(f"mount {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
