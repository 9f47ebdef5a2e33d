"""`sandbox token create|list|revoke`."""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError
from sandbox_rpc.tokens import DOMAIN, Quotas, Token, new_token, utc_now

from cli import tokens
from cli.errors import CommandError
from cli.layout import Layout

_LIFETIME = re.compile(r"([1-9]\d{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_DEFAULT_DOMAIN = "default"
_HEADINGS = ("ID", "NAME", "ROLE", "DOMAINS", "QUOTAS", "CREATED", "STATE")


def run(data_dir: Path, arguments: argparse.Namespace) -> int:
    """Raises CommandError."""
    places = Layout(data_dir)
    try:
        if arguments.action == "create":
            places.claim()
            return _create(places.tokens, arguments)
        if arguments.action == "revoke":
            return _revoke(places.tokens, arguments.id)
        return _list(places.tokens, as_json=arguments.json)
    except ValidationError as error:  # says too much for a terminal
        raise CommandError("; ".join(_explain(item) for item in error.errors())) from error
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error


def _create(path: Path, arguments: argparse.Namespace) -> int:
    token = new_token()
    entry = tokens.create(
        path,
        arguments.name,
        role=arguments.role,
        domains=_domains(arguments.domains, arguments.role),
        quotas=Quotas(
            live_sessions=arguments.live_sessions,
            cpu=arguments.cpu,
            memory=arguments.memory,
            executions_per_minute=arguments.executions_per_minute,
        ),
        lifetime=_lifetime(arguments.expires),
        token=token,
    )
    if arguments.json:
        print(json.dumps({"token": token, **entry.model_dump(mode="json", exclude={"sha256"})}))
    else:
        print(token)
    return 0


def _list(path: Path, *, as_json: bool) -> int:
    entries = tokens.known(path)
    if as_json:
        for entry in entries:
            print(entry.model_dump_json(exclude={"sha256"}))
        return 0
    now = utc_now()
    rows = [_HEADINGS, *(_row(entry, now) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    return 0


def _revoke(path: Path, token_id: str) -> int:
    entry = tokens.revoke(path, token_id)
    if entry is None:
        raise CommandError(f"there is no token '{token_id}'; see `sandbox token list`")
    print(f"{entry.id} ({entry.name}) is revoked.")
    return 0


def _domains(given: list[str] | None, role: str) -> frozenset[str] | None:
    """None means all."""
    if given == ["*"] or (given is None and role == "admin"):
        return None
    for domain in given or ():
        if not re.fullmatch(DOMAIN, domain):
            raise CommandError(
                f"--domain {domain!r} must be 1 to 63 letters, digits, '.', '_' or '-', "
                "or a single '*'"
            )
    return frozenset(given or [_DEFAULT_DOMAIN])


def _lifetime(text: str | None) -> timedelta | None:
    if text is None:
        return None
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise CommandError(f"--expires {text!r} must be a number of m, h or d, e.g. 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _row(entry: Token, now: datetime) -> tuple[str, ...]:
    domains = "*" if entry.domains == "*" else ",".join(sorted(entry.domains))
    quotas = entry.quotas.model_dump(exclude_none=True)
    return (
        entry.id,
        entry.name,
        entry.role,
        domains,
        " ".join(f"{name}={value}" for name, value in quotas.items()) or "-",
        _day(entry.created_at),
        _state(entry, now),
    )


def _state(entry: Token, now: datetime) -> str:
    if entry.revoked_at is not None:
        return f"revoked {_day(entry.revoked_at)}"
    if entry.expires_at is None:
        return "valid"
    return f"{'valid until' if now < entry.expires_at else 'expired'} {_day(entry.expires_at)}"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%MZ")


def _explain(item: object) -> str:
    assert isinstance(item, dict)
    name = ".".join(str(part) for part in item["loc"])
    return f"{name.replace('_', '-') or 'token'}: {item['msg']}"
