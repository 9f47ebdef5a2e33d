"""`sandbox doctor --isolation`: tries to get out of sandboxes made on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from cli.checks import Finding

PROOF = (sys.executable, "-P", "-m", "executor.proof")
SECONDS = 120
ADVICE = "Report it (docs/security.md), and let no untrusted code run here until it is closed."


def isolation(command: Sequence[str] = PROOF) -> list[Finding]:
    """One finding for each class of escape: closed in sandboxes of every kind, or how not."""
    try:
        done = subprocess.run(
            command,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode != 0:
            return [_unproven(done.stderr.strip() or f"exit code {done.returncode}")]
        by_way = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return [_unproven(str(error))]
    classes = {name for found in by_way.values() for name in found}
    return [_finding(name, by_way) for name in sorted(classes)]


def _finding(name: str, by_way: dict[str, dict[str, list[str]]]) -> Finding:
    ways = " and ".join(by_way)
    # A class that was not tried in one of the ways is not closed.
    open_ = [
        f"{way}: {how}"
        for way, found in by_way.items()
        for how in found.get(name, ["it was not tried"])
    ]
    if open_:
        return Finding(f"isolation: {name}", "fail", "OPEN " + "; ".join(open_), ADVICE)
    return Finding(f"isolation: {name}", "ok", f"closed ({ways})")


def _unproven(why: str) -> Finding:
    advice = "Nothing runs without isolation: see the lines for user namespaces and bwrap."
    return Finding("isolation", "fail", f"no sandbox to try it in: {why}", advice)
