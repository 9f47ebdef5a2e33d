"""One live connection to an executor, as exec_svc sees it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from sandbox.executor.v1 import link_pb2 as pb


@dataclass(slots=True)
class Sent:
    """A run that this executor has. `heartbeats`: how many came since without naming it."""

    attempt: int
    traceparent: str
    heartbeats: int = 0


@dataclass(eq=False)
class Link:
    """`session_id` is empty until the sandbox is bound; `ready` once it is configured.

    `backlog` says that executions may be waiting in the database: while it is False and
    there is a free slot, a new execution may be sent straight after it is stored.
    """

    hello: pb.Hello
    session_id: str = ""
    concurrency: int = 1
    ready: bool = False
    backlog: bool = True
    configure_traceparent: str = ""
    running: dict[str, Sent] = field(default_factory=dict)
    reserved: int = 0
    last_heard: float = field(default_factory=time.monotonic)
    outbox: asyncio.Queue[pb.ConnectResponse | None] = field(default_factory=asyncio.Queue)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def sandbox_id(self) -> str:
        return self.hello.sandbox_id

    @property
    def boot_id(self) -> str:
        return self.hello.boot_id

    @property
    def free_slots(self) -> int:
        return self.concurrency - len(self.running) - self.reserved

    def heard(self) -> None:
        self.last_heard = time.monotonic()

    def send(self, message: pb.ConnectResponse) -> None:
        self.outbox.put_nowait(message)

    def send_run(self, run: pb.Run) -> None:
        self.running[run.run.execution_id] = Sent(run.run.attempt, run.traceparent)
        self.send(pb.ConnectResponse(run=run))

    def close(self) -> None:
        """Ends the stream after what is in the outbox."""
        self.outbox.put_nowait(None)
