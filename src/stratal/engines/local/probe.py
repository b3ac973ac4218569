"""What this machine lets the local engine enforce: tried out, not guessed. For the engine and `stratal doctor`."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stratal.engines.local import landlock
from stratal.engines.local.sandbox import namespaces

_TRIAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Whether workloads can be boxed. `users`: with a user namespace; `network`: with the network closed."""

    path: Path | None = None
    usable: bool = False
    users: bool = False
    network: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A folder below which control groups may be made, of `version` 1 or 2; 0: none was handed over."""

    version: int = 0
    path: Path | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What can be enforced here. `landlock` is the kernel's ABI version, 0 when it has none."""

    bubblewrap: Bubblewrap
    cgroup: ControlGroup
    landlock: int
    user_namespaces: bool
    why_no_user_namespaces: str = ""


def probe(bubblewrap: Path | None = None) -> Probe:
    """Try everything out; takes some 20 ms. `bubblewrap`: the program, when it is not to be looked for."""
    allowed, why = _user_namespaces()
    return Probe(
        bubblewrap=try_bubblewrap(bubblewrap),
        cgroup=find_cgroup(),
        landlock=landlock.abi(),
        user_namespaces=allowed,
        why_no_user_namespaces=why,
    )


# -- bubblewrap ------------------------------------------------------------------------------------


def try_bubblewrap(path: Path | None = None) -> Bubblewrap:
    """Run it for real, with all we want, then with less: user namespaces or loopback may be forbidden."""
    found = shutil.which(path or "bwrap")
    if found is None:
        return Bubblewrap(why_not=f"{path or 'bwrap'} is not installed")
    why_not = ""
    for users in (True, False):
        for network in (True, False):
            said = _trial(found, users=users, network=network)
            if said is None:
                return Bubblewrap(Path(found), True, users, network, why_not)
            why_not = why_not or said
    return Bubblewrap(Path(found), why_not=why_not)


def _trial(program: str, *, users: bool, network: bool) -> str | None:
    """None when it worked, else what it said."""
    box = [
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/dev/shm",
        "--",
        "/bin/true",
    ]
    argv = [program, *namespaces(users, network), *box]
    try:
        done = subprocess.run(
            argv, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"{program} exited with {done.returncode}"


def _user_namespaces() -> tuple[bool, str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False, "unshare is not installed, so they could not be tried"
    done = subprocess.run([unshare, "--user", "/bin/true"], env={}, capture_output=True, check=False)
    return done.returncode == 0, done.stderr.decode(errors="replace").strip()


# -- control groups --------------------------------------------------------------------------------


def find_cgroup(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup"), user: int | None = None
) -> ControlGroup:
    """The folder handed over to us, if any.

    Root may write everywhere, so writability proves nothing: a folder counts as ours when systemd marked
    it as delegated, when it belongs to our own, ordinary user, or when it is the top of a container's
    own view (https://systemd.io/CGROUP_DELEGATION/). Others' groups are not to be meddled with.
    """
    user = os.geteuid() if user is None else user
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError as error:
        return ControlGroup(why_not=str(error))
    why_not = "the kernel has no control groups for memory"
    for _, controllers, path in lines:
        if controllers == "":
            top = root if (root / "cgroup.controllers").exists() else root / "unified"
            found = _second_version(top, path.lstrip("/"), user)
        elif "memory" in controllers.split(","):
            found = _first_version(root / "memory", path.lstrip("/"), user)
        else:
            continue
        if found.version:
            return found
        why_not = found.why_not or why_not
    return ControlGroup(why_not=why_not)


def _second_version(top: Path, path: str, user: int) -> ControlGroup:
    own = top / path
    why_not = f"{own} was not handed over (systemd does with: systemd-run --user -p Delegate=yes …)"
    for folder in (own, own.parent):
        if folder != top and top not in folder.parents:
            break
        # The machine's own top has no `cgroup.type`; the top of a container's view has.
        if not _handed_over(folder, user, whole=folder == top and (folder / "cgroup.type").exists()):
            continue
        if "memory" not in _words(folder / "cgroup.controllers"):
            why_not = f"{folder} has no memory controller"
            continue
        if "memory" in _words(folder / "cgroup.subtree_control"):
            return ControlGroup(2, folder)
        try:
            (folder / "cgroup.subtree_control").write_text("+memory +cpu")
        except OSError as error:  # typically: it holds processes itself
            why_not = f"{folder}: {error.strerror}"
            continue
        return ControlGroup(2, folder)
    return ControlGroup(why_not=why_not)


def _first_version(top: Path, path: str, user: int) -> ControlGroup:
    folder = top / path
    # The machine's own top has a `release_agent`; the top of a container's view has not.
    if _handed_over(folder, user, whole=folder == top and not (folder / "release_agent").exists()):
        return ControlGroup(1, folder)
    return ControlGroup(why_not=f"{folder} was not handed over")


def _handed_over(folder: Path, user: int, *, whole: bool) -> bool:
    """`whole`: it is all that can be seen of the hierarchy from here."""
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    for mark in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(folder, mark) == b"1":
                return True
        except OSError:
            continue
    return whole or (user != 0 and folder.stat().st_uid == user)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


# -- capacity --------------------------------------------------------------------------------------


def machine() -> tuple[float, int]:
    """Processors and bytes of memory that this process may use: the machine's, or less in a container."""
    processors = float(len(os.sched_getaffinity(0)))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _words(folder / name)
            if limit and limit[0].isdigit():
                memory = min(memory, int(limit[0]))
    quota = _words(Path("/sys/fs/cgroup/cpu.max"))
    if len(quota) == 2 and quota[0].isdigit():
        processors = min(processors, int(quota[0]) / int(quota[1]))
    return processors, memory
