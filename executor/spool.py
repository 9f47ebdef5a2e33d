"""Messages that exec_svc has not acknowledged yet, on the container's disk.

Numbered from 1 without gaps. A message is in the file before it is sent, and leaves it
when it is acknowledged. The file survives the executor's death, not the machine's (it is
not synced): a machine that dies takes the container with it.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from pathlib import Path

from sandbox.executor.v1 import link_pb2 as pb

MAX_BYTES = 64 * 1024 * 1024
_SIZE = struct.Struct("!I")


class Spool:
    """Not thread-safe: one event loop appends, sends and acknowledges."""

    def __init__(self, directory: Path) -> None:
        """Takes over what a former executor left there. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "spool"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._messages: deque[pb.ConnectRequest] = deque(_read(path))
        self._bytes = sum(message.ByteSize() for message in self._messages)
        self._next = self._messages[-1].seq + 1 if self._messages else 1
        self._room = asyncio.Event()
        self.grown = asyncio.Event()
        self.empty = asyncio.Event()
        self._weigh()

    @property
    def first(self) -> int:
        """The oldest unacknowledged number; 0 when there is none."""
        return self._messages[0].seq if self._messages else 0

    def unfinished_business(self) -> list[pb.RunRef]:
        """The runs whose Finished is in the spool."""
        return [m.finished.run for m in self._messages if m.HasField("finished")]

    async def append_when_room(self, message: pb.ConnectRequest) -> None:
        """Appends output; waits while MAX_BYTES are unacknowledged, and so stops the writer."""
        await self._room.wait()
        self.append(message)

    def append(self, message: pb.ConnectRequest) -> None:
        """Numbers and keeps a message. Never waits: a result must not be lost for output."""
        message.seq = self._next
        self._next += 1
        data = message.SerializeToString()
        os.write(self._file, _SIZE.pack(len(data)) + data)
        self._messages.append(message)
        self._bytes += len(data)
        self._weigh()
        self.grown.set()

    def after(self, seq: int) -> list[pb.ConnectRequest]:
        """What has to be sent to somebody who has seen everything up to `seq`."""
        first = self.first
        if not first:
            return []
        skip = max(0, seq + 1 - first)
        return [self._messages[i] for i in range(skip, len(self._messages))]

    def acknowledge(self, seq: int) -> list[pb.RunRef]:
        """Forgets everything up to `seq`; answers the runs whose Finished that was."""
        finished = []
        while self._messages and self._messages[0].seq <= seq:
            message = self._messages.popleft()
            self._bytes -= message.ByteSize()
            if message.HasField("finished"):
                finished.append(message.finished.run)
        if not self._messages:
            os.ftruncate(self._file, 0)
        self._weigh()
        return finished

    def close(self) -> None:
        os.close(self._file)

    def _weigh(self) -> None:
        _set(self._room, self._bytes < MAX_BYTES)
        _set(self.empty, not self._messages)


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()


def _read(path: Path) -> list[pb.ConnectRequest]:
    """The messages of a file whose last one may be torn."""
    data = path.read_bytes()
    messages = []
    position = 0
    while position + _SIZE.size <= len(data):
        (size,) = _SIZE.unpack_from(data, position)
        position += _SIZE.size
        if position + size > len(data):
            break
        messages.append(pb.ConnectRequest.FromString(data[position : position + size]))
        position += size
    return messages
