"""One sandbox: bwrap with everything closed, an init inside that waits for one job.

A sandbox is made ahead of its job and used once. Making it proves that isolation works:
init reports ready only from inside the finished namespaces. If bwrap cannot set them up,
`Sandbox.make` raises IsolationError, and nothing runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.bwrap import INSIDE_GUEST, INSIDE_NODE, IsolationError, Tools, arguments

MIB = 1024 * 1024
READY_SECONDS = 30.0  # a loaded machine is slow; a broken one says so at once
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

    exit_code: int
    report: dict[str, Any] | None
    frame: bytes
    frame_too_large: bool


class Sandbox:
    """A made sandbox. `run` it at most once, `close` it in the end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        inner_pid: int,
        control: socket.socket,
        outputs: dict[str, int],
        descriptors: list[int],
    ) -> None:
        self._process = process
        self._inner_pid = inner_pid
        self._control = control
        self._outputs = outputs
        self._pidfd = os.pidfd_open(process.pid)
        self._descriptors = [*descriptors, self._pidfd]

    @classmethod
    async def make(cls, tools: Tools, workspace: Path) -> Sandbox:
        """Starts bwrap and waits until init is ready inside.

        Raises IsolationError with bwrap's own words when it cannot.
        """
        ours, theirs = socket.socketpair()
        status_read, status_write = os.pipe()
        errors_read, errors_write = os.pipe()
        output_read, output_write = os.pipe()
        result_read, result_write = os.pipe()
        program = os.memfd_create("filter")
        os.write(program, tools.filter)
        os.lseek(program, 0, os.SEEK_SET)
        inside = (theirs.fileno(), status_write, result_write, program)
        command = arguments(tools, workspace, status_write, program)
        guest = [f"{INSIDE_GUEST}/init.py", str(theirs.fileno()), str(result_write)]
        try:
            process = await asyncio.to_thread(
                subprocess.Popen,
                [*command, "--", str(tools.python), "-I", "-S", *guest],
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=errors_write,
                pass_fds=inside,
                close_fds=True,
                env={},
                cwd="/",
            )
        finally:
            theirs.close()
            for descriptor in (status_write, errors_write, output_write, result_write, program):
                os.close(descriptor)
        outputs = {"stdout": output_read, "stderr": errors_read, "result": result_read}
        descriptors = [status_read, *outputs.values()]
        ours.setblocking(False)
        try:
            ready = await asyncio.wait_for(_receive(ours, 1), READY_SECONDS)
        except TimeoutError:
            ready = b""
        sandbox = cls(process, _inner_pid(status_read), ours, outputs, descriptors)
        if ready != b"R":
            words = _read_now(errors_read)
            await sandbox.close()
            raise IsolationError(f"bwrap could not isolate: {words or 'no answer'}")
        return sandbox

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
            for name, descriptor in self._outputs.items()
        ]
        report = b""
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._control, job.encode())
            report = await _receive(self._control, 4096)
            await asyncio.gather(*readers)
        except (BrokenPipeError, ConnectionResetError):
            await asyncio.gather(*readers)  # init was killed; the exit code below tells
        finally:
            for reader in readers:
                reader.cancel()
        exit_code = await self._wait()
        return End(
            exit_code=exit_code,
            report=json.loads(report) if report else None,
            frame=bytes(frame),
            frame_too_large=len(frame) > MAX_FRAME_BYTES + 9,
        )

    def kill(self) -> None:
        """Kills the whole tree. It is gone when `run` or `close` returns. Idempotent."""
        if self._process.returncode is None:
            # Process 1 of the namespace: the kernel ends all others before it is reaped,
            # and bwrap ends only after that. --die-with-parent is the net below.
            for pid in (self._inner_pid, self._process.pid):
                if pid:
                    _signal(pid)

    async def close(self) -> None:
        """Kills what is left, waits for it, releases the descriptors. Idempotent."""
        self.kill()
        await self._wait()
        self._control.close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    async def _wait(self) -> int:
        if self._process.returncode is None:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(self._pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._pidfd)
            self._process.wait()
        code = self._process.returncode
        return code if code >= 0 else 128 - code


async def _receive(control: socket.socket, size: int) -> bytes:
    return await asyncio.get_running_loop().sock_recv(control, size)


async def _read_all(descriptor: int, name: str, take: Callable[[str, bytes], Any]) -> None:
    """Passes on what arrives until no process of the sandbox holds the other end."""
    os.set_blocking(descriptor, False)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    while True:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            readable.clear()
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
            continue
        if not data:
            return
        await take(name, data)


def _read_now(descriptor: int) -> str:
    """What bwrap said before it gave up; at most a pipe full."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, CHUNK).decode(errors="replace").strip()
    except BlockingIOError:
        return ""


def _inner_pid(status: int) -> int:
    """The pid of init as this process sees it; 0 where bwrap did not get that far."""
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


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself; the wait that follows sees it
