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


def made(places: Layout) -> None:
    places.claim()
    places.prepare()


def test_what_is_made_is_private(tmp_path: Path) -> None:
    places = Layout(tmp_path / "data")
    made(places)
    assert mode(places.data) == 0o700
    for path in (places.token, places.secret):
        assert mode(path) == 0o600
        assert len(path.read_text().strip()) >= 32
    assert places.token.read_text() != places.secret.read_text()


def test_a_second_start_keeps_the_token(tmp_path: Path) -> None:
    places = Layout(tmp_path / "data")
    made(places)
    before = places.token.read_text(), places.secret.read_text()
    made(places)
    assert (places.token.read_text(), places.secret.read_text()) == before


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match=f"chmod 700 {tmp_path}"):
        Layout(tmp_path).claim()
    assert mode(tmp_path) == 0o755


def test_sockets_lie_in_the_data_directory_where_they_fit(place: Path) -> None:
    places = Layout(place / "data")
    made(places)
    assert places.socket("exec") == place.resolve() / "data" / "run" / "exec.sock"


def test_a_long_path_gets_a_short_directory_and_keeps_it(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("d" * 100))
    made(places)
    socket = places.socket("scheduler")
    assert len(os.fsencode(socket)) <= 107
    assert socket.is_relative_to(place)
    assert mode(socket.parent.parent) == 0o700
    made(places)
    assert places.socket("scheduler") == socket
    places.clear_run()
    assert list(place.iterdir()) == []
    assert not os.path.lexists(places.run)


def test_the_limit_counts_bytes(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("é" * 50))
    made(places)
    assert places.run.is_symlink()
    places.clear_run()


def test_a_short_directory_that_others_may_enter_is_not_used_again(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("d" * 100))
    made(places)
    first = places.run.resolve()
    first.parent.chmod(0o755)
    made(places)
    assert places.run.resolve() != first
    places.clear_run()


def test_a_directory_that_was_removed_is_replaced(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    places = Layout(tmp_path / ("d" * 100))
    made(places)
    first = places.run.resolve()
    first.rmdir()
    made(places)
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
