"""An interpreter that is up already, and forks sandboxes ahead of their jobs.

Started as `python -I -S zygote.py REQUESTS FILTER TMP SHM MODULE…` by bwrap, as process 1.
It imports the named modules, says b"R" on REQUESTS (a seqpacket socket), and then makes one
sandbox for each message: a message carries four descriptors, control, stdout, stderr and
result. A fork moves into fresh namespaces and forks their process 1, whose pidfd it sends
on control; that one closes itself in and becomes what init.py is under bwrap.

It runs no job and reads none. When it ends, the kernel ends every sandbox that it made.
"""

import gc
import importlib
import os
import signal
import socket
import sys
from typing import Any, NoReturn


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import init  # type: ignore[import-not-found]
    import isolation  # type: ignore[import-not-found]
    import python  # type: ignore[import-not-found]  # noqa: F401  # for the forks

    number, filter_file, tmp, shm = (int(argument) for argument in sys.argv[1:5])
    requests = socket.socket(fileno=number)
    with os.fdopen(filter_file, "rb") as file:
        program = file.read()
    init.set_dumpable(False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.path.append("/opt/packages")
    # Numeric libraries start threads at their import, and no thread survives a fork.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    for name in sys.argv[5:]:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  # slower without it, and no less right
            print(f"cannot preload {name}: {error}", file=sys.stderr)
    # Forks share the pages of what is loaded as long as nothing writes to them.
    gc.collect()
    gc.freeze()
    requests.send(b"R")
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            make(isolation, init, descriptors, program, tmp, shm)
        for descriptor in descriptors:
            os.close(descriptor)
        reap()


def make(
    isolation: Any, init: Any, descriptors: list[int], program: bytes, tmp: int, shm: int
) -> NoReturn:
    """In the fork: two processes on, the sandbox stands. Never returns."""
    control, stdout, stderr, result = descriptors
    os.dup2(stderr, 2)  # from here on, what goes wrong is read outside
    try:
        init.set_dumpable(True)  # or /proc/self/uid_map is not ours to write
        isolation.unshare()
        init.set_dumpable(False)
        child = os.fork()
        if child:
            pidfd = os.pidfd_open(child)
            with socket.socket(fileno=control) as channel:
                socket.send_fds(channel, [b"P"], [pidfd])
            os._exit(0)
        os.dup2(stdout, 1)
        isolation.close_in(tmp, shm, program)
        keep = {control, result}
        highest = max(keep)
        for descriptor in range(3, highest):
            if descriptor not in keep:
                close(descriptor)
        os.closerange(highest + 1, os.sysconf("SC_OPEN_MAX"))
        init.serve(control, result)
    except BaseException as error:  # noqa: BLE001  # nothing may run half isolated
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(1)


def close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # it was not open


def reap() -> None:
    """The forks between, and the sandboxes that have ended."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


if __name__ == "__main__":
    main()
