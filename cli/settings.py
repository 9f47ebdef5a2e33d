"""The settings of the stack that `sandbox up` runs, and of the client.

A flag wins over the environment (SANDBOX_…), that over `sandbox.toml` in the working
directory, that over the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

FILE = "sandbox.toml"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what a client dials instead


class StackSettings(BaseSettings):
    """The embedded stack on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="SANDBOX_", toml_file=FILE, extra="forbid", populate_by_name=True
    )

    host: str = Field(default="127.0.0.1", description="Address on which the public edge listens.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port of the public edge.")
    internal_port: int = Field(
        default=8081, ge=1, le=65535, description="Port of the internal edge, on 127.0.0.1 only."
    )
    data_dir: Path = Field(
        default=Path(".sandbox"),
        description="Directory of all state: databases, files, logs, token.",
    )
    runtime: Literal["process"] = Field(
        default="process", description="What runs the sandboxes: child processes isolated by bwrap."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OTLP/HTTP collector, e.g. http://127.0.0.1:4318; absent: no tracing.",
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().resolve()

    @property
    def local_host(self) -> str:
        """The address at which this machine itself reaches the public edge."""
        return _EVERYWHERE.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the public edge."""
        host = f"[{self.local_host}]" if ":" in self.local_host else self.local_host
        return f"http://{host}:{self.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


class ClientSettings(BaseSettings):
    """Which platform the client commands talk to; by default the stack of this directory."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_")

    url: str | None = Field(default=None, description="Base URL of a platform that runs elsewhere.")
    token: SecretStr | None = Field(default=None, description="Bearer token for it.")


class InvalidSettings(Exception):
    """A setting is out of range or unknown; the message names it."""


def load(**flags: Any) -> StackSettings:
    """The settings, `flags` that are not None first. Raises InvalidSettings."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return StackSettings(**given)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_explain(item) for item in error.errors())) from error
    except ValueError as error:  # what tomllib raises for a file that is not TOML
        raise InvalidSettings(f"{FILE}: {error}") from error


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    return (
        f"setting '{name}' (--{name.replace('_', '-')}, SANDBOX_{name.upper()}, "
        f"'{name}' in {FILE}): {item['msg']}, got {item['input']!r}"
    )
