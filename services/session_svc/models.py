"""The tables of session_svc, and the words that stand in them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, MetaData, String, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Mode = Literal["ephemeral", "persistent"]
Status = Literal["creating", "running", "completed", "failed", "timeout", "terminated"]

# Every other status is final.
LIVE: Final[tuple[Status, ...]] = ("creating", "running")

_SANDBOX_ID = re.compile(r"sbx_([a-z0-9]{16})-(\d+)")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in UTC. SQLite knows no time zones and would return naive ones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # theirs
        datetime: UtcDateTime,
        dict[str, str]: JSON,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class SessionRow(Base):
    """One session. Statuses move by compare-and-set only, see Store.move."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(String(21), primary_key=True)
    domain: Mapped[str] = mapped_column(String(63))
    # Who opened it (Principal.subject); null in rows that are older than quotas.
    principal: Mapped[str | None] = mapped_column(String(260))
    template_id: Mapped[str] = mapped_column(String(63))
    mode: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    status_reason: Mapped[str | None]
    # False until exec_svc and scheduler_svc have let go of a session that has ended.
    released: Mapped[bool] = mapped_column(server_default=false())

    # Which of the session's sandboxes is the current one; see StartSandboxRequest.
    generation: Mapped[int]
    # Recoveries in a row that have not led to a sandbox that stayed.
    recoveries: Mapped[int]
    # When the current sandbox's executor was attached.
    attached_at: Mapped[datetime | None]
    runtime_type: Mapped[str] = mapped_column(String(16))
    runtime_node: Mapped[str | None]
    container_id: Mapped[str | None]
    pod_name: Mapped[str | None]

    cpu: Mapped[str]
    memory: Mapped[str]
    disk: Mapped[str]
    max_processes: Mapped[int]
    env_vars: Mapped[dict[str, str]]
    # `metadata` is taken by SQLAlchemy.
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    timeout: Mapped[int]
    # What the template said when the session was made and the columns above do not: see
    # TemplateRow.snapshot. Recoveries go by it.
    template: Mapped[dict[str, Any]]
    dependencies: Mapped[list[str]]

    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # A lower bound: exec_svc knows better, and is asked before a session is ended.
    last_activity_at: Mapped[datetime]
    # last_activity_at + timeout.
    expires_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_sessions_domain_created_at", "domain", "created_at"),
        Index("ix_sessions_status_expires_at", "status", "expires_at"),
        Index("ix_sessions_principal_status", "principal", "status"),
        Index("ix_sessions_template_id_status", "template_id", "status"),
    )

    @property
    def sandbox_id(self) -> str:
        return sandbox_id(self.session_id, self.generation)

    @property
    def packages(self) -> list[str]:
        """The requirements that the session's sandboxes have installed."""
        return [*self.template["packages"], *self.dependencies]


class IdempotencyKeyRow(Base):
    """The first request that came with an Idempotency-Key, and the session it made."""

    __tablename__ = "idempotency_keys"

    domain: Mapped[str] = mapped_column(String(63), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.session_id"), index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)


class TemplateRow(Base):
    """What a session is made from; see template.proto. Resources are complete here."""

    __tablename__ = "templates"

    template_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str]
    image: Mapped[str]
    base_image: Mapped[str | None]
    packages: Mapped[list[str]]
    cpu: Mapped[str]
    memory: Mapped[str]
    disk: Mapped[str]
    max_processes: Mapped[int]
    network_enabled: Mapped[bool]
    # The most that a session may ask for; None: what any session may.
    process_limit: Mapped[int | None]
    run_as_user: Mapped[int]
    # None: the one that the platform offers.
    runtime_type: Mapped[str | None] = mapped_column(String(16))
    warm_pool_size: Mapped[int]
    env_vars: Mapped[dict[str, str]]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def snapshot(self) -> dict[str, Any]:
        """What a session keeps besides what it takes into columns of its own."""
        return {
            "image": self.image,
            "packages": self.packages,
            "network_enabled": self.network_enabled,
            "run_as_user": self.run_as_user,
        }


def sandbox_id(session_id: str, generation: int) -> str:
    """The name that scheduler_svc gives to this sandbox."""
    return f"sbx_{session_id.removeprefix('sess_')}-{generation}"


def session_of(sandbox: str) -> tuple[str, int] | None:
    """The session and generation of a sandbox; None for one that is no session's."""
    match = _SANDBOX_ID.fullmatch(sandbox)
    return (f"sess_{match[1]}", int(match[2])) if match else None
