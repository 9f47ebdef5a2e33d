"""What a run left in the workspace."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

MAX_ARTIFACTS = 1000
# What user code leaves must not keep us busy: deeper and further than this nobody looks.
MAX_DEPTH = 64
MAX_ENTRIES = 100_000
_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the time module does not name it
_TEMPORARY = (".tmp", ".swp", "~", ".pyc")


def mark() -> int:
    """A moment to compare file times with: the clock that the kernel stamps files by."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def changed_since(workspace: Path, moment: int) -> list[str]:
    """Regular files created or changed since `mark`, sorted, at most MAX_ARTIFACTS.

    Goes by the change time, which user code cannot set back. Links are not followed;
    hidden and temporary files are left out, and those whose name is not UTF-8. Runs in one
    session at the same time see each other's files. Nothing is found in a workspace that
    its owner has closed.
    """
    try:
        root = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    found = islice(_walk(root, "", MAX_DEPTH, moment, count()), MAX_ARTIFACTS)
    return sorted(found)


def _walk(
    directory: int, prefix: str, depth: int, moment: int, looked_at: Iterator[int]
) -> Iterator[str]:
    """Descends by descriptors, so that a directory swapped for a link leads nowhere."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES)]
        for name in names:
            if next(looked_at) >= MAX_ENTRIES:
                return
            if not _is_shown(name):
                continue
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode) and depth:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                    below = os.open(name, flags, dir_fd=directory)
                    yield from _walk(below, f"{prefix}{name}/", depth - 1, moment, looked_at)
                elif stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= moment:
                    yield prefix + name
            except OSError:
                continue  # it went away, or may not be read: not something to hand out
    except OSError:
        return
    finally:
        os.close(directory)


def _is_shown(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8: no answer of ours can name them
        return False
    return not (name.startswith(".") or name == "__pycache__" or name.endswith(_TEMPORARY))
