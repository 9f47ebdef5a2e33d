"""The `process` runtime: the executor as a child process, for one machine without Docker.

The only isolation is the executor's own, bwrap around each execution.

Everything of a sandbox lies in `<sandboxes>/<sandbox_id>/`: its record, its executor's
log and state. Executors have a session of their own and outlive scheduler_svc; the next
one finds them by their records.

A crash must never leave an executor that no record tells of. So an executor is born
waiting: a shell that reads one line from a pipe and then becomes the executor, with the
same pid. The line is sent after the record is on disk; if scheduler_svc dies before,
the shell reads the end of the pipe and leaves.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sandbox_rpc.errors import NotFound, ServiceUnavailable, TooManyRequests

from scheduler_svc.packages.environments import Environment, Environments
from scheduler_svc.runtimes.base import (
    Change,
    Changed,
    Removed,
    RuntimeType,
    SandboxSpec,
    SandboxState,
    SnapshotComplete,
    Usage,
)
from scheduler_svc.runtimes.cgroups import Cgroups
from scheduler_svc.runtimes.ends import how_it_ended, last_words
from scheduler_svc.runtimes.feed import Feed
from scheduler_svc.runtimes.inotify import Growth
from scheduler_svc.runtimes.logfile import LogFile, last_lines
from scheduler_svc.runtimes.proc import Identity, Process, end_tree
from scheduler_svc.runtimes.records import Record
from scheduler_svc.runtimes.usage import measure
from scheduler_svc.runtimes.users import make_private, workspace_owner
from scheduler_svc.runtimes.waiting import WaitingRoom

log = logging.getLogger(__name__)

# -P keeps the working directory, which is /, out of the module search path.
EXECUTOR = (sys.executable, "-P", "-m", "executor")
# An executor that is told to stop kills its runs and delivers what is in its spool.
GRACE_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5

_WAIT_FOR_GO = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_LOG = "executor.log"
_STATE = "state"
# Of the log of a sandbox that ended unexpectedly: what goes into ours.
_LAST_LINES = 20


class ProcessRuntime:
    """See `base.Runtime`."""

    type: RuntimeType = "process"

    def __init__(
        self,
        *,
        sandboxes: Path,
        workspaces: Path,
        link_target: str,
        max_sandboxes: int,
        environments: Environments,
        command: Sequence[str] = EXECUTOR,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`grace` is the seconds an executor gets to end by itself before it is killed."""
        self._directory = sandboxes.resolve()
        self._workspaces = workspaces.resolve()
        self._link_target = link_target
        self._max_sandboxes = max_sandboxes
        self._command = tuple(command)
        self._grace = grace
        self._as_root = os.geteuid() == 0
        # As root, executors are other users and must pass through to what is theirs.
        self._passable = 0o711 if self._as_root else 0o700
        self._node = socket.gethostname()
        self._cgroups = Cgroups()
        self._sandboxes: dict[str, _Sandbox] = {}
        self._feed = Feed()
        self._environments = environments
        self._waiting = WaitingRoom(environments, self._feed, self._node, self._launch)
        self._growth = Growth()
        self._closed = False

    def open(self) -> None:
        """Makes the directories and finds the sandboxes of an earlier scheduler_svc.

        Needs a running event loop. Raises OSError.
        """
        for directory in (self._directory, self._workspaces):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(self._passable)
        for home in self._directory.iterdir():
            record = Record.read(home)
            if record is None:
                log.info("removing %s: its executor was never let go", home.name)
                shutil.rmtree(home)
            else:
                self._adopt(record)
        self._environments.open(self._environments_in_use)
        log.info("found %d sandboxes, %d of them running", len(self._sandboxes), self._running())

    async def start(self, spec: SandboxSpec) -> SandboxState:
        while (known := self._sandboxes.get(spec.sandbox_id)) and known.is_stopping():
            await known.stopped()
        if known:
            return self._state(known)
        if spec.sandbox_id in self._waiting:
            return await self._waiting.start(spec)
        if self._closed:
            raise ServiceUnavailable("scheduler_svc is going down")
        if self._running() + len(self._waiting) >= self._max_sandboxes:
            raise TooManyRequests(
                f"all {self._max_sandboxes} sandboxes that this host may run "
                "(SANDBOX_MAX_SANDBOXES) are in use",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if spec.packages:
            return await self._waiting.start(spec)
        return self._launch(spec, None)

    async def stop(self, sandbox_id: str) -> None:
        await self._waiting.stop(sandbox_id)
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        if not sandbox.is_stopping():
            sandbox.stopping = asyncio.create_task(self._remove(sandbox))
        await sandbox.stopped()

    async def status(self, sandbox_id: str) -> SandboxState | None:
        sandbox = self._sandboxes.get(sandbox_id)
        return self._state(sandbox) if sandbox else self._waiting.state(sandbox_id)

    async def list(self) -> Sequence[SandboxState]:
        return self._states()

    def watch(self) -> AsyncIterator[Change]:
        return self._feed.read(lambda: [*map(Changed, self._states()), SnapshotComplete()])

    async def usage(self, sandbox_ids: Sequence[str]) -> Mapping[str, Usage]:
        asked = (self._sandboxes.get(name) for name in sandbox_ids)
        return await measure(
            {found.record.sandbox_id: found.record.process for found in asked if found}
        )

    async def logs(
        self, sandbox_id: str, *, tail: int, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise NotFound("Container", sandbox_id)
        path = self._home(sandbox_id) / _LOG
        born = sandbox.record.created_at
        try:
            log_file = await asyncio.to_thread(LogFile, path, tail=tail, since=since, born=born)
        except FileNotFoundError:  # removed meanwhile
            raise NotFound("Container", sandbox_id) from None
        with closing(log_file):
            yield b""
            if follow and not sandbox.record.ended:
                with self._growth.watch(path) as grown:
                    while not sandbox.record.ended:
                        if self._closed:
                            raise ServiceUnavailable("scheduler_svc is going down")
                        for piece in log_file.grown():
                            yield piece
                        await grown.wait()
                        grown.clear()
            for piece in log_file.grown():
                yield piece
            yield log_file.rest()

    async def close(self) -> None:
        self._closed = True
        self._feed.close()
        self._growth.close()
        await self._waiting.close()
        await self._environments.close()
        stopping = [sandbox.stopping for sandbox in self._sandboxes.values() if sandbox.stopping]
        await asyncio.gather(*stopping, return_exceptions=True)
        while self._sandboxes:
            await self._sandboxes.popitem()[1].let_go()

    def _launch(self, spec: SandboxSpec, packages: Environment | None) -> SandboxState:
        # Without an await: one start after the other chooses a uid and leaves a record,
        # and a caller that goes away cannot cut one in two. Measured: 2 ms.
        sandbox = self._follow(self._spawn(spec, packages))
        self._feed.publish(Changed(self._state(sandbox)))
        return self._state(sandbox)

    def _spawn(self, spec: SandboxSpec, packages: Environment | None) -> _Sandbox:
        home = self._home(spec.sandbox_id)
        home.mkdir(exist_ok=True)
        home.chmod(self._passable)
        workspace = self._workspaces / spec.session_id
        owner = workspace_owner(self._workspaces, workspace) if self._as_root else None
        make_private(workspace, owner)
        make_private(home / _STATE, owner)
        environment = self._environment(spec, workspace, owner)
        if packages:
            environment["SANDBOX_PACKAGES"] = str(packages.packages)
            environment["SANDBOX_PRELOAD"] = ",".join(spec.preload)
        with (home / _LOG).open("ab") as output:
            born = subprocess.Popen(
                [*_WAIT_FOR_GO, *self._command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        assert born.stdin is not None
        try:
            process = Process(Identity.of(born.pid))
            key = packages.key if packages else None
            record = Record.of(spec, datetime.now(UTC), process.identity, key)
            record.write(home)
        except BaseException:
            born.stdin.close()
            born.wait()
            raise
        with suppress(BrokenPipeError):  # killed already: its end is noticed like any other
            born.stdin.write(b"go\n")
            born.stdin.close()
        # The pidfd waits for it; the subprocess module must not reap it as well.
        born.returncode = 0
        return _Sandbox(record, process)

    def _environment(self, spec: SandboxSpec, workspace: Path, owner: int | None) -> dict[str, str]:
        """All of it: an executor inherits nothing from scheduler_svc."""
        environment = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SANDBOX_ID": spec.sandbox_id,
            "SANDBOX_LINK_TARGET": self._link_target,
            "SANDBOX_WORKSPACE": str(workspace),
            "SANDBOX_STATE": str(self._home(spec.sandbox_id) / _STATE),
            "INTERNAL_API_TOKEN": spec.token,
        }
        if owner is not None:
            environment["SANDBOX_UID"] = str(owner)
            environment["SANDBOX_CGROUPS"] = self._cgroups.create(spec.sandbox_id, owner)
        return environment

    def _adopt(self, record: Record) -> None:
        try:
            self._follow(_Sandbox(record, Process(record.process)))
        except ProcessLookupError:
            sandbox = _Sandbox(record, None)
            self._sandboxes[record.sandbox_id] = sandbox
            if not record.ended:
                self._note_end(sandbox, None, None)

    def _follow(self, sandbox: _Sandbox) -> _Sandbox:
        self._sandboxes[sandbox.record.sandbox_id] = sandbox
        # In a context of its own: it outlives the request that started it.
        sandbox.follower = asyncio.get_running_loop().create_task(
            self._until_ended(sandbox), context=contextvars.Context()
        )
        return sandbox

    async def _until_ended(self, sandbox: _Sandbox) -> None:
        assert sandbox.process is not None
        await sandbox.process.wait()
        self._note_end(sandbox, sandbox.process.reap(), datetime.now(UTC))
        self._feed.publish(Changed(self._state(sandbox)))
        self._growth.wake()

    def _note_end(self, sandbox: _Sandbox, exit_code: int | None, at: datetime | None) -> None:
        home = self._home(sandbox.record.sandbox_id)
        # Its log goes with the sandbox, and a failed one is soon replaced.
        lines = last_lines(home / _LOG, _LAST_LINES)
        sandbox.record = replace(
            sandbox.record,
            ended=True,
            ended_at=at,
            exit_code=exit_code,
            last_words=last_words(exit_code, lines),
        )
        sandbox.record.write(home)
        how = how_it_ended(sandbox.record)
        if exit_code == 0 or sandbox.is_stopping():
            log.info("%s: %s", sandbox.record.sandbox_id, how)
        else:
            said = {"executor_log": lines}
            log.warning("%s: %s", sandbox.record.sandbox_id, how, extra={"fields": said})

    async def _remove(self, sandbox: _Sandbox) -> None:
        sandbox_id = sandbox.record.sandbox_id
        if sandbox.process and sandbox.follower:
            await end_tree(sandbox.process, self._grace)
            await sandbox.follower
        await asyncio.to_thread(self._cgroups.remove, sandbox_id)
        await asyncio.to_thread(shutil.rmtree, self._home(sandbox_id))
        await sandbox.let_go()
        del self._sandboxes[sandbox_id]
        self._feed.publish(Removed(sandbox_id))

    def _home(self, sandbox_id: str) -> Path:
        return self._directory / sandbox_id

    def _running(self) -> int:
        return sum(not sandbox.record.ended for sandbox in self._sandboxes.values())

    def _environments_in_use(self) -> Collection[str]:
        records = (sandbox.record for sandbox in self._sandboxes.values())
        return {each.environment for each in records if each.environment and not each.ended}

    def _states(self) -> Sequence[SandboxState]:
        states = [*map(self._state, self._sandboxes.values()), *self._waiting.states()]
        return sorted(states, key=lambda state: state.created_at)

    def _state(self, sandbox: _Sandbox) -> SandboxState:
        record = sandbox.record
        failed = record.ended and record.exit_code != 0
        return SandboxState(
            sandbox_id=record.sandbox_id,
            session_id=record.session_id,
            generation=record.generation,
            template_id=record.template_id,
            domain=record.domain,
            resources=record.resources,
            status="failed" if failed else "completed" if record.ended else "running",
            node=self._node,
            container_id=record.sandbox_id,
            created_at=record.created_at,
            exit_code=record.exit_code,
            reason=how_it_ended(record) if failed else None,
            ended_at=record.ended_at,
            stopping=sandbox.is_stopping(),
        )


class _Sandbox:
    """What is known of one sandbox. `process` is None when it had ended before we came."""

    def __init__(self, record: Record, process: Process | None) -> None:
        self.record = record
        self.process = process
        self.follower: asyncio.Task[None] | None = None
        self.stopping: asyncio.Task[None] | None = None

    def is_stopping(self) -> bool:
        return self.stopping is not None and not self.stopping.done()

    async def stopped(self) -> None:
        """Waits for `stopping`, which goes on should the caller be cancelled."""
        assert self.stopping is not None
        await asyncio.shield(self.stopping)

    async def let_go(self) -> None:
        if self.follower:
            self.follower.cancel()
            await asyncio.gather(self.follower, return_exceptions=True)
        if self.process:
            self.process.close()
