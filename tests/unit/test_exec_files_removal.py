"""Removing a workspace, whatever is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exec_svc.files.removal import Stopped
from exec_svc.files.workspace import Workspaces

UNPRIVILEGED_UID = 61_888


def never() -> bool:
    return False


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_bytes(b"kept")
    made = tmp_path / "sess_a"
    made.mkdir()
    return made


def test_links_are_removed_and_not_followed(home: Path) -> None:
    (home / "file").symlink_to(home.parent / "outside" / "kept")
    (home / "directory").symlink_to(home.parent / "outside")
    (home / "dangling").symlink_to("nowhere")
    (home / "loop").symlink_to("loop")
    (home / "root").symlink_to("/")
    (home / "below").mkdir()
    (home / "below" / "up").symlink_to("../../outside")
    os.link(home.parent / "outside" / "kept", home / "hard")
    os.mkfifo(home / "fifo")

    Workspaces(home.parent).remove("sess_a", never)

    assert not home.exists()
    assert (home.parent / "outside" / "kept").read_bytes() == b"kept"


def test_a_workspace_that_is_a_link_is_left_alone(home: Path) -> None:
    home.rmdir()
    home.symlink_to("outside")

    with pytest.raises(NotADirectoryError):
        Workspaces(home.parent).remove("sess_a", never)
    assert Workspaces(home.parent).names() == ["outside"]
    assert (home.parent / "outside" / "kept").exists()


def test_a_tree_deeper_than_any_path(home: Path) -> None:
    """3,000 directories, one in the other, and some files on the way: no path reaches them,
    and there are fewer descriptors than levels."""
    current = os.open(home, os.O_RDONLY)
    for level in range(3000):
        os.mkdir("d", dir_fd=current)
        if level % 100 == 0:
            os.close(os.open("f", os.O_CREAT, dir_fd=current))
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)

    Workspaces(home.parent).remove("sess_a", never)

    assert not home.exists()


REMOVE = """
import os, sys
from pathlib import Path
from exec_svc.files.workspace import Workspaces
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
Workspaces(Path(sys.argv[1])).remove("sess_a", lambda: False)
"""


def test_modes_that_keep_their_owner_out(place: Path) -> None:
    """As another user than root: what user code has closed has to be opened first."""
    home = place / "sess_a"
    for path in (home, home / "closed", home / "closed" / "below", home / "unwritable"):
        path.mkdir()
        (path / "file").write_bytes(b"")
    uid = UNPRIVILEGED_UID if os.geteuid() == 0 else os.geteuid()
    for path in (place, *home.rglob("*"), home):
        if os.geteuid() == 0:
            os.chown(path, uid, uid)
    (home / "unwritable").chmod(0o500)
    (home / "closed" / "below").chmod(0o300)
    (home / "closed").chmod(0)
    home.chmod(0o100)
    script = place / "remove.py"
    script.write_text(REMOVE)

    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, place, str(uid)], env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert not home.exists()


def test_a_removal_can_be_stopped_and_taken_up(home: Path) -> None:
    for number in range(10):
        (home / str(number)).write_bytes(b"")
    asked = iter([False] * 5 + [True])

    with pytest.raises(Stopped):
        Workspaces(home.parent).remove("sess_a", lambda: next(asked))
    assert len(list(home.iterdir())) == 5
    Workspaces(home.parent).remove("sess_a", never)
    assert not home.exists()
