"""Artifacts: what a run changed, and nothing a link leads to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from executor import artifacts


def test_changed_regular_files_are_found_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    workspace = tmp_path / "workspace"
    (workspace / "deep" / "er").mkdir(parents=True)
    moment = artifacts.mark()
    for name in ("a.txt", "deep/er/b.csv", ".hidden", "c.tmp", "~", "deep/.git"):
        (workspace / name).write_text("x")
    (workspace / "link").symlink_to(outside / "secret")
    (workspace / "dir").symlink_to(outside)
    (workspace / "loop").symlink_to(workspace)
    os.mkfifo(workspace / "fifo")
    assert artifacts.changed_since(workspace, moment) == ["a.txt", "deep/er/b.csv"]


def test_a_file_whose_time_was_set_back_is_still_found(tmp_path: Path) -> None:
    moment = artifacts.mark()
    (tmp_path / "old").write_text("x")
    os.utime(tmp_path / "old", (0, 0))
    assert artifacts.changed_since(tmp_path, moment) == ["old"]


def test_what_was_there_before_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("x")
    later = artifacts.mark() + 10**9
    assert artifacts.changed_since(tmp_path, later) == []


def test_the_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_ARTIFACTS", 3)
    moment = artifacts.mark()
    for i in range(5):
        (tmp_path / str(i)).touch()
    assert len(artifacts.changed_since(tmp_path, moment)) == 3


def test_names_that_no_answer_can_hold_are_left_out(tmp_path: Path) -> None:
    moment = artifacts.mark()
    (tmp_path / "good").touch()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))).touch()
    assert artifacts.changed_since(tmp_path, moment) == ["good"]


def test_a_workspace_without_bottom_is_looked_at_to_a_depth(tmp_path: Path) -> None:
    moment = artifacts.mark()
    (tmp_path / "top").touch()
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(artifacts.MAX_DEPTH + 1500):  # beyond Python's own recursion limit
            os.mkdir("d")
            os.chdir("d")
        Path("bottom").touch()
    finally:
        os.chdir(here)
    assert artifacts.changed_since(tmp_path, moment) == ["top"]
    subprocess.run(["/bin/rm", "-rf", tmp_path / "d"], check=True)  # rmtree would recurse


def test_the_entries_looked_at_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_ENTRIES", 10)
    moment = artifacts.mark()
    for i in range(5):
        (tmp_path / str(i)).mkdir()
        for j in range(5):
            (tmp_path / str(i) / str(j)).touch()
    assert 0 < len(artifacts.changed_since(tmp_path, moment)) <= 10


def test_a_workspace_that_was_closed_or_is_gone_holds_nothing(tmp_path: Path) -> None:
    assert artifacts.changed_since(tmp_path / "absent", 0) == []
    (tmp_path / "link").symlink_to(tmp_path)
    assert artifacts.changed_since(tmp_path / "link", 0) == []
