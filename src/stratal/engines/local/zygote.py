"""A zygote: an interpreter of one environment with its modules loaded, which forks workloads.

It is fenced as a job is, without any project's files, without a network, and holds one thing of the platform:
a socket to the keeper. Over it come first the names of what to import, then one descriptor per workload, each
served by a fork (`shepherd`). It ends when the socket does.

A fork is a fresh start only if importing did nothing that a fork would share or lose. So after each import it
looks: no thread, no descriptor, no memory shared with others, no signal handler, and no variable read that
differs from workload to workload. A module that fails this is named to the keeper, which starts again without it.
Standard library only, and nothing of it stays importable by its own name.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import signal
import socket
import sys

from stratal.engines.local import gang, invocation, process, pythonrun, shepherd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Any

    from stratal.engines.local.invocation import Invocation

CONTROL_FD = 3
MESSAGE = 128 << 10
_IMPORT_SECONDS = 120
_MOST_READERS = 64
_MOST_LOADED = 4 << 20
_MAIN = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__",
         "__file__", "__cached__")  # fmt: skip
_NEVER = frozenset(
    ("antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "test", "lib2to3", "stratal")
)


def main(bare: set[str], main_module: dict[str, Any]) -> Callable[[], None]:
    """Import and serve. Returns in each fork, with what runs its workload."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started it in the background
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    control = socket.socket(fileno=CONTROL_FD)
    os.set_inheritable(CONTROL_FD, False)
    wanted = json.loads(control.recv(MESSAGE))
    signal.alarm(_IMPORT_SECONDS)
    report = _load(wanted["imports"], set(wanted["varying"]))
    signal.alarm(0)
    tops = {name.partition(".")[0] for name in sys.modules} - bare - {"__main__"}
    report["modules"] = sorted(tops)
    report["loaded"] = _packed(sys.modules)
    control.sendall(json.dumps(report).encode())
    if "unfit" in report:
        os._exit(0)
    del wanted, report, tops  # here: each fork would write to their pages to let go of them
    gc.collect()
    gc.freeze()  # what all forks share stays untouched by their collections
    run, words = _serve(control)
    if words:
        _lead(run, words)
    own = {name: main_module[name] for name in _MAIN if name in main_module}
    own["__doc__"] = None
    return pythonrun.prepare(run, own)


def _packed(names: Iterable[str]) -> str:
    """Thousands of names, in a part of one message."""
    import binascii
    import zlib

    said = binascii.b2a_base64(zlib.compress("\n".join(names).encode(), 1), newline=False).decode()
    return said if len(said) < MESSAGE // 2 else ""


def unpacked(said: str) -> frozenset[str]:
    """Raises `ValueError`."""
    import binascii
    import zlib

    try:
        whole = zlib.decompressobj().decompress(binascii.a2b_base64(said), _MOST_LOADED) if said else b""
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return frozenset(whole.decode().split("\n"))


def _lead(run: Invocation, words: list[str]) -> None:
    """Be the first process of a gang, whose members are forks of it. Returns in each of them, and nowhere else."""
    process.rename([run.called, "gang", run.target, *run.arguments])
    try:
        code = gang.gang_of(words, None).run()
    except gang.Member as member:
        os.environ.update(member.variables)
        shepherd.fresh_signals()
        shepherd.fresh_randomness()
        return
    except BaseException as error:
        os.write(2, f"stratal: {type(error).__name__}: {error}\n".encode())
        os._exit(125)
    os._exit(code)


def _serve(control: socket.socket) -> tuple[Invocation, list[str]]:
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 16, 4)
        if not data:
            os._exit(0)
        sys.stdout.flush()
        sys.stderr.flush()
        if len(os.listdir("/proc/self/task")) > 1:  # something loaded began one only now
            control.sendall(
                json.dumps({"unfit": [], "why": "a thread was started after the imports"}).encode()
            )
            os._exit(0)
        if os.fork() == 0:
            control.close()
            return shepherd.tend(socket.socket(fileno=descriptors[0]))
        for fd in descriptors:
            os.close(fd)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# -- importing -------------------------------------------------------------------------------------


class _Watched(os._Environ):  # type: ignore[type-arg]
    """`os.environ` while modules are imported: remembers what was asked of it, and what asked for what it must not."""

    read: set[str] = set()  # noqa: RUF012  # one environment, one memory
    readers: tuple[str, ...] = ()
    varying: frozenset[str] = frozenset()

    def __getitem__(self, key: str) -> str:
        if isinstance(key, str):
            _Watched.note(key)
        return super().__getitem__(key)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        _Watched.note(_sought(sys._getframe(1)) + "*")
        return super().__iter__()

    @classmethod
    def note(cls, read: str) -> None:
        cls.read.add(read)
        if not cls.readers and (read == "*" or invocation.meant(read, cls.varying)):
            cls.readers = _importing(sys._getframe(2))


def _importing(frame: FrameType | None) -> tuple[str, ...]:
    """The modules that are being imported: none of them can be without the innermost."""
    found: list[str] = []
    while frame is not None and len(found) < _MOST_READERS:
        name = str(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name == "<module>" and name != "__main__":
            found.append(name)
        frame = frame.f_back
    return tuple(found)


_SEEKERS = {("tqdm.utils", "envwrap"): "prefix"}
"""Functions that look at all variables for those that begin with an argument of theirs, this one.

Half of machine learning imports tqdm; what it looks for is nearly never there."""


def _sought(frame: FrameType | None) -> str:
    """What the variables begin with that are looked for by whoever iterates over all of them; "": any."""
    while frame is not None and frame.f_globals.get("__name__") in (
        "os",
        "_collections_abc",
        "collections.abc",
    ):
        frame = frame.f_back
    for _ in range(2):  # a comprehension has a frame of its own before Python 3.12
        if frame is None:
            break
        argument = _SEEKERS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        if argument is not None:
            return str(frame.f_locals.get(argument) or "")
        frame = frame.f_back
    return ""


def _load(names: list[str], varying: set[str]) -> dict[str, Any]:
    """Import what can be imported; the report says what was, which variables were read, and who is unfit."""
    before = _state()
    plain = type(os.environ)
    os.environ.__class__ = _Watched
    loaded = []
    reads: set[str] = set()
    _Watched.varying = frozenset(varying)
    try:
        for name in names:
            _Watched.read, _Watched.readers = set(), ()
            if name in sys.modules:
                loaded.append(name)
                continue
            if not _allowed(name):
                continue
            done = _import(name)
            why = _unfit(before, varying)  # also of one that failed half-way
            if why:
                return {"unfit": [name, *_Watched.readers], "why": why}
            reads |= _Watched.read
            loaded += [name] if done else []
    finally:
        os.environ.__class__ = plain
    return {"imports": loaded, "reads": sorted(reads)}


def _allowed(name: str) -> bool:
    """Of the standard library or the environment's packages: no zygote runs anything else."""
    top = name.partition(":")[0].partition(".")[0]
    if top in _NEVER or top in sys.builtin_module_names:
        return False
    if top in sys.modules or top in sys.stdlib_module_names:
        return True
    spec = importlib.machinery.PathFinder.find_spec(top)
    return spec is not None


def _import(name: str) -> bool:
    module, _, attribute = name.partition(":")
    try:
        __import__(module, fromlist=(attribute,) if attribute else ())
    except BaseException as error:
        if not isinstance(error, ImportError):
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def _unfit(before: dict[str, Any], varying: set[str]) -> str:
    now = _state()
    for what, value in now.items():
        if value != before[what]:
            return f"importing it leaves {what} behind"
    if "*" in _Watched.read:
        return "it reads all variables when imported"
    differs = sorted(name for read in _Watched.read for name in invocation.meant(read, varying))
    return f"it reads {differs[0]} when imported" if differs else ""


def _state() -> dict[str, Any]:
    """What a fork would share with its siblings, or lose."""
    handlers = {}
    for signum in signal.valid_signals():
        with contextlib.suppress(ValueError):
            handlers[signum] = signal.getsignal(signum)
    with open("/proc/self/maps") as file:
        shared = {line.split()[0] for line in file if line.split()[1][1::2] == "ws"}
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "open files": sorted(name for name in os.listdir("/proc/self/fd") if _is_open(int(name))),
        "shared memory": shared,
        "signal handlers": handlers,
        "children": os.path.exists("/proc/self/task") and _children(),
    }


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)  # the descriptor that listed the folder is closed by now
    except OSError:
        return False
    return True


def _children() -> int:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())
    return 0
