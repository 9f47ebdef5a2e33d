"""gen/openapi.json: valid, complete, and with examples that are what they are examples of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from openapi_spec_validator import validate
from sandbox_rpc import errors

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "gen" / "openapi.json").read_text())
VERBS = ("get", "put", "post", "delete", "patch")
HTTP_BODY = "google.api.HttpBody"


def methods() -> Iterator[MethodDescriptor]:
    """Every call in the descriptor set that the edge transcodes by."""
    files = FileDescriptorSet.FromString((ROOT / "gen" / "descriptors.binpb").read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for file in files.file:
        for service in pool.FindFileByName(file.name).services_by_name.values():
            yield from service.methods


def rest_calls() -> Iterator[tuple[str, str, str, MethodDescriptor]]:
    """Verb, path template, body and method of every binding."""
    for method in methods():
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for each in (rule, *rule.additional_bindings):
            verb = each.WhichOneof("pattern")
            if verb:
                yield verb, getattr(each, verb), each.body, method


CALLS = list(rest_calls())
OPERATIONS = [
    (verb, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for verb, operation in item.items()
]


def resolve(node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        reference = node["$ref"]
        node = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    return node


def leaves(message: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in message.fields:
        inner = field.message_type
        if inner is not None and not inner.full_name.startswith("google."):
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_it_is_valid() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_it_has_the_bindings_and_nothing_else() -> None:
    wanted = {(verb, re.sub(r"=[^}]*", "", path)) for verb, path, _, _ in CALLS}
    assert len(wanted) > 10
    assert {(verb, path) for verb, path, _ in OPERATIONS} == wanted


@pytest.mark.parametrize(
    ("verb", "path", "body", "method"), CALLS, ids=[f"{verb} {path}" for verb, path, _, _ in CALLS]
)
def test_each_binding_has_its_parameters_and_bodies(
    verb: str, path: str, body: str, method: MethodDescriptor
) -> None:
    operation = DOCUMENT["paths"][re.sub(r"=[^}]*", "", path)][verb]
    parameters = [resolve(parameter) for parameter in operation["parameters"]]
    by_place = {
        place: {each["name"] for each in parameters if each["in"] == place}
        for place in ("path", "query")
    }

    in_path = set(re.findall(r"\{([a-z0-9_.]+)", path))
    assert by_place["path"] == in_path
    taken = {"*": set(method.input_type.fields_by_name), "": set()}.get(body, {body})
    wanted = {
        name
        for name in leaves(method.input_type)
        if name not in in_path and name.partition(".")[0] not in taken
    }
    assert by_place["query"] == wanted
    assert ("requestBody" in operation) is bool(body)
    success, answer = next(
        (status, resolve(answer))
        for status, answer in operation["responses"].items()
        if status.startswith("2")
    )
    assert ("content" in answer) is (success != "204")
    if method.output_type.full_name == HTTP_BODY:
        assert all("schema" in media for media in answer["content"].values()), "see free_json.py"
    if body:
        contents = operation["requestBody"]["content"]
        assert all("schema" in media for media in contents.values()), "see free_json.py"


@pytest.mark.parametrize(
    ("verb", "path", "operation"), OPERATIONS, ids=[f"{v} {p}" for v, p, _ in OPERATIONS]
)
def test_each_operation_is_told_and_guarded(
    verb: str, path: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    open_to_all = operation.get("security") == []
    assert open_to_all is (path == "/api/v1/health")
    wanted = {"400", "500", "503"} | (set() if open_to_all else {"401", "403"})
    assert wanted <= set(operation["responses"])
    assert set(operation["responses"]) <= {
        *("200", "201", "204", "307"),
        *("400", "401", "403", "404", "409", "500", "503"),
    }
    assert ("404" in operation["responses"]) >= ("{" in path)


def media() -> Iterator[tuple[str, Any, Any]]:
    """Where, schema, example: of every body and parameter that has an example."""
    for verb, path, operation in OPERATIONS:
        where = f"{verb} {path}"
        bodies = [operation.get("requestBody", {})]
        bodies += [resolve(answer) for answer in operation["responses"].values()]
        for body in bodies:
            for content in body.get("content", {}).values():
                examples = content.get("examples", {})
                found = [each["value"] for each in examples.values()]
                found += [content["example"]] if "example" in content else []
                for example in found:
                    yield where, content["schema"], example
        for parameter in map(resolve, operation["parameters"]):
            if "example" in parameter:
                yield where, parameter["schema"], parameter["example"]


def test_every_example_is_one() -> None:
    count = 0
    for where, schema, example in media():
        whole = {**schema, "components": DOCUMENT["components"]}
        validator = jsonschema.Draft202012Validator(
            whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        assert [error.message for error in validator.iter_errors(example)] == [], where
        count += 1
    assert count > 100


def test_every_json_body_has_an_example() -> None:
    for verb, path, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            content = resolve(answer).get("content", {}).get("application/json", {})
            assert not content or {"example", "examples"} & set(content), f"{verb} {path} {status}"


def test_error_links_are_those_of_the_services() -> None:
    for response in DOCUMENT["components"]["responses"].values():
        for example in response["content"]["application/json"]["examples"].values():
            body = example["value"]
            assert body["error_link"] == errors.link_of(body["error_code"])


def test_no_outside_host_is_named() -> None:
    text = (ROOT / "gen" / "openapi.json").read_text()
    assert re.findall(r"https?://[^\s\"'`<>)]+", text) == []
