"""Prints docs/configuration.md from the settings classes: `make gen` writes it, a test compares."""

from __future__ import annotations

from collections.abc import Iterator

from exec_svc.settings import Settings as ExecSettings
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from scheduler_svc.settings import Settings as SchedulerSettings
from session_svc.settings import Settings as SessionSettings

from cli.settings import ClientSettings, StackSettings

INTRODUCTION = """# Configuration

Made by `make gen` from the settings classes; a test compares the two.

`sandbox up` takes each setting of the stack as a flag (`--data-dir`), from the environment, or
from `sandbox.toml` in the working directory (`data_dir = "…"`), in this order. It sets those of the
services itself; whoever runs the services without it sets them by environment. What it does not set
(`SANDBOX_JWT_…`) reaches them from its own environment.

Tracing takes OpenTelemetry's own variables, `OTEL_EXPORTER_OTLP_ENDPOINT` first of all; logs take
`LOG_LEVEL` (default `INFO`).
"""

SECTIONS: list[tuple[str, type[BaseSettings]]] = [
    ("The stack: `sandbox up`", StackSettings),
    ("The client: `sandbox run`", ClientSettings),
    ("session_svc", SessionSettings),
    ("exec_svc", ExecSettings),
    ("scheduler_svc", SchedulerSettings),
]


def rows(settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        variable = str(field.validation_alias or f"{prefix}{name}".upper())
        yield f"| `{variable}` | {default(field)} | {field.description} |"


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "" if field.default is None else f"`{field.default}`"


def text() -> str:
    parts = [INTRODUCTION]
    for title, settings in SECTIONS:
        table = ["| variable | default | meaning |", "|---|---|---|", *rows(settings)]
        parts.append(f"## {title}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(text(), end="")
