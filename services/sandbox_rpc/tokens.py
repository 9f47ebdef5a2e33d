"""The tokens of users: the file that `sandbox token` writes and every service reads.

One JSON file, replaced as a whole, is all that the services share of it: a service looks
at every call whether the file is another one, so a token that is new or revoked counts at
once, in every process and replica that sees the file, without a restart.

The file holds hashes. A token has 256 random bits, so one plain SHA-256 is enough: there
is nothing to guess. This module imports no gRPC, so that the command stays quick.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import string
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

log = logging.getLogger(__name__)

Role = Literal["admin", "user"]

# Bytes of randomness in a token, and the least number of characters of one made elsewhere.
TOKEN_BYTES = 32
# What leak scanners look for.
PREFIX = "sbxt_"
DOMAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

DomainName = Annotated[str, StringConstraints(pattern=f"^(?:{DOMAIN})$")]

_ALPHABET = string.ascii_lowercase + string.digits


def utc_now() -> datetime:
    return datetime.now(UTC)


class Quotas(BaseModel):
    """What one token may use at the same time; None: no limit but the platform's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Sessions that are creating or running, and the cores and memory of them together.
    live_sessions: int | None = Field(default=None, ge=1)
    cpu: Decimal | None = Field(default=None, gt=0)
    memory: str | None = Field(default=None, pattern=r"^[1-9]\d{0,5}(Mi|Gi)$")
    # Executions accepted within any 60 seconds.
    executions_per_minute: int | None = Field(default=None, ge=1)


class Token(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^tok_[a-z0-9]{12}$")
    name: str = Field(min_length=1, max_length=63)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role
    domains: Literal["*"] | frozenset[DomainName]
    quotas: Quotas = Quotas()
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _admins_see_all(self) -> Token:
        if self.role == "admin" and self.domains != "*":
            raise ValueError("an admin's token is good for all domains: '*'")
        return self

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Tokens(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = ()


def fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def new_id() -> str:
    return "tok_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def load(path: Path) -> Tokens:
    """Raises OSError, or ValueError for a file that is not as it should be."""
    try:
        return Tokens.model_validate_json(path.read_bytes())
    except ValidationError as error:
        # Without the values: they are nobody's business in a log.
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is no tokens file: {where}: {first['msg']}") from None


def store(path: Path, tokens: Tokens) -> None:
    """Replaces the file, which only its owner may read. Durable when it returns."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(tokens.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


class TokensFile:
    """The tokens as they are now."""

    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now) -> None:
        """Raises OSError, or ValueError for a file without a token that is valid."""
        self._path = path
        self._now = now
        self._version = self._look()
        self._by_hash = _by_hash(load(path))
        if not any(token.is_valid(now()) for token in self._by_hash.values()):
            raise ValueError(
                f"{path} holds no valid token, and a service without one does not start; "
                "make one with `sandbox token create`"
            )

    def find(self, token: str) -> Token | None:
        """The entry of a token that is neither expired nor revoked."""
        self._refresh()
        found = self._by_hash.get(fingerprint(token))
        return found if found is not None and found.is_valid(self._now()) else None

    def _refresh(self) -> None:
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self._by_hash = _by_hash(load(self._path))
        except (OSError, ValueError) as error:
            # Whoever was revoked by what cannot be read must not stay.
            self._by_hash = {}
            log.error("no user is let in: %s", error)  # noqa: TRY400  # the text says it all
        else:
            log.info("the tokens file has changed; it holds %d", len(self._by_hash))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()  # follows links: a Secret's volume is one
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _by_hash(tokens: Tokens) -> dict[str, Token]:
    return {token.sha256: token for token in tokens.tokens}
