"""`python -m tests.adversarial.half_open SECRET`: the probe in a sandbox worth nothing.

It has a user and a pid namespace and all the rest of the machine, as somebody who is not
root. Prints what the probe found, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile

from executor import escapes, proof
from executor.bwrap import Tools

BWRAP = (
    *("--dev-bind", "/", "/", "--unshare-user", "--unshare-pid", "--proc", "/proc"),
    *("--cap-add", "ALL", "--die-with-parent", "--as-pid-1", "--"),
)


def outside(planted: str) -> None:
    proof.give_up_root()
    os.set_inheritable(os.open("/", os.O_RDONLY), True)
    command = [sys.executable, "-m", "tests.adversarial.half_open", planted, "inside"]
    os.execv(Tools.find().bwrap, ["bwrap", *BWRAP, *command])  # noqa: S606


def inside() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as process 1: deaf to it
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(f"{name}/socket")
        unix.listen()
        event = proof.event(
            secret=r"planted-[0-9a-f]{32}",
            paths=[f"{name}/socket"],
            ports=[server.getsockname()[1]],
        )
        child = os.fork()
        if child == 0:
            print(json.dumps(escapes.handler(event)), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    inside() if sys.argv[2:] else outside(sys.argv[1])
