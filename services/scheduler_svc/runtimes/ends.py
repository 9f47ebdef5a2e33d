"""How the executor of a sandbox ended, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scheduler_svc.runtimes.logfile import without_stamp
from scheduler_svc.runtimes.records import Record

SIGNALLED = 128
_WORDS_CHARACTERS = 300
_DIRECTORIES = re.compile(r"(?<![\w.])/(?:[^/\s'\"]+/)+")


def how_it_ended(record: Record) -> str:
    """For logs, and for clients as the reason of a failed sandbox."""
    code = record.exit_code
    if code is None:
        return "the executor ended while scheduler_svc could not see how"
    if code > SIGNALLED:
        return f"the executor was killed by signal {code - SIGNALLED}"
    words = f": {record.last_words}" if record.last_words else ""
    return f"the executor ended with exit code {code}{words}"


def last_words(exit_code: int | None, lines: Sequence[str]) -> str:
    """The last of the log's lines as clients may see it: short, and without our directories.

    Empty where it is not likely to say why: after exit code 0, or after a signal.
    """
    if not lines or exit_code is None or not 0 < exit_code < SIGNALLED:
        return ""
    visible = "".join(char for char in without_stamp(lines[-1]) if char.isprintable())
    return _DIRECTORIES.sub("…/", visible)[:_WORDS_CHARACTERS]
