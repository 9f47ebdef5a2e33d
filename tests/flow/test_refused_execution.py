"""A request that is refused is as if it had never been, for the session's owner too."""

from __future__ import annotations

from sandbox.execution.v1 import execution_pb2 as pb
from sandbox_rpc.errors import NotFound

from tests.flow.execution import ExecService
from tests.rpc.world import refusal


async def test_a_strangers_request_holds_up_nobody(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("held")
    # As while a stranger's request is being checked: the one slot is reserved.
    held = exec_service.links.reserve(session)
    waiting = await exec_service.submit(session, "print('ran')")
    exec_service.links.use(held, None)

    request = pb.ExecuteRequest(session_id=session, code="1", language=pb.Language.python)
    stranger = exec_service.keys.as_user("elsewhere")
    refused = await refusal(exec_service.api.Execute(request, metadata=stranger))

    assert isinstance(refused, NotFound)
    assert (await exec_service.result(waiting)).stdout == b"ran\n"
