"""Requirement strings: what of PEP 508 a client may ask to be installed."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from sandbox_rpc.errors import InvalidParameter

MAX_REQUIREMENTS = 64
_CHARACTERS = 256


def check_requirements(field: str, requirements: Sequence[str]) -> None:
    """Raises InvalidParameter for anything but names with versions, extras and markers.

    An installer also takes options, URLs and paths, which would choose where from and
    what is run; none of these parses as a name.
    """
    if len(requirements) > MAX_REQUIREMENTS:
        raise InvalidParameter(f"Field '{field}' must have at most {MAX_REQUIREMENTS} entries")
    for number, text in enumerate(requirements):
        where = f"{field}[{number}]"
        if len(text) > _CHARACTERS:
            raise InvalidParameter(f"Field '{where}' must have at most {_CHARACTERS} characters")
        if not (text.isascii() and text.isprintable()):
            raise InvalidParameter(f"Field '{where}' must be printable ASCII")
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise InvalidParameter(
                f"Field '{where}' must be a requirement such as 'numpy>=1.26,<3', not '{text}'"
            ) from None
        if requirement.url is not None:
            raise InvalidParameter(f"Field '{where}' must name a package, not a URL or a path")
