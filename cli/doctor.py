"""`sandbox doctor`: prints what the checks found."""

from __future__ import annotations

import dataclasses
import json

from cli import checks
from cli.settings import StackSettings


def doctor(settings: StackSettings, *, as_json: bool, isolation: bool) -> int:
    """Runs every check; returns 1 if one failed, 0 otherwise (warnings too).

    With `isolation` it also tries to get out of sandboxes made here.
    """
    findings = [check(settings) for check in checks.ALL]
    if isolation:
        from cli.isolation import isolation as escapes

        findings += escapes()
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.level:<5} {finding.name:<{width}} {finding.found}")
            if finding.advice:
                print(f"{'':<{width + 6}} → {finding.advice}")
    return 1 if any(finding.level == "fail" for finding in findings) else 0
