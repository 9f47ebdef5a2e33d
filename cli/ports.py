"""The TCP ports of the stack, and whether they can be had."""

from __future__ import annotations

import errno
import socket

from cli.settings import StackSettings

# The internal edge is for sandboxes on this machine.
INTERNAL_HOST = "127.0.0.1"


def ports(settings: StackSettings) -> list[tuple[str, str, int]]:
    """Setting, address and number of each port that the stack listens on."""
    return [
        ("port", settings.host, settings.port),
        ("internal_port", INTERNAL_HOST, settings.internal_port),
    ]


def problem(host: str, port: int) -> str | None:
    """Why the stack could not listen there; None when it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            return "it is already taken" if taken else str(error.strerror or error)
    return None


def advice(name: str) -> str:
    """How to choose another."""
    flag = name.replace("_", "-")
    return f"Choose another with --{flag}, SANDBOX_{name.upper()} or '{name}' in sandbox.toml."
