"""The small parts: what a disk has left, how many transfers there may be, signed URLs."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from exec_svc.files.disk import Disk
from exec_svc.files.slots import Slots
from exec_svc.files.threads import Threads
from exec_svc.files.tickets import PREFIX, TICKET_SECONDS, Tickets
from exec_svc.files.turns import Turns
from exec_svc.files.walk import bytes_used
from sandbox_rpc.errors import Forbidden, InvalidParameter, StateConflict, TooManyRequests

# --- the disk


class Measured:
    """A workspace of so many bytes. Each measurement takes `seconds` of the disk's clock."""

    def __init__(self, used: int, seconds: float = 0.0) -> None:
        self.used = used
        self.seconds = seconds
        self.now = 100.0
        self.times = 0
        self.disk = Disk(self._measure, lambda: self.now)

    async def _measure(self, session_id: str) -> int:
        self.times += 1
        self.now += self.seconds
        return self.used


async def test_what_uploads_take_together_is_bounded() -> None:
    disk = Measured(60).disk
    async with disk.reserve("s", 100) as one, disk.reserve("s", 100) as other:
        one.take(20)
        other.take(15)
        with pytest.raises(InvalidParameter, match="disk of 100 bytes, of which 25 are left"):
            one.take(6)
        one.take(5)
        with pytest.raises(InvalidParameter, match="of which 15 are left"):
            other.take(1)
    async with disk.reserve("s", 100) as again, disk.reserve("t", 100) as anothers:
        again.take(40)
        anothers.take(40)


async def test_what_was_kept_counts_until_it_is_measured() -> None:
    measured = Measured(60, seconds=1)
    async with measured.disk.reserve("s", 100) as kept:
        kept.take(30)
        kept.settle(kept=True)
    measured.now += 9
    async with measured.disk.reserve("s", 100) as early:
        with pytest.raises(InvalidParameter, match="of which 10 are left"):
            early.take(11)
        assert measured.times == 1
    # A measurement of 1 s is good for 10 s.
    measured.now += 2
    measured.used = 70
    async with measured.disk.reserve("s", 100) as late:
        late.take(30)
    assert measured.times == 2


async def test_a_measurement_keeps_what_is_under_way() -> None:
    measured = Measured(0)
    async with measured.disk.reserve("s", 100) as first:
        first.take(80)
        measured.now += 1
        async with measured.disk.reserve("s", 100) as second:
            assert measured.times == 2
            with pytest.raises(InvalidParameter, match="of which 20 are left"):
                second.take(21)


def test_bytes_used(tmp_path: Path) -> None:
    empty = directory_size(tmp_path)
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "link").symlink_to("/")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(2**40)

    assert 100_000 <= directory_size(tmp_path) - empty < 200_000


def directory_size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return bytes_used(descriptor)
    finally:
        os.close(descriptor)


def test_what_cannot_be_measured_is_not_empty(tmp_path: Path) -> None:
    deepest = tmp_path
    for _ in range(64):
        deepest = deepest / "d"
        deepest.mkdir()

    with pytest.raises(StateConflict, match="more than 64 deep"):
        directory_size(tmp_path)


# --- slots and turns


def test_slots() -> None:
    slots = Slots("uploads", most=3, each=2)

    def take(session_id: str) -> None:
        with slots.one(session_id):
            pass

    with slots.one("a"), slots.one("a"):
        with pytest.raises(TooManyRequests, match="session has 2 uploads"):
            take("a")
        take("b")
        with slots.one("b"), pytest.raises(TooManyRequests, match="platform has 3 uploads"):
            take("c")
        take("c")
    take("a")


async def test_turns() -> None:
    turns = Turns()
    async with turns.of("a"):
        assert turns.of("a").locked()
        assert not turns.of("b").locked()
    assert not turns.of("a").locked()


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    threads = Threads("test", 1)
    started, proceed = threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        started.set()
        proceed.wait()
        ended = True

    task = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(started.wait)
    task.cancel()
    await asyncio.sleep(0)  # the task has seen it now
    task.cancel()
    assert not task.done()

    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended
    threads.close()


# --- tickets

NOW = 1_700_000_000


def parsed(url: str) -> tuple[str, str, dict[str, str]]:
    parts = urlsplit(url)
    session_id, _, path = unquote(parts.path).removeprefix(PREFIX).partition("/")
    return session_id, path, dict(parse_qsl(parts.query))


@pytest.mark.parametrize("path", ["a", "dir/b c", "100%", "q?x=1&y#z", "käse/日本", "a\nb\\", "+;"])
def test_a_ticket_is_for_its_file(path: str) -> None:
    tickets = Tickets(b"key", lambda: NOW)
    url = tickets.url("sess_a", path, 42)

    assert parsed(url)[:2] == ("sess_a", path)
    assert tickets.check(*parsed(url)) == 42
    assert url.isascii()
    assert not {" ", "\n", "\\", '"'} & set(url)


def test_a_ticket_expires() -> None:
    now = NOW
    tickets = Tickets(b"key", lambda: now)
    ticket = parsed(tickets.url("sess_a", "a", 42))
    now += TICKET_SECONDS

    assert tickets.check(*ticket) == 42
    now += 1
    with pytest.raises(Forbidden):
        tickets.check(*ticket)


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": "sess_b"},
        {"path": "b"},
        {"path": "a\x0042"},
        {"file": "43"},
        {"file": ""},
        {"file": "-1"},
        {"file": "9" * 99},
        {"expires": str(NOW + 10**6)},
        {"expires": "nan"},
        {"expires": "٣"},
        {"signature": ""},
        {"signature": "0" * 64},
        {"signature": "ü"},
        {"file": None},
        {"expires": None},
        {"signature": None},
    ],
)
def test_a_ticket_that_was_changed(change: dict[str, str | None]) -> None:
    tickets = Tickets(b"key", lambda: NOW)
    session_id, path, query = parsed(tickets.url("sess_a", "a", 42))
    fields = {"session_id": session_id, "path": path, **query} | change
    given = {name: value for name, value in fields.items() if value is not None}

    with pytest.raises(Forbidden):
        tickets.check(given.pop("session_id"), given.pop("path"), given)


def test_a_ticket_of_another_key() -> None:
    ticket = parsed(Tickets(b"key", lambda: NOW).url("sess_a", "a", 42))

    with pytest.raises(Forbidden):
        Tickets(b"other", lambda: NOW).check(*ticket)
