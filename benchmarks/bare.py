"""What an execution is compared with: the same interpreters, started the plain way."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from executor.bwrap import INSIDE_NODE, Tools, sandbox_arguments
from executor.cold import memory_file


def seconds(command: Sequence[str], pass_fds: Sequence[int] = ()) -> float:
    """How long a command takes, from before its start to after its end."""
    begun = time.perf_counter()
    subprocess.run(
        command, env={}, cwd="/", stdin=subprocess.DEVNULL, pass_fds=pass_fds, check=True
    )
    return time.perf_counter() - begun


class Bwrap:
    """bwrap with the arguments and the filter of a sandbox of ours."""

    def __init__(self, tools: Tools, workspace: Path) -> None:
        self._tools = tools
        self._workspace = workspace
        self._status = os.open(os.devnull, os.O_WRONLY)

    def seconds(self, *command: str) -> float:
        program = memory_file(self._tools.filter)
        try:
            arguments = sandbox_arguments(self._tools, self._workspace, self._status, program)
            return seconds([*arguments, "--", *command], (self._status, program))
        finally:
            os.close(program)

    def close(self) -> None:
        os.close(self._status)


@contextmanager
def bwrap() -> Iterator[tuple[Bwrap, Tools]]:
    tools = Tools.find()
    with tempfile.TemporaryDirectory(prefix="bench") as workspace:
        made = Bwrap(tools, Path(workspace))
        try:
            yield made, tools
        finally:
            made.close()


NODE = f"{INSIDE_NODE}/bin/node"
