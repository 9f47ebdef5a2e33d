"""Processes that may not be our children: who they are, when they end, how to end them.

A pid alone names nobody for long. A process is known here by its pid, the time it
started (proc_pid_stat(5), field 22) and the boot of the machine; a pidfd, once opened
and checked against these, can never come to mean another process (pidfd_open(2)).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever. `started` is in clock ticks since the boot."""

    pid: int
    started: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Raises ProcessLookupError when there is no such process."""
        return cls(pid, _stat(pid).started, _BOOT_ID.read_text().strip())

    def is_current(self) -> bool:
        """Whether the pid still means this process; so it does until it is reaped."""
        try:
            return Identity.of(self.pid) == self
        except ProcessLookupError:
            return False


class Process:
    """A running process, or one that has ended and is not reaped yet; a pidfd holds it."""

    def __init__(self, identity: Identity) -> None:
        """Raises ProcessLookupError when the process has ended and is gone."""
        self.identity = identity
        self._fd = os.pidfd_open(identity.pid)
        # Checked after opening: from here on the descriptor cannot change its meaning.
        if not identity.is_current():
            os.close(self._fd)
            raise ProcessLookupError(f"process {identity.pid} is gone")

    def signal(self, number: signal.Signals) -> None:
        """Does nothing to a process that has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait(self) -> None:
        """Returns when the process has ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        # A duplicate: the event loop allows one reader for a descriptor, and there may
        # be several who wait.
        fd = os.dup(self._fd)
        asyncio.get_running_loop().add_reader(fd, end)
        try:
            await ended
        finally:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def reap(self) -> int | None:
        """The exit code (128 + n after signal n) of an ended child of ours; else None."""
        try:
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status

    def close(self) -> None:
        os.close(self._fd)


async def end_tree(root: Process, grace: float) -> None:
    """Ends `root` and its descendants; none of them runs when this returns.

    SIGTERM for `root`, which has `grace` seconds to end by itself; then SIGKILL for
    whatever is left of its descendants and its process group.
    """
    # Held before anything ends: an orphan's way back to `root` is lost.
    held = _tree(root)
    try:
        root.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await root.wait()
        if not root.has_ended():
            held += _tree(root)
            with suppress(ProcessLookupError):
                os.killpg(root.identity.pid, signal.SIGKILL)
        for process in held:
            process.signal(signal.SIGKILL)
        for process in (root, *held):
            await process.wait()
    finally:
        for process in held:
            process.close()


@dataclass(frozen=True, slots=True)
class Stat:
    """One process at one moment, see proc_pid_stat(5).

    `ticks` is the CPU time of the process and of those children that it has waited for,
    in clock ticks, as is `started`, which counts from the boot.
    """

    parent: int
    started: int
    is_zombie: bool
    ticks: int
    threads: int
    resident_pages: int


def processes() -> dict[int, Stat]:
    """Every process there is, by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(ProcessLookupError):
                found[int(entry)] = _stat(int(entry))
    return found


def descendants(table: Mapping[int, Stat], root: int) -> list[int]:
    """The pids of all that `root` started, and that these started, and so on."""
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(stat.parent, []).append(pid)
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children.get(pid, ())]
        found += level
    return found


def _stat(pid: int) -> Stat:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    # The second field is the command in parentheses. User code chooses it: it may itself
    # hold parentheses, and bytes that are no text.
    fields = text.rpartition(b")")[2].split()
    return Stat(
        parent=int(fields[1]),
        started=int(fields[19]),
        is_zombie=fields[0] in (b"Z", b"X"),
        ticks=sum(map(int, fields[11:15])),
        threads=int(fields[17]),
        resident_pages=int(fields[21]),
    )


def _tree(root: Process) -> list[Process]:
    """The descendants of `root` that run, as far as they can be had."""
    found = []
    for pid in descendants(processes(), root.identity.pid):
        with suppress(ProcessLookupError):
            found.append(Process(Identity.of(pid)))
    return found
