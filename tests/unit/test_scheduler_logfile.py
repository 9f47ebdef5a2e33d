"""Which lines of a log file are read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from scheduler_svc.runtimes.logfile import CHUNK_BYTES, LogFile, last_lines

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def read(path: Path, tail: int, since: datetime | None = None) -> bytes:
    log_file = LogFile(path, tail=tail, since=since, born=BORN)
    try:
        return b"".join(log_file.grown()) + log_file.rest()
    finally:
        log_file.close()


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("length", [0, 1, 63, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
@pytest.mark.parametrize("tail", [1, 2, 3, 5])
def test_the_tail_is_whole_lines_wherever_blocks_end(
    tmp_path: Path, length: int, tail: int, end: bytes
) -> None:
    lines = [bytes([letter]) * length for letter in b"abcd"]
    (tmp_path / "log").write_bytes(b"\n".join(lines) + end)
    if not length and not end:  # three line ends make three empty lines
        lines, end = lines[1:], b"\n"
    assert read(tmp_path / "log", tail) == b"\n".join(lines[-tail:]) + end


def test_pieces_end_with_a_line_and_stay_small(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 99 + b"\n")
    with path.open("ab") as writer:
        writer.write((b"y" * 99 + b"\n") * 10_000 + b"unfinished")
    log_file = LogFile(path, tail=10_000, since=None, born=BORN)
    pieces = list(log_file.grown())

    assert all(piece.endswith(b"\n") for piece in pieces)
    assert max(map(len, pieces)) <= 2 * CHUNK_BYTES
    assert sum(map(len, pieces)) == 9_999 * 100
    with path.open("ab") as writer:
        writer.write(b" and now it is\n")
    assert list(log_file.grown()) == [b"unfinished and now it is\n"]
    assert log_file.rest() == b""
    log_file.close()


def test_since_compares_moments_not_texts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second = b"2026-01-01T00:00:00.500Z a\n", b"2026-01-01T00:00:01.000Z b\n"
    path.write_bytes(first + second)
    elsewhere = datetime.fromisoformat("2026-01-01T02:00:00.500+02:00")
    assert read(path, 10, elsewhere) == first + second
    assert read(path, 10, datetime.fromisoformat("2026-01-01T02:00:00.501+02:00")) == second


def test_an_empty_log_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert read(tmp_path / "log", 10) == b""
    assert read(tmp_path / "log", 10, BORN) == b""
    assert last_lines(tmp_path / "log", 3) == []
    assert last_lines(tmp_path / "none", 3) == []
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none", 10)
