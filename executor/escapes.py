"""Tries to get out of a sandbox, one class of escape after the other.

It is user code and nothing else: the tests send it through the API like any program, and
`python -m executor.proof` (`sandbox doctor --isolation`) runs it in sandboxes made here.
`handler(event)` answers {class: [how it got out]}; an empty list is a class that is closed.

The event says what to look for; all of it is known to lie outside:
`secret` a regular expression of what was planted, `paths` files and sockets, `ports` of
127.0.0.1, `abstract` socket names, `namespaces` as the outside has them, `denied` numbers
of system calls.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import re
import resource
import signal
import socket
import stat
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]
Attempt = Callable[[Event], Iterator[str]]

libc = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Attempt] = {}

EPERM, ENOSYS = 1, 38
NO_SUCH_SOCKET = (EPERM, 93, 94, 97)  # no such protocol, type, family
METADATA = (
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0251.254.169.254"),
    *("169.254.43518", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "fd00:ec2::254"),
    *("169.254.170.2", "100.100.100.200", "168.63.129.16", "metadata", "metadata.google.internal"),
    *("kubernetes.default.svc", "host.docker.internal"),
)


def attempt(name: str) -> Callable[[Attempt], Attempt]:
    def note(function: Attempt) -> Attempt:
        ATTEMPTS[name] = function
        return function

    return note


def handler(event: Event) -> dict[str, list[str]]:
    found = {}
    for name, function in ATTEMPTS.items():
        try:
            found[name] = list(function(event))
        except Exception as error:
            found[name] = [f"the attempt itself failed: {type(error).__name__}: {error}"]
    return found


def syscall(number: int, *arguments: int) -> int:
    """0 or more, or minus errno."""
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(each) for each in arguments))
    return -ctypes.get_errno() if result < 0 else int(result)


def read(path: str, limit: int = 1 << 20) -> bytes:
    """What a file holds, or nothing where it may not be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(limit) or b""
    except OSError:
        return b""


def names(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def can_write(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def can_make(directory: str) -> bool:
    path = os.path.join(directory, "made-by-the-probe")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    os.unlink(path)
    return True


@attempt("capabilities")
def capabilities(event: Event) -> Iterator[str]:
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").decode().splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16):
            yield f"{name} is {status[name]}"
    if status["NoNewPrivs"] != "1":
        yield "privileges can be gained by exec"
    if status["Seccomp"] != "2":
        yield "no system call filter"
    if "0" in status["Uid"].split() + status["Gid"].split() + status["Groups"].split():
        yield "root is among the users or groups"
    for change in (os.setuid, os.setgid, os.seteuid):
        try:
            change(0)
            yield f"{change.__name__}(0) was allowed"
        except OSError:
            continue


@attempt("system calls")
def system_calls(event: Event) -> Iterator[str]:
    for name, number in event["denied"].items():
        answer = syscall(number, -1, -1, -1, -1, -1, -1)
        if answer not in (-EPERM, -ENOSYS):
            yield f"{name} answers {answer}"


@attempt("other calling conventions")
def conventions(event: Event) -> Iterator[str]:
    if platform.machine() != "x86_64":
        return
    if syscall(0x40000000 | 39) != -ENOSYS:
        yield "x32 calls are allowed"
    child = os.fork()
    if child == 0:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGSYS:
        yield "int 0x80 is allowed"


@attempt("kernel interfaces by socket")
def sockets(event: Event) -> Iterator[str]:
    kinds = {
        "AF_ALG": (38, socket.SOCK_SEQPACKET, 0),
        "AF_BLUETOOTH": (31, socket.SOCK_RAW, 1),
        "AF_CAN": (29, socket.SOCK_RAW, 1),
        "AF_KEY": (15, socket.SOCK_RAW, 2),
        "AF_PACKET": (17, socket.SOCK_RAW, 768),
        "AF_RDS": (21, socket.SOCK_SEQPACKET, 0),
        "AF_TIPC": (30, socket.SOCK_SEQPACKET, 0),
        "AF_VSOCK": (40, socket.SOCK_STREAM, 0),
        "AF_XDP": (44, socket.SOCK_RAW, 0),
        "netfilter's netlink": (16, socket.SOCK_RAW, 12),
        "a raw socket": (2, socket.SOCK_RAW, 1),
        "SCTP": (2, socket.SOCK_STREAM, 132),
        "DCCP": (2, 6, 33),
        "UDP-Lite": (2, socket.SOCK_DGRAM, 136),
        "MPTCP": (2, socket.SOCK_STREAM, 262),
    }
    for name, (family, kind, protocol) in kinds.items():
        try:
            socket.socket(family, kind, protocol).close()
            yield f"{name} can be had"
        except OSError as error:
            if error.errno not in NO_SUCH_SOCKET:
                yield f"{name}: the kernel was asked: {error}"
    pair = (ctypes.c_int * 2)()
    for name, family in (("AF_TIPC", 30), ("AF_RDS", 21), ("AF_INET", 2)):
        if libc.socketpair(family, 1, 0, pair) == 0 or ctypes.get_errno() not in NO_SUCH_SOCKET:
            yield f"socketpair of {name}: the kernel was asked"


@attempt("terminal injection")
def terminal(event: Event) -> Iterator[str]:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
        yield "there is a controlling terminal"
    except OSError:
        pass
    try:
        master, slave = os.openpty()
    except OSError:
        return
    for name, request in (("TIOCSTI", termios.TIOCSTI), ("TIOCLINUX", 0x541C)):
        for end in (master, slave):
            try:
                fcntl.ioctl(end, request, b"x")
                yield f"{name} was allowed"
            except OSError as error:
                if error.errno != EPERM:
                    yield f"{name} reached the terminal: {error}"
    os.close(master)
    os.close(slave)


@attempt("files of the host")
def host_files(event: Event) -> Iterator[str]:
    for path in (
        *event.get("paths", ()),
        *("/var", "/home", "/boot", "/sys", "/mnt", "/srv", "/etc/shadow", "/etc/hostname"),
        *("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"),
        *("/run/user", "/run/systemd", "/var/run/secrets/kubernetes.io", "/run/secrets"),
        *("/run/host", "/.dockerenv", "/oldroot", "/newroot"),
    ):
        if os.path.lexists(path):
            yield f"{path} is there"
    for known, directory in (
        ({"passwd", "group", "hosts", "ld.so.cache", "alternatives"}, "/etc"),
        ({"guest", "packages"}, "/run"),
    ):
        for name in names(directory) - known:
            yield f"{directory}/{name} is there"
    for line in read("/proc/self/mountinfo").decode().splitlines():
        if line.split(" - ")[1].split()[0] in ("sysfs", "cgroup", "cgroup2", "debugfs", "tracefs"):
            yield f"a kernel file system is mounted: {line}"


@attempt("writing outside the workspace")
def writing(event: Event) -> Iterator[str]:
    for line in read("/proc/self/mountinfo").decode().splitlines():
        place = line.split()[4].encode().decode("unicode_escape")
        if place in ("/workspace", "/tmp", "/dev/shm") or not os.path.isdir(place):
            continue
        if can_make(place):
            yield f"{place} is writable"
    for directory in ("/", "/etc", "/run", "/run/guest", "/usr", "/usr/bin", "/dev", "/opt"):
        if can_make(directory):
            yield f"{directory} is writable"
    for directory, most in (("/tmp", 1 << 30), ("/dev/shm", 1 << 30)):
        status = os.statvfs(directory)
        if status.f_blocks * status.f_frsize > most:
            yield f"{directory} may hold {status.f_blocks * status.f_frsize} bytes"
    for path in (
        *("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"),
        *("/proc/sys/user/max_user_namespaces", "/proc/sys/vm/drop_caches", "/proc/1/oom_adj"),
        *("/proc/1/oom_score_adj", "/run/guest/init.py", "/proc/1/mem", "/proc/1/clear_refs"),
    ):
        if can_write(path):
            yield f"{path} may be opened for writing"
    for path, text in (("/proc/self/uid_map", "0 0 1"), ("/proc/self/setgroups", "allow")):
        try:
            with open(path, "w") as file:
                file.write(text)
            yield f"{path} can be written"
        except OSError:
            continue


@attempt("devices")
def devices(event: Event) -> Iterator[str]:
    known = "null zero full random urandom tty stdin stdout stderr fd core shm pts ptmx console"
    for name in names("/dev") - set(known.split()):
        yield f"/dev/{name} is there"
    for directory in ("/workspace", "/tmp", "/dev/shm"):
        for kind, major, minor in (
            (stat.S_IFCHR, 1, 1),
            (stat.S_IFBLK, 8, 0),
            (stat.S_IFBLK, 254, 0),
        ):
            path = os.path.join(directory, "device")
            try:
                os.mknod(path, kind | 0o666, os.makedev(major, minor))
                os.unlink(path)
                yield f"a device can be made in {directory}"
            except OSError:
                continue
    for path in ("/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/timer_list"):
        if read(path, 16):
            yield f"{path} can be read"
    if re.search(rb"^0*[1-9a-f]", read("/proc/kallsyms", 4096), re.M):
        yield "/proc/kallsyms shows kernel addresses"


@attempt("other processes")
def processes(event: Event) -> Iterator[str]:
    family = {os.getpid(), 1}
    for pid in (int(name) for name in names("/proc") if name.isdigit()):
        if pid not in family and not read(f"/proc/{pid}/stat").split(b") ")[-1].startswith(b"Z"):
            yield f"process {pid} is in sight: {read(f'/proc/{pid}/cmdline')!r}"
    for name in ("environ", "mem", "maps", "auxv", "syscall", "stack", "smaps", "pagemap"):
        try:
            os.close(os.open(f"/proc/1/{name}", os.O_RDONLY))
            yield f"/proc/1/{name} can be opened"
        except OSError:
            continue
    for name in ("root", "cwd", "exe", "fd/0", "ns/pid"):
        try:
            os.readlink(f"/proc/1/{name}")
            yield f"/proc/1/{name} can be followed"
        except OSError:
            continue
    if names("/proc/1/fd") or names("/proc/1/map_files"):
        yield "process 1's descriptors are in sight"
    # Deaf to everything from inside: were it not, nothing of what follows would run.
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(1, number)


@attempt("secrets")
def secrets(event: Event) -> Iterator[str]:
    pattern = re.compile(event["secret"].encode())
    places = [f"/proc/{pid}" for pid in names("/proc") if pid.isdigit()] + ["/proc", "/proc/net"]
    for place in places:
        for name in names(place):
            path = os.path.join(place, name)
            if os.path.isfile(path) and name not in ("kmsg", "mem") and pattern.search(read(path)):
                yield f"one is in {path}"
    for name, value in os.environ.items():
        if pattern.search(f"{name}={value}".encode()):
            yield f"one is in the variable {name}"
    if pattern.search("\0".join(sys.argv).encode()):
        yield "one is in argv"
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    for line in read("/proc/self/maps", 1 << 24).decode().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        while start < end:  # what a fork of the zygote has inherited would be here
            try:
                data = os.pread(memory, min(end - start, 1 << 22), start)
            except (OSError, OverflowError):
                break
            if pattern.search(data):
                yield f"one is in memory: {line}"
            start += len(data) or end
    os.close(memory)


@attempt("inherited descriptors")
def descriptors(event: Event) -> Iterator[str]:
    for number in sorted(int(name) for name in names("/proc/self/fd")):
        try:
            what = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the one that listed the directory
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
            yield f"descriptor {number} is {what}"
        elif stat.S_ISREG(mode) and "memfd:" not in what:
            yield f"descriptor {number} is the file {what}"
        elif number > 2 and not stat.S_ISFIFO(mode):
            yield f"descriptor {number} is {what}"


@attempt("network")
def network(event: Event) -> Iterator[str]:
    for index, name in socket.if_nameindex():
        if name != "lo":
            yield f"interface {index} is {name}"
    socket.setdefaulttimeout(2)
    addresses = [("127.0.0.1", port) for port in event.get("ports", ())]
    addresses += [("::1", port) for port in event.get("ports", ())]
    addresses += [(name, 80) for name in METADATA] + [("1.1.1.1", 443), ("8.8.8.8", 53)]
    for address in addresses:
        try:
            socket.create_connection(address, 2).close()
            yield f"{address} answers"
        except OSError:
            continue
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        for address in (("169.254.169.254", 53), ("8.8.8.8", 53), ("255.255.255.255", 67)):
            try:
                datagram.sendto(b"\0", address)
                yield f"a datagram left for {address}"
            except OSError:
                continue


@attempt("Unix sockets of the platform")
def unix_sockets(event: Event) -> Iterator[str]:
    for address in (*event.get("paths", ()), *(f"\0{name}" for name in event.get("abstract", ()))):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(address)
                yield f"{address!r} answers"
            except OSError:
                continue


@attempt("limits")
def limits(event: Event) -> Iterator[str]:
    for name in ("CORE", "CPU", "FSIZE", "NOFILE", "NPROC"):
        if resource.RLIM_INFINITY in resource.getrlimit(getattr(resource, f"RLIMIT_{name}")):
            yield f"RLIMIT_{name} is not set"
    for name in ("CORE", "CPU", "FSIZE", "NOFILE", "NPROC"):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (hard, hard + 1))
            yield f"RLIMIT_{name} can be raised"
        except (OSError, ValueError):
            continue
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -5)
        yield "it can put itself before others"
    except OSError:
        pass
    if libc.sched_setscheduler(0, 1, struct.pack("i", 1)) == 0:
        yield "it can have real-time priority"


# The last one: where it gets out, the others would meet another world.
@attempt("namespaces")
def namespaces(event: Event) -> Iterator[str]:
    for kind, outside in event.get("namespaces", {}).items():
        if os.readlink(f"/proc/self/ns/{kind}") == outside:
            yield f"the {kind} namespace is the host's"
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        if libc.unshare(flag) == 0:
            yield f"unshare({flag:#x}) was allowed"
    child = syscall(56 if platform.machine() == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        yield "clone(CLONE_NEWUSER) was allowed"
    for program in (("unshare", "-r", "true"), ("bwrap", "--ro-bind", "/", "/", "true")):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                os.execvp(program[0], program)
            finally:
                os._exit(127)
        if os.waitpid(child, 0)[1] == 0:
            yield f"{program[0]} works inside"
