"""The supervisor with small real processes: restarts, adoption, the end of the tree."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import proctree
from cli.linux import DirectoryChanges

DRIVER = """
import asyncio, json, logging, signal, sys
from pathlib import Path
from cli.supervisor import Process, Supervisor

async def main():
    logging.basicConfig(level=logging.INFO)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    def changed(children):
        print(json.dumps({c.process.name: [c.pid, c.restarts] for c in children}), flush=True)
    processes = [
        Process(name, argv, {"PATH": "/usr/bin:/bin"}, Path(sys.argv[2]) / f"{name}.log")
        for name, argv in json.loads(sys.argv[1]).items()
    ]
    supervisor = Supervisor(processes, changed)
    supervisor.start()
    await stop.wait()
    await supervisor.stop(list(json.loads(sys.argv[1])))

asyncio.run(main())
"""
# A service that leaves an executor behind: in a session of its own, deaf to SIGTERM if asked.
LEAVER = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import signal, sys, time\\n"
    "if sys.argv[1] == 'deaf': signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
    "print('up', flush=True)\\n"
    "time.sleep(600)", sys.argv[2]], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[1], "w").write(str(child.pid))
signal.pause()
"""
SLEEP = ["/bin/sleep", "600"]
SECONDS = 30.0


class Driven:
    """A supervisor in a process of its own, and what it has reported."""

    def __init__(self, processes: dict[str, list[str]], directory: Path) -> None:
        self.directory = directory
        with (directory / "supervisor.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, json.dumps(processes), str(directory)],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report from here on that is wanted."""
        while True:
            report: dict[str, Any] = json.loads(self._line())
            if wanted(report):
                return report

    def running(self) -> dict[str, Any]:
        return self.until(lambda report: all(pid for pid, _ in report.values()))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def _line(self) -> bytes:
        assert self.process.stdout
        while b"\n" not in self._buffer:
            assert select.select([self.process.stdout], [], [], SECONDS)[0], "no report came"
            chunk = os.read(self.process.stdout.fileno(), 4096)
            assert chunk, (self.directory / "supervisor.log").read_text()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[dict[str, list[str]]], Driven]]:
    driven: list[Driven] = []

    def start(processes: dict[str, list[str]]) -> Driven:
        driven.append(Driven(processes, tmp_path))
        return driven[-1]

    yield start
    for each in driven:
        below = proctree.descendants(each.pid)
        each.process.kill()
        each.process.wait()
        proctree.end(below, [(signal.SIGKILL, SECONDS)])
        assert each.process.stdout
        each.process.stdout.close()


def gone(pid: int) -> bool:
    """Waits for the end of a process, whoever its parent is."""
    return proctree.end([pid], [(0, SECONDS)]) == []


def leaver(directory: Path, manner: str) -> list[str]:
    return [sys.executable, "-c", LEAVER, str(directory / "left"), manner]


def left_behind(directory: Path) -> int:
    """The executor that the leaver started, once it is there."""
    path = directory / "left"
    until(directory, lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def until(directory: Path, condition: Callable[[], bool]) -> None:
    """Waits for a condition that holds after some file of the directory was written."""
    changes = DirectoryChanges(directory)
    while not condition():
        changes.wait()
    changes.close()


def test_a_killed_process_is_started_again(drive: Any) -> None:
    driven = drive({"one": SLEEP, "two": SLEEP})
    before = driven.running()
    os.kill(before["one"][0], signal.SIGKILL)
    assert driven.until(lambda report: report["one"][0] is None)["one"] == [None, 0]
    after = driven.running()
    assert after["one"][0] != before["one"][0]
    assert after["one"][1] == 1
    assert after["two"] == before["two"]


def test_a_process_that_keeps_dying_does_not_stop_the_others(drive: Any) -> None:
    driven = drive({"bad": ["/bin/false"], "good": SLEEP})
    report = driven.until(lambda report: report["bad"][1] >= 3)
    assert report["good"][0] is not None
    assert report["good"][1] == 0


def test_stop_ends_every_process(drive: Any) -> None:
    driven = drive({"one": SLEEP, "two": SLEEP})
    pids = [pid for pid, _ in driven.running().values()]
    assert driven.stop() == 0
    assert all(map(gone, pids))


def test_what_a_service_left_behind_outlives_its_restart(drive: Any, tmp_path: Path) -> None:
    driven = drive({"svc": leaver(tmp_path, "willing")})
    service = driven.running()["svc"][0]
    left = left_behind(tmp_path)
    os.kill(service, signal.SIGKILL)
    driven.running()
    assert left in proctree.descendants(driven.pid)
    assert driven.stop() == 0
    assert gone(left)


def test_what_ignores_sigterm_is_killed(drive: Any, tmp_path: Path) -> None:
    driven = drive({"svc": leaver(tmp_path, "deaf")})
    driven.running()
    left = left_behind(tmp_path)
    assert driven.stop() == 0
    assert gone(left)


def test_services_do_not_outlive_a_killed_supervisor(drive: Any) -> None:
    driven = drive({"one": SLEEP, "two": SLEEP})
    pids = [pid for pid, _ in driven.running().values()]
    driven.process.kill()
    assert all(map(gone, pids))


def test_an_orphan_is_reaped(drive: Any, tmp_path: Path) -> None:
    driven = drive({"svc": leaver(tmp_path, "willing")})
    service = driven.running()["svc"][0]
    left = left_behind(tmp_path)
    os.kill(service, signal.SIGKILL)
    driven.running()
    os.kill(left, signal.SIGKILL)
    assert gone(left)
    until(tmp_path, lambda: not Path(f"/proc/{left}").exists())
