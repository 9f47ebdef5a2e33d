"""JWTs: which are let in as whom, which are not, and when keys are fetched."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from sandbox_rpc.auth import Principal
from sandbox_rpc.errors import ServiceUnavailable, Unauthorized
from sandbox_rpc.issuer import LEEWAY_SECONDS, UNKNOWN_KEY_SECONDS, Issuer, UrlKeys, parse_keys
from sandbox_rpc.tokens import Quotas

ISSUER = "https://issuer.example"
AUDIENCE = "sandbox"

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # to refuse it

SIGNERS: dict[str, tuple[Any, str]] = {
    "rsa": (RSA, "RS256"),
    "ec": (EC, "ES256"),
    "ed": (ED, "EdDSA"),
}


def key_set(**extra: Any) -> dict[str, Any]:
    keys = [
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "rsa", "alg": "RS256"},
        ECAlgorithm.to_jwk(EC.public_key(), as_dict=True) | {"kid": "ec"},
        OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True) | {"kid": "ed"},
    ]
    return {"keys": [*keys, *extra.values()]}


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones; a change to None leaves a claim out."""
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": now,
        "exp": now + 300,
        "sandbox_domains": ["acme"],
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def signed(kid: str | None = "rsa", key: Any = None, alg: str | None = None, **changes: Any) -> str:
    known, default = SIGNERS.get(kid or "rsa", (RSA, "RS256"))
    headers = {"kid": kid} if kid is not None else {}
    return jwt.encode(claims(**changes), key or known, algorithm=alg or default, headers=headers)


def by_hand(header: dict[str, Any], secret: bytes | None = None, **changes: Any) -> str:
    """What no decent library would make."""
    parts = [json.dumps(part).encode() for part in (header, claims(**changes))]
    text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    mac = hmac.digest(secret, text.encode(), hashlib.sha256) if secret is not None else b""
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def issuer_of(path: Path, clock: Clock | None = None) -> Issuer:
    return Issuer(
        issuer=ISSUER,
        audience=AUDIENCE,
        keys=str(path),
        claim_prefix="sandbox_",
        clock=clock or Clock(),
    )


def publish(path: Path, **extra: Any) -> None:
    path.write_text(json.dumps(key_set(**extra)))


def withdraw(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "jwks.json"
    publish(made)
    return made


@pytest.fixture
def issuer(path: Path) -> Issuer:
    return issuer_of(path)


@pytest.mark.parametrize("kid", list(SIGNERS))
async def test_each_algorithm_is_let_in(issuer: Issuer, kid: str) -> None:
    assert await issuer.verify(signed(kid)) == Principal("user", "jwt:ada", frozenset({"acme"}))


@pytest.mark.parametrize(
    ("changes", "principal"),
    [
        ({"sandbox_domains": "*"}, Principal("user", "jwt:ada", None)),
        ({"sandbox_domains": None}, Principal("user", "jwt:ada", frozenset())),
        ({"sandbox_role": "admin"}, Principal("user", "jwt:ada", None, "admin")),
        (
            {"sandbox_quotas": {"live_sessions": 2, "cpu": 1.5}},
            Principal(
                "user",
                "jwt:ada",
                frozenset({"acme"}),
                quotas=Quotas(live_sessions=2, cpu=Decimal("1.5")),
            ),
        ),
        ({"aud": ["other", AUDIENCE]}, Principal("user", "jwt:ada", frozenset({"acme"}))),
    ],
    ids=["all domains", "no domain", "admin", "quotas", "several audiences"],
)
async def test_claims_say_what_it_may(
    issuer: Issuer, changes: dict[str, Any], principal: Principal
) -> None:
    assert await issuer.verify(signed(**changes)) == principal


async def test_clocks_may_differ_a_little(issuer: Issuer) -> None:
    # Half of the leeway: time goes on while this runs.
    assert await issuer.verify(signed(exp=int(time.time()) - LEEWAY_SECONDS // 2))


_PUBLIC = RSA.public_key()
_PEM = _PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
_DER = _PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

REFUSED = {
    "alg none": lambda: by_hand({"alg": "none", "kid": "rsa"}),
    "alg None": lambda: by_hand({"alg": "nOnE", "kid": "rsa"}),
    "no alg": lambda: by_hand({"kid": "rsa"}),
    "HS256 with the public key": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, _PEM),
    "HS256 with its DER": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, _DER),
    "HS256 with no key": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, b""),
    "RS512, which is not offered": lambda: signed(alg="RS512"),
    "PS256, which is not offered": lambda: signed(alg="PS256"),
    "another key's algorithm": lambda: signed("ec", key=RSA, alg="RS256"),
    "another's key under a known id": lambda: signed(key=STRANGER),
    "an unknown key id": lambda: signed("unknown", key=STRANGER),
    "no key id": lambda: signed(None),
    "a key id that is a path": lambda: signed("../../etc/passwd"),
    "a key that it brings along": lambda: jwt.encode(
        claims(),
        STRANGER,
        algorithm="RS256",
        headers={
            "kid": "mine",
            "jwk": RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True),
        },
    ),
    "a critical header that nobody knows": lambda: jwt.encode(
        claims(), RSA, algorithm="RS256", headers={"kid": "rsa", "crit": ["x"], "x": 1}
    ),
    "another audience": lambda: signed(aud="other"),
    "no audience": lambda: signed(aud=None),
    "another issuer": lambda: signed(iss="https://issuer.example.evil"),
    "no issuer": lambda: signed(iss=None),
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "without an end": lambda: signed(exp=None),
    "not yet": lambda: signed(nbf=int(time.time()) + 300),
    "made in the future": lambda: signed(iat=int(time.time()) + 300),
    "no subject": lambda: signed(sub=None),
    "an empty subject": lambda: signed(sub=""),
    "a subject with a line": lambda: signed(sub="ada\n{}"),
    "a long subject": lambda: signed(sub="a" * 256),
    "a role that is none": lambda: signed(sandbox_role="root"),
    "a domain that is none": lambda: signed(sandbox_domains=["a/b"]),
    "domains as a text": lambda: signed(sandbox_domains="acme"),
    "a quota that is none": lambda: signed(sandbox_quotas={"live_sessions": -1}),
    "an end beyond numbers": lambda: signed(exp=float("inf")),
    "a signature that is cut": lambda: signed()[:-4],
    "another payload": lambda: ".".join(
        [signed().split(".")[0], signed(sub="eve").split(".")[1], signed().split(".")[2]]
    ),
    "no JWT": lambda: "a.b.c",
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
async def test_refused(issuer: Issuer, make: Any) -> None:
    with pytest.raises(Unauthorized) as caught:
        await issuer.verify(make())
    assert caught.value.detail == "the token is not valid, or has expired"


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0LXRoYXQtaXMtbG9uZy1lbm91Z2gtMzItYnl0ZXM", "kid": "x"},
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "x", "use": "enc"},
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "x", "alg": "RS512"},
        RSAAlgorithm.to_jwk(WEAK.public_key(), as_dict=True) | {"kid": "x"},
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True),
        {"kty": "new", "kid": "x"},
        {"kid": "x"},
        "x",
    ],
    ids=["symmetric", "encryption", "RS512", "1024 bits", "no id", "new kind", "no kind", "text"],
)
def test_keys_that_are_not_fit_are_passed_over(key: Any) -> None:
    assert set(parse_keys(json.dumps(key_set(extra=key)).encode())) == {"rsa", "ec", "ed"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 1}', '"keys"'])
def test_what_is_no_key_set(text: str) -> None:
    with pytest.raises(ValueError, match=r"JWKS|Expecting"):
        parse_keys(text.encode())


async def test_a_new_key_is_found_by_its_id_but_not_looked_for_all_the_time(path: Path) -> None:
    clock = Clock()
    issuer = issuer_of(path, clock)
    await issuer.verify(signed())
    new = RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True) | {"kid": "new"}
    publish(path, new=new)
    token = signed("new", key=STRANGER)
    clock.now += UNKNOWN_KEY_SECONDS - 1
    with pytest.raises(Unauthorized):
        await issuer.verify(token)
    clock.now += 1
    assert (await issuer.verify(token)).subject == "jwt:ada"


async def test_keys_stay_while_the_issuer_is_away(path: Path) -> None:
    clock = Clock()
    issuer = issuer_of(path, clock)
    await issuer.verify(signed())
    withdraw(path)
    clock.now += UNKNOWN_KEY_SECONDS
    with pytest.raises(Unauthorized):
        await issuer.verify(signed("unknown", key=STRANGER))
    assert await issuer.verify(signed())


async def test_without_keys_nobody_is_told_that_the_token_is_bad(path: Path) -> None:
    withdraw(path)
    with pytest.raises(ServiceUnavailable) as caught:
        await issuer_of(path).verify(signed())
    assert caught.value.retry_after == UNKNOWN_KEY_SECONDS


@pytest.mark.parametrize(
    "url", ["http://issuer.example/jwks", "ftp://issuer.example", "jwks.json", "https://", ""]
)
def test_keys_come_by_https_or_from_a_file(url: str) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        UrlKeys(url)


@pytest.mark.parametrize("url", ["https://issuer.example/jwks", "http://127.0.0.1:1/jwks"])
def test_urls_that_are_fit(url: str) -> None:
    UrlKeys(url)
