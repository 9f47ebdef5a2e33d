"""What a process and a stack take of this machine, from /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cli import proctree


def pss_bytes(pid: int) -> int:
    """Its memory, of what it shares only its share. 0 once it has ended."""
    return _rollup(pid, "Pss")


def heap_bytes(pid: int) -> int:
    """The same without files: what they weigh depends on how many others have them mapped."""
    return _rollup(pid, "Pss_Anon")


def _rollup(pid: int, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def tree(pid: int) -> list[int]:
    return [pid, *proctree.descendants(pid)]


def pss_of_tree(pid: int) -> int:
    return sum(map(pss_bytes, tree(pid)))


def heap_of_tree(pid: int) -> int:
    return sum(map(heap_bytes, tree(pid)))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def mounts(pid: int) -> int:
    return len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())


def files_below(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())


def available_bytes() -> int:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return int(found.group(1)) * 1024


def in_words() -> str:
    """The machine, and how busy it was when the benchmark began."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, Linux {os.uname().release}, load {load:.1f} before"
