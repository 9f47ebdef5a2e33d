"""The daemon inside a sandbox: takes work from exec_svc and runs it under bwrap.

It imports grpc, protobuf and the standard library, and never a service.
"""

import platform

__version__ = "0.1.0"


def version() -> str:
    """What an executor says it is: "executor/0.1.0 python/3.11.7"."""
    return f"executor/{__version__} python/{platform.python_version()}"
