"""Loaded by schemathesis, see test_contract_fuzz.py: calls that reach something, and end soon."""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

WAIT_SECONDS = 1
# Ids of things that exist, which no generator would find.
KNOWN = {
    "session_id": os.environ["FUZZ_SESSION_ID"],
    "execution_id": os.environ["FUZZ_EXECUTION_ID"],
    "container_id": os.environ["FUZZ_CONTAINER_ID"],
}
FORMS = {
    "session_id": re.compile(r"sess_[a-z0-9]{16}"),
    "execution_id": re.compile(r"exec_[0-9]{8}_[a-z0-9]{8}"),
    "container_id": re.compile(r"[a-z0-9].*"),
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A well-formed id becomes one that exists; deleting is left to what the run itself made.

    Waits are allowed to be an hour long, and a followed log is as long as its container.
    """
    path, query = case.path_parameters or {}, case.query or {}
    if case.method != "DELETE":
        for name, value in path.items():
            if name in FORMS and isinstance(value, str) and FORMS[name].fullmatch(value):
                path[name] = KNOWN[name]
    if _is_allowed(query.get("wait")):
        query["wait"] = WAIT_SECONDS
    if str(query.get("follow")).lower() == "true":
        query["follow"] = "false"


def _is_allowed(wait: Any) -> bool:
    try:
        return 1 <= float(wait) <= 3600
    except (TypeError, ValueError):
        return False
