"""Keeps a set of processes running, and ends everything below itself at the end.

The supervisor is a child subreaper: what a service leaves behind (executors, which
outlive a scheduler_svc that is started again) becomes a child of the supervisor, so the
kernel's own parentage says what has to end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli import linux, proctree

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0
HEALTHY_SECONDS = 30.0
# A service lets calls that run end for up to 10 s (sandbox_rpc.server.DRAIN_SECONDS).
DRAIN_SECONDS = 12.0
TERM_SECONDS = 5.0
KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Process:
    """What to run, and where its output goes. The environment is complete."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path


class Child:
    """One process that is kept running. `ended` is set while it is not."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.popen: subprocess.Popen[bytes] | None = None
        self.since = 0.0
        self.restarts = 0
        self.ended = asyncio.Event()
        self.ended.set()

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return None if self.popen is None or self.ended.is_set() else self.popen.pid


def next_backoff(previous: float, lived: float) -> float:
    """Seconds until the next start, after a process that lived for `lived` seconds."""
    if previous == 0.0 or lived >= HEALTHY_SECONDS:
        return FIRST_BACKOFF_SECONDS
    return min(previous * 2, MAX_BACKOFF_SECONDS)


class Supervisor:
    """Runs `processes`. Used once: `start`, then `stop`, inside one event loop."""

    def __init__(self, processes: Sequence[Process], report: Callable[[list[Child]], None]) -> None:
        """`report` is called with all children after each change, to publish it."""
        self.children = [Child(process) for process in processes]
        self.first_death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._report = report
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all at once. Raises OSError when a program cannot be started at all."""
        linux.become_subreaper()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        for child in self.children:
            self._spawn(child)
        self._report(self.children)
        self._keepers = [
            asyncio.create_task(self._keep(child), name=child.process.name)
            for child in self.children
        ]

    async def stop(self, order: Sequence[str]) -> None:
        """Ends the named processes one after the other, then whatever else there is.

        Bounded: DRAIN_SECONDS for all of the named, then TERM_SECONDS for the rest,
        then they are killed.
        """
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        deadline = time.monotonic() + DRAIN_SECONDS
        by_name = {child.process.name: child for child in self.children}
        for name in order:
            await self._end(by_name[name], deadline - time.monotonic())
        await asyncio.to_thread(end_tree, os.getpid())
        # What the last ones left behind is reaped here: the handler needs the loop to turn.
        self._reap()

    async def _keep(self, child: Child) -> None:
        name = child.process.name
        backoff = 0.0
        while True:
            await child.ended.wait()
            backoff = next_backoff(backoff, time.time() - child.since)
            log.warning("%s ended; starting it again in %.1f s", name, backoff)
            if not self.first_death.done():
                self.first_death.set_result(name)
            self._report(self.children)
            await asyncio.sleep(backoff)
            child.restarts += 1
            try:
                self._spawn(child)
            except OSError as error:
                log.error("%s cannot be started: %s", name, error)  # noqa: TRY400
            self._report(self.children)

    def _spawn(self, child: Child) -> None:
        process = child.process
        child.since = time.time()
        parent = os.getpid()
        with process.log.open("ab") as output:
            # preexec_fn is safe here: this process has no other threads while it starts.
            child.popen = subprocess.Popen(
                process.argv,
                env=dict(process.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C at a terminal is for the supervisor alone
                preexec_fn=lambda: linux.die_with(parent),
            )
        child.ended.clear()
        log.info("%s started as process %d", process.name, child.popen.pid)

    async def _end(self, child: Child, seconds: float) -> None:
        if child.popen is None or child.ended.is_set():
            return
        child.popen.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.ended.wait(), max(seconds, 0))
        except TimeoutError:
            log.warning("%s did not end in time", child.process.name)

    def _reap(self) -> None:
        """Collects every dead child, adopted orphans too."""
        by_pid = {child.pid: child for child in self.children if child.pid is not None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            child = by_pid.get(pid)
            if child is None or child.popen is None:
                log.info("process %d, left behind by a service, ended with %d", pid, code)
                continue
            child.popen.returncode = code  # reaped here, not by Popen
            child.ended.set()
            log.info("%s (process %d) ended with %d", child.process.name, pid, code)


def end_tree(root: int) -> list[int]:
    """Ends every process below `root`: TERM, then KILL. Returns what survives even that.

    Looks again until nothing is left, since what is told to end may start something.
    """
    signals = ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS))
    while below := proctree.descendants(root):
        if survivors := proctree.end(below, signals):
            return survivors
    return []
