"""What the process runtime knows of its sandboxes, on disk: it outlives scheduler_svc."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from scheduler_svc.runtimes.base import Resources, SandboxSpec
from scheduler_svc.runtimes.proc import Identity

_NAME = "sandbox.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox's labels, which process it is, and how that ended."""

    sandbox_id: str
    session_id: str
    generation: int
    template_id: str
    domain: str
    resources: Resources
    created_at: datetime
    process: Identity
    # The key of the packages that it has, see packages/environments.py.
    environment: str | None = None
    ended: bool = False
    # None where scheduler_svc was not there to see it.
    ended_at: datetime | None = None
    exit_code: int | None = None
    # The end of its log, where that explains the exit code.
    last_words: str = ""

    @classmethod
    def of(
        cls,
        spec: SandboxSpec,
        created_at: datetime,
        process: Identity,
        environment: str | None = None,
    ) -> Record:
        return cls(
            sandbox_id=spec.sandbox_id,
            session_id=spec.session_id,
            generation=spec.generation,
            template_id=spec.template_id,
            domain=spec.domain,
            resources=spec.resources,
            created_at=created_at,
            process=process,
            environment=environment,
        )

    @classmethod
    def read(cls, directory: Path) -> Record | None:
        """None where there is none: the sandbox was never started."""
        try:
            fields = json.loads((directory / _NAME).read_text())
        except FileNotFoundError:
            return None
        fields["resources"] = Resources(**fields["resources"])
        fields["process"] = Identity(**fields["process"])
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        if ended_at := fields.get("ended_at"):
            fields["ended_at"] = datetime.fromisoformat(ended_at)
        return cls(**fields)

    def write(self, directory: Path) -> None:
        """Whole or not at all. Not synced to disk: a machine that goes down takes its
        processes along, and the record tells of nothing else."""
        made = directory / f".{_NAME}"
        made.write_text(json.dumps(asdict(self), indent=2, default=datetime.isoformat))
        os.replace(made, directory / _NAME)
