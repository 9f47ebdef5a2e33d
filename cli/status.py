"""`sandbox status`: what runs, since when, and whether it answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import Any

from cli import health
from cli.layout import EDGE, SERVICES, Layout
from cli.settings import StackSettings
from cli.state import State, running

CHECK_SECONDS = 2.0


def status(settings: StackSettings, *, as_json: bool) -> int:
    """Prints a table; returns 0 when everything is healthy, 1 otherwise."""
    rows = _rows(settings)
    if as_json:
        print(json.dumps({"running": bool(rows), "processes": rows}, indent=2))
    elif not rows:
        print("The stack is not running.")
    else:
        _print_table(rows)
    return 0 if rows and all(row["healthy"] for row in rows) else 1


def _rows(settings: StackSettings) -> list[dict[str, Any]]:
    """One per process, the supervisor first; none while nothing runs."""
    places = Layout(settings.data_dir)
    state = running(places)
    if state is None:
        return []
    healthy = asyncio.run(_ask(places, state))
    return [
        dataclasses.asdict(process)
        | {"healthy": process.pid is not None and healthy.get(process.name, True)}
        for process in state.processes
    ]


async def _ask(places: Layout, state: State) -> dict[str, bool]:
    """Whether each answers its own health check, asked now and all at once."""
    edge = asyncio.create_task(health.probe(state.host, state.port))
    services = await asyncio.gather(*(_is_serving(places, name) for name in SERVICES))
    # A 503 from the edge about a service is an answer of a healthy edge.
    return dict(zip(SERVICES, services, strict=True)) | {EDGE: (await edge).answered}


async def _is_serving(places: Layout, name: str) -> bool:
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = f"unix:{places.socket(name.removesuffix('_svc'))}"
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=CHECK_SECONDS
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'PROCESS':<14} {'PID':>8}  {'SINCE':<19}  {'RESTARTS':>8}  HEALTHY")
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"]))
        pid = "-" if row["pid"] is None else row["pid"]
        healthy = "yes" if row["healthy"] else "no"
        print(f"{row['name']:<14} {pid:>8}  {since:<19}  {row['restarts']:>8}  {healthy}")
