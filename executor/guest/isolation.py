"""What bwrap does for a sandbox, done to a fork of the zygote: the same namespaces, mounts,
capabilities and filter, in the same order. Part of what has to be trusted.

The zygote itself was started by bwrap, so the mount tree that is inherited here is already
closed: read-only system, `/workspace`, nothing else. Raises OSError at the first step that
fails; the caller then ends without having run anything.
"""

import ctypes
import fcntl
import os
import socket
import struct

_NAMESPACES = 0x7E020000  # mount, cgroup, uts, ipc, user, pid, net
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 24, 38, 22
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_EINVAL = 22
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare() -> None:
    """Moves this process into namespaces of its own; its next child is process 1 of them."""
    uid, gid = os.getuid(), os.getgid()
    _check("unshare", _libc.unshare(_NAMESPACES))
    _put("/proc/self/setgroups", "deny")
    _put("/proc/self/uid_map", f"{uid} {uid} 1")
    _put("/proc/self/gid_map", f"{gid} {gid} 1")


def close_in(tmp_bytes: int, shm_bytes: int, program: bytes) -> None:
    """As process 1: own mounts, no capability, no way to a new namespace, the filter."""
    os.setsid()
    _raise_loopback()
    flags = _MS_NOSUID | _MS_NODEV
    _mount("proc", "/proc", flags | _MS_NOEXEC, "")
    _mount("tmpfs", "/tmp", flags, f"mode=1777,size={tmp_bytes}")  # noqa: S108
    _mount("tmpfs", "/dev/shm", flags, f"mode=1777,size={shm_bytes}")  # noqa: S108
    # Or runs of one session could meet on each other's terminals.
    _mount("devpts", "/dev/pts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.chdir("/workspace")  # through this mount namespace
    _put("/proc/sys/user/max_user_namespaces", "0")
    _drop_capabilities()
    _check("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _load(program)


def _raise_loopback() -> None:
    """A new network namespace has `lo` and nothing else; bwrap, too, leaves it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (value,) = struct.unpack_from("h", flags, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", value | _IFF_UP))


def _drop_capabilities() -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if ctypes.get_errno() != _EINVAL or capability == 0:  # EINVAL: there is no such one
        raise _error("drop the capability bounding set")
    _check("ambient", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(header, bytes(24)))


def _load(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog, with the padding that the pointer needs.
    sock_fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _check("seccomp", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, sock_fprog, 0, 0))


def _mount(kind: str, target: str, flags: int, data: str) -> None:
    arguments = (kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags))
    _check(f"mount {target}", _libc.mount(*arguments, data.encode()))


def _put(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _check(what: str, result: int) -> None:
    if result:
        raise _error(what)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
