"""What ends a command with a message instead of a stack trace."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot go on; the message says why and what to do."""
