"""What exec_svc knows of sessions, in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sandbox.executor.v1 import link_pb2
from sandbox_rpc.errors import NotFound, StateConflict

from exec_svc.database import Database, Row, reading, writing
from exec_svc.models import FINAL, LIVE, executions, sessions

_BATCH = 500  # values in one statement


class SessionStore:
    """What exec_svc knows of sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @writing
    def register(
        self,
        connection: sa.Connection,
        session_id: str,
        domain: str,
        config: link_pb2.SessionConfig,
        now: datetime,
    ) -> None:
        """Makes a session known. A repeat changes nothing."""
        if session_row(connection, session_id) is not None:
            return
        connection.execute(
            sa.insert(sessions).values(
                session_id=session_id,
                domain=domain,
                open=True,
                link_seq=0,
                config=config.SerializeToString(deterministic=True),
                ephemeral=config.ephemeral,
                concurrency=max(1, config.concurrency),
                last_activity_at=now,
            )
        )

    @writing
    def bind(self, connection: sa.Connection, session_id: str, sandbox_id: str) -> list[str]:
        """Gives a session its sandbox; answers what another sandbox before it was running.

        Raises NotFound, and StateConflict when the session is closed.
        """
        row = session_row(connection, session_id)
        if row is None:
            raise NotFound("Session", session_id)
        if not row.open:
            raise StateConflict(f"session '{session_id}' has ended")
        if row.sandbox_id == sandbox_id:
            return []
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.session_id == session_id)
            .values(sandbox_id=sandbox_id, link_seq=0)
        )
        return [row.execution_id for row in dispatched_rows(connection, session_id)]

    @writing
    def close(
        self, connection: sa.Connection, session_id: str, now: datetime
    ) -> tuple[str | None, list[str]]:
        """Accepts nothing more; answers its sandbox and what has not ended."""
        row = session_row(connection, session_id)
        if row is None:
            return None, []
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.session_id == session_id)
            .values(open=False, closed_at=row.closed_at or now)
        )
        live = connection.scalars(
            sa.select(executions.c.execution_id).where(
                executions.c.session_id == session_id, executions.c.status.in_(LIVE)
            )
        )
        return row.sandbox_id, list(live)

    @writing
    def touch(self, connection: sa.Connection, session_id: str, now: datetime) -> bool:
        """Notes that a session is in use. False where it has ended, or is not known."""
        touched = connection.execute(
            sa.update(sessions)
            .where(sessions.c.session_id == session_id, sessions.c.open)
            .values(last_activity_at=now)
        )
        return bool(touched.rowcount)

    @reading
    def closed_before(
        self, connection: sa.Connection, moment: datetime, session_ids: Sequence[str]
    ) -> list[str]:
        """Those of the sessions that ended before `moment`."""
        found: list[str] = []
        for start in range(0, len(session_ids), _BATCH):
            found += connection.scalars(
                sa.select(sessions.c.session_id).where(
                    sessions.c.session_id.in_(session_ids[start : start + _BATCH]),
                    sessions.c.closed_at < moment,
                )
            )
        return found

    @reading
    def of_sandbox(self, connection: sa.Connection, sandbox_id: str) -> Row | None:
        found = connection.execute(sa.select(sessions).where(sessions.c.sandbox_id == sandbox_id))
        return found.one_or_none()

    @reading
    def get(self, connection: sa.Connection, session_id: str) -> Row:
        row = session_row(connection, session_id)
        if row is None:
            raise NotFound("Session", session_id)
        return row

    @reading
    def activity(self, connection: sa.Connection, session_ids: Iterable[str]) -> list[Row]:
        """For each known session: its row, and how many executions are open and ended."""
        is_open = sa.case((executions.c.status.in_(LIVE), 1), else_=0)
        is_ended = sa.case((executions.c.status.in_(FINAL), 1), else_=0)
        rows = connection.execute(
            sa.select(
                sessions.c.session_id,
                sessions.c.sandbox_id,
                sessions.c.last_activity_at,
                # Accepting an execution is activity, too, and writes no session.
                sa.func.max(executions.c.created_at).label("last_accepted_at"),
                sa.func.coalesce(sa.func.sum(is_open), 0).label("open_executions"),
                sa.func.coalesce(sa.func.sum(is_ended), 0).label("ended_executions"),
            )
            .outerjoin(executions, executions.c.session_id == sessions.c.session_id)
            .where(sessions.c.session_id.in_(list(session_ids)))
            .group_by(sessions.c.session_id)
        )
        return list(rows)


def session_row(connection: sa.Connection, session_id: str) -> Row | None:
    found = connection.execute(
        sa.select(sessions).where(sessions.c.session_id == session_id).with_for_update()
    )
    return found.one_or_none()


def dispatched_rows(connection: sa.Connection, session_id: str) -> list[Row]:
    c = executions.c
    found = connection.execute(
        sa.select(c.execution_id, c.attempt, c.boot_id, c.status, c.traceparent).where(
            c.session_id == session_id, c.status.in_(LIVE), c.boot_id.is_not(None)
        )
    )
    return list(found)
