"""Accepting, waiting for, cancelling and following executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sandbox.execution.v1 import execution_pb2 as pb
from sandbox.executor.v1 import link_pb2
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import StateConflict

from exec_svc import validation
from exec_svc.database import Row
from exec_svc.execution_store import Accepted, ExecutionStore, Found, new_id
from exec_svc.hub import Hub
from exec_svc.journal import Clock, Journal, utc_now
from exec_svc.links import Links
from exec_svc.messages import to_result, to_state
from exec_svc.models import FINAL
from exec_svc.session_store import SessionStore
from exec_svc.validation import NewExecution


class Executions:
    """What ExecutionService and its REST form both call."""

    def __init__(
        self,
        sessions: SessionStore,
        store: ExecutionStore,
        journal: Journal,
        links: Links,
        hub: Hub,
        clock: Clock = utc_now,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._journal = journal
        self._links = links
        self._hub = hub
        self._clock = clock

    async def accept(
        self, new: NewExecution, caller: Caller, execution_id: str | None = None
    ) -> Accepted:
        """Stores an execution durably and sends it on its way."""
        now, traceparent = self._clock(), telemetry.traceparent()
        link = self._links.reserve(new.session_id)
        run = None
        try:
            accepted = await self._store.insert(
                new,
                caller=caller,
                idempotency_key=validation.idempotency_key(caller.idempotency_key),
                traceparent=traceparent,
                now=now,
                boot_id=link.boot_id if link else None,
                execution_id=execution_id or new_id(now),
            )
            if not accepted.repeated:
                run = _run(new, accepted.execution_id, traceparent)
        finally:
            if link is not None:
                self._links.use(link, run)
            if run is None or link is None:
                # A refused request may have held the slot that another one found taken.
                await self._links.dispatch(new.session_id)
        telemetry.note(session__id=new.session_id, execution__id=accepted.execution_id)
        return accepted

    async def get(self, execution_id: str, caller: Caller) -> Row:
        row = await self._store.get(execution_id)
        caller.require(row.domain, "Execution", execution_id)
        return row

    async def page(
        self, request: pb.ListExecutionsRequest, caller: Caller
    ) -> tuple[list[Row], int]:
        limit, offset = validation.page(request)
        session = await self._sessions.get(request.session_id)
        caller.require(session.domain, "Session", request.session_id)
        status = pb.ExecutionStatus.Value.Name(request.status) if request.status else None
        return await self._store.page(request.session_id, status, limit, offset)

    async def accept_and_wait(
        self, new: NewExecution, caller: Caller, seconds: float
    ) -> tuple[Accepted, Found]:
        """Accepts, then answers the execution when it has ended or after `seconds`."""
        seconds = validation.wait_seconds(seconds)
        execution_id = new_id(self._clock())
        # Subscribed before anything can happen to it, there is no need to look first.
        with self._hub.subscribe(execution_id, only_end=True) as ended:
            accepted = await self.accept(new, caller, execution_id)
            if not accepted.repeated:
                await _within(seconds, ended)
                return accepted, await self._store.look(execution_id)
        return accepted, await self.wait(accepted.execution_id, caller, seconds)

    async def wait(self, execution_id: str, caller: Caller, seconds: float | None) -> Found:
        """The execution when it has ended, or as it stands after `seconds`."""
        if seconds is not None:
            seconds = validation.wait_seconds(seconds)
        with self._hub.subscribe(execution_id, only_end=True) as ended:
            found = await self.look(execution_id, caller)
            if found.has_ended or seconds is None:
                return found
            await _within(seconds, ended)
            return await self._store.look(execution_id)

    async def look(self, execution_id: str, caller: Caller) -> Found:
        """The execution as it stands."""
        found = await self._store.look(execution_id)
        caller.require(found.row.domain, "Execution", execution_id)
        return found

    async def result(
        self, execution_id: str, caller: Caller, seconds: float | None
    ) -> pb.ExecutionResult:
        """Raises StateConflict while there is none."""
        found = await self.wait(execution_id, caller, seconds)
        if not found.has_ended:
            status = found.row.status
            raise StateConflict(f"execution '{execution_id}' is {status}: no result yet")
        return to_result(found.row, found.output)

    async def cancel(self, execution_id: str, caller: Caller) -> Row:
        """Ends an execution; its processes are gone when this returns."""
        row = await self.get(execution_id, caller)
        if row.status in FINAL:
            return row
        with self._hub.subscribe(execution_id) as changed:
            row = await self._store.ask_to_cancel(execution_id)
            while row.status not in FINAL:
                if row.boot_id is None:
                    message = "the execution was cancelled"
                    self._hub.notify(await self._journal.fail([execution_id], message))
                else:
                    self._links.cancel(row.session_id, execution_id)
                    # Without a link it ends when the silence is noticed.
                    await changed.wait()
                changed.clear()
                row = await self._store.get(execution_id)
        return row

    async def follow(
        self, execution_id: str, after: int, caller: Caller
    ) -> AsyncIterator[pb.ExecutionEvent]:
        """Every event after `after`, as they are committed; ends with the result."""
        await self.get(execution_id, caller)
        with self._hub.subscribe(execution_id) as changed:
            while True:
                changed.clear()
                rows = await self._store.events_after(execution_id, after)
                for event in rows:
                    after = event.id
                    yield await self._event(event)
                    if event.kind == "result":
                        return
                if rows:
                    continue
                row = await self._store.get(execution_id)
                if row.status not in FINAL:
                    await changed.wait()
                elif row.last_event <= after:
                    return  # the reader had seen everything already
                # Otherwise it ended between the two looks, and its last events are there now.

    async def _event(self, event: Row) -> pb.ExecutionEvent:
        if event.kind in ("stdout", "stderr"):
            return pb.ExecutionEvent(id=event.id, **{event.kind: event.data})
        found = await self._store.look(event.execution_id)
        if event.kind == "result":
            return pb.ExecutionEvent(id=event.id, result=to_result(found.row, found.output))
        state = to_state(found.row)
        # What it was then, not what it is now.
        state.status = pb.ExecutionStatus.Value.Value(event.data.decode())
        if event.data.decode() not in FINAL:
            state.ClearField("completed_at")
        return pb.ExecutionEvent(id=event.id, status=state)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Returns when the event is set, or after `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _run(new: NewExecution, execution_id: str, traceparent: str) -> link_pb2.Run:
    return link_pb2.Run(
        run=link_pb2.RunRef(execution_id=execution_id, attempt=1),
        language=new.language,
        code=new.code.encode(),
        event_json=new.event_json,
        env_vars=new.env_vars,
        stdin=new.stdin,
        timeout_seconds=new.timeout,
        traceparent=traceparent,
    )
