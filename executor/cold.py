"""A sandbox from nothing: bwrap, an interpreter, init. The path that every other falls back to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from executor.bwrap import INSIDE_GUEST, IsolationError, Tools, sandbox_arguments
from executor.sandbox import Channels, Sandbox, readable

READY_SECONDS = 30.0  # a loaded machine is slow; a broken one says so at once


async def make(tools: Tools, workspace: Path) -> Sandbox:
    """Starts bwrap and waits until init is ready inside.

    Raises IsolationError with bwrap's own words when it cannot.
    """
    channels = Channels()
    control, stdout, stderr, result = channels.inner
    status_read, status_write = os.pipe()
    program = memory_file(tools.filter)
    guest = [f"{INSIDE_GUEST}/init.py", str(control), str(result)]
    try:
        tree = await start(
            [*sandbox_arguments(tools, workspace, status_write, program)],
            [str(tools.python), "-I", "-S", *guest],
            pass_fds=(control, result, status_write, program),
            stdout=stdout,
            stderr=stderr,
            status=status_read,
        )
    except BaseException:
        os.close(status_read)
        channels.close()
        raise
    finally:
        os.close(status_write)
        os.close(program)
        channels.close_inner()
    sandbox = Sandbox(channels, tree)
    try:
        loop = asyncio.get_running_loop()
        ready = await asyncio.wait_for(loop.sock_recv(channels.control, 1), READY_SECONDS)
    except (TimeoutError, ConnectionResetError):
        ready = b""
    tree.learn_init()
    if ready != b"R":
        words = said(channels.outputs["stderr"])
        await sandbox.close()
        raise IsolationError(f"bwrap could not isolate: {words or 'no answer'}")
    return sandbox


async def start(
    bwrap: Sequence[str],
    command: Sequence[str],
    *,
    pass_fds: Sequence[int],
    stdout: int,
    stderr: int,
    status: int,
) -> BwrapTree:
    """Starts bwrap with an empty environment and no descriptor but the named ones."""
    process = await asyncio.to_thread(
        subprocess.Popen,
        [*bwrap, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        close_fds=True,
        env={},
        cwd="/",
    )
    return BwrapTree(process, status)


class BwrapTree:
    """bwrap, the process 1 that it made, and everything below that."""

    def __init__(self, process: subprocess.Popen[bytes], status: int) -> None:
        """`status` is the read end of --json-status-fd; it stays open, bwrap writes to it."""
        self._process = process
        self._status = status
        self._pidfd = os.pidfd_open(process.pid)
        self._init = 0

    def learn_init(self) -> None:
        """Reads process 1's pid, as this process sees it, once bwrap has made it."""
        self._init = _init_pid(self._status)

    def init(self) -> int:
        return self._init

    def kill(self) -> None:
        if self._process.returncode is None:
            # Process 1 of the namespace: the kernel ends all others before it is reaped,
            # and bwrap ends only after that. --die-with-parent is the net below.
            for pid in (self._init, self._process.pid):
                if pid:
                    _kill(pid)

    async def wait(self) -> None:
        if self._process.returncode is None:
            await readable(self._pidfd)
            self._process.wait()

    def close(self) -> None:
        os.close(self._pidfd)
        os.close(self._status)


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("input")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def said(descriptor: int) -> str:
    """What bwrap said before it gave up; at most a pipe full."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 64 * 1024).decode(errors="replace").strip()
    except BlockingIOError:
        return ""


def _init_pid(status: int) -> int:
    """0 where bwrap did not get that far."""
    os.set_blocking(status, False)
    try:
        lines: Iterable[bytes] = os.read(status, 4096).splitlines()
    except BlockingIOError:
        return 0
    for line in lines:
        pid = json.loads(line).get("child-pid", 0)
        if pid:
            return int(pid)
    return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself; the wait that follows sees it
