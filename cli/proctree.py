"""The processes below one, by kernel parentage, and how to end them all."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Every living process below `root`, parents before children; zombies left out."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _living_parent(entry)) is not None:
            children[parent].append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children[queue.pop(0)]
        found += below
        queue += below
    return found


def with_environment(entry: str) -> list[int]:
    """Living processes that were started with `entry` ("NAME=value"), this one left out.

    Processes whose environment may not be read are not ours, and left out.
    """
    found = []
    wanted = entry.encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def end(pids: Iterable[int], signals: Iterable[tuple[int, float]]) -> list[int]:
    """Sends each signal in turn and waits its seconds for the processes to exit.

    Returns those that are still there after the last. Processes are held by pidfd from
    the start, so a number that is used again is never hit.
    """
    held = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            held[pid] = os.pidfd_open(pid)
    alive = set(held)
    try:
        for number, seconds in signals:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(held[pid], number)
            alive = _wait(held, alive, seconds)
            if not alive:
                break
    finally:
        for fd in held.values():
            os.close(fd)
    return sorted(alive)


def _wait(held: dict[int, int], alive: set[int], seconds: float) -> set[int]:
    """A pidfd becomes readable when its process has exited, reaped or not."""
    poll = select.poll()
    owners = {}
    for pid in alive:
        poll.register(held[pid], select.POLLIN)
        owners[held[pid]] = pid
    deadline = time.monotonic() + seconds
    left = set(alive)
    while left:
        remaining = max(deadline - time.monotonic(), 0)
        ended = poll.poll(remaining * 1000)
        for fd, _ in ended:
            poll.unregister(fd)
            left.discard(owners[fd])
        if not ended and not remaining:
            break
    return left


def _living_parent(process: Path) -> int | None:
    try:
        text = (process / "stat").read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return None
    # The name in parentheses may hold anything, blanks and parentheses too.
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)
