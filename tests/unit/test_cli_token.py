"""`sandbox token create|list|revoke`, as it is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sandbox_rpc.tokens import PREFIX, TokensFile, load

from cli.layout import Layout
from cli.main import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def token(data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["token", "--data-dir", str(data), "create", "ci"]) == 0
    return capsys.readouterr().out.strip()


def test_create_prints_the_token_alone_and_once(data: Path, token: str) -> None:
    assert re.fullmatch(PREFIX + r"[A-Za-z0-9_-]{43}", token)
    entry = TokensFile(Layout(data).tokens).find(token)
    assert entry is not None
    assert (entry.name, entry.role, entry.domains) == ("ci", "user", frozenset({"default"}))
    assert data.stat().st_mode & 0o777 == 0o700


def test_create_takes_domains_quotas_and_a_lifetime(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-d", "acme", "-d", "b", "--live-sessions", "2", "--cpu", "1.5", "--memory", "2Gi"]
    options += ["--executions-per-minute", "60", "--expires", "90d", "--json"]
    assert main(["token", "--data-dir", str(data), "create", "ci", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    entry = TokensFile(Layout(data).tokens).find(said["token"])
    assert entry is not None
    assert entry.domains == frozenset({"acme", "b"})
    assert entry.quotas.model_dump(mode="json") == {
        "live_sessions": 2,
        "cpu": "1.5",
        "memory": "2Gi",
        "executions_per_minute": 60,
    }
    assert entry.expires_at is not None
    assert (entry.expires_at - entry.created_at).days == 90


@pytest.mark.parametrize("options", [["--role", "admin"], ["-d", "*"]])
def test_all_domains(data: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--data-dir", str(data), "create", "ci", *options]) == 0
    (entry,) = load(Layout(data).tokens).tokens
    assert entry.domains == "*"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-d", "a/b"], "--domain 'a/b'"),
        (["-d", "*", "-d", "a"], "--domain '*'"),
        (["--expires", "tomorrow"], "--expires 'tomorrow'"),
        (["--live-sessions", "0"], "live-sessions"),
        (["--memory", "2GB"], "memory"),
        (["--cpu", "many"], "cpu"),
        (["--role", "admin", "-d", "acme"], "all domains"),
    ],
)
def test_what_cannot_be_is_named(
    data: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "--data-dir", str(data), "create", "ci", *options]) == 1
    assert words in capsys.readouterr().err
    assert not Layout(data).tokens.exists()


def test_list_and_revoke(data: Path, token: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--data-dir", str(data), "list", "--json"]) == 0
    said = capsys.readouterr().out
    entry = json.loads(said)
    assert "sha256" not in entry
    assert token not in said

    assert main(["token", "--data-dir", str(data), "revoke", entry["id"]]) == 0
    assert main(["token", "--data-dir", str(data), "list"]) == 0
    assert re.search(rf"{entry['id']}.*\brevoked\b", capsys.readouterr().out)
    (kept,) = load(Layout(data).tokens).tokens
    assert main(["token", "--data-dir", str(data), "revoke", entry["id"]]) == 0
    assert load(Layout(data).tokens).tokens == (kept,)  # the first time stands


def test_a_token_that_is_not_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.mkdir(mode=0o700)
    assert main(["token", "--data-dir", str(data), "revoke", "tok_000000000000"]) == 1
    assert "sandbox token list" in capsys.readouterr().err
