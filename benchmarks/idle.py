"""Sessions that are open and do nothing: what each takes in the control plane and by itself."""

from __future__ import annotations

from benchmarks import machine
from benchmarks.figures import Report, Row, percentile
from benchmarks.rest import Rest
from tests.flow.stack import Stack

MIB = 1024 * 1024


def idle(stack: Stack, sessions: int) -> Report:
    """At most as many as take half of the memory that is free."""
    client = Rest(stack)
    whole = {name: machine.pss_bytes(row["pid"]) for name, row in stack.processes().items()}
    before = _heaps(stack)
    names = [client.session()]
    (executor,) = stack.executors()
    affordable = machine.available_bytes() // 2 // max(machine.pss_of_tree(executor), MIB)
    count = min(sessions, affordable)
    try:
        while len(names) < count:
            names.append(client.session())
        after = _heaps(stack)
        each = [machine.pss_of_tree(pid) / MIB for pid in stack.executors()]
        processes = sum(len(machine.tree(pid)) for pid in stack.executors()) / len(names)
    finally:
        for name in names:
            client.delete(name)
        client.close()
    report = Report(f"{len(names)} sessions, open and idle")
    for name, value in after.items():
        grown = (value - before[name]) / len(names) / 1024
        report.rows.append(Row(f"{name}, for each session", grown, None, "KiB"))
    each.sort()
    median = each[len(each) // 2]
    report.rows.append(Row("an executor with its sandboxes", median, percentile(each, 99), "MiB"))
    report.notes = [
        f"Memory is PSS, in the control plane without files. {processes:.1f} processes a session.",
        "Control plane without sessions, PSS: "
        + ", ".join(f"{name} {value / MIB:.0f} MiB" for name, value in whole.items()),
    ]
    if len(names) < sessions:
        report.notes.append(
            f"{sessions} were asked for; half of the free memory holds {len(names)}."
        )
    assert stack.executors() == []
    return report


def _heaps(stack: Stack) -> dict[str, int]:
    return {name: machine.heap_bytes(row["pid"]) for name, row in stack.processes().items()}
