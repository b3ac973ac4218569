"""What a zygote's fork does: enter the box, fork the workload inside, wait for it, and tell how it ended.

    zygote ── shepherd (outside of the box) ── workload (inside)

The launcher is at the other end of `channel`. It hands over the box's namespaces and, for the workload, a socket of its
own as descriptors. The workload's process gives up every privilege and waits on that socket for its order: the log as a
descriptor, and what to become. It answers as `entry` does; the shepherd tells, at the end, ``exited`` with the status
and what was used. They hold nothing else of the platform. When the launcher is gone, so are both. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import sys

from stratal.engines.local import entry, landlock, namespaces, process, wire
from stratal.engines.local.gang import FIRST_LOG_FD
from stratal.engines.local.invocation import Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_MEMBERS = 32
_DESCRIPTORS = MOST_MEMBERS + 16


def box(listen: str) -> list[list[str]]:
    """What a shepherd is sent with the workload's socket and the box: the address to listen on inside."""
    return [[listen]]


def plan(
    run: Invocation, told: list[Any], files: int, processors: list[int], gang: list[str]
) -> list[list[str]]:
    """A workload's order: `entry`'s plan, and how to run the program in place of an exec; `gang`: as many times."""
    how = [run.called, run.executable, run.options, run.kind, run.target, str(files)]
    groups = [list(group) for group in told[1:]]
    return [how, run.arguments, *groups, [str(number) for number in processors], gang]


def tend(channel: socket.socket) -> tuple[Invocation, list[str]]:
    """Be the shepherd. Returns in the workload alone, ready to run, with what it is to run and its gang; else never."""
    asked = channel
    try:
        orders = _tend(channel)
        channel.close()
        asked = orders
        return _heed(orders)
    except BaseException as error:  # whatever was imported here may have left anything behind
        said = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            asked.sendall(wire.pack([["refused", str(getattr(error, "errno", None) or 0), said]]))
    os._exit(125)


def _tend(channel: socket.socket) -> socket.socket:
    """Returns in the workload's process, with the socket that its order comes on."""
    os.setsid()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    channel.sendall(wire.pack([["hello"]]))
    head, descriptors, _, _ = socket.recv_fds(channel, 8, _DESCRIPTORS)
    message = wire.receive(channel, head)
    if message is None:
        os._exit(0)
    ((listen,),) = message
    namespaces.enter(descriptors[1:])
    if listen:
        entry.lend_listener(channel, listen)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for fd in (*descriptors[1:], wake, woken):
            os.close(fd)
        return socket.socket(fileno=descriptors[0])
    namespaces.drop_capabilities()
    for fd in descriptors:
        os.close(fd)
    _wait(channel, wake, child)
    with contextlib.suppress(ProcessLookupError):  # its box is gone with the launcher
        os.kill(child, signal.SIGKILL)
    os._exit(0)


# -- the workload ----------------------------------------------------------------------------------


def _heed(orders: socket.socket) -> tuple[Invocation, list[str]]:
    """Wait, fenced in but for what only the order says, and become what it says."""
    os.setsid()
    namespaces.drop_capabilities()
    process.forbid_new_privileges()
    fresh_signals()
    fresh_randomness()
    _touch()
    orders.sendall(wire.pack([["waiting"]]))
    head, descriptors, _, _ = socket.recv_fds(orders, 8, _DESCRIPTORS)
    message = wire.receive(orders, head)
    if message is None:
        os._exit(0)
    how, arguments, environment, (cwd, _, fence), readable, writable, processors, gang = message
    called, executable, options, kind, target, files = how
    log, *logs = descriptors
    namespaces.show_own_files()
    _streams(log)
    logs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_LOG_FD + _DESCRIPTORS) for fd in logs]
    _limit(int(files), [int(number) for number in processors])
    landlocked = fence == "landlock" and landlock.restrict(readable, writable)
    os.chdir(cwd)
    variables = dict(pair.split("=", 1) for pair in environment)
    for name in [name for name in os.environ if name not in variables]:
        del os.environ[name]
    os.environ.update(variables)
    orders.sendall(wire.pack([["ready", "landlock" if landlocked else ""]]))
    orders.detach()
    os.closerange(3, FIRST_LOG_FD + _DESCRIPTORS)
    for rank, fd in enumerate(logs):
        os.dup2(fd, FIRST_LOG_FD + rank)
    os.closerange(FIRST_LOG_FD + len(logs), 1024)
    return Invocation(called, executable, options, kind, target, arguments), gang


def fresh_randomness() -> None:
    """`random` sees to itself after a fork; what others drew from the system when they were imported does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.__dict__["_name_sequence"] = None
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None:
        processes.current_process().authkey = os.urandom(32)


_FIRST = "import os\nhere = [os.path.join(part, 'x') for part in ('a', 'b')]\n"


def _touch() -> None:
    """Do what every program begins with, so that the pages which that writes to are this fork's own beforehand."""
    for name in list(os.environ):
        os.environ[name] = os.environ[name]
    exec(compile(_FIRST, "<string>", "exec"), {})  # noqa: S102


def _streams(log: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, target)


def _limit(files: int, processors: list[int]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, most) if most > 0 else files, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if processors:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, processors)
    os.umask(0o022)


def fresh_signals() -> None:
    """As a fresh interpreter has them."""
    signal.set_wakeup_fd(-1)
    for signum in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


# -- the shepherd ----------------------------------------------------------------------------------


def _wait(channel: socket.socket, wake: int, child: int) -> None:
    """Until the launcher lets go: reap, and tell of the workload's end."""
    ears = select.poll()
    ears.register(channel, select.POLLIN)
    ears.register(wake, select.POLLIN)
    used = [0.0, 0.0]
    peak = 0
    listening = True
    while listening:
        for fd, _ in ears.poll():
            if fd == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            else:
                listening = bool(channel.recv(512))
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            used = [used[0] + usage.ru_utime, used[1] + usage.ru_stime]
            peak = max(peak, usage.ru_maxrss)
            if pid == child:
                told = ["exited", str(status), *(f"{seconds:.4f}" for seconds in used), str(peak)]
                with contextlib.suppress(OSError):
                    channel.sendall(wire.pack([told]))
