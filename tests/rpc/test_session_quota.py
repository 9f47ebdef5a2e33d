"""What a token's quotas stop at CreateSession, and what they tell the client."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import Forbidden, SandboxError, TooManyRequests
from sandbox_rpc.tokens import Quotas

from tests.rpc.world import World, refusal


class Tenant:
    """Creates sessions with a token of its own."""

    def __init__(self, world: World, quotas: Quotas) -> None:
        self._world = world
        self._token = world.keys.issue(quotas=quotas)

    async def create(self, key: str | None = None, **resources: str) -> pb.Session:
        headers = {} if key is None else {"idempotency_key": key}
        spec = pb.SessionSpec(template_id="python-basic", resources=pb.Resources(**resources))
        return await self._world.stub.CreateSession(
            pb.CreateSessionRequest(session=spec),
            metadata=self._world.keys.as_user(token=self._token, **headers),
        )

    async def refusal(self, **resources: str) -> SandboxError:
        return await refusal(self.create(**resources))


async def test_as_many_live_sessions_as_the_token_allows(world: World) -> None:
    tenant = Tenant(world, Quotas(live_sessions=2))
    first, _ = await tenant.create(), await tenant.create()
    world.clock.advance(100)

    refused = await tenant.refusal()

    assert isinstance(refused, TooManyRequests)
    assert "at most 2 live sessions" in refused.detail
    assert refused.retry_after == 200  # when the first of them is idle for its 300 s
    await world.delete(first.session_id)
    await tenant.create()


@pytest.mark.parametrize(
    ("quotas", "words"),
    [
        (Quotas(cpu=Decimal("2.5")), "at most 2.5 cores ('cpu')"),
        (Quotas(memory="1Gi"), "at most 1Gi of 'memory'"),
    ],
)
async def test_cores_and_memory_in_all(world: World, quotas: Quotas, words: str) -> None:
    tenant = Tenant(world, quotas)
    await tenant.create(cpu="2", memory="768Mi")
    refused = await tenant.refusal(cpu="1", memory="512Mi")
    assert isinstance(refused, TooManyRequests)
    assert words in refused.detail
    await tenant.create(cpu="0.5", memory="256Mi")


async def test_what_would_never_fit_is_not_told_to_wait(world: World) -> None:
    tenant = Tenant(world, Quotas(memory="1Gi"))
    refused = await tenant.refusal(memory="2Gi")
    assert isinstance(refused, Forbidden)
    assert "1Gi" in refused.detail


async def test_tokens_have_quotas_of_their_own(world: World) -> None:
    quotas = Quotas(live_sessions=1)
    await Tenant(world, quotas).create()
    await Tenant(world, quotas).create()
    await world.create()  # the operator's has none


async def test_requests_at_once_get_no_more_than_the_quota(world: World) -> None:
    tenant = Tenant(world, Quotas(live_sessions=3))
    answers = await asyncio.gather(*(tenant.create() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(answer, pb.Session) for answer in answers) == 3


async def test_a_repeated_request_needs_no_quota_of_its_own(world: World) -> None:
    tenant = Tenant(world, Quotas(live_sessions=1))
    answers = await asyncio.gather(*(tenant.create(key="same") for _ in range(10)))
    assert len({session.session_id for session in answers}) == 1
