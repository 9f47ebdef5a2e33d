"""Becomes a command that dies with its parent and stays within limits.

`python -I -S confine.py PARENT CPU_SECONDS MEMORY_BYTES FILE_BYTES COMMAND…`; a script of
its own, so that the service runs none of its code between fork and exec.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, cpu, memory, file = map(int, sys.argv[1:5])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before the signal was ordered
        sys.exit("the service that wanted this is gone")
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.execv(sys.argv[5], sys.argv[5:])  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main()
