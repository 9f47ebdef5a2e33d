"""An Idempotency-Key stands for one execution, for a day."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sandbox_rpc.errors import StateConflict

from tests.unit.test_exec_quota import Submitter, user

DAY = timedelta(hours=24).total_seconds()

__all__ = ["user"]  # the fixture


async def test_it_is_the_same_execution_for_a_day(user: Submitter) -> None:
    first = await user.submit(0, limit=None, key="same")

    again = await user.submit(DAY - 0.001, limit=None, key="same")
    later = await user.submit(DAY, limit=None, key="same")

    assert (again.execution_id, again.repeated) == (first.execution_id, True)
    assert later.execution_id != first.execution_id
    assert not later.repeated
    assert (await user.submit(DAY + 1, limit=None, key="same")).execution_id == later.execution_id


async def test_another_request_is_a_conflict_for_a_day(user: Submitter) -> None:
    await user.submit(0, limit=None, key="same")

    with pytest.raises(StateConflict, match="Idempotency-Key"):
        await user.submit(DAY - 0.001, limit=None, key="same", code="2")
    assert not (await user.submit(DAY, limit=None, key="same", code="2")).repeated
