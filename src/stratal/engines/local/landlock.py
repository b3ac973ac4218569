"""Landlock: a process gives up, for itself and all it starts, every path that it does not name.

System calls by number, since no C library wraps them (https://docs.kernel.org/userspace-api/landlock.html).
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("fd", ctypes.c_int32)]


def abi() -> int:
    """The version of the kernel's landlock; 0 when there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version: int = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    return max(version, 0)


def _all_rights(version: int) -> int:
    """Every file-system right that this version knows: 13 at first, then refer, truncate, ioctl."""
    count = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << count) - 1


def restrict(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """From now on only these paths and what lies beneath are accessible, `writable` ones in every way.

    Signals and abstract sockets stay among the restricted where the kernel can do that. Paths that do
    not exist are skipped. Needs no privilege but `forbid_new_privileges`. Returns False where the kernel
    has no landlock; raises `OSError` when it has and refuses.
    """
    version = abi()
    if version < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    everything = _all_rights(version)
    ruleset = _Ruleset(everything, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0)
    size = ctypes.sizeof(_Ruleset) if version >= 6 else 16 if version >= 4 else 8
    fd: int = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "landlock: cannot create a ruleset")
    try:
        for path in readable:
            _allow(libc, fd, path, _READ)
        for path in writable:
            _allow(libc, fd, path, everything)
        if libc.syscall(_RESTRICT_SELF, ctypes.c_int(fd), ctypes.c_uint32(0)) != 0:
            raise OSError(ctypes.get_errno(), "landlock: cannot restrict")
    finally:
        os.close(fd)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _ON_FILES & _all_rights(abi())
        rule = _PathBeneath(rights, beneath)
        result: int = libc.syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
        if result != 0:
            raise OSError(ctypes.get_errno(), f"landlock: cannot allow {path}")
    finally:
        os.close(beneath)


def everything_but(hidden: Iterable[str]) -> list[str]:
    """The paths to allow so that all of the machine stays accessible except what lies in `hidden`.

    Landlock only allows, so each folder on the way to a hidden one is replaced by its other entries;
    those folders themselves can then be neither listed nor created in.
    """
    avoid = sorted({os.path.realpath(path) for path in hidden})
    allowed: list[str] = []
    todo = ["/"]
    while todo:
        folder = todo.pop()
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            if path in avoid or os.path.islink(path):
                continue
            if any(one.startswith(path + "/") for one in avoid):
                todo.append(path)
            else:
                allowed.append(path)
    return allowed
