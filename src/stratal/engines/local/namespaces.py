"""Entering a box that another process built: its namespaces, and then without any privilege in them.

Standard library only.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ORDER = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")
"""The user namespace first: it gives the right to enter the others. Mounts last: /proc goes with them."""

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def of(pid: int) -> list[int]:
    """Descriptors of the namespaces of `pid` that are not this process's own, in the order of entering."""
    names = [n for n in ORDER if os.readlink(f"/proc/{pid}/ns/{n}") != os.readlink(f"/proc/self/ns/{n}")]
    return [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]


def enter(descriptors: Iterable[int]) -> None:
    """Enter each; for a namespace of processes that holds for children to come. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for fd in descriptors:
        if libc.setns(ctypes.c_int(fd), ctypes.c_int(0)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"a namespace cannot be entered: {os.strerror(code)}")


def show_own_processes() -> None:
    """Make /proc that of this process's own namespace, in a tree of mounts that nobody shares.

    Raises `OSError`. Nothing is mounted before it was seen that no mount from here can reach another process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.readlink("/proc/self/ns/mnt")
    private = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    if libc.unshare(ctypes.c_int(_CLONE_NEWNS)) != 0 or libc.mount(b"none", b"/", None, private, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"there can be no mounts of its own: {os.strerror(code)}")
    if os.readlink("/proc/self/ns/mnt") == before or _shares_mounts():
        raise OSError("its mounts would be seen by others")
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if libc.mount(b"proc", b"/proc", b"proc", flags, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"/proc cannot be mounted: {os.strerror(code)}")


def _shares_mounts() -> bool:
    """True when a mount of this process's tree is passed on to others or taken from them (proc(5), mountinfo)."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split() for line in file]
    return any(field[6 : field.index(b"-")] != [] for field in fields)


def drop_capabilities() -> None:
    """Give up every capability, for good and for every program started from here. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)  # since Linux 4.3
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == 0:
        capability += 1
    nothing = (ctypes.c_uint32 * 6)()
    if capability == 0 or libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), nothing) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capabilities cannot be dropped: {os.strerror(code)}")


def show_own_files() -> None:
    """Own /proc/self again, which entering a user namespace may have taken away from an ordinary user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0)
