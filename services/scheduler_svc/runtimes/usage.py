"""What trees of processes use, from /proc (proc(5)): no cgroup is needed.

CPU time is the difference between two looks at the whole tree. Time of a process that
ends in between is not lost: it passes to the parent that waits for it, and the sum over
the tree stays what it was. Memory is the proportional set size, in which a page shared by
n processes counts 1/n for each, so that forked interpreters are not counted twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from scheduler_svc.runtimes.base import Usage
from scheduler_svc.runtimes.proc import Identity, Stat, descendants, processes

# Between the two looks: 25 of the kernel's ticks, so that a measurement is exact to 4 %.
WINDOW_SECONDS = 0.25

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


async def measure(roots: Mapping[str, Identity]) -> dict[str, Usage]:
    """The usage of each tree, by the names that `roots` gives them, in WINDOW_SECONDS.

    A tree whose root has ended, or ends meanwhile, is left out.
    """
    if not roots:
        return {}
    begun = time.monotonic()
    before = await asyncio.to_thread(_trees, roots)
    await asyncio.sleep(WINDOW_SECONDS)
    seconds = time.monotonic() - begun
    after = await asyncio.to_thread(_trees, roots)
    memory = await asyncio.to_thread(lambda: {name: _memory(tree) for name, tree in after.items()})
    return {
        name: Usage(
            cpu_percent=_percent(_ticks(tree) - _ticks(before[name]), seconds),
            memory_bytes=memory[name],
            pids=sum(stat.threads for stat in tree.values()),
        )
        for name, tree in after.items()
        if name in before
    }


def _trees(roots: Mapping[str, Identity]) -> dict[str, dict[int, Stat]]:
    """The processes of each tree, in one look at all there are."""
    table = processes()
    trees = {}
    for name, root in roots.items():
        stat = table.get(root.pid)
        if stat and stat.started == root.started and not stat.is_zombie:
            pids = (root.pid, *descendants(table, root.pid))
            trees[name] = {pid: table[pid] for pid in pids}
    return trees


def _percent(ticks: int, seconds: float) -> float:
    """Of one core. Time may be lost: of a child that its parent has chosen not to wait for."""
    return round(max(0, ticks) / _TICKS_PER_SECOND / seconds * 100, 1)


def _ticks(tree: Mapping[int, Stat]) -> int:
    return sum(stat.ticks for stat in tree.values())


def _memory(tree: Mapping[int, Stat]) -> int:
    return sum(_pss(pid, stat) for pid, stat in tree.items())


def _pss(pid: int, stat: Stat) -> int:
    """Bytes; the resident set size, which every process shows, of one that hides the other."""
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except PermissionError:
        return stat.resident_pages * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return int(found[1]) * 1024 if found else 0
