"""Server-sent events: numbered, complete, and taken up again wherever they were cut."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.contract.callers import Rest

CUTS = 50
# About 50 KiB a second, in lines that tell where each byte belongs.
PROGRAM = """
import sys, time
for number in range(400):
    print(f"{number:05d} " + "x" * (number * 7 % 251))
    sys.stdout.flush()
    if number % 3 == 0:
        print(f"e{number:05d} ä☃", file=sys.stderr, flush=True)
    time.sleep(0.005)
def handler(event):
    return "done"
"""
WRITTEN = "".join(f"{number:05d} " + "x" * (number * 7 % 251) + "\n" for number in range(400))
ERRORS = "".join(f"e{number:05d} ä☃\n" for number in range(0, 400, 3))


@dataclass(frozen=True)
class Event:
    id: int
    kind: str
    data: dict[str, Any]


class Reader:
    """Reads an execution's events as a browser does: what is whole counts, the rest is lost."""

    def __init__(self, rest: Rest, execution: str) -> None:
        self._rest = rest
        self._path = f"/api/v1/executions/{execution}/events"
        self.events: list[Event] = []

    @property
    def is_done(self) -> bool:
        return bool(self.events) and self.events[-1].kind == "result"

    def read(self, most: int | None = None) -> None:
        """Reads on from the last event until `most` bytes have come, or the end."""
        headers: Any = dict(self._rest.headers)
        if self.events:
            headers["last-event-id"] = str(self.events[-1].id)
        with self._rest.http.stream("GET", self._path, headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/event-stream"
            seen, come = b"", 0
            for chunk in answer.iter_raw():
                room = len(chunk) if most is None else most - come
                seen += chunk[:room]
                come += len(chunk)
                *whole, seen = seen.split(b"\n\n")
                self.events += [parse(block) for block in whole if not block.startswith(b":")]
                if most is not None and come >= most:
                    return
            assert seen == b"", "the stream ended within an event"

    def text(self, kind: str) -> str:
        return "".join(event.data["data"] for event in self.events if event.kind == kind)


def parse(block: bytes) -> Event:
    lines = dict(line.split(": ", 1) for line in block.decode().split("\n"))
    assert list(lines) == ["id", "event", "data"]
    return Event(int(lines["id"]), lines["event"], json.loads(lines["data"]))


def check_whole(reader: Reader, result: dict[str, Any]) -> None:
    ids = [event.id for event in reader.events]
    assert ids == sorted(set(ids)), "an event came twice or out of order"
    assert ids[0] == 1
    assert ids == list(range(1, len(ids) + 1)), "an event is missing"
    assert reader.text("stdout") == WRITTEN == result["stdout"]
    assert reader.text("stderr") == ERRORS == result["stderr"]
    statuses = [event.data["status"] for event in reader.events if event.kind == "status"]
    assert statuses == ["running", "completed"]
    assert reader.events[-1] == Event(ids[-1], "result", result)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_reader_that_is_cut_fifty_times_misses_nothing(
    shared: tuple[Rest, str], seed: int
) -> None:
    rest, session = shared
    chance = random.Random(seed)  # noqa: S311  # repeatable is the point
    execution = rest.submit(session, PROGRAM, timeout=120)
    reader = Reader(rest, execution)

    cuts = 0
    while cuts < CUTS:
        reader.read(most=chance.randint(1, 3000))
        if reader.is_done:  # too fast: all over again, from somewhere in the past
            reader.events = reader.events[: chance.randrange(len(reader.events) // 2)]
        cuts += 1
    reader.read()

    check_whole(reader, rest.call("GET", f"/executions/{execution}/result?wait=60").json())


def test_the_events_of_what_has_ended_are_all_there(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    execution = rest.execute(session, PROGRAM)["execution_id"]
    reader = Reader(rest, execution)

    reader.read()

    check_whole(reader, rest.call("GET", f"/executions/{execution}/result").json())
    count = len(reader.events)
    reader.read()  # after the last there is nothing, and the stream ends
    assert len(reader.events) == count


def test_a_reader_that_goes_away_ends_nothing(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    execution = rest.submit(session, PROGRAM, timeout=120)
    Reader(rest, execution).read(most=100)

    result = rest.call("GET", f"/executions/{execution}/result?wait=60").json()

    assert (result["status"], result["return_value"]) == ("success", "done")


def test_characters_are_whole_however_they_were_written(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    code = "import os, time\nfor byte in 'ä☃𝄞'.encode():\n    os.write(1, bytes([byte]))\n"
    code += "    time.sleep(0.02)\n"
    execution = rest.submit(session, code)
    reader = Reader(rest, execution)

    reader.read()

    assert reader.text("stdout") == "ä☃𝄞"
