"""`python -m executor`: the daemon of one sandbox."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import sys
import time
from pathlib import Path

from executor.privileges import drop_root
from executor.settings import Settings


def main() -> None:
    _start_logging()
    settings = Settings.read(os.environ)
    # What a child could read in /proc is gone before there is a child.
    os.environ.clear()
    if os.geteuid() == 0:
        if settings.uid is None:
            sys.exit("started as root without SANDBOX_UID: refusing to run code as root")
        drop_root(settings.uid, _needed(settings))
    sys.exit(asyncio.run(_serve(settings)))


def _start_logging() -> None:
    """Lines on standard error that begin with their time, RFC 3339 in UTC: by it whoever reads
    the container's log finds the lines since a moment."""
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _needed(settings: Settings) -> list[Path]:
    """What stays reachable after root is given up."""
    from executor.bwrap import Tools

    tools = Tools.find(settings.packages)
    paths = [*tools.needed_paths(), *map(Path, sys.path), Path(sys.prefix)]
    for package in ("executor", "sandbox"):  # installed in place, they are not on sys.path
        spec = importlib.util.find_spec(package)
        paths += map(Path, (spec and spec.submodule_search_locations) or ())
    paths += [settings.workspace, settings.state]
    if settings.link_target.startswith("unix:"):
        # The directory: the socket itself is another file after exec_svc restarts.
        paths.append(Path(settings.link_target.removeprefix("unix:")).parent)
    return [path for path in paths if path.exists()]


async def _serve(settings: Settings) -> int:
    # Imported here: as root, nothing of ours is loaded but what gives root up.
    from executor.cgroups import Cgroups
    from executor.link import Link
    from executor.runs import Runs
    from executor.spool import Spool

    spool = Spool(settings.state)
    cgroups = Cgroups.parse(settings.cgroups)
    runs = Runs(settings.workspace, spool, settings.packages, cgroups, settings.preload)
    link = Link(settings, runs, spool)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, link.done.set)
    runs.prepare()
    await link.run()
    await runs.stop()
    spool.close()
    return 0


if __name__ == "__main__":
    main()
