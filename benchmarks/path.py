"""Where the time of one execution goes, from the spans of its own trace."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from benchmarks.figures import Report, row
from benchmarks.latency import HANDLER
from benchmarks.rest import Rest
from tests.edge.collector import Received, collecting
from tests.flow.stack import Stack

SPANS = 5  # of one execution: two of the edge, exec_svc's, two of the executor


def path(place: Path, runs: int) -> Report:
    """Starts a stack of its own that exports traces, which costs a little itself."""
    parts: dict[str, list[float]] = {}
    with collecting() as collector:
        stack = Stack(place)
        stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        stack.environment["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        stack.sandbox("up")
        try:
            client = Rest(stack)
            session = client.session()
            for _ in range(5):
                client.run(session, HANDLER)
            took = {}
            for _ in range(runs):
                trace = secrets.token_hex(16)
                begun = time.perf_counter()
                client.run(session, HANDLER, traceparent=f"00-{trace}-{secrets.token_hex(8)}-01")
                took[trace] = time.perf_counter() - begun
            traces: dict[str, list[Received]] = {trace: [] for trace in took}
            while any(len(spans) < SPANS for spans in traces.values()):
                (received,) = asyncio.run(collector.take(1))
                traces.get(received.span.trace_id.hex(), []).append(received)
            client.close()
        finally:
            stack.sandbox("down")
    for trace, spans in traces.items():
        for name, seconds in _parts(spans, took[trace]).items():
            parts.setdefault(name, []).append(seconds)
    report = Report("Where the time of an empty handler goes (traced)")
    total = ("the whole", sorted(took.values())[len(took) // 2])
    report.rows = [row(name, values, total) for name, values in parts.items()]
    return report


def _parts(spans: list[Received], whole: float) -> dict[str, float]:
    def times(ending: str) -> tuple[int, int]:
        (span,) = [each.span for each in spans if each.span.name.endswith(ending)]
        return span.start_time_unix_nano, span.end_time_unix_nano

    call, run, inside = times("ExecuteJson"), times("executor.run"), times("sandbox.run")
    return {
        "the whole": whole,
        "client and edge": whole - (call[1] - call[0]) / 1e9,
        "exec_svc: accept, commit, dispatch": (run[0] - call[0]) / 1e9,
        "executor: claim a sandbox": (inside[0] - run[0]) / 1e9,
        "sandbox: run to the end of its processes": (inside[1] - inside[0]) / 1e9,
        "executor: outcome, artifacts": (run[1] - inside[1]) / 1e9,
        "exec_svc: commit the result, answer": (call[1] - run[1]) / 1e9,
    }
