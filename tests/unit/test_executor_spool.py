"""The spool: numbered, durable over a kill, gone only when acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sandbox.executor.v1 import link_pb2 as pb

from executor import spool as module
from executor.spool import Spool


def output(data: bytes) -> pb.ConnectRequest:
    return pb.ConnectRequest(output=pb.Output(run=pb.RunRef(execution_id="e"), data=data))


def finished(name: str) -> pb.ConnectRequest:
    return pb.ConnectRequest(finished=pb.Finished(run=pb.RunRef(execution_id=name, attempt=1)))


async def test_messages_are_numbered_and_leave_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for message in (output(b"a"), output(b"b"), finished("x")):
        spool.append(message)
    assert [message.seq for message in spool.after(0)] == [1, 2, 3]
    assert [message.seq for message in spool.after(2)] == [3]
    assert [ref.execution_id for ref in spool.unfinished_business()] == ["x"]
    assert spool.acknowledge(2) == []
    assert (spool.first, spool.empty.is_set()) == (3, False)
    assert [ref.execution_id for ref in spool.acknowledge(3)] == ["x"]
    assert (spool.first, spool.empty.is_set(), spool.after(0)) == (0, True, [])
    spool.append(output(b"c"))
    assert spool.first == 4
    spool.close()


async def test_a_killed_executors_messages_are_taken_over(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append(output(b"a"))
    first.append(finished("x"))
    first.close()
    with (tmp_path / "spool").open("ab") as file:
        file.write(b"\0\0\1\0torn")  # killed in the middle of a write
    second = Spool(tmp_path)
    assert [message.seq for message in second.after(0)] == [1, 2]
    second.append(finished("y"))
    assert [message.seq for message in second.after(2)] == [3]
    second.close()


async def test_output_waits_for_room_and_a_result_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    spool = Spool(tmp_path)
    await spool.append_when_room(output(b"x" * 200))
    waiting = asyncio.create_task(spool.append_when_room(output(b"y")))
    spool.append(finished("x"))
    await asyncio.sleep(0)
    assert not waiting.done()
    spool.acknowledge(2)
    await waiting
    assert [message.output.data for message in spool.after(0)] == [b"y"]
    spool.close()
