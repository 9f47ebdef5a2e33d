"""Asking the stack whether it serves, by what the standard library has."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

PROBE_SECONDS = 2.0
RETRY_SECONDS = 0.05


@dataclass(frozen=True)
class Health:
    """What GET /api/v1/health answered, if it did; `reason` is empty when it is well."""

    ok: bool
    answered: bool
    reason: str


async def probe(host: str, port: int) -> Health:
    """One request to the public edge."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            head, body = await _get(host, port, "/api/v1/health")
    except TimeoutError:
        return Health(False, False, f"{host}:{port} did not answer within {PROBE_SECONDS:g} s")
    except (OSError, asyncio.IncompleteReadError) as error:
        return Health(False, False, f"{host}:{port}: {error}")
    status = head.split(" ", 2)[1] if head.startswith("HTTP/1.1 ") else head
    if status == "200":
        return Health(True, True, "")
    return Health(False, True, f"/api/v1/health answered {status}: {_detail(body)}")


async def until_healthy(host: str, port: int, seconds: float) -> Health:
    """Asks until it is well or `seconds` are over; then the last answer.

    An edge that is not there yet sends no event to wait for, so this asks again.
    """
    deadline = time.monotonic() + seconds
    while True:
        health = await probe(host, port)
        if health.ok or time.monotonic() > deadline:
            return health
        await asyncio.sleep(RETRY_SECONDS)


async def _get(host: str, port: int, path: str) -> tuple[str, bytes]:
    """The status line and the body of an answer to a request that asks to close."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode(errors="replace"), await reader.read(64 * 1024)
    finally:
        writer.close()


def _detail(body: bytes) -> str:
    """The error body's words, or the start of whatever came."""
    start, end = body.find(b"{"), body.rfind(b"}")
    try:
        return str(json.loads(body[start : end + 1])["error_detail"])
    except (ValueError, KeyError):
        return body[:200].decode(errors="replace")
