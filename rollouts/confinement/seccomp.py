"""A seccomp filter: system calls that a confined process may not do.

Landlock has no rule for them: sockets of the kinds that are not TCP, connections to other
programs' sockets, modes and owners of files, other processes' memory and limits, input of the
terminal. They fail as if the user lacked the right (EACCES).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from calvin_eval.rollouts.confinement import system

NUMBERS: Final = {
    # name: x86_64, aarch64 (None where the machine has no such call)
    "add_key": (248, 217),
    "chmod": (90, None),
    "chown": (92, None),
    "connect": (42, 203),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "lchown": (94, None),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "semget": (64, 190),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "tgkill": (234, 131),
    "tkill": (200, 130),
}
"""Of system calls, by machine: asm/unistd_64.h and asm-generic/unistd.h."""

_SIGNALS = (
    "kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
)  # fmt: skip
_BY_ARGUMENT = ("ioctl", "prlimit64", "socket", "socketpair")

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*
_OTHER_TABLES = 0x40000000  # numbers of x86_64 from here on are of x32

_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # of linux/filter.h

_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_SOCK_KIND = 0xF  # the rest of a socket's type is flags
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


class _Line(NamedTuple):
    """One instruction; `yes` and `no` are the lines that are skipped."""

    code: int
    value: int
    yes: int = 0
    no: int = 0


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("lines", ctypes.POINTER(_Instruction)))


def known() -> bool:
    """Whether the filter knows this machine's system calls."""
    return os.uname().machine in _MACHINES


def install(*, signals: bool) -> None:
    """Put the filter on this process, for good.

    Args:
        signals: whether it may send signals, because Landlock keeps them inside.

    Raises:
        OSError: the kernel refused.
    """
    lines = list(_program(signals))
    made = [_Instruction(line.code, line.yes, line.no, line.value) for line in lines]
    array = (_Instruction * len(made))(*made)
    program = _Program(len(lines), ctypes.cast(array, ctypes.POINTER(_Instruction)))
    system.control(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program))


def _program(signals: bool) -> Iterator[_Line]:
    column, arch = _MACHINES[os.uname().machine]
    refuse = _Line(_RETURN, _ERROR | errno.EACCES)
    yield _Line(_LOAD, _ARCH)
    yield _Line(_EQUAL, arch, yes=1)
    yield refuse
    yield _Line(_LOAD, _NUMBER)
    yield _Line(_AT_LEAST, _OTHER_TABLES, no=1)
    yield refuse
    for name, numbers in NUMBERS.items():
        number = numbers[column]
        if number is None or (signals and name in _SIGNALS):
            continue
        if name in _BY_ARGUMENT:
            checks = [*_checks(name), _Line(_RETURN, _ALLOW)]
            yield _Line(_EQUAL, number, no=len(checks))
            yield from checks
        else:
            yield _Line(_EQUAL, number, no=1)
            yield refuse
    yield _Line(_RETURN, _ALLOW)


def _checks(name: str) -> Iterator[_Line]:
    """What is refused of a call that is otherwise allowed."""
    refuse = _Line(_RETURN, _ERROR | errno.EACCES)
    if name == "prlimit64":  # of another process
        yield _Line(_LOAD, _argument(0))
        yield _Line(_EQUAL, 0, yes=1)
        yield refuse
    elif name == "ioctl":  # text that the terminal takes for typed
        yield _Line(_LOAD, _argument(1))
        yield _Line(_EQUAL, _TIOCSTI, yes=1)
        yield _Line(_EQUAL, _TIOCLINUX, no=1)
        yield refuse
    else:  # all but streams between processes of this machine
        yield _Line(_LOAD, _argument(0))
        yield _Line(_EQUAL, socket.AF_UNIX, yes=1)
        yield refuse
        yield _Line(_LOAD, _argument(1))
        yield _Line(_AND, _SOCK_KIND)
        yield _Line(_EQUAL, socket.SOCK_STREAM, yes=1)
        yield refuse


def _argument(index: int) -> int:
    """Offset of an argument's lower half, on machines with the low byte first."""
    return 16 + 8 * index
