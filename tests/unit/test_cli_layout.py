"""The data directory: private files, short sockets, the lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli import layout
from cli.layout import Layout, Lock


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_private(tmp_path: Path) -> None:
    places = Layout(tmp_path / "data")
    places.prepare()
    assert mode(places.data) == 0o700
    for path in (places.token, places.secret):
        assert mode(path) == 0o600
        assert len(path.read_text().strip()) >= 32
    assert places.token.read_text() != places.secret.read_text()


def test_a_second_start_keeps_the_token(tmp_path: Path) -> None:
    places = Layout(tmp_path)
    places.prepare()
    before = places.token.read_text(), places.secret.read_text()
    places.prepare()
    assert (places.token.read_text(), places.secret.read_text()) == before


def test_a_directory_of_the_operator_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Layout(tmp_path).prepare()
    assert mode(tmp_path) == 0o755


def test_sockets_lie_in_the_data_directory_where_they_fit(place: Path) -> None:
    places = Layout(place)
    places.prepare()
    assert places.socket("exec") == place.resolve() / "run" / "exec.sock"


def test_a_long_path_gets_a_short_directory_and_keeps_it(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("d" * 100))
    places.prepare()
    socket = places.socket("scheduler")
    assert len(os.fsencode(socket)) <= 107
    assert socket.is_relative_to(place)
    assert mode(socket.parent) in (0o700, 0o711)
    places.prepare()
    assert places.socket("scheduler") == socket
    places.clear_run()
    assert list(place.iterdir()) == []
    assert not os.path.lexists(places.run)


def test_the_limit_counts_bytes(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("é" * 50))
    places.prepare()
    assert places.run.is_symlink()
    places.clear_run()


def test_a_directory_that_was_removed_is_replaced(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("d" * 100))
    places.prepare()
    first = places.run.resolve()
    first.rmdir()
    places.prepare()
    assert places.run.resolve() != first
    assert places.run.is_dir()
    places.clear_run()


HOLD = """
import sys
from pathlib import Path
from cli.layout import Lock
lock = Lock(Path(sys.argv[1]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert layout.holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"True\n"
        assert layout.holder(path) == other.pid
        ours = Lock(path)
        assert not ours.take()
        other.kill()
        other.wait()
        assert layout.holder(path) is None
        assert ours.take()
        ours.close()
