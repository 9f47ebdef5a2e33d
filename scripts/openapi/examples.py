"""Examples, by the message that each is one of; a test validates them all."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

SESSION_ID = "sess_0123456789abcdef"
EXECUTION_ID = "exec_20260131_0123abcd"
CONTAINER_ID = "sbx_0123456789abcdef-1"
CODE = "def handler(event):\n    print('hello')\n    return event['n'] + 1\n"

_RESOURCES = {"cpu": "1", "memory": "512Mi", "disk": "1Gi", "max_processes": 128}
_THEN = "2026-01-31T12:00:00Z"

_SESSION: Json = {
    "session_id": SESSION_ID,
    "template_id": "python-basic",
    "mode": "persistent",
    "status": "running",
    "runtime_type": "process",
    "workspace_path": "/workspace",
    "resources": _RESOURCES,
    "env_vars": {"GREETING": "hello"},
    "metadata": {"owner": "team-a"},
    "timeout": 300,
    "created_at": _THEN,
    "updated_at": _THEN,
    "last_activity_at": _THEN,
    "expires_at": "2026-01-31T12:05:00Z",
}
_TEMPLATE_INPUT: Json = {
    "id": "python-plus",
    "name": "Python with requests",
    "image": "sandbox-python:1",
    "pre_installed_packages": ["requests>=2"],
    "default_resources": _RESOURCES,
}
_TEMPLATE = _TEMPLATE_INPUT | {
    "security_context": {"network_enabled": False, "run_as_user": 1000},
    "runtime_type": "process",
    "warm_pool_size": 0,
    "env_vars": {},
    "created_at": _THEN,
    "updated_at": _THEN,
}
_STATE: Json = {
    "execution_id": EXECUTION_ID,
    "session_id": SESSION_ID,
    "status": "completed",
    "created_at": _THEN,
    "started_at": _THEN,
    "completed_at": "2026-01-31T12:00:01Z",
}
_SUMMARY = _STATE | {"language": "python", "timeout": 30, "attempt": 1}
_RESULT: Json = {
    "execution_id": EXECUTION_ID,
    "status": "success",
    "stdout": "hello\n",
    "stderr": "",
    "stdout_truncated": False,
    "stderr_truncated": False,
    "exit_code": 0,
    "execution_time": 0.0038,
    "return_value": 42,
    "error": None,
    "metrics": {
        "duration_ms": 3.8,
        "cpu_time_ms": 2.9,
        "peak_memory_mb": 11.2,
        "io_read_bytes": 0,
        "io_write_bytes": 0,
        "queue_ms": 1.2,
    },
    "artifacts": ["out/report.csv"],
    "attempt": 1,
}
_FILE: Json = {
    "path": "data/input.csv",
    "size": 5,
    "mime_type": "text/csv",
    "modified_at": _THEN,
}
_CONTAINER: Json = {
    "container_id": CONTAINER_ID,
    "runtime_type": "process",
    "status": "running",
    "session_id": SESSION_ID,
    "template_id": "python-basic",
    "node_name": "host-1",
    "resources": _RESOURCES,
    "usage": {"cpu_percent": 12.5, "memory_bytes": 52428800, "pids": 4},
    "created_at": _THEN,
    "uptime_seconds": 12.5,
}

# What goes in.
REQUESTS: dict[str, Json] = {
    "sandbox.session.v1.SessionSpec": {
        "template_id": "python-basic",
        "timeout": 300,
        "resources": {"memory": "512Mi"},
        "env_vars": {"GREETING": "hello"},
        "metadata": {"owner": "team-a"},
    },
    "sandbox.session.v1.Template": _TEMPLATE_INPUT,
    "sandbox.execution.v1.ExecuteRequest": {
        "code": CODE,
        "language": "python",
        "timeout": 30,
        "event": {"n": 41},
    },
}
# What comes out.
ANSWERS: dict[str, Json] = {
    "sandbox.session.v1.CheckResponse": {"status": "ok"},
    "sandbox.session.v1.Session": _SESSION,
    "sandbox.session.v1.ListSessionsResponse": {"sessions": [_SESSION], "total": 1},
    "sandbox.session.v1.Template": _TEMPLATE,
    "sandbox.session.v1.ListTemplatesResponse": {"templates": [_TEMPLATE], "total": 1},
    "sandbox.execution.v1.ExecuteResponse": {
        "execution_id": EXECUTION_ID,
        "session_id": SESSION_ID,
        "status": "submitted",
        "submitted_at": _THEN,
    },
    "sandbox.execution.v1.ExecutionState": _STATE,
    "sandbox.execution.v1.ExecutionResult": _RESULT,
    "sandbox.execution.v1.Execution": _SUMMARY
    | {"code": CODE, "event": {"n": 41}, "result": _RESULT},
    "sandbox.execution.v1.ListExecutionsResponse": {"executions": [_SUMMARY], "total": 1},
    "sandbox.execution.v1.UploadedFile": {
        "path": "data/input.csv",
        "size": 5,
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    },
    "sandbox.execution.v1.ListFilesResponse": {"files": [_FILE], "total": 1},
    "sandbox.scheduler.v1.Container": _CONTAINER,
    "sandbox.scheduler.v1.ListContainersResponse": {"containers": [_CONTAINER], "total": 1},
}
# Of parameters in the path.
PARAMETERS: dict[str, str] = {
    "session_id": SESSION_ID,
    "execution_id": EXECUTION_ID,
    "template_id": "python-basic",
    "container_id": CONTAINER_ID,
    "path": "data/input.csv",
}
