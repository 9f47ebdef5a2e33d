"""The tokens file: what it lets in, what a service makes of a change, what starts at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sandbox_rpc.tokens import (
    PREFIX,
    Quotas,
    Tokens,
    TokensFile,
    fingerprint,
    load,
    new_token,
    store,
)

from cli import tokens

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def issue(path: Path, name: str = "ci", lifetime: timedelta | None = None) -> tuple[str, str]:
    """(token, id)"""
    token = new_token()
    entry = tokens.create(
        path,
        name,
        role="user",
        domains=frozenset({"acme"}),
        quotas=Quotas(live_sessions=3),
        lifetime=lifetime,
        token=token,
        now=lambda: NOW,
    )
    return token, entry.id


def test_a_token_is_random_and_only_its_hash_is_kept(path: Path) -> None:
    token, _ = issue(path)
    assert token.startswith(PREFIX)
    assert len(token) >= len(PREFIX) + 43  # 32 bytes in base64
    assert token not in path.read_text()
    assert fingerprint(token) in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_entry_says_what_its_token_may(path: Path) -> None:
    token, token_id = issue(path)
    found = TokensFile(path, Clock()).find(token)
    assert found is not None
    assert (found.id, found.role, found.domains) == (token_id, "user", frozenset({"acme"}))
    assert found.quotas == Quotas(live_sessions=3)
    assert TokensFile(path, Clock()).find(token + "x") is None


def test_changes_count_at_the_next_look(path: Path) -> None:
    first, first_id = issue(path)
    file = TokensFile(path, Clock())
    second, _ = issue(path)
    assert file.find(second) is not None
    tokens.revoke(path, first_id, now=lambda: NOW)
    assert file.find(first) is None
    assert file.find(second) is not None


def test_a_token_ends_at_its_time(path: Path) -> None:
    token, _ = issue(path, lifetime=timedelta(hours=1))
    clock = Clock()
    file = TokensFile(path, clock)
    clock.now = NOW + timedelta(minutes=59)
    assert file.find(token) is not None
    clock.now = NOW + timedelta(hours=1)
    assert file.find(token) is None


def _remove(path: Path) -> None:
    path.unlink()


def _break(path: Path) -> None:
    path.write_text('{"tokens": [{"id": ')


def _misspell(path: Path) -> None:
    path.write_text(path.read_text().replace('"user"', '"root"'))


@pytest.mark.parametrize("spoil", [_remove, _break, _misspell])
def test_a_file_that_cannot_be_read_lets_nobody_in(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    token, _ = issue(path)
    kept = load(path)
    file = TokensFile(path, Clock())
    spoil(path)
    assert file.find(token) is None
    store(path, kept)
    assert file.find(token) is not None


def _nothing(path: Path) -> None:
    store(path, Tokens())


def _revoked(path: Path) -> None:
    tokens.revoke(path, issue(path)[1])


def _expired(path: Path) -> None:
    issue(path, lifetime=timedelta(seconds=-1))


@pytest.mark.parametrize("fill", [_nothing, _revoked, _expired])
def test_without_a_valid_token_nothing_starts(path: Path, fill: Callable[[Path], None]) -> None:
    fill(path)
    with pytest.raises(ValueError, match=r"holds no valid token.*sandbox token create"):
        TokensFile(path, Clock())


def test_without_a_file_nothing_starts(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TokensFile(path, Clock())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "x"),
        ("sha256", "abc"),
        ("role", "root"),
        ("domains", "all"),
        ("domains", ["a/b"]),
        ("quotas", {"live_sessions": 0}),
        ("quotas", {"cpus": 1}),
        ("quotas", {"memory": "1GB"}),
        ("expires_at", "2026-11-23T12:00:00"),  # in which zone?
        ("surprise", 1),
    ],
)
def test_a_broken_entry_is_named(path: Path, field: str, value: object) -> None:
    issue(path)
    document = json.loads(path.read_text())
    document["tokens"][0][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"tokens\.0\.{field}"):
        load(path)


def test_an_admin_is_not_held_to_domains(path: Path) -> None:
    with pytest.raises(ValueError, match="all domains"):
        tokens.create(
            path,
            "root",
            role="admin",
            domains=frozenset({"acme"}),
            quotas=Quotas(),
            lifetime=None,
            token=new_token(),
        )


def test_the_operators_token_has_one_entry_and_stays_revoked(path: Path) -> None:
    token = new_token()
    tokens.register_operator(path, token)
    tokens.register_operator(path, token)
    (entry,) = tokens.known(path)
    assert (entry.name, entry.role, entry.domains) == ("operator", "admin", "*")
    tokens.revoke(path, entry.id)
    tokens.register_operator(path, token)
    (entry,) = tokens.known(path)
    assert entry.revoked_at is not None


def test_an_operators_token_that_is_easy_to_guess_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 characters"):
        tokens.register_operator(path, "secret")
