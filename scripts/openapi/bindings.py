"""The REST bindings of google.api.http, one for each method and path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodDescriptorProto

from scripts.openapi.catalogue import Catalogue

HTTP_BODY = "google.api.HttpBody"
_VERBS = ("get", "put", "post", "delete", "patch")
# {session_id} or {name=**}: the name, and what of the path it takes.
_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")


@dataclass(frozen=True)
class Binding:
    """One way to make a call over REST."""

    service: str
    method: MethodDescriptorProto
    verb: str
    template: str
    body: str

    @property
    def name(self) -> str:
        return f"{self.service}.{self.method.name}"

    @property
    def request(self) -> str:
        return self.method.input_type.lstrip(".")

    @property
    def answer(self) -> str:
        return self.method.output_type.lstrip(".")

    @property
    def path(self) -> str:
        """As OpenAPI writes it: {name=**} becomes {name}."""
        return _VARIABLE.sub(r"{\1}", self.template)

    @property
    def variables(self) -> dict[str, bool]:
        """The fields in the path, and whether they may hold a '/'."""
        return {name: "**" in (pattern or "") for name, pattern in _VARIABLE.findall(self.template)}

    def body_type(self, catalogue: Catalogue) -> str | None:
        """The message that the body is; None where there is no body."""
        if not self.body:
            return None
        if self.body == "*":
            return self.request
        (field,) = (
            field for field in catalogue.messages[self.request].field if field.name == self.body
        )
        return field.type_name.lstrip(".")

    def query(self, catalogue: Catalogue) -> Iterator[tuple[str, str, FieldDescriptorProto]]:
        """The fields that are neither in the path nor in the body: name, owner, field."""
        if self.body == "*":
            return
        taken = {*self.variables, self.body}
        yield from _leaves(catalogue, self.request, "", taken)


def bindings(catalogue: Catalogue) -> Iterator[Binding]:
    for service, method in catalogue.methods():
        rule = method.options.Extensions[annotations_pb2.http]
        for each in (rule, *rule.additional_bindings):
            verb = each.WhichOneof("pattern")
            if verb is None:
                continue
            if verb not in _VERBS or each.response_body:
                raise ValueError(f"{service}.{method.name}: '{verb}' or response_body is not known")
            yield Binding(service, method, verb, _path(each, verb), each.body)


def _path(rule: http_pb2.HttpRule, verb: str) -> str:
    path: str = getattr(rule, verb)
    return path


def _leaves(
    catalogue: Catalogue, owner: str, prefix: str, taken: set[str]
) -> Iterator[tuple[str, str, FieldDescriptorProto]]:
    """A message's field is given in the query as `message.field`."""
    for field in catalogue.messages[owner].field:
        name = f"{prefix}{field.name}"
        inner = field.type_name.lstrip(".")
        if name in taken:
            continue
        if inner in catalogue.messages and not inner.startswith("google."):
            yield from _leaves(catalogue, inner, f"{name}.", taken)
        else:
            yield name, owner, field
