"""Speaks protoc's plugin protocol: CodeGeneratorRequest in, CodeGeneratorResponse out."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

# Registers the options, which would be unknown bytes otherwise.
from google.api import annotations_pb2  # noqa: F401
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from scripts.openapi.catalogue import Catalogue
from scripts.openapi.document import document

_ROOT = Path(__file__).parents[2]


def main() -> None:
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse(
        supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        made = document(Catalogue(request.proto_file), version)
    except ValueError as error:
        response.error = str(error)  # protoc prints it and fails
    else:
        text = json.dumps(made, indent=1, ensure_ascii=False)
        response.file.add(name="openapi.json", content=text + "\n")
    sys.stdout.buffer.write(response.SerializeToString())


main()
