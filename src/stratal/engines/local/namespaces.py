"""Entering a box that another process built: its namespaces, and then without any privilege in them.

Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ORDER = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
"""After the user namespace that they belong to, which gives the right to enter them. Mounts last: /proc goes with them."""

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""The same numbers on every architecture (Linux 5.2, 5.2 and 5.12); older C libraries have no names for them."""
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_TREE_CLONE, _MOVE_EMPTY_PATH = 1, 4
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_NS_GET_USERNS = 0xB701
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def of(pid: int) -> list[int]:
    """Descriptors of the namespaces of `pid` that are not this process's own, in the order of entering."""
    names = [n for n in ORDER if os.readlink(f"/proc/{pid}/ns/{n}") != os.readlink(f"/proc/self/ns/{n}")]
    others = [_opened(pid, name) for name in names]
    owner, *inner = _users(pid)
    return [owner, *others, *inner]


def above(pid: int) -> list[int]:
    """Descriptors of what a box is built below that is to lie below the box of `pid`, in the order of entering.

    Those of users and of processes; /proc is mounted then, and a third, where there is one, entered last.
    """
    owner, *inner = _users(pid)
    return [owner, _opened(pid, "pid"), *inner]


def _users(pid: int) -> list[int]:
    """Descriptors of the namespace of users that the others of `pid` belong to, and of its own where that is another.

    For an ordinary user bubblewrap makes two: one to build the box with rights, and below it one to be oneself again.
    """
    own, mounts = _opened(pid, "user"), _opened(pid, "mnt")
    try:
        owner = fcntl.ioctl(mounts, _NS_GET_USERNS)
    except OSError:
        os.close(own)
        raise
    finally:
        os.close(mounts)
    if os.fstat(owner).st_ino == os.fstat(own).st_ino:
        os.close(owner)
        return [own]
    os.set_inheritable(owner, False)
    return [owner, own]


def _opened(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def enter(descriptors: Iterable[int]) -> None:
    """Enter each; for a namespace of processes that holds for children to come. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for fd in descriptors:
        if libc.setns(ctypes.c_int(fd), ctypes.c_int(0)) != 0:
            raise _failure("a namespace cannot be entered")


def own_mounts() -> None:
    """Have a tree of mounts of this process's own, as the present one, that nobody shares.

    Raises `OSError`. When this returns it was seen that no mount from here can reach another process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.readlink("/proc/self/ns/mnt")
    private = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    if libc.unshare(ctypes.c_int(_CLONE_NEWNS)) != 0 or libc.mount(b"none", b"/", None, private, None) != 0:
        raise _failure("there can be no mounts of its own")
    if os.readlink("/proc/self/ns/mnt") == before or _shares_mounts():
        raise OSError("its mounts would be seen by others")


def show_own_processes() -> None:
    """Make /proc that of this process's own namespace, in a tree of mounts that nobody shares. Raises `OSError`."""
    own_mounts()
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if libc.mount(b"proc", b"/proc", b"proc", flags, None) != 0:
        raise _failure("/proc cannot be mounted")


def lend(paths: Sequence[str], box: int) -> None:
    """Bind these folders into the box whose namespace of mounts `box` is: at the same places, as bubblewrap binds.

    By a process with `own_mounts`, which lives in the box from then on. Raises `OSError`. Each is taken hold of while
    it is seen from here and put in its place there (open_tree(2), move_mount(2)); the box's own tree of folders, which
    is read-only, can be written to for that moment. So nobody may run in the box yet.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    trees = [_hold_of(libc, path) for path in paths]
    if libc.setns(ctypes.c_int(box), ctypes.c_int(_CLONE_NEWNS)) != 0:
        raise _failure("its mounts cannot be entered")
    _change(libc, _AT_FDCWD, b"/", 0, remove=_READ_ONLY)
    try:
        for path, tree in zip(paths, trees, strict=True):
            os.makedirs(path, 0o755, exist_ok=True)
            arguments = (ctypes.c_int(tree), b"", ctypes.c_int(_AT_FDCWD), os.fsencode(path))
            if libc.syscall(_MOVE_MOUNT, *arguments, ctypes.c_uint(_MOVE_EMPTY_PATH)) != 0:
                raise _failure(f"{path} cannot be mounted")
    finally:
        _change(libc, _AT_FDCWD, b"/", 0, add=_READ_ONLY)


def _hold_of(libc: ctypes.CDLL, path: str) -> int:
    """A descriptor of a copy of what is mounted at `path` and below, without devices and set-uid programs."""
    flags = ctypes.c_uint(_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    tree: int = libc.syscall(_OPEN_TREE, ctypes.c_int(_AT_FDCWD), os.fsencode(path), flags)
    if tree < 0:
        raise _failure(f"{path} cannot be mounted")
    _change(libc, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, add=_NO_SUID | _NO_DEVICES)
    return tree


def _change(
    libc: ctypes.CDLL, folder: int, path: bytes, flags: int, *, add: int = 0, remove: int = 0
) -> None:
    """mount_setattr(2). Raises `OSError`."""
    wanted = (ctypes.c_uint64 * 4)(add, remove, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    where = (ctypes.c_int(folder), path, ctypes.c_uint(flags))
    if libc.syscall(_MOUNT_SETATTR, *where, ctypes.byref(wanted), size) != 0:
        raise _failure("a mount's attributes cannot be changed")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


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
        raise _failure("capabilities cannot be dropped")


def show_own_files() -> None:
    """Own /proc/self again, which entering a user namespace may have taken away from an ordinary user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0)
