"""The runs of one session: from a Run message to a Finished message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.executor.v1 import link_pb2 as pb

from executor import artifacts, outcome
from executor.bwrap import IsolationError, default_environment
from executor.cell import Cell
from executor.cgroups import Cgroups, Limits
from executor.pool import Pool
from executor.sandbox import Job, Sandbox
from executor.spool import Spool
from executor.trace import Trace
from executor.workshop import Workshop

log = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 10 * 1024 * 1024  # kept of each of stdout and stderr
IDLE_SANDBOXES = 2
# A run that ends sooner than this reports its start and its end together: one commit less.
ANNOUNCE_SECONDS = 0.01

Key = tuple[str, int]


@dataclass(slots=True)
class _Run:
    """One run in progress. `stopped` is why it was killed, once it was."""

    sandbox: Sandbox | None = None
    stopped: str | None = None
    begun: bool = False  # the code may have done something
    kept: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    # The first bytes of a character whose last ones are still in the pipe.
    partial: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b""})
    truncated: set[str] = field(default_factory=set)

    announce: Callable[[], None] = lambda: None

    def stop(self, why: str) -> None:
        if self.stopped is None:
            self.stopped = why
            if self.sandbox is not None:
                self.sandbox.kill()


class Runs:
    """Starts, cancels and lists runs. What happens to them goes into the spool."""

    def __init__(
        self,
        workspace: Path,
        spool: Spool,
        packages: Path | None = None,
        cgroups: Cgroups | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        self._workspace = workspace
        self._spool = spool
        self._cgroups = cgroups
        self._limits: Limits | None = None
        self._environment = default_environment(with_packages=packages is not None)
        self._config = pb.SessionConfig()
        self._workshop = Workshop(workspace, packages, preload)
        self._pool = Pool(self._make, IDLE_SANDBOXES)
        self._running: dict[Key, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self) -> None:
        """Starts making sandboxes: none depends on the session, so none has to wait for it."""
        self._pool.refill()

    async def configure(self, config: pb.SessionConfig) -> str:
        """Applies a session's configuration. Answers why nothing can run here, or ""."""
        self._config = config
        self._limits = Limits(config.memory_bytes, config.max_processes, config.cpus)
        try:
            await self._pool.prove()
            # Those that were made before the limits were known.
            for cell in self._pool.idle():
                await self._bind(cell)
        except (IsolationError, OSError) as error:
            return str(error)
        return ""

    def known(self) -> list[pb.RunRef]:
        """Every run whose end exec_svc has not confirmed."""
        running = [pb.RunRef(execution_id=name, attempt=n) for name, n in self._running]
        return running + self._spool.unfinished_business()

    def start(self, run: pb.Run) -> None:
        """Starts a run, unless it is known: exec_svc may repeat what it is not sure of."""
        key = _key(run.run)
        if key in map(_key, self.known()):
            return
        self._running[key] = state = _Run()
        task = asyncio.create_task(self._run(run, state))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, ref: pb.RunRef) -> None:
        """Kills a run; one that is not here has ended, and its end is on the way."""
        run = self._running.get(_key(ref))
        if run is not None:
            run.stop("cancelled")

    async def stop(self) -> None:
        """Kills every run and waits until each has its Finished in the spool."""
        for run in self._running.values():
            run.stop("stopped with its session")
        await asyncio.gather(*self._tasks)
        await self._pool.close()
        await self._workshop.close()

    async def _run(self, run: pb.Run, state: _Run) -> None:
        trace = Trace(run.traceparent)
        begun = time.monotonic()
        moment = artifacts.mark()
        with trace.span("executor.run"):
            state.announce = self._starting(run.run)
            late = asyncio.get_running_loop().call_later(ANNOUNCE_SECONDS, state.announce)
            try:
                ended = await self._isolated(run, state, trace)
                files = await asyncio.to_thread(artifacts.changed_since, self._workspace, moment)
                ended.artifacts.extend(files)
            except Exception as error:  # whatever it was: a run that was accepted ends
                if isinstance(error, IsolationError | OSError) and not state.begun:
                    log.error("run refused: %s", error)  # noqa: TRY400  # known, typed
                    ended = outcome.refused(str(error))
                else:
                    log.exception("run lost")
                    ended = outcome.lost()
            ended.duration_ms = (time.monotonic() - begun) * 1000
            ended.stdout_truncated = "stdout" in state.truncated
            ended.stderr_truncated = "stderr" in state.truncated
        finished = pb.Finished(run=run.run, outcome=ended, spans=trace.spans)
        finished.finished_at.GetCurrentTime()
        late.cancel()
        state.announce()
        # In one step of the loop: at no moment is the run in neither place.
        self._spool.append(pb.ConnectRequest(finished=finished))
        del self._running[_key(run.run)]
        status = pb.Outcome.Status.Name(ended.status).removeprefix("STATUS_").lower()
        name, attempt = _key(run.run)
        log.info("%s attempt %d: %s in %.1f ms", name, attempt, status, ended.duration_ms)

    def _starting(self, ref: pb.RunRef) -> Callable[[], None]:
        """Says that a run has started, when it is called for the first time."""
        started = pb.Started(run=ref)
        started.started_at.GetCurrentTime()
        said = False

        def announce() -> None:
            nonlocal said
            if not said:
                said = True
                self._spool.append(pb.ConnectRequest(started=started))

        return announce

    async def _isolated(self, run: pb.Run, state: _Run, trace: Trace) -> pb.Outcome:
        job = Job(
            language=run.language,
            code=run.code,
            event_json=run.event_json,
            stdin=run.stdin if run.HasField("stdin") else None,
            env={**self._environment, **self._config.env_vars, **run.env_vars},
            memory_bytes=self._config.memory_bytes,
            max_processes=self._config.max_processes,
            timeout_seconds=run.timeout_seconds,
        )
        cell = await self._pool.take()
        sandbox = cell.sandbox
        oom = -1
        loop = asyncio.get_running_loop()
        try:
            await self._bind(cell)
            if cell.group is not None and cell.group.oom >= 0:
                oom = cell.group.oom
                loop.add_reader(oom, state.stop, "memory")
            state.sandbox = sandbox
            if state.stopped is not None:
                sandbox.kill()
            clock = loop.call_later(run.timeout_seconds, state.stop, "timeout")

            async def output(stream: str, data: bytes) -> None:
                data = state.partial[stream] + data
                whole = _whole_characters(data)
                state.partial[stream] = data[whole:]
                await self._output(run.run, state, stream, data[:whole])

            try:
                with trace.span("sandbox.run"):
                    end = await sandbox.run(job, output)
                for stream, rest in state.partial.items():
                    await self._output(run.run, state, stream, rest)
            finally:
                clock.cancel()
        finally:
            state.sandbox = None
            if oom >= 0:
                loop.remove_reader(oom)
            used = await cell.close()
        return outcome.decide(end, job, stopped=state.stopped, used=used)

    async def _make(self) -> Cell:
        cell = Cell(await self._workshop.make())
        try:
            await self._bind(cell)
        except OSError:
            await cell.close()
            raise
        return cell

    async def _bind(self, cell: Cell) -> None:
        """Bounds a sandbox, as soon as the session's limits are known."""
        if self._cgroups is not None and self._limits is not None:
            await cell.bind(self._cgroups, self._limits)

    async def _output(self, ref: pb.RunRef, state: _Run, stream: str, data: bytes) -> None:
        room = MAX_OUTPUT_BYTES - state.kept[stream]
        if len(data) > room:
            state.truncated.add(stream)
            data = data[:room]
        state.announce()
        if not data:
            return  # still read, so that the program does not block
        state.kept[stream] += len(data)
        kind = pb.Output.STREAM_STDOUT if stream == "stdout" else pb.Output.STREAM_STDERR
        message = pb.ConnectRequest(output=pb.Output(run=ref, stream=kind, data=data))
        await self._spool.append_when_room(message)


def _whole_characters(data: bytes) -> int:
    """How much of `data` does not end in the middle of a UTF-8 character.

    Chunks become events that readers decode one by one, so none may cut a character.
    """
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # a first byte: is everything that it announces there?
            announced = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if announced > back else len(data)
    return len(data)


def _key(ref: pb.RunRef) -> Key:
    return ref.execution_id, ref.attempt
