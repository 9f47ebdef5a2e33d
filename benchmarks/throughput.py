"""Executions per second over several sessions, against a bare loop over the same zygote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Report, Row
from benchmarks.latency import HANDLER
from benchmarks.rest import Rest
from executor import proof
from tests.flow.stack import Stack

ROUNDS = 3


def throughput(stack: Stack, runs: int) -> Report:
    sessions = 2 * (os.cpu_count() or 1)
    each = max(10, runs // sessions)
    rest, loop = [], []
    for _ in range(ROUNDS):  # in turn: what the machine does besides meets both
        loop.append(_bare(sessions * each))
        rest.append(_over_rest(stack, sessions, each))
    rest.sort()
    loop.sort()
    base = Row("bare loop over a zygote", loop[ROUNDS // 2], loop[-1], "/s")
    ratio = rest[ROUNDS // 2] / loop[ROUNDS // 2]
    name = f"REST, {sessions} sessions"
    report = Report("Sustained executions per second")
    report.rows = [base, Row(name, rest[ROUNDS // 2], rest[-1], "/s", ratio, base.name, "≥ 0.5")]
    report.notes = [
        f"{sessions * each} executions a round, {ROUNDS} rounds; the second column is the best."
    ]
    return report


def _over_rest(stack: Stack, sessions: int, each: int) -> float:
    clients = [Rest(stack) for _ in range(sessions)]
    names = [client.session() for client in clients]

    def work(client: Rest, session: str) -> None:
        for _ in range(each):
            client.run(session, HANDLER)

    for client, name in zip(clients, names, strict=True):
        client.run(name, HANDLER)
    with ThreadPoolExecutor(sessions) as threads:
        begun = time.perf_counter()
        for _ in threads.map(work, clients, names):
            pass  # a failure is raised here
        took = time.perf_counter() - begun
    for client, name in zip(clients, names, strict=True):
        client.delete(name)
        client.close()
    return sessions * each / took


def _bare(count: int) -> float:
    """In a process of its own, which gives root up as executors do."""
    command = [sys.executable, "-m", "benchmarks.throughput", str(count)]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(done.stdout))


async def _loop(count: int) -> float:
    """Executions per second of one zygote with as many sandboxes at a time as there are cores."""
    from executor.bwrap import Tools, default_environment
    from executor.sandbox import Job
    from executor.zygote import Zygote

    job = Job(
        language="python",
        code=HANDLER.encode(),
        event_json=b"{}",
        stdin=None,
        env=default_environment(),
        memory_bytes=512 * 1024 * 1024,
        max_processes=64,
        timeout_seconds=30,
    )

    async def output(_: str, __: bytes) -> None:
        return

    with tempfile.TemporaryDirectory(prefix="bench") as workspace:
        zygote = await Zygote.start(Tools.find(), Path(workspace))
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                sandbox = await zygote.make()
                end = await sandbox.run(job, output)
                await sandbox.close()
                assert end.frame[:1] == b"V", end

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(os.cpu_count() or 1)))
        took = time.perf_counter() - begun
        await zygote.close()
    return count / took


if __name__ == "__main__":
    proof.give_up_root()
    print(json.dumps(asyncio.run(_loop(int(sys.argv[1])))))
