"""What the protos define, by full name, each with the prose above it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

# Field numbers in descriptor.proto, of which the path of a comment is made.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_MESSAGE, _MESSAGE_ENUM = 2, 3, 4
_ENUM_VALUE = 2
_SERVICE_METHOD = 2

# What a REST caller knows by its HTTP status.
_STATUS = {
    "INVALID_ARGUMENT": "400",
    "UNAUTHENTICATED": "401",
    "PERMISSION_DENIED": "403",
    "NOT_FOUND": "404",
    "FAILED_PRECONDITION": "409",
    "INTERNAL": "500",
    "RESOURCE_EXHAUSTED": "503",
    "UNAVAILABLE": "503",
}
_CODE = re.compile(rf"\b({'|'.join(_STATUS)})\b")


class Catalogue:
    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.services: dict[str, ServiceDescriptorProto] = {}
        self._prose: dict[str, str] = {}
        for file in files:
            self._read(file)

    def methods(self) -> Iterator[tuple[str, MethodDescriptorProto]]:
        """Every call: the full name of its service, and itself."""
        for name, service in self.services.items():
            for method in service.method:
                yield name, method

    def reachable(self, type_name: str) -> set[str]:
        """The message of this name and every message in it."""
        found: set[str] = set()
        waiting = [type_name]
        while waiting:
            name = waiting.pop()
            if name in self.messages and name not in found:
                found.add(name)
                waiting += [field.type_name.lstrip(".") for field in self.messages[name].field]
        return found

    def prose(self, name: str) -> str:
        """The comment above what has this full name, paragraphs kept; empty for none."""
        return self._prose.get(name, "")

    def for_rest(self, name: str) -> str:
        """The same in the words of a REST caller."""
        said = _CODE.sub(lambda match: _STATUS[match[1]], self.prose(name))
        return re.sub(r"\bmetadata (?=`)", "header ", said)

    def _read(self, file: FileDescriptorProto) -> None:
        comments = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
            if location.leading_comments
        }

        def note(name: str, *path: int) -> None:
            if path in comments:
                self._prose[name] = _paragraphs(comments[path])

        def read_enum(scope: str, enum: EnumDescriptorProto, path: tuple[int, ...]) -> None:
            name = f"{scope}.{enum.name}"
            self.enums[name] = enum
            note(name, *path)
            for index, value in enumerate(enum.value):
                note(f"{name}.{value.name}", *path, _ENUM_VALUE, index)

        def read_message(scope: str, message: DescriptorProto, path: tuple[int, ...]) -> None:
            name = f"{scope}.{message.name}"
            self.messages[name] = message
            note(name, *path)
            for index, field in enumerate(message.field):
                note(f"{name}.{field.name}", *path, _MESSAGE_FIELD, index)
            for index, nested in enumerate(message.nested_type):
                read_message(name, nested, (*path, _MESSAGE_MESSAGE, index))
            for index, enum in enumerate(message.enum_type):
                read_enum(name, enum, (*path, _MESSAGE_ENUM, index))

        for index, message in enumerate(file.message_type):
            read_message(file.package, message, (_FILE_MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            read_enum(file.package, enum, (_FILE_ENUM, index))
        for index, service in enumerate(file.service):
            name = f"{file.package}.{service.name}"
            self.services[name] = service
            note(name, _FILE_SERVICE, index)
            for number, method in enumerate(service.method):
                note(f"{name}.{method.name}", _FILE_SERVICE, index, _SERVICE_METHOD, number)


def _paragraphs(comment: str) -> str:
    """Lines joined, paragraphs and lists kept apart."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    paragraphs = re.split(r"\n{2,}", "\n".join(lines))
    return "\n\n".join(re.sub(r"\n(?!- )", " ", paragraph) for paragraph in paragraphs)
