"""Landlock: rights that a process gives up on files, TCP, signals and other programs' sockets.

Numbers are of linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence

from calvin_eval.rollouts.confinement import system

LEAST_VERSION = 3
"""Of Landlock's interface: an older one lets files be cut short."""

SIGNALS_VERSION = 6
"""Of Landlock's interface, which keeps signals and abstract sockets inside."""

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _TRUNCATE, _IOCTL = 1 << 1, 1 << 14, 1 << 15
_CHANGE_FOLDER = sum(1 << bit for bit in (4, 5, 7, 8, 9, 10, 12, 13))  # make, remove, move
_MAKE_DEVICE = 1 << 6 | 1 << 11
_IOCTL_VERSION = 5

_TCP_VERSION, _TCP = 4, 0b11  # bind and connect
_SCOPES = 0b11  # abstract Unix sockets and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of Landlock's interface; 0 where there is none, or it is switched off."""
    try:
        return system.call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:
        return 0


def restrict(scratch: str, devices: Sequence[str]) -> None:
    """Let this process write below a folder and to devices, and to nothing else.

    Args:
        scratch: the folder.
        devices: files or folders of devices.

    Raises:
        OSError: the kernel refused.
    """
    here = version()
    file_rights = _WRITE_FILE | _TRUNCATE | (_IOCTL if here >= _IOCTL_VERSION else 0)
    rules = _Ruleset(
        files=file_rights | _CHANGE_FOLDER | _MAKE_DEVICE,
        net=_TCP if here >= _TCP_VERSION else 0,
        scoped=_SCOPES if here >= SIGNALS_VERSION else 0,
    )
    ruleset = system.call(
        _CREATE, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), ctypes.c_uint32(0)
    )
    try:
        _allow(ruleset, scratch, file_rights | _CHANGE_FOLDER)
        for device in devices:
            _allow(ruleset, device, file_rights)
        system.call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= ~_CHANGE_FOLDER
        rule = _Beneath(allowed=rights, parent=opened)
        system.call(
            _ADD,
            ctypes.c_int(ruleset),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(opened)
