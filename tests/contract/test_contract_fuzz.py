"""schemathesis asks the running stack what its own description allows, and what it does not.

No answer may be a fault (5xx, but for a documented 503), nor have a status, content type, header
or body that /openapi.json does not tell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.contract.callers import Rest
from tests.flow.stack import Stack

HERE = Path(__file__).parent
# Of all phases together.
SECONDS = 30
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
FULL = "[503] Service Unavailable"


def test_the_stack_answers_as_its_description_says(
    stack: Stack, rest: Rest, tmp_path: Path
) -> None:
    rest.headers["x-business-domain"] = "default"  # where schemathesis sends most of it
    session = rest.session(timeout=3600)
    result = rest.execute(session["session_id"], event={"n": 1})
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "fuzz_hooks",
        "FUZZ_SESSION_ID": session["session_id"],
        "FUZZ_EXECUTION_ID": result["execution_id"],
        "FUZZ_CONTAINER_ID": session["container_id"],
    }
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run"),
        f"{rest.http.base_url}/openapi.json",
        *("--header", f"Authorization: Bearer {rest.token}"),
        *("--checks", ",".join(CHECKS)),
        # The same cases every time; what a slow machine does not get to within the time is left.
        *("--generation-deterministic", "--max-examples", "5", "--max-time", str(SECONDS)),
        *("--request-timeout", "20", "--warnings", "off", "--no-color"),
    ]

    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=4 * SECONDS
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Coverage" in done.stdout, done.stdout
    print(done.stdout[-1000:])
