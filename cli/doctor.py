"""`sandbox doctor`: prints what the checks found."""

from __future__ import annotations

import dataclasses
import json

from cli import checks
from cli.settings import StackSettings


def doctor(settings: StackSettings, *, as_json: bool) -> int:
    """Runs every check; returns 1 if one failed, 0 otherwise (warnings too)."""
    findings = [check(settings) for check in checks.ALL]
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level:<5} {finding.name:<16} {finding.found}")
            if finding.advice:
                print(f"{'':<23}→ {finding.advice}")
    return 1 if any(finding.level == "fail" for finding in findings) else 0
