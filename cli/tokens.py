"""Changing the tokens file. The services see a change at their next call."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sandbox_rpc.tokens import (
    TOKEN_BYTES,
    Quotas,
    Role,
    Token,
    Tokens,
    fingerprint,
    load,
    new_id,
    store,
    utc_now,
)

OPERATOR = "operator"


def create(
    path: Path,
    name: str,
    *,
    role: Role,
    domains: frozenset[str] | None,
    quotas: Quotas,
    lifetime: timedelta | None,
    token: str,
    now: Callable[[], datetime] = utc_now,
) -> Token:
    """Adds an entry for `token`; `domains` None means all.

    Raises OSError, and ValueError for what an entry cannot hold.
    """
    begun = now()
    made = Token(
        id=new_id(),
        name=name,
        sha256=fingerprint(token),
        role=role,
        domains="*" if domains is None else domains,
        quotas=quotas,
        created_at=begun,
        expires_at=begun + lifetime if lifetime is not None else None,
    )
    with _locked(path):
        store(path, Tokens(tokens=(*known(path), made)))
    return made


def revoke(path: Path, token_id: str, now: Callable[[], datetime] = utc_now) -> Token | None:
    """Ends a token, or finds that it was ended; None when there is none. Raises like `create`."""
    with _locked(path):
        entries = {token.id: token for token in known(path)}
        found = entries.get(token_id)
        if found is not None and found.revoked_at is None:
            found = entries[token_id] = found.model_copy(update={"revoked_at": now()})
            store(path, Tokens(tokens=tuple(entries.values())))
        return found


def known(path: Path) -> tuple[Token, ...]:
    """Every entry, oldest first; none where there is no file. Raises like `create`."""
    return load(path).tokens if path.exists() else ()


def register_operator(path: Path, token: str) -> None:
    """Sees to it that the token of the first start has its entry; a revoked one keeps it.

    Raises ValueError for one that somebody made too short, and like `create`.
    """
    if len(token) < TOKEN_BYTES:
        raise ValueError(f"the operator's token must have at least {TOKEN_BYTES} characters")
    if not any(entry.sha256 == fingerprint(token) for entry in known(path)):
        create(
            path,
            OPERATOR,
            role="admin",
            domains=None,
            quotas=Quotas(),
            lifetime=None,
            token=token,
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once: one after the other. The lock is on the directory."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
