"""Giving up root: for good, and with what is needed still in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from executor.privileges import drop_root
closed, uid = Path(sys.argv[1]), int(sys.argv[2])
drop_root(uid, [closed / "needed", closed / "file", Path(sys.prefix)])
assert os.getresuid() == (uid,) * 3 and os.getgroups() == [], os.getresuid()
assert (closed / "needed" / "inside").read_text() == "in"
assert (closed / "file").read_text() == "file"
assert sorted(os.listdir(closed)) == ["file", "needed"], os.listdir(closed)
for regain in (lambda: os.setuid(0), lambda: os.setgroups([0])):
    try:
        regain()
    except PermissionError:
        continue
    sys.exit("root can be had again")
print("dropped")
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give root up")


def run(directory: Path, uid: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(directory), str(uid)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_root
def test_needed_trees_below_a_closed_directory_stay_in_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "needed").mkdir(parents=True)
    (closed / "needed" / "inside").write_text("in")
    (closed / "file").write_text("file")
    (closed / "secret").write_text("secret")
    closed.chmod(0o700)
    ended = run(closed, 61_998)
    assert (ended.returncode, ended.stdout) == (0, "dropped\n"), ended.stderr
    # The mounts were the process's own.
    assert sorted(os.listdir(closed)) == ["file", "needed", "secret"]


@needs_root
def test_dropping_to_root_is_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, 0)
    assert ended.returncode != 0
    assert "cannot be root" in ended.stderr


def test_an_executor_started_as_root_without_a_user_refuses(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be refused for being root")
    environment = {
        "SANDBOX_ID": "sbx_x-1",
        "SANDBOX_LINK_TARGET": "unix:/nowhere",
        "INTERNAL_API_TOKEN": "t",
        "SANDBOX_WORKSPACE": str(tmp_path),
        "SANDBOX_STATE": str(tmp_path),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "executor"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "refusing to run code as root" in ended.stderr
