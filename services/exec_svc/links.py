"""The live links: who is connected, what each executor has, what it gets next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from sandbox.executor.v1 import link_pb2 as pb
from sandbox_rpc import telemetry
from sandbox_rpc.errors import StateConflict

from exec_svc.execution_store import ExecutionStore
from exec_svc.hub import Hub
from exec_svc.journal import Clock, Journal, utc_now
from exec_svc.link import Link, Sent
from exec_svc.messages import to_run
from exec_svc.session_store import SessionStore
from exec_svc.spans import Spans

log = logging.getLogger(__name__)

SILENCE_SECONDS = 15.0  # three heartbeats

Key = tuple[str, int]


class Links:
    """All of one exec_svc. What must survive it is in the database."""

    def __init__(
        self,
        sessions: SessionStore,
        executions: ExecutionStore,
        journal: Journal,
        hub: Hub,
        spans: Spans,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._executions = executions
        self._journal = journal
        self._hub = hub
        self._spans = spans
        self._clock = clock
        self._monotonic = monotonic
        self._links: dict[str, Link] = {}  # by sandbox
        self._by_session: dict[str, Link] = {}
        self._attaching: dict[str, set[asyncio.Future[str]]] = {}  # by sandbox
        # The trace of an AttachSession whose executor has not dialled yet, by sandbox.
        self._traceparents: dict[str, str] = {}
        # Since when a session has no link, on the monotonic clock.
        self._lost: dict[str, float] = {}
        self._started = monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- connections

    async def connect(self, hello: pb.Hello) -> Link:
        """A new connection. It takes over from an older one of the same sandbox."""
        older = self._links.pop(hello.sandbox_id, None)
        if older is not None:
            self._forget(older)
            older.close()
        link = Link(hello)
        self._links[hello.sandbox_id] = link
        await self._begin(link)
        return link

    def disconnect(self, link: Link) -> None:
        if self._links.get(link.sandbox_id) is link:
            del self._links[link.sandbox_id]
            self._forget(link)

    async def configured(self, link: Link, message: pb.Configured) -> None:
        self._spans.export(link.configure_traceparent, message.spans, {})
        for waiter in self._attaching.pop(link.sandbox_id, ()):
            if waiter.done():
                continue
            if message.refusal:
                waiter.set_exception(StateConflict(f"isolation refused: {message.refusal}"))
            else:
                waiter.set_result(link.hello.version)
        link.ready = not message.refusal
        await self.dispatch(link.session_id)

    async def heartbeat(self, link: Link, known: Iterable[pb.RunRef]) -> None:
        """Heals what a cut lost: a run that two heartbeats do not name is not there."""
        keys = {_key(ref) for ref in known}
        missing = False
        for execution_id, sent in link.running.items():
            absent = (execution_id, sent.attempt) not in keys
            sent.heartbeats = sent.heartbeats + 1 if absent else 0
            missing = missing or sent.heartbeats >= 2
        if missing:
            await self._reconcile(link, keys)

    async def numbered(self, link: Link, messages: Sequence[pb.ConnectRequest]) -> None:
        """Commits, then acknowledges, then tells the readers, then sends the next run."""
        changed = await self._journal.apply(link.sandbox_id, messages)
        link.send(pb.ConnectResponse(ack=pb.Ack(seq=messages[-1].seq)))
        self._hub.notify(changed)
        for message in messages:
            if message.HasField("finished"):
                finished = message.finished
                sent = link.running.pop(finished.run.execution_id, None)
                if sent is not None:
                    ids = {"sandbox.execution.id": finished.run.execution_id}
                    self._spans.export(sent.traceparent, finished.spans, ids)
        await self.dispatch(link.session_id)

    # --- sessions

    async def attach(self, session_id: str, sandbox_id: str) -> str:
        """Binds and waits until that sandbox's executor is configured; its version."""
        orphans = await self._sessions.bind(session_id, sandbox_id)
        older = self._by_session.get(session_id)
        if older is not None and older.sandbox_id != sandbox_id:
            self._forget(older)
            older.send(pb.ConnectResponse(stop=pb.Stop()))
        await self._crashed(orphans)
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiters = self._attaching.setdefault(sandbox_id, set())
        waiters.add(waiter)
        try:
            link = self._links.get(sandbox_id)
            if link is not None:
                await self._begin(link, telemetry.traceparent())
            else:
                self._traceparents[sandbox_id] = telemetry.traceparent()
            return await waiter
        finally:
            waiters.discard(waiter)
            self._traceparents.pop(sandbox_id, None)

    async def detach(self, session_id: str, reason: str) -> None:
        """Ends everything of a session and tells its executor to leave."""
        sandbox_id, live = await self._sessions.close(session_id, self._clock())
        self._hub.notify(await self._journal.fail(live, reason))
        link = self._links.get(sandbox_id) if sandbox_id else None
        if link is not None:
            link.send(pb.ConnectResponse(stop=pb.Stop()))
        for waiter in self._attaching.pop(sandbox_id or "", ()):
            if not waiter.done():
                waiter.set_exception(StateConflict(f"session '{session_id}' has ended"))
        self._lost.pop(session_id, None)

    def silent_for(self, session_id: str) -> float | None:
        """Seconds without a heartbeat; None while the session's link is healthy."""
        link = self._by_session.get(session_id)
        since = link.last_heard if link else self._lost.get(session_id, self._started)
        seconds = self._monotonic() - since
        return seconds if link is None or seconds > SILENCE_SECONDS else None

    # --- executions

    def reserve(self, session_id: str) -> Link | None:
        """A free slot of a ready executor, or None: then the execution waits in its row."""
        link = self._by_session.get(session_id)
        if link is None or not link.ready or link.backlog or link.free_slots < 1:
            if link is not None:
                link.backlog = True
            return None
        link.reserved += 1
        return link

    def use(self, link: Link, run: pb.Run | None) -> None:
        """Ends a reservation: sends the run, or nothing when it came to nothing."""
        link.reserved -= 1
        if run is not None and self._by_session.get(link.session_id) is link:
            link.send_run(run)

    async def dispatch(self, session_id: str) -> None:
        """Sends waiting executions while there are free slots."""
        link = self._by_session.get(session_id)
        if link is None or not link.ready or not link.backlog:
            return
        async with link.lock:
            free = link.free_slots
            if free < 1:
                return
            link.backlog = False
            now = self._clock()
            rows = await self._executions.claim(session_id, link.boot_id, free, now)
            for row in rows:
                link.send_run(to_run(row))
            if len(rows) == free:
                link.backlog = True  # there may be more
                return
            due = await self._executions.next_retry(session_id)
            if due is not None:
                link.backlog = True
                pause = max(0.0, (due - now).total_seconds())
                asyncio.get_running_loop().call_later(
                    pause, lambda: self._later(self.dispatch(session_id))
                )

    def cancel(self, session_id: str, execution_id: str) -> bool:
        """Tells the executor to kill a run; False where no executor is connected."""
        link = self._by_session.get(session_id)
        if link is None or execution_id not in link.running:
            return False
        ref = pb.RunRef(execution_id=execution_id, attempt=link.running[execution_id].attempt)
        link.send(pb.ConnectResponse(cancel=pb.Cancel(run=ref)))
        return True

    # --- silence

    async def watch_silence(self, interval: float = 1.0) -> None:
        """For ever: a link silent for too long is dead, and so is what it was running."""
        for session_id in await self._executions.sessions_with_dispatched():
            self._lost.setdefault(session_id, self._started)
        while True:
            await asyncio.sleep(interval)
            try:
                await self.check_silence()
            except Exception:  # a database that is away for a moment must not end the watch
                log.exception("silence check failed; trying again")

    async def check_silence(self) -> None:
        limit = self._monotonic() - SILENCE_SECONDS
        for link in [link for link in self._links.values() if link.last_heard < limit]:
            log.warning("sandbox %s is silent: link closed", link.sandbox_id)
            self.disconnect(link)
            link.close()
        for session_id in [name for name, since in self._lost.items() if since < limit]:
            rows = await self._executions.dispatched(session_id)
            await self._crashed(row.execution_id for row in rows)

    def close(self) -> None:
        """Ends every stream, so that the server can drain."""
        for link in self._links.values():
            link.close()

    # --- inside

    async def _begin(self, link: Link, traceparent: str = "") -> None:
        """Configures a link whose sandbox is bound to a session. A repeat is harmless."""
        session = await self._sessions.of_sandbox(link.sandbox_id)
        if session is None:
            return  # AttachSession will come back to it
        if not session.open:
            link.send(pb.ConnectResponse(stop=pb.Stop()))
            return
        link.session_id = session.session_id
        link.concurrency = session.concurrency
        link.configure_traceparent = traceparent or self._traceparents.pop(link.sandbox_id, "")
        await self._reconcile(link, {_key(ref) for ref in link.hello.known})
        self._by_session[session.session_id] = link
        self._lost.pop(session.session_id, None)
        configure = pb.Configure(
            session_id=session.session_id,
            config=pb.SessionConfig.FromString(session.config),
            traceparent=link.configure_traceparent,
        )
        link.send(pb.ConnectResponse(configure=configure))

    async def _reconcile(self, link: Link, known: set[Key]) -> None:
        """Compares what the database thinks this executor has with what it says it has."""
        lost, never_arrived = [], []
        link.running.clear()
        for row in await self._executions.dispatched(link.session_id):
            if (row.execution_id, row.attempt) in known:
                link.running[row.execution_id] = Sent(row.attempt, row.traceparent)
            elif row.boot_id == link.boot_id and row.status != "running":
                never_arrived.append(row.execution_id)
            else:
                lost.append(row.execution_id)
        link.backlog = True
        await self._executions.release(never_arrived)
        await self._crashed(lost)

    async def _crashed(self, execution_ids: Iterable[str]) -> None:
        ids = list(execution_ids)
        if not ids:
            return
        self._hub.notify(await self._journal.crash(ids))
        for link in list(self._by_session.values()):
            link.backlog = True

    def _forget(self, link: Link) -> None:
        if self._by_session.get(link.session_id) is link:
            del self._by_session[link.session_id]
            self._lost[link.session_id] = link.last_heard

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _key(ref: pb.RunRef) -> Key:
    return ref.execution_id, ref.attempt
