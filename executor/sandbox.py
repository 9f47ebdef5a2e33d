"""One sandbox: an init that is closed in and waits for one job.

A sandbox is made ahead of its job and used once, by `cold.py` (bwrap each time) or by
`zygote.py` (a fork of an interpreter that is up). Making it proves that isolation works:
init reports ready only from inside the finished namespaces.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from executor.bwrap import INSIDE_GUEST, INSIDE_NODE

MIB = 1024 * 1024
CHUNK = 64 * 1024
MAX_FRAME_BYTES = 16 * MIB
FILE_BYTES = 1024 * MIB
OPEN_FILES = 1024
# Address space that V8 reserves at its start and counts as data; its heap has a limit of its own.
NODE_RESERVED = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Job:
    """What to run. `env` is the whole environment of the program, nothing is added."""

    language: str
    code: bytes
    event_json: bytes
    stdin: bytes | None
    env: dict[str, str]
    memory_bytes: int
    max_processes: int
    timeout_seconds: float

    def encode(self) -> bytes:
        heap = f"--max-old-space-size={self.memory_bytes // MIB}"
        header = json.dumps(
            {
                "language": self.language,
                "code_size": len(self.code),
                "event_size": len(self.event_json),
                "stdin_size": None if self.stdin is None else len(self.stdin),
                "env": self.env,
                "limits": self._limits(),
                "node": [f"{INSIDE_NODE}/bin/node", heap],
                "guest": INSIDE_GUEST,
            }
        ).encode()
        size = struct.pack("!I", len(header))
        return b"".join((size, header, self.code, self.event_json, self.stdin or b""))

    def _limits(self) -> dict[str, int]:
        reserved = NODE_RESERVED if self.language == "javascript" else 0
        # A backstop behind the wall clock: a run may use every core for its whole time.
        cpu_seconds = int(self.timeout_seconds * (os.cpu_count() or 1)) + 5
        return {
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": cpu_seconds,
            # Per process, and evaded by shared mappings: where a cgroup can be had, that is
            # the limit. Not RLIMIT_AS: address space is not memory.
            "RLIMIT_DATA": self.memory_bytes + reserved,
            "RLIMIT_FSIZE": FILE_BYTES,
            "RLIMIT_NOFILE": min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            # Counted in the sandbox's own user namespace, so sandboxes do not share it.
            "RLIMIT_NPROC": self.max_processes,
        }


@dataclass(slots=True)
class End:
    """What was seen from outside when a sandbox ended."""

    report: dict[str, Any] | None
    frame: bytes
    frame_too_large: bool


class Channels:
    """What leads into one sandbox: a control socket, and pipes out of it.

    `inner` is control, stdout, stderr and result as the inside gets them; `close_inner`
    once it has them, since a pipe ends when its last writer is gone.
    """

    def __init__(self) -> None:
        self.control, control = socket.socketpair()
        self.control.setblocking(False)
        self.outputs: dict[str, int] = {}
        self.inner = [control.detach()]
        for name in ("stdout", "stderr", "result"):
            self.outputs[name], write = os.pipe()
            self.inner.append(write)

    def close_inner(self) -> None:
        while self.inner:
            os.close(self.inner.pop())

    def close(self) -> None:
        self.close_inner()
        self.control.close()
        while self.outputs:
            os.close(self.outputs.popitem()[1])


class Tree(Protocol):
    """The processes of one sandbox."""

    def init(self) -> int:
        """Process 1 of the sandbox, by its pid here."""

    def kill(self) -> None:
        """Kills all of them. Idempotent."""

    async def wait(self) -> None:
        """Returns when none is left."""

    def close(self) -> None:
        """Releases what it holds; the processes are gone."""


class Sandbox:
    """A made sandbox. `run` it at most once, `close` it in the end."""

    def __init__(self, channels: Channels, tree: Tree) -> None:
        self._channels = channels
        self._tree = tree
        self._closed = False

    async def run(self, job: Job, output: Callable[[str, bytes], Any]) -> End:
        """Runs the job to its end. `output(stream, data)` is awaited for each chunk.

        Ends when every process of the job is gone; `kill` from elsewhere ends it early.
        """
        frame = bytearray()

        async def result(_: str, data: bytes) -> None:
            # One byte more than allowed says that it was too large; the rest is not kept.
            frame.extend(data[: max(0, MAX_FRAME_BYTES + 10 - len(frame))])

        takers = {"result": result}
        readers = [
            asyncio.create_task(_read_all(descriptor, name, takers.get(name, output)))
            for name, descriptor in self._channels.outputs.items()
        ]
        report = b""
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._channels.control, job.encode())
            report = await loop.sock_recv(self._channels.control, 4096)
            await asyncio.gather(*readers)
        except (BrokenPipeError, ConnectionResetError):
            await asyncio.gather(*readers)  # init was killed: there is no report
        finally:
            for reader in readers:
                reader.cancel()
        await self._tree.wait()
        return End(
            report=json.loads(report) if report else None,
            frame=bytes(frame),
            frame_too_large=len(frame) > MAX_FRAME_BYTES + 9,
        )

    def init(self) -> int:
        """The sandbox's process 1, by its pid here: whatever runs inside descends from it."""
        return self._tree.init()

    def kill(self) -> None:
        """Kills the whole tree. It is gone when `run` or `close` returns. Idempotent."""
        self._tree.kill()

    async def close(self) -> None:
        """Kills what is left, waits for it, releases the descriptors. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._tree.kill()
        await self._tree.wait()
        self._tree.close()
        self._channels.close()


async def readable(descriptor: int) -> None:
    """Waits until reading `descriptor` would not block. One waiter for each descriptor."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def _read_all(descriptor: int, name: str, take: Callable[[str, bytes], Any]) -> None:
    """Passes on what arrives until no process of the sandbox holds the other end."""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            await readable(descriptor)
            continue
        if not data:
            return
        await take(name, data)
