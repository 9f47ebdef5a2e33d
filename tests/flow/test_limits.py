"""The limits of a run, and that the reason it ended for is the true one."""

from __future__ import annotations

import os

import pytest
from sandbox.execution.v1 import execution_pb2 as pb
from scheduler_svc.runtimes.cgroups import Cgroups

from tests.flow.execution import ExecService

has_cgroups = pytest.mark.skipif(
    os.geteuid() != 0 or not list(Cgroups()._parents()),
    reason="control groups are for root to give, where the kernel has their controllers",
)
MEMORY = "the code used more than its 512 MiB of memory"


@has_cgroups
@pytest.mark.parametrize(
    "code",
    [
        # One mapping that RLIMIT_DATA does not see.
        "import mmap\nm = mmap.mmap(-1, 2**30)\nfor i in range(0, 2**30, 4096): m[i] = 1",
        # Many children, each of them small.
        "import os, time\n"
        "for _ in range(40):\n"
        "    if os.fork() == 0:\n"
        "        hold = b'x' * (30 * 2**20)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n",
    ],
    ids=["shared mapping", "many children"],
)
async def test_a_run_is_bounded_as_a_whole(exec_service: ExecService, code: str) -> None:
    session = await exec_service.ready_session("a")
    result = await exec_service.run(session, code)
    assert (result.status, result.exit_code) == (pb.ResultStatus.failed, 137)
    assert result.error.message == MEMORY
    assert (await exec_service.run(session, "print(1)")).status == pb.ResultStatus.success


async def test_one_large_allocation_is_a_memory_error(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("b")
    result = await exec_service.run(session, "b'x' * 2**32")
    assert result.status == pb.ResultStatus.failed
    assert "MemoryError" in result.error.message


async def test_a_fork_bomb_meets_its_limit(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("c")
    code = "import os\nwhile True: os.fork()"
    result = await exec_service.run(session, code, timeout=10)
    assert result.status in (pb.ResultStatus.failed, pb.ResultStatus.timeout)
    assert (await exec_service.run(session, "print(1)")).status == pb.ResultStatus.success


@has_cgroups
async def test_cpu_time_and_peak_memory_count_every_process(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("d")
    code = (
        "import os, time\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0:\n"
        "        hold = b'x' * (100 * 2**20)\n"
        "        end = time.process_time() + 0.3\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0)\n"
        "os.wait(); os.wait()\n"
    )
    result = await exec_service.run(session, code)
    assert result.status == pb.ResultStatus.success, result
    assert 600 <= result.metrics.cpu_time_ms <= 6000
    # One of them has 100 MiB at the least, both together 200, the whole run 512 at the most.
    assert 100 <= result.metrics.peak_memory_mb <= 512


@has_cgroups
async def test_groups_of_runs_leave_with_them(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("e")
    for _ in range(3):
        await exec_service.run(session, "print(1)")
    sandbox_id = f"sbx_{session[5:]}-1"
    await exec_service.detach(session)
    assert exec_service.executors[0].wait(60) == 0
    for _, parent in Cgroups()._parents():
        group = parent / "sandbox" / sandbox_id
        assert group.is_dir()
        assert list(group.glob("run-*")) == []
