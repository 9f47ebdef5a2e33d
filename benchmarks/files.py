"""Memory of a large transfer: does any process need more for 100 MiB than for 10?"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from benchmarks.figures import Report, Row
from cli.client import Client
from tests.flow.stack import Stack

MIB = 1024 * 1024
SMALL, LARGE = 10, 100  # MiB; the larger is the largest that there may be
ROUNDS = 3


def files(stack: Stack) -> Report:
    """Upload and download through the edge; the peak is the highest of several rounds."""
    peaks: dict[tuple[str, int, str], int] = {}
    speeds: dict[str, float] = {}
    with stack.client() as client:
        session_id = client.create_session("python-basic")["session_id"]
        pids = {name: int(row["pid"]) for name, row in stack.processes().items()}
        (pids["executor"],) = stack.executors()
        transfer = Transfers(client, session_id)
        try:
            # In this order: what the larger one took, a process may keep.
            for size in (SMALL, LARGE):
                for _ in range(ROUNDS):
                    for what, seconds in transfer.both(size, lambda: _forget_peaks(pids)):
                        for name, pid in pids.items():
                            key = what, size, name
                            peaks[key] = max(peaks.get(key, 0), _peak(pid))
                        speeds[what] = max(speeds.get(what, 0), size / seconds)
        finally:
            client.delete_session(session_id)
    report = Report(f"Peak memory of {LARGE} MiB against {SMALL} MiB")
    for what in ("upload", "download"):
        for name in pids:
            small, large = (peaks[what, size, name] / MIB for size in (SMALL, LARGE))
            of = f"{SMALL} MiB ({small:.0f})"
            report.rows.append(Row(f"{what}: {name}", large, None, "MiB", large / small, of, "1"))
    report.notes = [
        f"The highest resident set of each process, of {ROUNDS} rounds (VmHWM).",
        "Fastest: " + ", ".join(f"{what} {speed:.0f} MiB/s" for what, speed in speeds.items()),
    ]
    return report


class Transfers:
    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id

    def both(self, size: int, before: Callable[[], None]) -> Iterator[tuple[str, float]]:
        """Uploads and downloads `size` MiB; after each its name and the seconds it took."""
        with tempfile.TemporaryFile() as sent, tempfile.TemporaryFile() as received:
            with Path("/dev/urandom").open("rb") as source:
                for _ in range(size):
                    sent.write(source.read(MIB))
            sent.seek(0)
            before()
            start = time.perf_counter()
            stored = self._client.upload_file(self._session_id, f"f{size}", sent)
            yield "upload", time.perf_counter() - start
            before()
            start = time.perf_counter()
            self._client.download_file(self._session_id, f"f{size}", received)
            yield "download", time.perf_counter() - start
            assert stored["size"] == size * MIB
            assert stored["sha256"] == _sha256(sent) == _sha256(received)


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _forget_peaks(pids: dict[str, int]) -> None:
    for pid in pids.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))


def _peak(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024
