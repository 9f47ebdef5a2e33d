"""What a run left in the workspace."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

MAX_ARTIFACTS = 1000
_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the time module does not name it
_TEMPORARY = (".tmp", ".swp", "~", ".pyc")


def mark() -> int:
    """A moment to compare file times with: the clock that the kernel stamps files by."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def changed_since(workspace: Path, moment: int) -> list[str]:
    """Regular files created or changed since `mark`, sorted, at most MAX_ARTIFACTS.

    Goes by the change time, which user code cannot set back. Links are not followed;
    hidden and temporary files are left out. Runs in one session at the same time see
    each other's files.
    """
    root = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    found = []
    for path in _walk(root, "", moment):
        found.append(path)
        if len(found) == MAX_ARTIFACTS:
            break
    return sorted(found)


def _walk(directory: int, prefix: str, moment: int) -> Iterator[str]:
    """Descends by descriptors, so that a directory swapped for a link leads nowhere."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.startswith(".") or name == "__pycache__" or name.endswith(_TEMPORARY):
                continue
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                    below = os.open(name, flags, dir_fd=directory)
                    yield from _walk(below, f"{prefix}{name}/", moment)
                elif stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= moment:
                    yield prefix + name
            except OSError:
                continue  # it went away, or may not be read: not something to hand out
    finally:
        os.close(directory)
