"""Another domain's id is the same 404 as one that never was, on every verb.

The calls are read from the descriptors: one that is added and tells the two apart, or
that needs a body which is not given here, fails this test.
"""

from __future__ import annotations

import importlib
import json
import re
import secrets
import shutil
import string
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_status import rpc_status
from sandbox.rpc.v1 import error_pb2

from tests.flow.stack import Stack
from tests.support import PATIENCE

GEN = Path(__file__).parents[2] / "gen"
IDS = ("session_id", "execution_id", "container_id")
# Not for users: a service's or a container's token is needed.
INTERNAL = {"SchedulerService", "AttachmentService", "ExecutorLinkService"}
PATH = "kept.txt"

EXECUTE = json.dumps({"code": "1", "language": "python"}).encode()
BODIES: dict[str, dict[str, Any]] = {
    "ExecuteJson": {"content": EXECUTE},
    "UploadFileForm": {"files": {"file": (PATH, b"changed")}},
}
BOUNDARY = "x"
FORM = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{PATH}"\r\n\r\n'
    f"changed\r\n--{BOUNDARY}--\r\n"
).encode()
FIELDS: dict[str, dict[str, Any]] = {
    "Execute": {"code": "1", "language": 1},
    "ExecuteJson": {"body": {"data": EXECUTE}},
    "UploadFileForm": {
        "body": {"data": FORM, "content_type": f"multipart/form-data; boundary={BOUNDARY}"}
    },
}
SOCKETS = {"session": "session", "execution": "exec", "scheduler": "scheduler"}


def methods() -> list[MethodDescriptor]:
    """Every method that users may call and that takes an id."""
    pool = descriptor_pool.Default()
    found = []
    for path in sorted(GEN.rglob("*_pb2.py")):
        name = str(path.relative_to(GEN)).removesuffix(".py").replace("/", ".")
        module = importlib.import_module(name)
        file = pool.FindFileByName(module.DESCRIPTOR.name)
        for service in file.services_by_name.values():
            if service.name not in INTERNAL:
                found += [method for method in service.methods if names_ids(method)]
    return found


def names_ids(method: MethodDescriptor) -> bool:
    return bool(fill(message_factory.GetMessageClass(method.input_type)(), dict.fromkeys(IDS, "x")))


def fill(message: Message, ids: Mapping[str, str]) -> bool:
    """Sets the ids in a request, also in the first message of a stream. False: it has none."""
    has_any = False
    for field in message.DESCRIPTOR.fields:
        if field.name in ids and field.type == field.TYPE_STRING:
            setattr(message, field.name, ids[field.name])
            has_any = True
        elif field.containing_oneof is not None and field.message_type is not None:
            inner = message_factory.GetMessageClass(field.message_type)()
            if fill(inner, ids):
                getattr(message, field.name).CopyFrom(inner)
                has_any = True
    if has_any and "path" in message.DESCRIPTOR.fields_by_name:
        message.path = PATH  # type: ignore[attr-defined]
    return has_any


METHODS = methods()
BOUND = [each for each in METHODS if each.GetOptions().HasExtension(annotations_pb2.http)]


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)
    made = Stack(place / "data")
    made.sandbox("up")
    yield made
    made.sandbox("down")
    shutil.rmtree(place)


class Domain:
    """The operator in one domain."""

    def __init__(self, stack: Stack, name: str) -> None:
        token = stack.places.token.read_text().strip()
        headers = {"authorization": f"Bearer {token}", "x-business-domain": name}
        self.metadata = tuple(headers.items())
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{stack.port}",
            headers=headers,
            timeout=PATIENCE,
            trust_env=False,
        )

    def get(self, path: str) -> Any:
        answer = self.http.get(f"/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[Domain]:
    made = Domain(stack, "owner")
    yield made
    made.http.close()


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[Domain]:
    made = Domain(stack, "stranger")
    yield made
    made.http.close()


@pytest.fixture(scope="module")
def foreign(owner: Domain) -> dict[str, str]:
    """What there is, in the owner's domain."""
    session = owner.http.post("/api/v1/sessions", json={"template_id": "python-basic"}).json()
    session_id = session["session_id"]
    wait = owner.http.post(
        f"/api/v1/sessions/{session_id}/execute?wait=60",
        json={"code": f"echo whole > {PATH}; echo said", "language": "shell"},
    ).json()
    assert wait["status"] == "success"
    return {
        "session_id": session_id,
        "execution_id": wait["execution_id"],
        "container_id": session["container_id"],
    }


@pytest.fixture
def absent(foreign: dict[str, str]) -> dict[str, str]:
    """Ids of the same form that never were."""
    return {name: _another(known) for name, known in foreign.items()}


def _another(known: str) -> str:
    """The same but for its last characters."""
    tail = "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))
    return known[:-6] + tail


@pytest.fixture(autouse=True)
def untouched(owner: Domain, foreign: dict[str, str]) -> Iterator[None]:
    """Whatever a stranger tries, the owner sees what was there before."""

    session = f"/sessions/{foreign['session_id']}"

    def look() -> list[Any]:
        file = owner.http.get(f"/api/v1{session}/files/{PATH}")
        container = owner.get(f"/containers/{foreign['container_id']}")
        seen = owner.get(session), owner.get(f"{session}/executions"), owner.get(f"{session}/files")
        return [*seen, container["status"], file.content]

    before = look()
    assert before[-1] == b"whole\n"
    yield
    assert look() == before


@pytest.mark.parametrize("method", BOUND, ids=name_of)
def test_rest(
    method: MethodDescriptor,
    stranger: Domain,
    foreign: dict[str, str],
    absent: dict[str, str],
) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        assert verb is not None
        template = getattr(binding, verb)

        def ask(ids: Mapping[str, str], verb: str = verb, template: str = template) -> Any:
            values = {**ids, "path": PATH}
            url = re.sub(r"\{(\w+)[^}]*\}", lambda match: values[match[1]], template)
            body = BODIES.get(method.name, {})
            answer = stranger.http.request(verb.upper(), url, **body)
            code = answer.json()["error_code"]
            return answer.status_code, code, _headers(answer), _neutral(answer.content, ids)

        first, second = ask(foreign), ask(absent)
        assert first == second
        assert first[0] == 404
        assert first[1] in {
            "Sandbox.SessionNotFound",
            "Sandbox.ExecutionNotFound",
            "Sandbox.ContainerNotFound",
        }


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_grpc(
    method: MethodDescriptor,
    stack: Stack,
    stranger: Domain,
    foreign: dict[str, str],
    absent: dict[str, str],
) -> None:
    """Straight at the service, past the edge."""
    package = method.containing_service.file.package.split(".")[1]
    socket = stack.places.socket(SOCKETS[package])
    with grpc.insecure_channel(f"unix:{socket}") as channel:

        def ask(ids: Mapping[str, str]) -> Any:
            error = _refusal(channel, method, ids, stranger.metadata)
            status: Any = rpc_status.from_call(error)
            api = error_pb2.ApiError()
            assert status.details[0].Unpack(api)
            return error.code(), api.error_code, _neutral(status.SerializeToString(), ids)

        first, second = ask(foreign), ask(absent)
        assert first == second
        assert first[0] == grpc.StatusCode.NOT_FOUND


def _refusal(
    channel: grpc.Channel, method: MethodDescriptor, ids: Mapping[str, str], metadata: Any
) -> Any:
    kind = message_factory.GetMessageClass(method.input_type)
    request = kind(**FIELDS.get(method.name, {}))
    assert fill(request, ids)
    client, server = method.client_streaming, method.server_streaming
    call: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[client, server](
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=kind.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    sent = iter([request]) if client else request
    with pytest.raises(grpc.RpcError) as caught:
        # A stream is refused when it is read.
        (list if server else repr)(call(sent, metadata=metadata, timeout=PATIENCE))
    return caught.value


def _neutral(text: bytes, ids: Mapping[str, str]) -> bytes:
    for name, value in ids.items():
        text = text.replace(value.encode(), f"<{name}>".encode())
    return text


def _headers(answer: httpx.Response) -> dict[str, str]:
    own = ("x-request-id", "date", "x-envoy-upstream-service-time")
    return {name: value for name, value in answer.headers.items() if name not in own}
