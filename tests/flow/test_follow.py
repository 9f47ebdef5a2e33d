"""Readers that meet an execution's end at the worst moment."""

from __future__ import annotations

from typing import Any

from exec_svc.database import Database, Row
from exec_svc.execution_store import ExecutionStore
from exec_svc.executions import Executions
from exec_svc.hub import Hub
from exec_svc.journal import Journal
from exec_svc.session_store import SessionStore
from sandbox_rpc.auth import Caller, Principal

from tests.flow.execution import ExecService


class EndsBetweenTwoLooks(ExecutionStore):
    """The execution ends after its events were read and before its status is."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._journal = Journal(database)
        self._ended = False

    async def events_after(self, execution_id: str, after: int) -> list[Row]:  # type: ignore[override]
        rows = await super().events_after(execution_id, after)
        if not self._ended:
            self._ended = True
            await self._journal.fail([execution_id], "ended meanwhile")
        return rows


async def test_the_last_events_are_not_missed(exec_service: ExecService) -> None:
    session = await exec_service.session("f")
    execution = await exec_service.submit(session, "print(1)")
    database = exec_service._database
    assert database is not None
    no_links: Any = None  # following reads; it sends nothing
    executions = Executions(
        SessionStore(database),
        EndsBetweenTwoLooks(database),
        Journal(database),
        no_links,
        Hub(),
    )
    caller = Caller(Principal("user", "test"), "default", "request", None)
    events = [event async for event in executions.follow(execution, 0, caller)]
    assert [event.WhichOneof("kind") for event in events] == ["status", "result"]
    assert events[-1].result.error.message == "ended meanwhile"
    # A reader that has seen all of it gets nothing more, and an end.
    assert [event async for event in executions.follow(execution, events[-1].id, caller)] == []
