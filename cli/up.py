"""`sandbox up` and `sandbox down`: the supervisor as a daemon, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cli import layout, ports, proctree, stack, supervisor
from cli.daemon import Outcome, supervise
from cli.errors import CommandError
from cli.layout import Layout
from cli.logs import last_lines
from cli.settings import StackSettings
from cli.state import running

# More than the supervisor's own bounds together.
DOWN_SECONDS = supervisor.DRAIN_SECONDS + supervisor.TERM_SECONDS + supervisor.KILL_SECONDS + 5
_TERM_THEN_KILL = (
    (signal.SIGTERM, supervisor.TERM_SECONDS),
    (signal.SIGKILL, supervisor.KILL_SECONDS),
)


def up(settings: StackSettings, *, foreground: bool) -> int:
    """Starts the stack; returns when it is healthy (in the foreground, when it has ended).

    Raises CommandError when it cannot be started, with the end of the log that says why.
    """
    begun = time.monotonic()
    places = Layout(settings.data_dir)
    if layout.holder(places.lock) is not None:
        return _already_running(places)
    for name, host, port in ports.ports(settings):
        if (problem := ports.problem(host, port)) is not None:
            raise CommandError(
                f"port {port} on {host} cannot be used: {problem}. {ports.advice(name)}"
            )
    try:
        places.claim()
    except OSError as error:
        raise CommandError(f"the data directory cannot be used: {error}") from error
    if foreground:
        return supervise(settings, places, _Terminal(settings), begun)
    outcome = _start_daemon(settings, places, begun)
    if outcome.running:
        return _already_running(places)
    if not outcome.ready:
        raise CommandError(outcome.reason)
    _announce(settings, outcome)
    return 0


def down(settings: StackSettings) -> int:
    """Ends the supervisor and everything below it; returns when nothing is left.

    Raises CommandError when even SIGKILL does not end something.
    """
    places = Layout(settings.data_dir)
    pid = layout.holder(places.lock)
    if pid is not None:
        _end_supervisor(places, pid)
    if os.path.lexists(places.run):  # left by a supervisor that was killed
        _end_strays(places)
        places.clear_run()
        places.state.unlink(missing_ok=True)
    print("The stack is not running." if pid is None else "The stack is down.")
    return 0


def _start_daemon(settings: StackSettings, places: Layout, begun: float) -> Outcome:
    """Forks the supervisor into a session of its own and waits for what it reports.

    A fork, not a new interpreter: what is imported already need not be imported again.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            _detach(places)
            code = supervise(settings, places, _Pipe(writing), begun)
        except BaseException:
            logging.getLogger(__name__).exception("the supervisor failed")
            raise
        finally:
            logging.shutdown()
            os._exit(code)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            line = pipe.readline()
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if not line:
        log = places.log(layout.SUPERVISOR)
        raise CommandError(
            f"the supervisor failed. The end of {log}:\n" + "".join(last_lines(log, 20)).rstrip()
        )
    return Outcome(**json.loads(line))


def _detach(places: Layout) -> None:
    os.setsid()
    os.chdir(places.data)
    with open(os.devnull, "rb") as nothing, places.log(layout.SUPERVISOR).open("ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


class _Pipe:
    """A `sandbox up` in another process, at the other end of a pipe."""

    def __init__(self, writing: int) -> None:
        self._writing = writing
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, outcome: Outcome) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._writing)
        with contextlib.suppress(BrokenPipeError):  # it left just now
            os.write(self._writing, json.dumps(vars(outcome)).encode() + b"\n")
        os.close(self._writing)

    def on_leaving(self, stop: Callable[[], None]) -> None:
        # The writing end of a pipe becomes "readable" when nobody holds the other.
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._writing, stop)


class _Terminal:
    """`sandbox up --foreground`: the starter is this process itself."""

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings

    def tell(self, outcome: Outcome) -> None:
        if outcome.ready:
            _announce(self._settings, outcome)
        elif outcome.running:
            _already_running(Layout(self._settings.data_dir))
        else:
            print(f"sandbox: {outcome.reason}", file=sys.stderr)

    def on_leaving(self, stop: Callable[[], None]) -> None:
        """It cannot: its signals end the stack already."""


def _end_supervisor(places: Layout, pid: int) -> None:
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:  # it ended just now
        return
    try:
        if layout.holder(places.lock) != pid:  # the number is somebody else's by now
            return
        signal.pidfd_send_signal(held, signal.SIGTERM)
        poll = select.poll()
        poll.register(held, select.POLLIN)
        if poll.poll(DOWN_SECONDS * 1000):
            return
        below = proctree.descendants(pid)
        signal.pidfd_send_signal(held, signal.SIGKILL)
        _require_end([pid, *below])
    finally:
        os.close(held)


def _end_strays(places: Layout) -> None:
    """Executors of a supervisor that was killed belong to init; their link tells them."""
    link = f"SANDBOX_LINK_TARGET={stack.link_target(places)}"
    while strays := proctree.with_environment(link):
        _require_end([*strays, *(pid for stray in strays for pid in proctree.descendants(stray))])


def _require_end(pids: list[int]) -> None:
    if survivors := proctree.end(pids, _TERM_THEN_KILL):
        listed = ", ".join(map(str, survivors))
        raise CommandError(f"these processes do not end, even when killed: {listed}")


def _already_running(places: Layout) -> int:
    state = running(places)
    where = f"already running at {state.url}" if state else "being started or stopped just now"
    print(f"The stack is {where}.")
    return 0


def _announce(settings: StackSettings, outcome: Outcome) -> None:
    token = Layout(settings.data_dir).token
    print(f"The stack is healthy after {outcome.seconds:.2f} s.")
    print(f"  public edge    {settings.url}")
    print(f"  internal edge  http://{ports.INTERNAL_HOST}:{settings.internal_port}")
    print(f"  token          {_short(token)}", flush=True)


def _short(path: Path) -> str:
    """Relative where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
