"""What the supervisor publishes about the running stack, for the other commands."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from cli import layout
from cli.layout import Layout


@dataclass(frozen=True)
class ProcessState:
    """One process; `pid` is None while it is down, `since` a Unix time in seconds."""

    name: str
    pid: int | None
    since: float
    restarts: int


@dataclass(frozen=True)
class State:
    """The stack as it runs: where the public edge is, and every process."""

    url: str
    host: str
    port: int
    processes: list[ProcessState]


def publish(places: Layout, state: State) -> None:
    """Replaces the published state, whole at once."""
    made = places.state.with_suffix(".new")
    made.write_text(json.dumps(dataclasses.asdict(state)))
    made.replace(places.state)


def running(places: Layout) -> State | None:
    """The stack that runs now; None when none does, or one is only just starting."""
    if layout.holder(places.lock) is None:
        return None
    try:
        state = json.loads(places.state.read_text())
    except FileNotFoundError:
        return None
    state["processes"] = [ProcessState(**row) for row in state["processes"]]
    return State(**state)
