"""The log files: reading, following, keeping them small."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import deque
from pathlib import Path

from cli.errors import CommandError
from cli.layout import AUDIT, NAMES, Layout
from cli.linux import DirectoryChanges

# A file that grew beyond this is kept once, as NAME.log.1.
MAX_BYTES = 10 * 1024 * 1024


def logs(places: Layout, name: str | None, *, lines: int, follow: bool) -> int:
    """Prints the last `lines` of one log, or of all but the audit log, which is read alone.

    With `follow` goes on until Ctrl-C.
    """
    names = (*NAMES, AUDIT)
    if name is not None and name not in names:
        raise CommandError(f"there is no log '{name}'; there are: {', '.join(names)}")
    if not places.logs.is_dir():
        raise CommandError(f"{places.data} holds no logs: the stack was never started there")
    shown = NAMES if name is None else (name,)
    chosen = [_Tail(each, places.log(each), prefix=name is None) for each in shown]
    changes = DirectoryChanges(places.logs) if follow else None
    for tail in chosen:
        tail.show_last(lines)
    while changes is not None:
        changes.wait()
        for tail in chosen:
            tail.show_new()
    return 0


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a text file; empty when there is none."""
    try:
        with path.open(errors="replace") as file:
            return list(deque(file, maxlen=count))
    except FileNotFoundError:
        return []


def rotate(path: Path) -> bool:
    """Moves what a log holds aside once it is too large. True when it was.

    Copies and truncates, because its writers keep it open; they append, so they go on
    at the new end. A line written between the two steps is lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MAX_BYTES:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
            return True
    return False


class _Tail:
    """One log, and how far it has been shown."""

    def __init__(self, name: str, path: Path, *, prefix: bool) -> None:
        self.name = name
        self._path = path
        self._prefix = f"{name:<13} | " if prefix else ""
        self._offset = 0

    def show_last(self, lines: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._offset = self._path.stat().st_size
        self._print(last_lines(self._path, lines))

    def show_new(self) -> None:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # truncated by `rotate`
                    self._offset = 0
                file.seek(self._offset)
                # A line that is still being written is shown once it is whole.
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        self._offset += len(whole) + len(newline)
        if newline:
            self._print((whole + newline).decode(errors="replace").splitlines(keepends=True))

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            sys.stdout.write(f"{self._prefix}{line.rstrip()}\n")
        sys.stdout.flush()
