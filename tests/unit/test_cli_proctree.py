"""Finding and ending processes by what the kernel says of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cli import proctree

SECONDS = 30.0
# Its name holds what separates the fields of /proc/PID/stat.
ODD = """
import signal, sys
open('/proc/self/comm', 'w').write(') S 1 (')
print('up', flush=True)
signal.pause()
"""


def start(code: str, **env: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={"PATH": os.defpath} | env
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process


def test_a_name_cannot_hide_a_child() -> None:
    child = start(ODD)
    assert child.pid in proctree.descendants(os.getpid())
    assert proctree.end([child.pid], [(signal.SIGTERM, SECONDS)]) == []
    assert child.wait() == -signal.SIGTERM


def test_a_zombie_is_nobodys_descendant() -> None:
    child = start("print('up', flush=True)")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert child.pid not in proctree.descendants(os.getpid())
    child.wait()


def test_what_does_not_end_is_reported_then_killed() -> None:
    child = start(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); signal.pause()"
    )
    assert proctree.end([child.pid], [(signal.SIGTERM, 0.01)]) == [child.pid]
    assert proctree.end([child.pid], [(signal.SIGTERM, 0.01), (signal.SIGKILL, SECONDS)]) == []
    assert child.wait() == -signal.SIGKILL


def test_a_process_is_found_by_its_environment() -> None:
    child = start("import signal; print('up', flush=True); signal.pause()", MARK="unix:/a/b.sock")
    assert proctree.with_environment("MARK=unix:/a/b.sock") == [child.pid]
    assert proctree.with_environment("MARK=unix:/a/b") == []
    child.kill()
    child.wait()
    assert proctree.end([child.pid], [(signal.SIGTERM, SECONDS)]) == []
