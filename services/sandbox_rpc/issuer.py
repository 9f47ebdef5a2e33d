"""JWTs of an issuer of the operator's choice, verified with its published keys (a JWKS).

Off unless it is configured. Only asymmetric algorithms are known here: a token that
says `none` or HS… is refused before any key is looked at, and which algorithm a key is
for is the key set's word, not the token's.

The keys come from a file or over HTTPS. Fetching happens in the background, every ten
minutes and, for a key id that is not known, at most every 30 s; no call but those with
such a token waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
import jwt

from sandbox_rpc.auth import Principal
from sandbox_rpc.errors import ServiceUnavailable, Unauthorized
from sandbox_rpc.tokens import DOMAIN, Quotas

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256", "EdDSA")
LEEWAY_SECONDS = 30
REFRESH_SECONDS = 600.0
UNKNOWN_KEY_SECONDS = 30.0
FETCH_SECONDS = 5.0
MAX_KEYS_BYTES = 256 * 1024
MAX_SUBJECT_CHARACTERS = 255
MINIMUM_RSA_BITS = 2048

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_DOMAIN = re.compile(DOMAIN)

Keys = Mapping[str, jwt.PyJWK]
Clock = Callable[[], float]


class KeySource(Protocol):
    async def read(self) -> bytes:
        """The JWKS as it is now. Raises OSError, httpx.HTTPError or ValueError."""


class FileKeys:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes:
        return await asyncio.to_thread(self._path.read_bytes)


class UrlKeys:
    """HTTPS, or HTTP on this machine. Redirects are not followed: the URL is the trust."""

    def __init__(self, url: str) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"the JWKS cannot be at {url!r}: {error}") from error
        local = self._url.scheme == "http" and self._url.host in _LOOPBACK
        if not (local or (self._url.scheme == "https" and self._url.host)):
            raise ValueError(f"the JWKS must be an https:// URL or an absolute path, not {url!r}")

    async def read(self) -> bytes:
        body = b""
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(timeout=FETCH_SECONDS) as client,
            client.stream("GET", self._url) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"the answer's status is {answer.status_code}")
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_KEYS_BYTES:
                    raise ValueError(f"the key set has more than {MAX_KEYS_BYTES} bytes")
        return body


class Issuer:
    """Verifies tokens. `run` keeps the keys fresh; the server starts and stops it."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: str,
        claim_prefix: str,
        clock: Clock = time.monotonic,
    ) -> None:
        """`keys` is a URL or an absolute path. Raises ValueError for anything else."""
        self._issuer = issuer
        self._audience = audience
        self._source: KeySource = FileKeys(Path(keys)) if keys.startswith("/") else UrlKeys(keys)
        self._prefix = claim_prefix
        self._clock = clock
        self._keys: Keys = {}
        self._fetched_at = -UNKNOWN_KEY_SECONDS
        self._fetching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            await self._fetch()
            await asyncio.sleep(REFRESH_SECONDS if self._keys else UNKNOWN_KEY_SECONDS)

    async def verify(self, token: str) -> Principal:
        """Whose token it is. Raises Unauthorized; ServiceUnavailable while there are no keys."""
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                await self._key(header.get("kid")),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return self._principal(claims)
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            log.info("a JWT was refused: %s", error)
            raise Unauthorized("the token is not valid, or has expired") from error

    async def _key(self, kid: object) -> jwt.PyJWK:
        if not isinstance(kid, str):
            raise ValueError("it names no key ('kid')")  # noqa: TRY004  # a fault of the token
        if kid not in self._keys:
            await self._fetch()
        if not self._keys:
            raise ServiceUnavailable(
                "the keys of the tokens' issuer cannot be had", retry_after=int(UNKNOWN_KEY_SECONDS)
            )
        if kid not in self._keys:
            raise ValueError("its key ('kid') is not the issuer's")
        return self._keys[kid]

    async def _fetch(self) -> None:
        """Reads the keys again, unless that was tried just now. Callers share one attempt."""
        if self._fetching is None:
            if self._clock() - self._fetched_at < UNKNOWN_KEY_SECONDS:
                return
            self._fetched_at = self._clock()
            self._fetching = asyncio.create_task(self._read())
        await asyncio.shield(self._fetching)

    async def _read(self) -> None:
        try:
            self._keys = parse_keys(await self._source.read())
            log.info("the issuer has %d keys", len(self._keys))
        except (OSError, httpx.HTTPError, ValueError, RecursionError) as error:
            log.warning("the issuer's keys stay as they are: %r", error)
        finally:
            self._fetching = None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject = claims["sub"]
        if not (0 < len(subject) <= MAX_SUBJECT_CHARACTERS and subject.isprintable()):
            raise ValueError("its subject is empty, too long or not printable")
        role = claims.get(f"{self._prefix}role", "user")
        if role not in ("user", "admin"):
            raise ValueError("its role is neither user nor admin")
        domains = claims.get(f"{self._prefix}domains", [])
        if role == "admin" or domains == "*":
            allowed = None
        elif isinstance(domains, list) and all(_is_domain(domain) for domain in domains):
            allowed = frozenset(domains)
        else:
            raise ValueError("its domains are neither a list of names nor '*'")
        return Principal(
            "user",
            f"jwt:{subject}",  # never the id of a token of ours
            domains=allowed,
            role=role,
            quotas=Quotas.model_validate(claims.get(f"{self._prefix}quotas", {})),
        )


def parse_keys(text: bytes) -> Keys:
    """The keys that are fit to verify signatures, by their id. Raises ValueError."""
    document = json.loads(text)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWKS: an object with a list 'keys'")  # noqa: TRY004  # as json
    keys: dict[str, jwt.PyJWK] = {}
    for entry in listed:
        # A set may hold kinds of keys that we do not know; they verify nothing.
        with suppress(jwt.PyJWTError, AttributeError):
            key = jwt.PyJWK(entry)
            if key.key_id and _is_fit(key):
                keys[key.key_id] = key
    return keys


def _is_fit(key: jwt.PyJWK) -> bool:
    long_enough = key.key_type != "RSA" or key.key.key_size >= MINIMUM_RSA_BITS
    return key.algorithm_name in ALGORITHMS and key.public_key_use != "enc" and long_enough


def _is_domain(name: object) -> bool:
    return isinstance(name, str) and _DOMAIN.fullmatch(name) is not None
