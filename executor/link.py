"""The connection to exec_svc: dials, says what it knows, resumes, never gives up."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
from sandbox.executor.v1 import link_pb2 as pb
from sandbox.executor.v1 import link_pb2_grpc

from executor import version
from executor.runs import Runs
from executor.settings import Settings
from executor.spool import Spool
from executor.trace import Trace

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 5.0
BATCH_BYTES = 1024 * 1024
STOP_SECONDS = 5.0  # for the spool to be acknowledged after Stop
_MAX_MESSAGE_BYTES = 48 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A peer that vanished without a word is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Our own back-off is the only one: gRPC's would add to it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class Link:
    """Carries Runs' messages out and exec_svc's orders in, over as many connections as it takes."""

    def __init__(self, settings: Settings, runs: Runs, spool: Spool) -> None:
        self._settings = settings
        self._runs = runs
        self._spool = spool
        self._boot_id = uuid.uuid4().hex
        self._unnumbered: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self._ephemeral = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.done = asyncio.Event()

    async def run(self) -> None:
        """Stays connected until `done` is set: by Stop, or by the end of an ephemeral session."""
        backoff = FIRST_BACKOFF_SECONDS
        while not self.done.is_set():
            try:
                await self._connect()
                backoff = FIRST_BACKOFF_SECONDS
            except grpc.aio.AioRpcError as error:
                log.warning("link lost: %s %s", error.code().name, error.details())
            except asyncio.InvalidStateError as error:  # a write after the call had ended
                log.warning("link lost: %s", error)
            # Jitter: a restarted exec_svc is not met by all its executors at once.
            pause = backoff * random.uniform(0.5, 1.0)  # noqa: S311
            try:
                await asyncio.wait_for(self.done.wait(), pause)
            except TimeoutError:
                backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)

    async def _connect(self) -> None:
        async with grpc.aio.insecure_channel(self._settings.link_target, _OPTIONS) as channel:
            stub = link_pb2_grpc.ExecutorLinkServiceStub(channel)
            metadata = (("authorization", f"Bearer {self._settings.token}"),)
            call: Any = stub.Connect(metadata=metadata)  # type: ignore[call-arg]  # the stub wants an iterator
            await call.write(pb.ConnectRequest(hello=self._hello()))
            sender = asyncio.create_task(self._send(call))
            finisher = asyncio.create_task(self.done.wait())
            reader = asyncio.create_task(self._receive(call))
            try:
                await asyncio.wait((sender, reader, finisher), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sender, reader, finisher):
                    task.cancel()
                results = await asyncio.gather(sender, reader, finisher, return_exceptions=True)
                call.cancel()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            sandbox_id=self._settings.sandbox_id,
            boot_id=self._boot_id,
            version=version(),
            known=self._runs.known(),
            first_unacknowledged=self._spool.first,
        )

    async def _send(self, call: Any) -> None:
        """Everything in the spool from its beginning, then what comes; heartbeats between."""
        sent = 0
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time() + HEARTBEAT_SECONDS
        while True:
            self._spool.grown.clear()
            while not self._unnumbered.empty():
                await call.write(self._unnumbered.get_nowait())
            pending = self._spool.after(sent)
            for batch in _batches(pending):
                await call.write(batch)
            if pending:
                sent = pending[-1].seq
            if loop.time() >= heartbeat_at:
                await call.write(
                    pb.ConnectRequest(heartbeat=pb.Heartbeat(known=self._runs.known()))
                )
                heartbeat_at = loop.time() + HEARTBEAT_SECONDS
            try:
                await asyncio.wait_for(self._spool.grown.wait(), heartbeat_at - loop.time())
            except TimeoutError:
                continue

    async def _receive(self, call: Any) -> None:
        async for response in call:
            kind = response.WhichOneof("kind")
            if kind == "ack":
                finished = self._spool.acknowledge(response.ack.seq)
                if finished and self._ephemeral:
                    self.done.set()
            elif kind == "run":
                self._runs.start(response.run)
            elif kind == "cancel":
                self._runs.cancel(response.cancel.run)
            elif kind == "configure":
                self._later(self._configure(response.configure))
            elif kind == "stop":
                self._later(self._stop())

    async def _configure(self, order: pb.Configure) -> None:
        trace = Trace(order.traceparent)
        with trace.span("executor.configure"):
            self._ephemeral = order.config.ephemeral
            refusal = await self._runs.configure(order.config)
        if refusal:
            log.error("nothing can run here: %s", refusal)
        else:
            log.info("configured; a sandbox was made, so isolation works")
        self._say(pb.ConnectRequest(configured=pb.Configured(refusal=refusal, spans=trace.spans)))

    async def _stop(self) -> None:
        await self._runs.stop()
        try:
            await asyncio.wait_for(self._spool.empty.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("stopping with messages that were never acknowledged")
        self.done.set()

    def _say(self, message: pb.ConnectRequest) -> None:
        self._unnumbered.put_nowait(message)
        self._spool.grown.set()  # wakes the sender

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _batches(messages: list[pb.ConnectRequest]) -> Iterator[pb.ConnectRequest]:
    """As few messages as their size allows: each costs both ends about as much as its commit."""
    batch: list[pb.ConnectRequest] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += message.ByteSize()
        if size >= BATCH_BYTES:
            yield _batch(batch)
            batch, size = [], 0
    if batch:
        yield _batch(batch)


def _batch(messages: list[pb.ConnectRequest]) -> pb.ConnectRequest:
    if len(messages) == 1:
        return messages[0]
    return pb.ConnectRequest(batch=pb.Batch(messages=messages))
