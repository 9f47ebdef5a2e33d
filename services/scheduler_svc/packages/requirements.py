"""Sets of requirements: one spelling for each, and a name for what they make."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from sandbox_rpc.errors import InvalidParameter

# Changes when what an installation leaves on disk does.
_FORMAT = 1


def canonical(texts: Iterable[str]) -> tuple[str, ...]:
    """Equal sets of requirements come out equal: sorted, without repeats, spelled one way.

    Raises InvalidParameter for what is no name with versions, extras and markers: an
    installer would take it for an option, a URL or a path.
    """
    return tuple(sorted({_canonical(text) for text in texts}))


def names(texts: Iterable[str]) -> set[str]:
    """The canonical names of the packages that requirements ask for. Raises InvalidParameter."""
    return {Requirement(_canonical(text)).name for text in texts}


def key_of(requirements: Iterable[str]) -> str:
    """Names what these canonical requirements make for this interpreter: 32 hex digits."""
    interpreter = (sys.implementation.cache_tag, sysconfig.get_platform())
    made_from = json.dumps([_FORMAT, interpreter, list(requirements)])
    return hashlib.sha256(made_from.encode()).hexdigest()[:32]


def _canonical(text: str) -> str:
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise InvalidParameter(f"Field 'packages' must hold requirements, not '{text}'") from None
    if requirement.url is not None:
        raise InvalidParameter(f"Field 'packages' must name packages, not addresses: '{text}'")
    requirement.name = canonicalize_name(requirement.name)
    return str(requirement)
