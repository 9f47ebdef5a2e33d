"""A scheduler that starts one sandbox and is killed: `crash.py PLACE before|after`.

before: after the process exists, before the record of it does.
after: right after the start.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from scheduler_svc.runtimes.records import Record

from tests.runtime.conftest import ProcessHost, spec


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(place: Path, moment: str) -> None:
    if moment == "before":
        Record.write = die  # type: ignore[method-assign]
    await ProcessHost(place).start_runtime().start(spec())
    die()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
