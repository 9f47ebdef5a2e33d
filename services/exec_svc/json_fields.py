"""Reads a JSON object field by field, keeping the text that each value was written in."""

from __future__ import annotations

import json
import re
from typing import Any

from sandbox_rpc.errors import InvalidParameter

_WHITESPACE = re.compile(r"[ \t\n\r]*")


def top_level_fields(body: bytes) -> dict[str, tuple[Any, str]]:
    """Each top-level field of a JSON object: its value, and the text that it stands in.

    The standard decoder finds where each value ends, which keeps the value's own text:
    numbers of any size, key order, spelling.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_small_int)
    try:
        text = body.decode()
        position = _skip(text, 0)
        if text[position] != "{":
            raise InvalidParameter("the body must be a JSON object")
        fields: dict[str, tuple[Any, str] | None] = {}
        position = _skip(text, position + 1)
        while text[position] != "}":
            if fields:
                if text[position] != ",":
                    raise ValueError("',' expected")
                position = _skip(text, position + 1)
            if text[position] != '"':
                raise ValueError("a name expected")
            name, position = decoder.raw_decode(text, position)
            position = _skip(text, position)
            if text[position] != ":":
                raise ValueError("':' expected")
            start = _skip(text, position + 1)
            value, end = decoder.raw_decode(text, start)
            if name in fields:
                raise InvalidParameter(f"Field '{name[:64]}' appears twice")
            # null is how JSON says absent
            fields[name] = None if value is None else (value, text[start:end])
            position = _skip(text, end)
        if _skip(text, position + 1) != len(text):
            raise ValueError("something follows the object")
    except RecursionError:
        raise InvalidParameter("the body is nested too deeply") from None
    except (ValueError, IndexError) as error:
        raise InvalidParameter(f"the body is not valid JSON: {str(error)[:200]}") from None
    return {name: field for name, field in fields.items() if field is not None}


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    assert match is not None  # it matches nothing, too
    return match.end()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _small_int(digits: str) -> int | str:
    # Only `timeout` is read as a number; Python's limit on digits must not bind the event.
    return int(digits) if len(digits) < 20 else digits
