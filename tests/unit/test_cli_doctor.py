"""`sandbox doctor`: every check is one line with what to do; a failure is exit code 1."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cli import checks, settings
from cli.main import main

NAMES = [
    "python",
    "user",
    "user namespaces",
    "bwrap",
    "envoy",
    "node",
    "ports",
    "data directory",
    "memory limit",
    "docker",
]


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_this_machine_can_isolate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json", "--data-dir", str(tmp_path / "data")])
    found = findings(capsys)
    assert list(found) == NAMES
    for name in ("python", "user namespaces", "bwrap", "envoy"):
        assert found[name]["level"] == "ok", found[name]
    assert not (tmp_path / "data").exists()


def test_a_taken_port_fails_and_names_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = main(["doctor", "--json", "--internal-port", port, "--data-dir", str(tmp_path)])
    assert code == 1
    ports = findings(capsys)["ports"]
    assert ports["level"] == "fail"
    assert port in ports["found"]
    assert "--internal-port" in ports["advice"]


def test_without_bwrap_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    stack = settings.load()
    assert checks.bwrap(stack).level == "fail"
    assert checks.user_namespaces(stack).level == "fail"
    assert checks.node(stack).level == "warn"


def test_a_bwrap_that_cannot_isolate_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo bubblewrap 0.0; exit; fi\n'
        "echo 'No permissions to create new namespace' >&2; exit 1\n"
    )
    refusing.chmod(0o755)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    stack = settings.load()
    for finding in (checks.bwrap(stack), checks.user_namespaces(stack)):
        assert finding.level == "fail"
        assert "No permissions to create new namespace" in finding.found
        assert finding.advice
