"""Many executions in a row: nothing is left of them, and memory does not grow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import Report, Row, slope
from benchmarks.latency import HANDLER
from benchmarks.rest import Rest
from executor.runs import IDLE_SANDBOXES
from tests.adversarial.arena import control_groups
from tests.flow.stack import Stack

SAMPLES = 20
SETTLE_SECONDS = 60.0
KIB = 1024


def endurance(stack: Stack, runs: int) -> Report:
    client = Rest(stack)
    session = client.session()
    (executor,) = stack.executors()
    pids = {"executor": executor} | {name: row["pid"] for name, row in stack.processes().items()}
    counted: dict[str, Callable[[], int]] = {
        "processes below the executor": lambda: len(machine.tree(executor)),
        "mounts of the executor": lambda: machine.mounts(executor),
        "files of sandboxes and workspaces": lambda: _files(stack),
        "control groups of runs": lambda: len(_groups(session)),
    } | {f"descriptors of {name}": _descriptors(pid) for name, pid in pids.items()}
    # Before it counts: pools fill, caches warm, the executor's log has its first lines.
    for _ in range(runs // SAMPLES):
        client.run(session, HANDLER)
    _settled(executor)
    before = {name: count() for name, count in counted.items()}
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
    for done in range(runs):
        client.run(session, HANDLER)
        if done % max(1, runs // SAMPLES) == 0:
            _settled(executor)
            for name, pid in pids.items():
                heap = machine.heap_of_tree if name == "executor" else machine.heap_bytes
                used = heap(pid)
                memory[name].append((done / 1000, used / KIB))
    _settled(executor)
    after = {name: count() for name, count in counted.items()}
    client.delete(session)
    client.close()
    report = Report(f"{runs} executions in a row")
    for name, points in memory.items():
        settled = points[len(points) // 2 :]  # allocators grow into their size first
        grows = slope(settled)
        report.rows.append(Row(f"{name} grows, per 1000", grows, None, "KiB"))
    for name, count in after.items():
        report.rows.append(Row(f"left: {name}", count - before[name], None, ""))
    report.notes = [
        "Memory is PSS without files, its growth that of the second half; left should be nothing."
    ]
    return report


def _settled(executor: int) -> None:
    """The sandboxes that are made ahead are there again, and nothing else: executor, bwrap,
    zygote and those. AssertionError if that does not come about."""
    end = time.monotonic() + SETTLE_SECONDS
    while len(processes := machine.tree(executor)) != 3 + IDLE_SANDBOXES:
        assert time.monotonic() < end, f"{len(processes)} processes below the executor"
        time.sleep(0.01)


def _files(stack: Stack) -> int:
    places = stack.places
    return machine.files_below(places.sandboxes) + machine.files_below(places.workspaces)


def _groups(session: str) -> list[Path]:
    below = f"sandbox/sbx_{session.removeprefix('sess_')}-*/run-*"
    return [path for parent in control_groups() for path in parent.glob(below)]


def _descriptors(pid: int) -> Callable[[], int]:
    return lambda: machine.descriptors(pid)
