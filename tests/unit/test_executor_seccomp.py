"""The system call filter, run in an interpreter of the BPF that the kernel defines."""

from __future__ import annotations

import errno
import struct

import pytest

from executor import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
EAFNOSUPPORT = 0x50000 | errno.EAFNOSUPPORT
ESOCKTNOSUPPORT = 0x50000 | errno.ESOCKTNOSUPPORT
EPROTONOSUPPORT = 0x50000 | errno.EPROTONOSUPPORT
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SOCKET = {"x86_64": 41, "aarch64": 198}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
CLONE = {"x86_64": 56, "aarch64": 220}
IOCTL = {"x86_64": 16, "aarch64": 29}
READ = {"x86_64": 0, "aarch64": 63}

machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def judge(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Classic BPF over struct seccomp_data: load, jump-equal, jump-set, return."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=iIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    position, value = 0, 0
    while True:
        operation, jump_true, jump_false, k = code[position]
        position += 1
        if operation == 0x06:
            return int(k)
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif operation == 0x15:
            position += jump_true if value == k else jump_false
        elif operation == 0x45:
            position += jump_true if value & k else jump_false
        else:
            raise AssertionError(f"unknown operation {operation:#x}")


@machines
def test_every_denied_call_answers_eperm_and_others_pass(machine: str) -> None:
    program = seccomp.program(machine)
    for name, number in seccomp.DENIED[machine].items():
        assert judge(program, ARCH[machine], number) == EPERM, name
    assert judge(program, ARCH[machine], READ[machine]) == ALLOW


@machines
def test_namespaces_are_closed_and_threads_are_not(machine: str) -> None:
    program = seccomp.program(machine)
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(program, ARCH[machine], CLONE[machine], flag | 17) == EPERM, hex(flag)
    assert judge(program, ARCH[machine], CLONE[machine], 0x3D0F00) == ALLOW  # pthread_create
    assert judge(program, ARCH[machine], 435) == ENOSYS  # clone3: its flags cannot be seen


@machines
def test_only_known_socket_families_and_no_terminal_injection(machine: str) -> None:
    program = seccomp.program(machine)

    def socket(family: int, protocol: int = 0) -> int:
        return judge(program, ARCH[machine], SOCKET[machine], family, 2, protocol)

    assert [socket(family) for family in (1, 2, 10, 16)] == [ALLOW] * 4
    assert [socket(family) for family in (17, 31, 38, 40, 44)] == [EAFNOSUPPORT] * 5
    assert socket(16, 12) == EAFNOSUPPORT  # netlink, but netfilter's
    for family in (1, 2, 5, 10, 16, 21, 30):
        verdict = judge(program, ARCH[machine], SOCKETPAIR[machine], family, 1, 0)
        assert verdict == (ALLOW if family == 1 else EAFNOSUPPORT), family
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert judge(program, ARCH[machine], IOCTL[machine], 0, request) == EPERM
    assert judge(program, ARCH[machine], IOCTL[machine], 0, 0x5413) == ALLOW


@machines
@pytest.mark.parametrize("family", [2, 10])
def test_of_the_internet_protocols_only_tcp_and_udp(machine: str, family: int) -> None:
    def socket(kind: int, protocol: int) -> int:
        program = seccomp.program(machine)
        return judge(program, ARCH[machine], SOCKET[machine], family, kind, protocol)

    close_on_exec, nonblocking = 0x80000, 0x800
    for kind, protocol in ((1, 0), (2, 0), (1, 6), (2, 17), (1 | close_on_exec | nonblocking, 0)):
        assert socket(kind, protocol) == ALLOW
    for protocol in (33, 132, 136, 262):  # DCCP, SCTP, UDP-Lite, MPTCP
        assert socket(1, protocol) == EPROTONOSUPPORT
    for kind in (4, 5, 6, 10, 6 | close_on_exec):
        assert socket(kind, 0) == ESOCKTNOSUPPORT


def test_another_calling_convention_is_fatal_and_x32_is_absent() -> None:
    program = seccomp.program("x86_64")
    assert judge(program, 0x40000003, 20) == KILL  # int 0x80
    assert judge(program, ARCH["x86_64"], 0x40000000 | 39) == ENOSYS


def test_there_is_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(seccomp.UnsupportedMachine, match="riscv64"):
        seccomp.program("riscv64")
