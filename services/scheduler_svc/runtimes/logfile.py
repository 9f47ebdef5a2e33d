"""Reading the log file of an executor: from which line on, and whole lines only.

A line begins with its time, as `executor/__main__.py` formats it. One that does not (a
traceback) continues the line before and has its time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 64 * 1024

# 2026-01-31T12:00:00.123Z: as text in the order of time.
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class LogFile:
    """The chosen part of one log, open. `close` it in the end."""

    def __init__(self, path: Path, *, tail: int, since: datetime | None, born: datetime) -> None:
        """The last `tail` lines, and of these only those since `since`.

        Lines before the first with a time have that of `born`, when the log began. Reads
        the whole file for `since`. Raises FileNotFoundError.
        """
        self._file = path.open("rb")
        self._unfinished = b""
        start = _start_of_last(self._file, tail)
        if since is not None:
            start = max(start, _start_since(self._file, _stamp(since), _stamp(born)))
        self._file.seek(start)

    def grown(self) -> Iterator[bytes]:
        """What has been written since the last call, in pieces that end with a line."""
        while data := self._file.read(CHUNK_BYTES):
            data = self._unfinished + data
            whole = data.rfind(b"\n") + 1 or (len(data) if len(data) > CHUNK_BYTES else 0)
            self._unfinished = data[whole:]
            if whole:
                yield data[:whole]

    def rest(self) -> bytes:
        """The last line, where nobody has ended it."""
        rest, self._unfinished = self._unfinished, b""
        return rest

    def close(self) -> None:
        self._file.close()


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines; none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(_start_of_last(file, count))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def without_stamp(line: str) -> str:
    return re.sub(_STAMP.pattern.decode() + " ", "", line, count=1)


def _start_of_last(file: BinaryIO, count: int) -> int:
    """Where the last `count` lines begin: block by block from the end."""
    position = file.seek(0, os.SEEK_END)
    wanted = count
    if position and _read_at(file, position - 1, 1) == b"\n":
        wanted += 1  # the end of the last line begins no other
    while position:
        size = min(CHUNK_BYTES, position)
        position -= size
        block = _read_at(file, position, size)
        found = block.count(b"\n")
        if found < wanted:
            wanted -= found
            continue
        at = size
        for _ in range(wanted):
            at = block.rfind(b"\n", 0, at)
        return position + at + 1
    return 0


def _start_since(file: BinaryIO, since: bytes, born: bytes) -> int:
    """Where the first line begins that was written at `since` or later."""
    position, current = 0, born
    file.seek(0)
    for line in file:
        if match := _STAMP.match(line):
            current = match[0]
        if current >= since:
            return position
        position += len(line)
    return position


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _stamp(moment: datetime) -> bytes:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z").encode()
