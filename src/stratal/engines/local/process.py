"""Processes as the kernel shows them, and files that appear whole or not at all.

A pid alone names nobody: it is used again. Everywhere here a process is a pid *and* its start time.
Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal

TYPE_CHECKING = False  # `typing` costs milliseconds that every workload would wait
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # CONFIG_PROC_CHILDREN


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children, not init's (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Arrange to be killed when `parent`, which forked this process, dies; also when it already did."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def forbid_new_privileges() -> None:
    """No set-uid program gains anything from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def start_afresh() -> None:
    """Handle no signal in a way of one's own, and block none: what a fork does before it becomes something else.

    SIGPIPE stays ignored, as everywhere in Python.
    """
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def volunteer() -> None:
    """When the machine runs out of memory, this process goes before the platform."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def rename(argv: Iterable[str]) -> None:
    """Show `argv` as this process's command line, as far as there is room for it where the first one stood."""
    argv = list(argv)
    name = os.fsencode(os.path.basename(argv[0]))
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        begin, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5) fields 48 and 49
        text = b"\0".join(os.fsencode(word) for word in argv)[: end - begin - 1]
        ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


# -- identity --------------------------------------------------------------------------------------


def boot_id() -> str:
    """Names this boot of the machine: start times are only comparable within one."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/<pid>/stat from the state on (proc(5) field 3 is index 0), or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it does not live (a zombie does not)."""
    fields = _stat(pid)
    if fields is None or len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def lives(pid: int, started: int) -> bool:
    """True when the process that had this pid and start time still runs."""
    return pid > 0 and start_time(pid) == started


def program_name(pid: int) -> str:
    """The file name of the program that `pid` runs; "" when that cannot be seen."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


# -- trees -----------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The child processes of `pid`, zombies included."""
    if not _LISTS_CHILDREN:
        return _children_by_scan(pid)
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    return found


def _children_by_scan(pid: int) -> list[int]:
    wanted = str(pid).encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields is not None and fields[1] == wanted:
                found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents before children."""
    found = children(pid)
    for process in found:  # grows while it is walked
        found.extend(child for child in children(process) if child not in found)
    return found


def abandoned_boxes(mark: str) -> list[int]:
    """Halves of a bubblewrap that wait for the other for ever: it was killed while they built a box together.

    The inner one, the first process of its namespace, has the outer one for a parent as long as that lives; `mark` is in
    its command line.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and _is_bubblewrap(words := _words(name)) and mark.encode() in b" ".join(words):
            fields = _stat(int(name))
            if fields and _is_first(name) and not _is_bubblewrap(_words(fields[1].decode())):
                found.append(int(name))
    return found


def _words(pid: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return [b""]


def _is_bubblewrap(words: list[bytes]) -> bool:
    return os.path.basename(words[0]) == b"bwrap"


def _is_first(pid: str) -> bool:
    """In a namespace of processes below ours."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == b"1"
    return False


def in_session(leader: int) -> list[int]:
    """Every process of the session that `leader` opened."""
    wanted = str(leader).encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields is not None and fields[3] == wanted:
                found.append(int(name))
    return found


def signal_all(pids: Iterable[int], signum: int) -> None:
    """Send `signum` to each; those gone meanwhile are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


# -- consumption -----------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Resident bytes of one process, shared pages counted in full."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Resident bytes of one process, each shared page divided among its sharers (PSS)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return resident(pid)


def processor_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of their children that were waited for."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


# -- files -----------------------------------------------------------------------------------------


def sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: str, value: dict[str, Any], *, durable: bool = True) -> None:
    """Write `value` so that a reader, a crash or (when `durable`) a power cut sees all of it or none."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{os.getpid()}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(json.dumps(value))  # json.dump would encode in Python
        file.flush()
        if durable:
            os.fsync(fd)
    os.rename(part, path)
    if durable:
        sync_folder(folder)


def claim_json(path: str, value: dict[str, Any], *, durable: bool = True) -> bool:
    """Create `path` with `value`, whole, unless it exists. True for the one caller that created it."""
    part = f"{path}.{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(json.dumps(value))  # json.dump would encode in Python
        file.flush()
        if durable:
            os.fsync(fd)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(part)
    if durable:
        sync_folder(os.path.dirname(path))
    return True


def read_json(path: str) -> dict[str, Any] | None:
    """The object in `path`, or None when there is no such file or nothing that can be read in it."""
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def remove_tree(path: str) -> None:
    """Remove a folder and all below it, whatever modes its owner left; never follows a link."""
    try:
        with os.scandir(path) as entries:
            found = list(entries)
    except PermissionError:
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            else:
                os.unlink(entry.path)
        except PermissionError:
            os.chmod(path, 0o700)
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        except FileNotFoundError:
            continue
    with contextlib.suppress(OSError):
        os.rmdir(path)
