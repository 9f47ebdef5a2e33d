"""Who calls, and what they may see.

Three kinds of callers, told apart by their bearer token:

- a *user*: an opaque token of the operator's making (`tokens`), or a JWT of an issuer that
  the operator trusts (`issuer`); has a role, domains and quotas;
- a *service* of ours: a short-lived token signed with the platform's secret;
- a *container*: a token signed for one sandbox id, held by that sandbox's executor.

Every service authenticates every call itself (`server.serve` wires it), so a port that
is reached past the edge is guarded too. A service without a secret and a valid token does
not start.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sandbox_rpc.errors import Forbidden, InvalidParameter, NotFound, Unauthorized
from sandbox_rpc.tokens import DOMAIN, Quotas, Role, TokensFile

Kind = Literal["user", "service", "container"]

DEFAULT_DOMAIN = "default"
SERVICE_TOKEN_SECONDS = 300
CONTAINER_TOKEN_SECONDS = 7 * 24 * 3600
MINIMUM_SECRET_BYTES = 32
NO_QUOTAS = Quotas()

_DOMAIN = re.compile(DOMAIN)
# As in envoy/edge.lua: for who calls a service past the edge, the same holds.
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `subject` is what logs name and quotas are counted by: a token's id, `jwt:` and the
    JWT's subject, a service's name or a sandbox id. `domains` None means all.
    """

    kind: Kind
    subject: str
    domains: frozenset[str] | None = None
    role: Role = "user"
    quotas: Quotas = NO_QUOTAS


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

    def derive(self, purpose: str) -> bytes:
        """A key for signing something else: what it signs is no token, and no token is that."""
        return hmac.new(self._key, f"derive.{purpose}".encode(), hashlib.sha256).digest()

    def _mac(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode(), hashlib.sha256).hexdigest()


class Issuer(Protocol):
    """Somebody else's tokens; `sandbox_rpc.issuer` has the one there is."""

    async def run(self) -> None:
        """Keeps its keys fresh until it is cancelled."""

    async def verify(self, token: str) -> Principal:
        """Raises Unauthorized or ServiceUnavailable."""


class Authenticator:
    """Knows every token that is good."""

    def __init__(self, secret: Secret, tokens: TokensFile, issuer: Issuer | None = None) -> None:
        self._secret = secret
        self._tokens = tokens
        self.issuer = issuer

    @classmethod
    def read(
        cls, secret_file: Path, tokens_file: Path, issuer: Issuer | None = None
    ) -> Authenticator:
        """Raises OSError when a file is missing and ValueError when it holds nothing valid."""
        return cls(Secret.read(secret_file), TokensFile(tokens_file), issuer)

    async def authenticate(self, metadata: Mapping[str, str]) -> Principal:
        """Who sends a call with this metadata. Raises Unauthorized."""
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("the request carries no bearer token")
        if found := self._tokens.find(token):
            domains = None if found.domains == "*" else frozenset(found.domains)
            return Principal("user", found.id, domains, found.role, found.quotas)
        if principal := self._secret.verify(token):
            return principal
        if self.issuer is not None and token.count(".") == 2:
            return await self.issuer.verify(token)
        raise Unauthorized("the token is not valid, or has expired")


def admit(principal: Principal, metadata: Mapping[str, str], request_id: str) -> Caller:
    """The call of this principal. Raises InvalidParameter and Forbidden for its domain."""
    domain = domain_of(metadata)
    if not _DOMAIN.fullmatch(domain):
        raise InvalidParameter(
            "Header 'x-business-domain' must be 1 to 63 letters, digits, '.', '_' or '-'"
        )
    if principal.domains is not None and domain not in principal.domains:
        raise Forbidden(
            f"the token has no right to the domain '{domain}' (header 'x-business-domain', "
            f"where absent '{DEFAULT_DOMAIN}')"
        )
    return Caller(
        principal=principal,
        domain=domain,
        request_id=request_id,
        idempotency_key=metadata.get("idempotency-key"),
    )


def domain_of(metadata: Mapping[str, str]) -> str:
    """The domain that a call asks for, which is not checked here."""
    return metadata.get("x-business-domain", DEFAULT_DOMAIN)


def request_id_of(metadata: Mapping[str, str]) -> str:
    """The client's, if it is one: at most 128 visible ASCII characters; otherwise a new one."""
    given = metadata.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
