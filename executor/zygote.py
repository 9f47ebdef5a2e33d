"""Sandboxes by forking an interpreter that is up, instead of starting one each time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from executor.bwrap import (
    INSIDE_GUEST,
    SHM_BYTES,
    TMP_BYTES,
    IsolationError,
    Tools,
    zygote_arguments,
)
from executor.cold import READY_SECONDS, BwrapTree, memory_file, said, start
from executor.sandbox import Channels, Sandbox, readable


class Zygote:
    """One bwrap with an interpreter inside that forks sandboxes (guest/zygote.py)."""

    def __init__(self, tree: BwrapTree, requests: socket.socket, errors: int) -> None:
        self._tree = tree
        self._requests = requests
        self._errors = errors

    @classmethod
    async def start(cls, tools: Tools, workspace: Path, modules: Sequence[str] = ()) -> Zygote:
        """Returns once `modules` are imported. Raises IsolationError when it cannot."""
        requests, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        requests.setblocking(False)
        errors, errors_write = os.pipe()
        status_read, status_write = os.pipe()
        program = memory_file(tools.filter)
        numbers = [str(n) for n in (inner.fileno(), program, TMP_BYTES, SHM_BYTES)]
        guest = [f"{INSIDE_GUEST}/zygote.py", *numbers, *modules]
        try:
            tree = await start(
                zygote_arguments(tools, workspace, status_write),
                [str(tools.python), "-I", "-S", *guest],
                pass_fds=(inner.fileno(), program, status_write),
                stdout=errors_write,
                stderr=errors_write,
                status=status_read,
            )
        finally:
            inner.close()
            for descriptor in (errors_write, status_write, program):
                os.close(descriptor)
        zygote = cls(tree, requests, errors)
        loop = asyncio.get_running_loop()
        try:
            ready = await asyncio.wait_for(loop.sock_recv(requests, 1), READY_SECONDS)
        except (TimeoutError, ConnectionResetError):
            ready = b""
        tree.learn_init()
        if ready != b"R":
            words = said(errors)
            await zygote.close()
            raise IsolationError(f"no zygote: {words or 'no answer'}")
        return zygote

    async def make(self) -> Sandbox:
        """Forks a sandbox. Raises IsolationError when it, or the zygote, is not up to it."""
        channels = Channels()
        try:
            socket.send_fds(self._requests, [b"S"], channels.inner)
            channels.close_inner()
            pidfd = await asyncio.wait_for(_ready(channels.control), READY_SECONDS)
        except (OSError, TimeoutError, EOFError) as error:
            channels.close_inner()
            words = said(channels.outputs["stderr"])
            channels.close()
            raise IsolationError(f"the zygote made no sandbox: {words or error}") from error
        except BaseException:
            channels.close()
            raise
        return Sandbox(channels, PidfdTree(pidfd))

    async def close(self) -> None:
        """Ends the zygote and with it every sandbox that it made."""
        self._tree.kill()
        await self._tree.wait()
        self._tree.close()
        self._requests.close()
        os.close(self._errors)


class PidfdTree:
    """Process 1 of a pid namespace, held by its pidfd, and everything below it."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def init(self) -> int:
        with open(f"/proc/self/fdinfo/{self._pidfd}") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended by itself

    async def wait(self) -> None:
        # A pidfd is readable once process 1 has exited, and that it does only when the
        # kernel has ended all others in its namespace.
        await readable(self._pidfd)

    def close(self) -> None:
        os.close(self._pidfd)


async def _ready(control: socket.socket) -> int:
    """Waits for the pidfd from the fork between and for init's word; in either order.

    Raises EOFError when both hung up before that.
    """
    pidfd, is_ready = -1, False
    try:
        while pidfd < 0 or not is_ready:
            await readable(control.fileno())
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                raise EOFError("it ended")
            if data == b"P":
                (pidfd,) = descriptors
            else:
                is_ready = True
    except BaseException:
        if pidfd >= 0:
            os.close(pidfd)
        raise
    return pidfd
