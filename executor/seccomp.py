"""The system call filter of every run, as a BPF program for `bwrap --seccomp`.

bwrap has made its namespaces and mounts by the time it loads the filter, so the run
needs none of what they took. Denied are ways out (mount family, namespaces, handles),
ways into other processes, and large kernel interfaces that sandbox escapes have come
through and user code does not need. A denied call answers EPERM (ENOSYS where libc then
takes an older call), so programs fail with a message instead of dying.

Numbers: the kernel's asm/unistd tables; from 424 on they are the same everywhere.
"""

from __future__ import annotations

import errno
import platform
import struct

_RETURN, _LOAD, _EQUAL, _AND_SET = 0x06, 0x20, 0x15, 0x45
_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_SINCE_424 = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "open_tree_attr": 467,
}  # fmt: skip

DENIED: dict[str, dict[str, int]] = {
    "x86_64": _SINCE_424 | {
        "ptrace": 101, "syslog": 103, "uselib": 134, "personality": 135, "ustat": 136,
        "sysfs": 139, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "_sysctl": 156,
        "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165,
        "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
        "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174,
        "init_module": 175, "delete_module": 176, "get_kernel_syms": 177,
        "query_module": 178, "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212,
        "clock_settime": 227, "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239,
        "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
        "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298,
        "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
        "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": _SINCE_424 | {
        "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41,
        "nfsservctl": 42, "chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89,
        "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105,
        "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117,
        "reboot": 142, "sethostname": 161, "setdomainname": 162, "settimeofday": 170,
        "adjtimex": 171, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224,
        "swapoff": 225, "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237,
        "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241,
        "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280,
        "userfaultfd": 282, "kexec_file_load": 294,
    },
}  # fmt: skip

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_IOCTL = {"x86_64": 16, "aarch64": 29}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
_CLONE3 = 435
_X32_BIT = 0x40000000
_CLONE_NEW = 0x7E020000  # mount, cgroup, uts, ipc, user, pid and net namespaces
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_ANY, _TCP, _UDP = 0, 6, 17  # protocols
_NEITHER_STREAM_NOR_DGRAM = 0xC  # bits of a socket type: RDM, SEQPACKET, DCCP, PACKET


class UnsupportedMachine(Exception):
    """There is no filter for this processor, so nothing may run on it."""


def program(machine: str | None = None) -> bytes:
    """The filter for `machine` (default: this one). Raises UnsupportedMachine."""
    machine = machine or platform.machine()
    if machine not in DENIED:
        raise UnsupportedMachine(f"no system call filter for {machine}")
    eperm = _ERRNO | errno.EPERM
    code = [
        _op(_LOAD, _ARCH),
        # Another calling convention (int 0x80) has other numbers: nothing legitimate here.
        *_unless(_AUDIT_ARCH[machine], _KILL),
        _op(_LOAD, _NR),
        _op(_AND_SET, _X32_BIT, 0, 1),
        _op(_RETURN, _ERRNO | errno.ENOSYS),
        # libc falls back to clone, whose flags a filter can see.
        *_if(_CLONE3, _op(_RETURN, _ERRNO | errno.ENOSYS)),
        *_if(
            _CLONE[machine],
            _op(_LOAD, _ARG0),
            _op(_AND_SET, _CLONE_NEW, 0, 1),
            _op(_RETURN, eperm),
            _op(_RETURN, _ALLOW),
        ),
        *_if(
            _IOCTL[machine],
            _op(_LOAD, _ARG1),
            *_if(_TIOCSTI, _op(_RETURN, eperm)),
            *_if(_TIOCLINUX, _op(_RETURN, eperm)),
            _op(_RETURN, _ALLOW),
        ),
        *_if(_SOCKET[machine], *_sockets()),
        *_if(
            _SOCKETPAIR[machine],
            _op(_LOAD, _ARG0),
            *_if(_AF_UNIX, _op(_RETURN, _ALLOW)),
            _op(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
        ),
    ]
    for number in sorted(DENIED[machine].values()):
        code += _if(number, _op(_RETURN, eperm))
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _sockets() -> list[bytes]:
    """An allow-list: each family and protocol is a stack of its own in the kernel, and asking
    for one loads its module."""
    allow = _op(_RETURN, _ALLOW)
    internet = [
        _op(_LOAD, _ARG1),
        _op(_AND_SET, _NEITHER_STREAM_NOR_DGRAM, 0, 1),
        _op(_RETURN, _ERRNO | errno.ESOCKTNOSUPPORT),
        _op(_LOAD, _ARG2),
        *(line for protocol in (_ANY, _TCP, _UDP) for line in _if(protocol, allow)),
        _op(_RETURN, _ERRNO | errno.EPROTONOSUPPORT),
    ]
    return [
        _op(_LOAD, _ARG0),
        *_if(_AF_UNIX, allow),
        *(line for family in (_AF_INET, _AF_INET6) for line in _if(family, *internet)),
        # getifaddrs asks routing netlink; the other netlink protocols stay shut.
        *_if(_AF_NETLINK, _op(_LOAD, _ARG2), *_if(_NETLINK_ROUTE, allow)),
        _op(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
    ]


def _if(value: int, *then: bytes) -> list[bytes]:
    return [_op(_EQUAL, value, 0, len(then)), *then]


def _unless(value: int, answer: int) -> list[bytes]:
    return [_op(_EQUAL, value, 1, 0), _op(_RETURN, answer)]


def _op(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)
