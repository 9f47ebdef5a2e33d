"""Executions and their events in the database."""

from __future__ import annotations

import math
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sandbox_rpc.auth import Caller, Principal
from sandbox_rpc.errors import NotFound, StateConflict, TooManyRequests

from exec_svc.database import Database, Row, reading, writing
from exec_svc.models import FINAL, LIVE, WAITING, events, executions, idempotency_keys
from exec_svc.session_store import dispatched_rows, session_row
from exec_svc.validation import NewExecution

QUOTA_WINDOW = timedelta(minutes=1)
KEY_LIFETIME = timedelta(hours=24)
QUEUE_LIMIT = 10  # executions of one session that wait, besides those that run

_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored execution; `repeated` when an Idempotency-Key found an earlier one."""

    execution_id: str
    session_id: str
    created_at: datetime
    repeated: bool


def new_id(now: datetime) -> str:
    """The id of an execution accepted now."""
    tail = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return f"exec_{now:%Y%m%d}_{tail}"


@dataclass(frozen=True, slots=True)
class Found:
    """A row, and what the attempt that ended it wrote to stdout and stderr."""

    row: Row
    output: dict[str, bytes]

    @property
    def has_ended(self) -> bool:
        return self.row.status in FINAL


class ExecutionStore:
    """Executions and their events. Only the journal changes them after `insert`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @writing
    def insert(
        self,
        connection: sa.Connection,
        new: NewExecution,
        *,
        caller: Caller,
        idempotency_key: str | None,
        traceparent: str,
        now: datetime,
        boot_id: str | None,
        execution_id: str,
    ) -> Accepted:
        """Accepts an execution durably. `boot_id` reserves it for a connected executor.

        Raises NotFound, StateConflict (session closed, used up, key reused) and
        TooManyRequests (queue full, the caller's quota used up).
        """
        domain, principal = caller.domain, caller.principal
        session = session_row(connection, new.session_id)
        if session is None or session.domain != domain:
            raise NotFound("Session", new.session_id)
        if idempotency_key is not None:
            earlier = _earlier(connection, domain, idempotency_key, new.digest, now)
            if earlier is not None:
                return earlier
        if not session.open:
            raise StateConflict(f"session '{new.session_id}' has ended")
        _check_room(connection, session)
        _check_quota(connection, principal, now)
        connection.execute(
            _INSERT,
            {
                "execution_id": execution_id,
                "session_id": new.session_id,
                "domain": domain,
                "principal": principal.subject,
                "status": "pending",
                "attempt": 1,
                "boot_id": boot_id,
                "cancelled": False,
                "last_event": 0,
                "language": new.language,
                "code": new.code,
                "event_json": new.event_json,
                "env_vars": new.env_vars,
                "stdin": new.stdin,
                "timeout": new.timeout,
                "traceparent": traceparent,
                "created_at": now,
            },
        )
        if idempotency_key is not None:
            connection.execute(
                sa.insert(idempotency_keys).values(
                    domain=domain,
                    key=idempotency_key,
                    request_hash=new.digest,
                    execution_id=execution_id,
                    created_at=now,
                )
            )
        return Accepted(execution_id, new.session_id, now, repeated=False)

    @reading
    def get(self, connection: sa.Connection, execution_id: str) -> Row:
        row = connection.execute(_GET, {"id": execution_id}).one_or_none()
        if row is None:
            raise NotFound("Execution", execution_id)
        return row

    @reading
    def page(
        self,
        connection: sa.Connection,
        session_id: str,
        status: str | None,
        limit: int,
        offset: int,
    ) -> tuple[list[Row], int]:
        """One page, newest first, and how many there are in all."""
        where = [executions.c.session_id == session_id]
        if status is not None:
            where.append(executions.c.status == status)
        total = connection.scalar(sa.select(sa.func.count()).select_from(executions).where(*where))
        rows = connection.execute(
            sa.select(executions)
            .where(*where)
            .order_by(executions.c.created_at.desc(), executions.c.execution_id.desc())
            .limit(limit)
            .offset(offset)
        )
        return list(rows), int(total or 0)

    @reading
    def events_after(self, connection: sa.Connection, execution_id: str, after: int) -> list[Row]:
        rows = connection.execute(
            sa.select(events)
            .where(events.c.execution_id == execution_id, events.c.id > after)
            .order_by(events.c.id)
            .limit(256)
        )
        return list(rows)

    @reading
    def look(self, connection: sa.Connection, execution_id: str) -> Found:
        """An execution, and its output where it has ended."""
        row = connection.execute(_GET, {"id": execution_id}).one_or_none()
        if row is None:
            raise NotFound("Execution", execution_id)
        if row.status not in FINAL:
            return Found(row, {})
        parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        for kind, data in connection.execute(_OUTPUT, {"id": execution_id, "n": row.attempt}):
            parts[kind].append(data)
        return Found(row, {kind: b"".join(data) for kind, data in parts.items()})

    @reading
    def dispatched(self, connection: sa.Connection, session_id: str) -> list[Row]:
        """What an executor has, or had when it was last heard."""
        return dispatched_rows(connection, session_id)

    @writing
    def claim(
        self, connection: sa.Connection, session_id: str, boot_id: str, limit: int, now: datetime
    ) -> list[Row]:
        """Reserves the oldest waiting executions for an executor, before they are sent."""
        c = executions.c
        found = connection.execute(
            sa.select(executions)
            .where(
                c.session_id == session_id,
                c.status.in_(WAITING),
                c.boot_id.is_(None),
                sa.or_(c.not_before.is_(None), c.not_before <= now),
            )
            .order_by(c.created_at)
            .limit(limit)
            .with_for_update()
        )
        rows = list(found)
        if rows:
            connection.execute(
                sa.update(executions)
                .where(c.execution_id.in_([row.execution_id for row in rows]))
                .values(boot_id=boot_id)
            )
        return rows

    @writing
    def release(self, connection: sa.Connection, execution_ids: Iterable[str]) -> None:
        """Gives back reservations whose Run never reached the executor."""
        connection.execute(
            sa.update(executions)
            .where(
                executions.c.execution_id.in_(list(execution_ids)),
                executions.c.status.in_(WAITING),
            )
            .values(boot_id=None)
        )

    @reading
    def next_retry(self, connection: sa.Connection, session_id: str) -> datetime | None:
        """When the session's next crashed execution is due."""
        found: datetime | None = connection.scalar(
            sa.select(sa.func.min(executions.c.not_before)).where(
                executions.c.session_id == session_id, executions.c.status == "crashed"
            )
        )
        return found

    @writing
    def ask_to_cancel(self, connection: sa.Connection, execution_id: str) -> Row:
        """Notes the wish, so that a crash does not start the execution again."""
        connection.execute(
            sa.update(executions)
            .where(executions.c.execution_id == execution_id, executions.c.status.in_(LIVE))
            .values(cancelled=True)
        )
        found = connection.execute(
            sa.select(executions).where(executions.c.execution_id == execution_id)
        )
        return found.one()

    @reading
    def sessions_with_dispatched(self, connection: sa.Connection) -> list[str]:
        found = connection.scalars(
            sa.select(executions.c.session_id)
            .where(executions.c.status.in_(LIVE), executions.c.boot_id.is_not(None))
            .distinct()
        )
        return list(found)


def _check_room(connection: sa.Connection, session: Row) -> None:
    c = executions.c
    if session.ephemeral:
        used = connection.scalar(
            sa.select(sa.func.count()).where(c.session_id == session.session_id)
        )
        if used:
            raise StateConflict(
                f"session '{session.session_id}' is ephemeral and has had its execution"
            )
    live = connection.scalar(
        sa.select(sa.func.count()).where(c.session_id == session.session_id, c.status.in_(LIVE))
    )
    if (live or 0) >= session.concurrency + QUEUE_LIMIT:
        raise TooManyRequests(
            f"the queue of session '{session.session_id}' is full: at most {QUEUE_LIMIT} "
            f"executions wait"
        )


def _check_quota(connection: sa.Connection, principal: Principal, now: datetime) -> None:
    """Raises TooManyRequests until the oldest of the executions that use it up is a minute old."""
    limit = principal.quotas.executions_per_minute
    if limit is None:
        return
    c = executions.c
    oldest: datetime | None = connection.scalar(
        sa.select(c.created_at)
        .where(c.principal == principal.subject, c.created_at > now - QUOTA_WINDOW)
        .order_by(c.created_at.desc())
        .offset(limit - 1)
        .limit(1)
    )
    if oldest is not None:
        raise TooManyRequests(
            f"the token's quota is used up: at most {limit} executions per minute",
            retry_after=max(1, math.ceil((oldest + QUOTA_WINDOW - now).total_seconds())),
        )


def _earlier(
    connection: sa.Connection, domain: str, key: str, digest: str, now: datetime
) -> Accepted | None:
    """What the key made before; one that is too old is forgotten.

    Raises StateConflict if that was another request.
    """
    keys = idempotency_keys
    ours = (keys.c.domain == domain, keys.c.key == key)
    connection.execute(sa.delete(keys).where(*ours, keys.c.created_at <= now - KEY_LIFETIME))
    found = connection.execute(
        sa.select(keys.c.request_hash, executions)
        .join(executions, executions.c.execution_id == keys.c.execution_id)
        .where(*ours)
    )
    row = found.one_or_none()
    if row is None:
        return None
    if row.request_hash != digest:
        raise StateConflict("the Idempotency-Key was used with another request")
    return Accepted(row.execution_id, row.session_id, row.created_at, repeated=True)


# Made once, see journal.py.
_INSERT = sa.insert(executions)
_GET = sa.select(executions).where(executions.c.execution_id == sa.bindparam("id"))
_OUTPUT = (
    sa.select(events.c.kind, events.c.data)
    .where(
        events.c.execution_id == sa.bindparam("id"),
        events.c.attempt == sa.bindparam("n"),
        events.c.kind.in_(("stdout", "stderr")),
    )
    .order_by(events.c.id)
)
