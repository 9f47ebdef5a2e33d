"""Rows of sessions, and the one place that turns them into messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sandbox.scheduler.v1 import scheduler_pb2 as scheduler
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.auth import NO_QUOTAS
from sandbox_rpc.errors import NotFound, StateConflict, TooManyRequests
from sandbox_rpc.tokens import Quotas
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from session_svc.clock import Clock
from session_svc.database import Database
from session_svc.models import LIVE, IdempotencyKeyRow, SessionRow, Status, TemplateRow
from session_svc.quota import check_quotas

KEY_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What the client called its request, and what was in it."""

    key: str
    request_hash: str


class Store:
    """Changes are single transactions; each is conditional on what the caller has seen.

    A method that answers `SessionRow | None` has changed the row and returns it as it is
    now, or has changed nothing because it was in another state already.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def ping(self) -> None:
        """Raises what the database raises when it does not answer."""
        async with self._database.read() as session:
            await session.execute(text("SELECT 1"))

    async def insert(
        self, row: SessionRow, key: IdempotencyKey | None, quotas: Quotas = NO_QUOTAS
    ) -> SessionRow:
        """Adds `row`, or finds the session that was made with the same key.

        Raises StateConflict when that was made by another request, TooManyRequests and
        Forbidden for the quotas of the row's principal, and NotFound when the template is
        gone by now: one that a live session uses is never removed.
        """
        if key is not None:
            first = await self.keyed(row.domain, key)
            if first is not None:
                return first
        try:
            async with self._database.write() as session:
                shared = {"read": True}
                if not await session.get(TemplateRow, row.template_id, with_for_update=shared):
                    raise NotFound("Template", row.template_id)
                if quotas != NO_QUOTAS:
                    live = await _live_of(session, row.principal)
                    check_quotas(quotas, live, row, self._clock.now())
                session.add(row)
                await session.flush()
                if key is not None:
                    session.add(self._key_row(row, key))
        except (IntegrityError, TooManyRequests):
            # Another request with the key came in between, and perhaps took the last of the
            # quota; otherwise the quota is used up, or a session id taken, which is a fault.
            first = await self.keyed(row.domain, key) if key else None
            if first is None:
                raise
            return first
        return row

    async def forget_key(self, session_id: str) -> None:
        """Frees the key of a session that came to nothing, so that a retry tries again."""
        async with self._database.write() as session:
            matches = IdempotencyKeyRow.session_id == session_id
            await session.execute(delete(IdempotencyKeyRow).where(matches))

    async def forget_old_keys(self) -> None:
        async with self._database.write() as session:
            old = IdempotencyKeyRow.created_at <= self._clock.now() - KEY_LIFETIME
            await session.execute(delete(IdempotencyKeyRow).where(old))

    async def get(self, session_id: str) -> SessionRow | None:
        async with self._database.read() as session:
            return await session.get(SessionRow, session_id)

    async def page(
        self,
        domain: str,
        *,
        status: Status | None,
        template_id: str | None,
        limit: int,
        offset: int,
    ) -> tuple[Sequence[SessionRow], int]:
        """A page of the domain's sessions, newest first, and how many there are in all."""
        wanted = [SessionRow.domain == domain]
        if status is not None:
            wanted.append(SessionRow.status == status)
        if template_id is not None:
            wanted.append(SessionRow.template_id == template_id)
        newest = (SessionRow.created_at.desc(), SessionRow.session_id)
        rows = select(SessionRow).where(*wanted).order_by(*newest).limit(limit).offset(offset)
        count = select(func.count()).select_from(SessionRow).where(*wanted)
        async with self._database.read() as session:
            return (await session.scalars(rows)).all(), await session.scalar(count) or 0

    async def with_status(self, status: Status) -> Sequence[SessionRow]:
        return await self._select(SessionRow.status == status)

    async def unreleased(self) -> Sequence[SessionRow]:
        """Sessions that have ended but still hold a sandbox or an attachment, perhaps."""
        return await self._select(SessionRow.status.not_in(LIVE), SessionRow.released.is_(False))

    async def expired(self) -> Sequence[SessionRow]:
        """Running sessions that have been idle for their timeout, as far as is known here."""
        return await self._select(
            SessionRow.status == "running", SessionRow.expires_at <= self._clock.now()
        )

    async def next_expiry(self) -> datetime | None:
        async with self._database.read() as session:
            return await session.scalar(
                select(func.min(SessionRow.expires_at)).where(SessionRow.status == "running")
            )

    async def place(self, row: SessionRow, sandbox: scheduler.Sandbox) -> SessionRow | None:
        """Notes where the sandbox of this generation runs, while the session lives."""
        return await self._change(
            row,
            SessionRow.status.in_(LIVE),
            SessionRow.generation == row.generation,
            runtime_node=sandbox.node,
            container_id=sandbox.container_id,
            pod_name=sandbox.pod_name if sandbox.HasField("pod_name") else None,
        )

    async def note_progress(self, sandbox: scheduler.Sandbox) -> None:
        """Notes what the sandbox of a session that is `creating` waits for."""
        async with self._database.write() as session:
            await session.execute(
                update(SessionRow)
                .where(
                    SessionRow.session_id == sandbox.session_id,
                    SessionRow.generation == sandbox.generation,
                    SessionRow.status == "creating",
                )
                .values(status_reason=sandbox.reason, updated_at=self._clock.now())
            )

    async def run(self, row: SessionRow, reason: str | None) -> SessionRow | None:
        """Makes a live session `running`: its sandbox of this generation is attached."""
        now = self._clock.now()
        return await self._change(
            row,
            SessionRow.status.in_(LIVE),
            SessionRow.generation == row.generation,
            status="running",
            status_reason=reason,
            attached_at=now,
            last_activity_at=now,
            expires_at=now + timedelta(seconds=row.timeout),
        )

    async def renew(self, row: SessionRow, recoveries: int, reason: str) -> SessionRow | None:
        """Moves a running session to its next generation: its sandbox is lost."""
        return await self._change(
            row,
            SessionRow.status == "running",
            SessionRow.generation == row.generation,
            generation=row.generation + 1,
            recoveries=recoveries,
            status_reason=reason,
        )

    async def end(self, row: SessionRow, status: Status, reason: str | None) -> SessionRow | None:
        """Gives a live session its final status."""
        return await self._change(
            row, SessionRow.status.in_(LIVE), status=status, status_reason=reason
        )

    async def release(self, row: SessionRow) -> None:
        """Notes that an ended session holds nothing any more."""
        async with self._database.write() as session:
            await session.execute(
                update(SessionRow)
                .where(SessionRow.session_id == row.session_id, SessionRow.status.not_in(LIVE))
                .values(released=True)
            )

    async def touch(self, row: SessionRow, last_activity_at: datetime) -> None:
        """Notes a later activity."""
        async with self._database.write() as session:
            await session.execute(
                update(SessionRow)
                .where(
                    SessionRow.session_id == row.session_id,
                    SessionRow.last_activity_at < last_activity_at,
                )
                .values(
                    last_activity_at=last_activity_at,
                    expires_at=last_activity_at + timedelta(seconds=row.timeout),
                )
            )

    async def _select(self, *wanted: Any) -> Sequence[SessionRow]:
        async with self._database.read() as session:
            return (await session.scalars(select(SessionRow).where(*wanted))).all()

    async def _change(self, row: SessionRow, *condition: Any, **values: Any) -> SessionRow | None:
        change = (
            update(SessionRow)
            .where(SessionRow.session_id == row.session_id, *condition)
            .values(updated_at=self._clock.now(), **values)
            .returning(SessionRow)
        )
        async with self._database.write() as session:
            return (await session.scalars(change)).one_or_none()

    async def keyed(self, domain: str, key: IdempotencyKey) -> SessionRow | None:
        """The session that was made with this key in the last 24 h.

        Raises StateConflict when that was made by another request.
        """
        async with self._database.read() as session:
            known = await session.get(IdempotencyKeyRow, (domain, key.key))
            if known is not None and known.created_at > self._clock.now() - KEY_LIFETIME:
                if known.request_hash != key.request_hash:
                    raise StateConflict(
                        "Header 'Idempotency-Key' was used with another request in the last 24 h"
                    )
                return await session.get(SessionRow, known.session_id)
        if known is not None:
            await self.forget_key(known.session_id)
        return None

    def _key_row(self, row: SessionRow, key: IdempotencyKey) -> IdempotencyKeyRow:
        return IdempotencyKeyRow(
            domain=row.domain,
            key=key.key,
            request_hash=key.request_hash,
            session_id=row.session_id,
            created_at=self._clock.now(),
        )


async def _live_of(session: AsyncSession, principal: str | None) -> Sequence[SessionRow]:
    of_theirs = SessionRow.principal == principal, SessionRow.status.in_(LIVE)
    return (await session.scalars(select(SessionRow).where(*of_theirs))).all()


def status_word(status: pb.SessionStatus.Value.ValueType) -> Status | None:
    """The word that stands in a row; None for `unspecified`."""
    if status == pb.SessionStatus.unspecified:
        return None
    return cast(Status, pb.SessionStatus.Value.Name(status))


def to_message(row: SessionRow) -> pb.Session:
    message = pb.Session(
        session_id=row.session_id,
        template_id=row.template_id,
        mode=pb.SessionMode.Value.Value(row.mode),
        status=pb.SessionStatus.Value.Value(row.status),
        status_reason=row.status_reason,
        runtime_type=pb.RuntimeType.Value.Value(row.runtime_type),
        runtime_node=row.runtime_node,
        container_id=row.container_id,
        pod_name=row.pod_name,
        workspace_path="/workspace",
        resources=pb.Resources(
            cpu=row.cpu, memory=row.memory, disk=row.disk, max_processes=row.max_processes
        ),
        env_vars=row.env_vars,
        metadata=row.labels,
        timeout=row.timeout,
    )
    message.created_at.FromDatetime(row.created_at)
    message.updated_at.FromDatetime(row.updated_at)
    message.last_activity_at.FromDatetime(row.last_activity_at)
    message.expires_at.FromDatetime(row.expires_at)
    return message
