"""Messages as JSON Schema, in the JSON that Envoy's transcoder reads and prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from sandbox.rpc.v1 import rest_pb2

from scripts.openapi.catalogue import Catalogue

Json = dict[str, Any]
Field = FieldDescriptorProto

_SCALARS: dict[int, Json] = {
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    Field.TYPE_SINT32: {"type": "integer", "format": "int32"},
    Field.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    # Stands only in messages whose JSON a service writes itself, as text.
    Field.TYPE_BYTES: {"type": "string"},
}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.Empty": {"type": "object"},
}
FREE_JSON = "_json"
# Fields that mean the same wherever they stand.
_KNOWN: dict[str, Json] = {
    "session_id": {"pattern": "^sess_[a-z0-9]{16}$"},
    "execution_id": {"pattern": "^exec_[0-9]{8}_[a-z0-9]{8}$"},
    "limit": {"minimum": 1, "maximum": 200, "default": 50},
    "offset": {"minimum": 0, "default": 0},
    "total": {"minimum": 0},
}


class Schemas:
    """Schemas by name, made when first referred to.

    An answer has every scalar, list and map in it, since the transcoder prints unset ones too;
    a request has what it must. Where that makes a difference for a message that is both,
    there are two schemas of it, `Template` and `TemplateInput`.
    """

    def __init__(self, catalogue: Catalogue, requests: set[str], answers: set[str]) -> None:
        """The full names of the messages in any request, and in any answer."""
        self._catalogue = catalogue
        self._twofold = {name for name in requests & answers if self._differs(name)}
        self._owners: dict[str, tuple[str, bool]] = {}
        self.components: dict[str, Json] = {}

    def ref(self, type_name: str, *, answer: bool) -> Json:
        """A reference to the schema of a message or enum. ValueError for a name that two have."""
        if type_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[type_name])
        is_enum = type_name in self._catalogue.enums
        # `SessionStatus.Value` is nested for scope only.
        words = type_name.removesuffix(".Value") if is_enum else type_name
        twofold = type_name in self._twofold
        name = words.rpartition(".")[2] + ("Input" if twofold and not answer else "")
        owner = self._owners.setdefault(name, (type_name, twofold and answer))
        if owner != (type_name, twofold and answer):
            raise ValueError(f"{owner[0]} and {type_name} would both be '{name}'")
        if name not in self.components:
            self.components[name] = {}  # of a message that holds itself
            self.components[name] = (
                self._enum(type_name) if is_enum else self.message(type_name, answer=answer)
            )
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, type_name: str, *, answer: bool, without: Iterable[str] = ()) -> Json:
        """The schema of a message, less the fields that stand in the path."""
        message = self._catalogue.messages[type_name]
        left_out = set(without)
        fields = [field for field in message.field if field.name not in left_out]
        schema: Json = {"type": "object"}
        if prose := self._catalogue.for_rest(type_name):
            schema["description"] = prose
        schema["properties"] = {
            rest_name(field): self.field(type_name, field, answer=answer) for field in fields
        }
        required = [
            rest_name(field)
            for field in fields
            if rule_of(field).required or (answer and self._is_printed(field))
        ]
        if required:
            schema["required"] = required
        return schema

    def field(self, owner: str, field: FieldDescriptorProto, *, answer: bool) -> Json:
        """The schema of one field, its prose and limits included."""
        rule = rule_of(field)
        known = _KNOWN.get(field.name, {}) if field.type in _SCALARS else {}
        entry = self._map_entry(field)
        if entry is not None:
            schema: Json = {
                "type": "object",
                "additionalProperties": self._type(entry.field[1], answer),
            }
            if rule.name_pattern:
                schema["propertyNames"] = {"pattern": rule.name_pattern}
            lengths = ("minProperties", "maxProperties")
        elif field.label == Field.LABEL_REPEATED:
            schema = {"type": "array", "items": self._type(field, answer)}
            if rule.pattern:
                schema["items"]["pattern"] = rule.pattern
            lengths = ("minItems", "maxItems")
        else:
            schema = self._type(field, answer)
            if rule.pattern:
                schema["pattern"] = rule.pattern
            lengths = ("minLength", "maxLength")
        schema |= known
        for word, name in zip(lengths, ("min_length", "max_length"), strict=True):
            if rule.HasField(name):
                schema[word] = getattr(rule, name)
        whole = schema.get("type") == "integer"
        for name in ("minimum", "maximum"):
            if rule.HasField(name):
                limit = getattr(rule, name)
                schema[name] = int(limit) if whole or limit.is_integer() else limit
        if rule.least:
            schema["x-minimum"], schema["x-maximum"] = rule.least, rule.most
        if rule.default_value:
            schema["default"] = self._literal(field, rule.default_value)
        if prose := self._catalogue.for_rest(f"{owner}.{field.name}"):
            schema["description"] = prose
        return schema

    def _enum(self, type_name: str) -> Json:
        values = [value.name for value in self._catalogue.enums[type_name].value if value.number]
        schema: Json = {"type": "string", "enum": values}
        scope = type_name.removesuffix(".Value")
        prose = [self._catalogue.for_rest(scope)]
        for value in values:
            if said := self._catalogue.for_rest(f"{type_name}.{value}"):
                prose.append(f"- `{value}`: {said}")
        if text := "\n\n".join(each for each in prose if each):
            schema["description"] = text
        return schema

    def _type(self, field: FieldDescriptorProto, answer: bool) -> Json:
        if field.type in (Field.TYPE_MESSAGE, Field.TYPE_ENUM):
            return self.ref(field.type_name.lstrip("."), answer=answer)
        if field.type == Field.TYPE_BYTES and field.name.endswith(FREE_JSON):
            return {}
        if field.type not in _SCALARS:
            # The transcoder would print it as a string, against the contract.
            raise ValueError(f"'{field.name}' has a type that has no place in a public message")
        return dict(_SCALARS[field.type])

    def _literal(self, field: FieldDescriptorProto, text: str) -> Any:
        return text if field.type in (Field.TYPE_STRING, Field.TYPE_ENUM) else json.loads(text)

    def _map_entry(self, field: FieldDescriptorProto) -> DescriptorProto | None:
        if field.type != Field.TYPE_MESSAGE:
            return None
        entry = self._catalogue.messages.get(field.type_name.lstrip("."))
        return entry if entry is not None and entry.options.map_entry else None

    def _differs(self, type_name: str) -> bool:
        fields = self._catalogue.messages[type_name].field
        return any(self._is_printed(field) and not rule_of(field).required for field in fields)

    def _is_printed(self, field: FieldDescriptorProto) -> bool:
        if field.label == Field.LABEL_REPEATED:
            return True
        return not field.HasField("oneof_index") and field.type != Field.TYPE_MESSAGE


def rule_of(field: FieldDescriptorProto) -> Any:
    """The field's rest_pb2.FieldRule; empty where the proto gives none."""
    return field.options.Extensions[rest_pb2.field]


def rest_name(field: FieldDescriptorProto) -> str:
    """`bytes event_json` of a native call is `event`, any JSON, in REST."""
    return field.name.removesuffix(FREE_JSON) if field.type == Field.TYPE_BYTES else field.name
