"""The supervisor's process: takes the lock, starts the stack, ends it at a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from cli import edge, health, logs, stack, state
from cli.layout import EDGE, NAMES, SERVICES, SUPERVISOR, Layout, Lock
from cli.settings import StackSettings
from cli.state import ProcessState, State
from cli.supervisor import Child, Supervisor

log = logging.getLogger(__name__)

START_SECONDS = 30.0
LOG_CHECK_SECONDS = 60.0
TAIL_LINES = 20


@dataclass(frozen=True)
class Outcome:
    """How a start ended: ready, or already running, or neither, for `reason`."""

    ready: bool = False
    running: bool = False
    reason: str = ""
    seconds: float = 0.0


class Starter(Protocol):
    """The command that waits for the start."""

    def tell(self, outcome: Outcome) -> None:
        """Called once, with how the start ended."""

    def on_leaving(self, stop: Callable[[], None]) -> None:
        """Arranges that `stop` is called should the starter go before it was told."""


def supervise(settings: StackSettings, places: Layout, starter: Starter, begun: float) -> int:
    """Runs the stack in this process until SIGTERM or SIGINT; returns the exit code.

    `begun` (time.monotonic) is when the start began. Nothing is left running when this
    returns.
    """
    # The data directory keeps others out. Executors inherit this, and as other users than
    # root they could not use the mount points that they make with a stricter one.
    os.umask(0o022)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    lock = Lock(places.lock)
    if not lock.take():
        starter.tell(Outcome(running=True))
        return 0
    try:
        places.prepare()
        return asyncio.run(_run(settings, places, starter, begun))
    finally:
        lock.close()


async def _run(settings: StackSettings, places: Layout, starter: Starter, begun: float) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A start that nobody waits for any more is given up.
    starter.on_leaving(stop.set)
    since = time.time()

    def changed(children: Sequence[Child]) -> None:
        state.publish(places, _state(settings, since, children))

    places.bootstrap.write_text(stack.bootstrap(settings, places))
    supervisor = Supervisor(stack.processes(settings, places, os.environ), changed)
    try:
        supervisor.start()
        reason = await _start_problem(settings, places, supervisor, stop)
        if reason is None:
            starter.tell(Outcome(ready=True, seconds=time.monotonic() - begun))
            await _until(stop, places)
            await _drain(places)
    finally:
        await supervisor.stop(stack.STOP_ORDER)
        places.state.unlink(missing_ok=True)
        places.clear_run()
    if reason is not None:
        starter.tell(Outcome(reason=reason))
        return 1
    return 0


async def _drain(places: Layout) -> None:
    try:
        await edge.drain(places.socket("admin"))
    except httpx.HTTPError as error:  # it is ended all the same, only less gently
        log.warning("the edge does not drain: %s", error)


async def _start_problem(
    settings: StackSettings, places: Layout, supervisor: Supervisor, stop: asyncio.Event
) -> str | None:
    """None once the stack is healthy; otherwise why it will not be, with a log's end."""
    healthy = asyncio.create_task(
        health.until_healthy(settings.local_host, settings.port, START_SECONDS)
    )
    stopped = asyncio.create_task(stop.wait())
    waits: set[asyncio.Future[Any]] = {healthy, stopped, supervisor.first_death}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    healthy.cancel()
    stopped.cancel()
    if supervisor.first_death.done():
        name = supervisor.first_death.result()
        return f"{name} ended while the stack was starting. {_tail(places, name)}"
    if stop.is_set():
        return "it was told to stop before it was healthy"
    answer = healthy.result()
    if answer.ok:
        return None
    name = next((name for name in SERVICES if name in answer.reason), EDGE)
    return f"not healthy after {START_SECONDS:g} s: {answer.reason}. {_tail(places, name)}"


async def _until(stop: asyncio.Event, places: Layout) -> None:
    """Waits for the end, and looks after the size of the logs meanwhile."""
    while not stop.is_set():
        for name in NAMES:
            if logs.rotate(places.log(name)):
                log.info("the log of %s was moved to %s.log.1", name, name)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOG_CHECK_SECONDS)


def _state(settings: StackSettings, since: float, children: Sequence[Child]) -> State:
    own = ProcessState(SUPERVISOR, os.getpid(), since, 0)
    rows = [
        ProcessState(child.process.name, child.pid, child.since, child.restarts)
        for child in children
    ]
    return State(settings.url, settings.local_host, settings.port, [own, *rows])


def _tail(places: Layout, name: str) -> str:
    path = places.log(name)
    return f"The end of {path}:\n" + "".join(logs.last_lines(path, TAIL_LINES)).rstrip()
