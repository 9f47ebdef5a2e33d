"""Logs: the end of one or of all, following, and their size."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from cli import logs
from cli.layout import NAMES, Layout
from cli.main import main

SECONDS = 30.0


@pytest.fixture
def places(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.logs.mkdir()
    return made


def test_the_last_lines_of_one(places: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    places.log("exec_svc").write_text("one\ntwo\nthree\n")
    assert main(["logs", "exec_svc", "-n", "2", "--data-dir", str(places.data)]) == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_all_carry_their_name(places: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        places.log(name).write_text(f"from {name}\n")
    assert main(["logs", "--data-dir", str(places.data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[name, "|", "from", name] for name in NAMES]


@pytest.mark.parametrize(("name", "words"), [("nobody", "there is no log"), (None, "no logs")])
def test_what_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None, words: str
) -> None:
    arguments = ["logs", *([name] if name else []), "--data-dir", str(tmp_path)]
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_following_shows_whole_lines_and_survives_rotation(
    places: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 4)
    log = places.log("edge")
    log.write_text("first\n")
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", "logs", "edge", "-f", "--data-dir", str(places.data)],
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as follower:
        assert follower.stdout

        def read() -> bytes:
            assert select.select([follower.stdout], [], [], SECONDS)[0], "nothing came"
            assert follower.stdout
            return os.read(follower.stdout.fileno(), 4096)

        assert read() == b"first\n"
        with log.open("a") as writer:
            writer.write("sec")
            writer.flush()
            writer.write("ond\n")
            writer.flush()
            assert read() == b"second\n"
            assert logs.rotate(log)
            writer.write("new\n")
            writer.flush()
            assert read() == b"new\n"
        follower.kill()


def test_a_log_that_is_too_large_is_kept_once(
    places: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 10)
    log = places.log("edge")
    with log.open("a") as writer:
        writer.write("0123456789\n")
        writer.flush()
        assert logs.rotate(log)
        assert not logs.rotate(log)
        writer.write("next\n")
    assert log.read_text() == "next\n"
    assert log.with_name("edge.log.1").read_text() == "0123456789\n"


def test_a_log_that_is_not_there_is_not_rotated(places: Layout) -> None:
    assert not logs.rotate(places.log("edge"))
