"""Settings: a flag wins over the environment, that over the file, that over the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a file, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOST", "PORT", "INTERNAL_PORT", "DATA_DIR", "RUNTIME"):
        monkeypatch.delenv(f"SANDBOX_{name}", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    return tmp_path


def test_defaults(directory: Path) -> None:
    loaded = settings.load()
    assert loaded.url == "http://127.0.0.1:8080"
    assert loaded.internal_port == 8081
    assert loaded.data_dir == directory / ".sandbox"
    assert loaded.runtime == "process"
    assert loaded.otlp_endpoint is None


def test_each_source_wins_over_the_next(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "sandbox.toml").write_text('port = 1001\ninternal_port = 1002\nhost = "::1"\n')
    assert settings.load().port == 1001
    monkeypatch.setenv("SANDBOX_PORT", "2001")
    assert settings.load().port == 2001
    loaded = settings.load(port=3001, host=None)
    assert loaded.port == 3001
    assert loaded.internal_port == 1002
    assert loaded.url == "http://[::1]:3001"


def test_the_collector_is_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert settings.load().otlp_endpoint == "http://127.0.0.1:4318"


def test_every_address_is_reached_at_loopback() -> None:
    loaded = settings.load(host="0.0.0.0")  # noqa: S104  # the address under test
    assert loaded.url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 70000", ["'port'", "SANDBOX_PORT", "70000"]),
        ('colour = "red"', ["'colour'"]),
        ("port 8080", ["sandbox.toml"]),
        ('runtime = "vm"', ["'runtime'", "process"]),
    ],
)
def test_a_bad_file_is_named(directory: Path, text: str, words: list[str]) -> None:
    (directory / "sandbox.toml").write_text(text)
    with pytest.raises(settings.InvalidSettings) as caught:
        settings.load()
    assert all(word in str(caught.value) for word in words)
