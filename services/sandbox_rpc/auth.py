"""Who calls, and what they may see.

Three kinds of callers, told apart by their bearer token:

- a *user*: an opaque token that the operator made; may use the business domains it names;
- a *service* of ours: a short-lived token signed with the platform's secret;
- a *container*: a token signed for one sandbox id, held by that sandbox's executor.

Every service authenticates every call itself (`server.serve` wires it), so a port that
is reached past the edge is guarded too. A service without a secret does not start.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sandbox_rpc.errors import Forbidden, InvalidParameter, NotFound, Unauthorized

Kind = Literal["user", "service", "container"]

DEFAULT_DOMAIN = "default"
SERVICE_TOKEN_SECONDS = 300
CONTAINER_TOKEN_SECONDS = 7 * 24 * 3600
MINIMUM_SECRET_BYTES = 32

_DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `domains` None means all; `subject` is what logs name."""

    kind: Kind
    subject: str
    domains: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """What one call says about itself."""

    principal: Principal
    domain: str
    request_id: str
    idempotency_key: str | None

    def may_see(self, domain: str) -> bool:
        return self.principal.kind == "service" or domain == self.domain

    def require(self, domain: str, kind: str, name: str) -> None:
        """Raises NotFound where the caller may not see what belongs to `domain`."""
        if not self.may_see(domain):
            raise NotFound(kind, name)


_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the current RPC. LookupError outside of one."""
    return _caller.get()


def enter(call: Caller) -> None:
    """Makes `call` the current RPC's caller; the server's interceptor does this."""
    _caller.set(call)


def current_request_id() -> str | None:
    current = _caller.get(None)
    return current.request_id if current else None


class Secret:
    """The platform's signing key: signs and verifies service and container tokens."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        if len(key) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"the secret must have at least {MINIMUM_SECRET_BYTES} bytes")
        self._key = key
        self._clock = clock

    @classmethod
    def read(cls, path: Path) -> Secret:
        """Raises OSError or ValueError: a service without a secret must not start."""
        return cls(path.read_bytes().strip())

    def sign(self, kind: Literal["service", "container"], subject: str) -> str:
        seconds = SERVICE_TOKEN_SECONDS if kind == "service" else CONTAINER_TOKEN_SECONDS
        claim = f"{kind}.{subject}.{int(self._clock()) + seconds}"
        return f"{claim}.{self._mac(claim)}"

    def verify(self, token: str) -> Principal | None:
        """The principal of a token that this secret signed and that has not expired."""
        claim, _, mac = token.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(claim).encode()):
            return None
        kind, subject, expires = claim.split(".")
        if float(expires) < self._clock():
            return None
        if kind == "service":
            return Principal("service", subject)
        return Principal("container", subject) if kind == "container" else None

    def _mac(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode(), hashlib.sha256).hexdigest()


class Authenticator:
    """Turns the metadata of a call into a Caller, or raises."""

    def __init__(self, secret: Secret, users: Mapping[str, Principal]) -> None:
        """`users` maps the SHA-256 (hex) of each user token to its principal."""
        self._secret = secret
        self._users = users

    @classmethod
    def read(cls, secret_file: Path, token_file: Path) -> Authenticator:
        """The operator's one token, good for every domain, and the signing key.

        Raises OSError when a file is missing and ValueError when one is too short.
        """
        token = token_file.read_text().strip()
        if len(token) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"{token_file} must hold at least {MINIMUM_SECRET_BYTES} characters")
        users = {fingerprint(token): Principal("user", "operator")}
        return cls(Secret.read(secret_file), users)

    def authenticate(self, metadata: Mapping[str, str], allowed: frozenset[Kind]) -> Caller:
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("the request carries no bearer token")
        principal = self._users.get(fingerprint(token)) or self._secret.verify(token)
        if principal is None:
            raise Unauthorized("the token is not valid, or has expired")
        if principal.kind not in allowed:
            raise Forbidden(f"a {principal.kind} token may not make this call")
        return Caller(
            principal=principal,
            domain=_domain(metadata, principal),
            request_id=metadata.get("x-request-id", ""),
            idempotency_key=metadata.get("idempotency-key"),
        )


def fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _domain(metadata: Mapping[str, str], principal: Principal) -> str:
    domain = metadata.get("x-business-domain", DEFAULT_DOMAIN)
    if not _DOMAIN.fullmatch(domain):
        raise InvalidParameter(
            "Header 'x-business-domain' must be 1 to 63 letters, digits, '.', '_' or '-'"
        )
    if principal.domains is not None and domain not in principal.domains:
        raise Forbidden("the token has no right to the domain in 'x-business-domain'")
    return domain
