"""The launcher's side of a fork: fits it, builds the box, hands both to the shepherd, hears how it ended.

The box is built by bubblewrap exactly as for a cold start, but below the zygote's namespaces of users and
processes, since a process can enter only what lies below its own; a shell holds it. Then the zygote's fork
(`shepherd`) is given the box's namespaces as descriptors and forks the workload's process, which waits inside (`stand`)
for its order: the log, and `entry`'s plan. All of this may be there before the workload is known (`spares`); then the
box lacks the workload's own folders, which are mounted when they are (`lender`). Whatever goes wrong before the workload
runs is undone, and the workload starts cold. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import time

from stratal.engines.local import gang, invocation, namespaces, process, sandbox, shepherd, wire
from stratal.engines.local.lender import Lender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from stratal.engines.local.cgroup import Group
    from stratal.engines.local.invocation import Invocation
    from stratal.engines.local.nursery import Offer

_SETUP_SECONDS = 10.0
_HOLDER_FD = 3


class Differs(Exception):
    """A fork would not be what a cold start is; the message names a variable, or is "" when nothing is to be learned."""


def fit(spec: dict[str, Any], report: Mapping[str, Any]) -> Invocation:
    """The run that the zygote is to carry out. Raises `Differs`."""
    run = invocation.parse(spec)
    if run is None or invocation.shadowed(spec, run, report["modules"]):
        raise Differs("")
    if run.kind == "script" and not os.path.isfile(os.path.join(spec["cwd"], run.target)):
        raise Differs("")
    if spec.get("gang") and gang.NAMES & set(report["reads"]):
        raise Differs("")  # which members are told one by one, after the fork
    differs = invocation.differing(spec, report)
    if differs:
        raise Differs(differs)
    return run


class Fork:
    """A shepherd and its workload, from the launcher's side. `pid` is the shepherd's, 0 while it is unknown."""

    def __init__(self, offer: Offer) -> None:
        self.channel = offer.channel
        self.report = offer.report
        self.pid = 0
        self.started = 0
        self.workload = 0
        self.box = 0
        """Bubblewrap's process, and the one that holds the box inside."""
        self.held = 0
        self.holder: socket.socket | None = None
        self.listener: socket.socket | None = None
        self.status: int | None = None
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self.gone = False
        self._above = offer.box
        self._orders: socket.socket | None = None
        self._lender: Lender | None = None
        self._data = b""
        self.channel.settimeout(_SETUP_SECONDS)

    # -- standing ------------------------------------------------------------------------------

    def stand(
        self,
        spec: dict[str, Any],
        private: str,
        group: Group | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        *,
        lacks_own: bool = False,
    ) -> None:
        """Have the box built, and a process wait inside. `meanwhile` is done while bubblewrap is at work; `lacks_own`:
        the workload's own folders come later. Raises `OSError`, `ValueError`.
        """
        plan = sandbox.plan(spec, private, boxed=True)
        self.box, self.holder = hold(spec, private, self._above, group, meanwhile)
        self.held = held(self.box)
        if lacks_own:
            self._lender = Lender(self._above)
        for fd in self._above:
            os.close(fd)
        self._above = []
        descriptors = namespaces.of(self.held)
        self._meet()
        if group is not None:
            group.take(self.pid)
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._orders.settimeout(_SETUP_SECONDS)
        listen = plan[2][1]
        with theirs:
            _send(self.channel, shepherd.box(listen), [theirs.fileno(), *descriptors])
        for fd in descriptors:
            os.close(fd)
        if listen:
            head, lent, _, _ = socket.recv_fds(self.channel, 8, 1)
            if lent:
                self.listener = socket.socket(fileno=lent[0])
            _expect(wire.receive(self.channel, head), "listening")

    def stands(self) -> None:
        """Wait until it is there. Raises `OSError`, `ValueError`."""
        assert self._orders is not None
        _expect(wire.receive(self._orders), "waiting")
        self.workload = next(iter(process.children(self.pid)), 0)

    def wait_beside(self, channel: socket.socket) -> bool:
        """Until something comes on `channel`; False when something of this ended before."""
        assert self.holder is not None
        assert self._orders is not None
        ears = select.poll()
        for one in (channel, self.channel, self.holder, self._orders):
            ears.register(one, select.POLLIN)
        return all(fd == channel.fileno() for fd, _ in ears.poll())

    def close(self) -> None:
        """Let go of the zygote's namespaces."""
        for fd in self._above:
            os.close(fd)
        self._above = []

    # -- the order -----------------------------------------------------------------------------

    def move(self, group: Group) -> None:
        """Into the control group of a workload that is known now. Raises `OSError`."""
        for pid in (self.box, *process.descendants(self.box), self.pid, *process.descendants(self.pid)):
            group.take(pid)

    @contextlib.contextmanager
    def lending(self, paths: Sequence[str]) -> Iterator[None]:
        """Mount the workload's own folders into the box while something else is done. Raises `OSError`, `ValueError`."""
        assert self._lender is not None
        mounts = os.open(f"/proc/{self.held}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._lender.lend(paths, mounts)
        finally:
            os.close(mounts)
        yield
        self._lender.finish()

    def order(self, plan: list[list[str]], descriptors: Sequence[int]) -> bool:
        """Say what to become; True when landlock holds it. Raises `OSError`, `ValueError`."""
        assert self._orders is not None
        _send(self._orders, plan, descriptors)
        if not self.workload:
            self.stands()
        ready = _expect(wire.receive(self._orders), "ready")
        self._orders.close()
        return ready[1] == "landlock"

    def _meet(self) -> None:
        """Learn from the kernel who it is. Raises `OSError`, `ValueError`."""
        message, ancillary, _, _ = self.channel.recvmsg(8, socket.CMSG_SPACE(64))
        found = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
        if not message or not found:
            raise ValueError("the zygote did not fork")
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        wire.receive(self.channel, message)
        self.pid = struct.unpack("3i", found[0])[0]
        self.started = process.start_time(self.pid) or 0
        if not self.started:
            raise ValueError("the zygote's fork ended at once")

    # -- its life ------------------------------------------------------------------------------

    def attend(self) -> None:
        """From now on news raise SIGIO instead of being waited for."""
        self.channel.setblocking(False)
        fcntl.fcntl(self.channel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self.channel, fcntl.F_GETFL)
        fcntl.fcntl(self.channel, fcntl.F_SETFL, flags | os.O_ASYNC)

    def hear(self) -> None:
        """Take in what was told: how the workload ended, or that nobody is there any more to tell it."""
        while not self.gone:
            try:
                part = self.channel.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                part = b""
            self.gone = not part
            self._data += part
        if self.status is None and len(self._data) >= 8:
            with contextlib.suppress(ValueError, IndexError):
                ((word, status, *times, peak),) = wire.unpack(self._data[8:])
                if word == "exited":
                    self.status = int(status)
                    self.cpu_seconds = sum(float(seconds) for seconds in times)
                    self.peak_bytes = int(peak) * 1024

    def members(self) -> list[int]:
        """The workload and all below it that has not moved to another parent."""
        return process.descendants(self.pid) if process.lives(self.pid, self.started) else []

    def lives(self) -> bool:
        return process.lives(self.pid, self.started)

    def let_go(self) -> None:
        """There is nothing more to hear: it ends, with all that is left below it."""
        self.channel.close()
        self.gone = True

    def undo(self) -> None:
        """Leave nothing of it, its box included."""
        self.let_go()
        self.close()
        for end in (self.holder, self.listener):
            if end is not None:
                end.close()
        while self.lives():
            process.signal_all([*self.members(), self.pid], signal.SIGKILL)
            time.sleep(0.002)


def _send(channel: socket.socket, message: list[list[str]], descriptors: Sequence[int]) -> None:
    data = wire.pack(message)
    sent = socket.send_fds(channel, [data], descriptors)
    if sent < len(data):  # who has heard all may have closed its end by now
        channel.sendall(data[sent:])


def _expect(message: list[list[str]] | None, word: str) -> list[str]:
    """The first group of a message that begins with `word`. Raises `ValueError` for any other, with what it says."""
    if message is None or message[0][0] != word:
        raise ValueError(": ".join(message[0]) if message else "the zygote's fork ended")
    return message[0]


def hold(
    spec: dict[str, Any],
    private: str,
    above: Sequence[int],
    group: Group | None,
    meanwhile: Callable[[], None],
) -> tuple[int, socket.socket]:
    """Build the box below the zygote's namespaces, `above`; bubblewrap's process, and the socket that keeps the box.

    `meanwhile` is done while bubblewrap is at work. Raises `OSError`, `ValueError` (then nothing is left of it).
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    told, teller = os.pipe2(os.O_CLOEXEC)
    launcher = os.getpid()
    argv = sandbox.holder(spec, private)
    between = os.fork()
    if between == 0:
        here.close()
        _enter_and_fork(argv, above, there, teller, launcher, group)
    there.close()
    os.close(teller)
    os.waitpid(between, 0)
    with open(told, "rb") as file:
        child = int(file.read() or b"0")
    try:
        here.sendall(b"\n")
        meanwhile()
        _await(here, child)
    except (OSError, ValueError):
        here.close()
        if child:
            process.signal_all([child], signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    return child, here


def _await(holder: socket.socket, child: int) -> None:
    """Until the box is there. Raises `ValueError` when bubblewrap, `child`, ended instead."""
    deadline = time.monotonic() + _SETUP_SECONDS
    holder.settimeout(0.2)
    while child and process.start_time(child) and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if holder.recv(16):
                return
            break
    raise ValueError("its box could not be built below the zygote's")


def _enter_and_fork(
    argv: list[str],
    box: Sequence[int],
    channel: socket.socket,
    teller: int,
    launcher: int,
    group: Group | None,
) -> None:
    """In a fork: enter, and leave a child there; it becomes the launcher's own as this one ends."""
    try:
        process.die_with_parent(launcher)
        if group is not None:
            group.enter()
        namespaces.enter(box[:2])
        child = os.fork()
        if child:
            os.write(teller, b"%d" % child)
            os._exit(0)
        os.close(teller)
        if not channel.recv(1):  # until the launcher is the parent: bubblewrap dies with whoever that is
            os._exit(0)
        os.setsid()
        namespaces.show_own_processes()  # bubblewrap looks its own up there
        process.volunteer()
        null = os.open("/dev/null", os.O_RDWR)
        for fd, target in ((null, 0), (2, 1), (channel.fileno(), _HOLDER_FD)):
            os.dup2(fd, target)
        os.set_inheritable(_HOLDER_FD, True)
        for fd in range(_HOLDER_FD + 1, 1024):
            if fd not in box[2:]:
                with contextlib.suppress(OSError):
                    os.close(fd)
        os.umask(0o022)
        process.start_afresh()
        namespaces.enter(box[2:])
        os.execve(argv[0], argv, {})
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"stratal: {type(error).__name__}: {error}\n".encode())
    os._exit(125)


def held(child: int) -> int:
    """The process in the box of bubblewrap's process `child`. Raises `ValueError` when there is none."""
    for init in process.children(child):
        for holder in process.children(init):
            return holder
    raise ValueError("its box ended at once")
