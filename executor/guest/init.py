"""Process 1 of every sandbox: waits for one job, runs it in a child, reports, ends.

Started as `python -I -S init.py CONTROL RESULT` by bwrap, before there is a job, with the
standard library alone. It is trusted; the child is not, and shares neither the control
socket nor a way to read this process (it is not dumpable). When it ends, the kernel ends
whatever the job left behind.

On CONTROL (a socket): it sends b"R" when it is ready, receives one job, and sends one
report. A job is a length-prefixed JSON header, then the code, event and stdin as raw
bytes. On RESULT (a pipe) the child writes one frame, see `frame`.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

PR_SET_DUMPABLE = 4
INHERITED = 0  # memfd_create flags without MFD_CLOEXEC: for interpreters that are executed


def main() -> None:
    import python  # type: ignore[import-not-found]  # noqa: F401  # compiled before the job is here

    control, result = int(sys.argv[1]), int(sys.argv[2])
    # Set before the first byte of the job is here, so that no later child can look in.
    set_dumpable(False)
    # As process 1 it is deaf to every signal that has no handler; Python installs one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve(control, result)


def serve(control: int, result: int) -> NoReturn:
    """The life of process 1: ready, one job, one report."""
    os.write(control, b"R")
    job, code, event, stdin = receive(control)
    # The child is born dumpable, so that its I/O counters can be opened, and waits until
    # this process is not: user code never meets a process 1 that it could look into.
    go, let_go = os.pipe()
    set_dumpable(True)
    child = os.fork()
    if child == 0:
        os.close(control)
        os.close(let_go)
        os.read(go, 1)
        os.close(go)
        run(job, code, event, stdin, result)
    counters = open_counters(child)
    set_dumpable(False)
    # Only the job's own processes may keep these open: their end is then its end.
    for descriptor in (0, 1, 2, result, go):
        os.close(descriptor)
    os.write(let_go, b"G")
    os.write(control, report(child, counters))
    os._exit(0)


def receive(control: int) -> tuple[dict[str, Any], bytes, bytes, bytes | None]:
    (size,) = struct.unpack("!I", read_exactly(control, 4))
    job = json.loads(read_exactly(control, size))
    code = read_exactly(control, job["code_size"])
    event = read_exactly(control, job["event_size"])
    stdin = job["stdin_size"]
    return job, code, event, None if stdin is None else read_exactly(control, stdin)


def read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            os._exit(0)  # the executor changed its mind: nothing has run
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def report(child: int, counters: int) -> bytes:
    """Waits for the job's end, reaping its orphans meanwhile; says what it used."""
    while True:
        # Left a zombie for a moment: its I/O counters are gone once it is reaped.
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # only with WNOHANG
        io_read, io_write = read_counters(counters) if ended.si_pid == child else (0, 0)
        _, status = os.waitpid(ended.si_pid, 0)
        if ended.si_pid == child:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.dumps(
        {
            "code": os.waitstatus_to_exitcode(status),
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_bytes": used.ru_maxrss * 1024,
            "io_read": io_read,
            "io_write": io_write,
        }
    ).encode()


def open_counters(pid: int) -> int:
    """Opened while the process lives: a zombie's files in /proc are root's. -1 without."""
    try:
        return os.open(f"/proc/{pid}/io", os.O_RDONLY)
    except FileNotFoundError:  # a kernel without CONFIG_TASK_IO_ACCOUNTING
        return -1


def read_counters(descriptor: int) -> tuple[int, int]:
    """Bytes read and written by system calls, the children it waited for included."""
    if descriptor < 0:
        return 0, 0
    lines = os.pread(descriptor, 4096, 0).splitlines()
    values = dict(line.split(b": ") for line in lines)
    return int(values[b"rchar"]), int(values[b"wchar"])


def run(job: dict[str, Any], code: bytes, event: bytes, stdin: bytes | None, result: int) -> None:
    """The child: limits, environment, then the language. Never returns."""
    for name, value in job["limits"].items():
        number = getattr(resource, name)
        resource.setrlimit(number, (value, value))
    with open("/proc/self/oom_score_adj", "w") as adjust:
        adjust.write("1000")  # when memory runs out, the job goes first
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(job["env"])
    if stdin is None and job["language"] == "shell":
        stdin = event
    if stdin is not None:
        os.dup2(memory_file(stdin), 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.set_inheritable(result, job["language"] == "javascript")
    if job["language"] == "python":
        import python

        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        python.run(code.decode(), event.decode(), result)
    elif job["language"] == "javascript":
        files = [str(memory_file(part)) for part in (code, event)]
        node, *options = job["node"]
        guest = job["guest"] + "/javascript.js"
        os.execv(node, ["node", *options, guest, *files, str(result)])
    else:
        # One string of the environment holds at most 128 KiB (MAX_ARG_STRLEN).
        if len(event) < 128 * 1024 - len("EVENT_JSON=") - 1:
            os.environ["EVENT_JSON"] = event.decode()
        os.execv("/bin/bash", ["bash", f"/dev/fd/{memory_file(code)}"])


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("input", INHERITED)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def set_dumpable(value: bool) -> None:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, int(value), 0, 0, 0)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
