"""The processes in which a worker does small steps: each does one after the other for as long as steps keep to themselves.

A fork costs more than most small steps. But what a process has done stays in it: a value that a step read and kept in a
global would reach the next step without its credential having been seen to read it. So a process is shared only by steps
that leave nothing behind and reach nothing. One that connects to anything, starts a process, leaves a thread, or changes its
environment or folder is the last of its process. It is also held up at that very moment, until the platform's journal knows
that it has begun and all that came before it: what leaves a process must not rest on what only this machine knows.

The worker sends a task (pickled: both are one program) and gets lines of JSON back: ``{"outside": true}`` from a
step that wants out, which is answered with one byte, and at a step's end how it went.
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stratal.sdk.pipelines.authoring import Step

Json = dict[str, Any]
_OUTSIDE = frozenset(
    {
        *("socket.connect", "socket.sendto", "socket.sendmsg", "subprocess.Popen", "os.fork", "os.forkpty"),
        *("os.posix_spawn", "os.spawn", "os.system", "os.exec", "pty.spawn"),
    }
)
"""What Python says (`sys.addaudithook`) when something is about to leave its process."""
_LASTING = frozenset({"os.putenv", "os.unsetenv", "os.chdir", "os.fchdir"})
_MOST_GROWN_KB = 64 * 1024
_LOG_BYTES = 64 * 1024
_MOST_LOG = 16 * 1024 * 1024
GO = b"\n"
_TASKS = Path("/proc/self/task")
_ALONE = 3
"""The links of that folder where there is one thread, also of those that Python does not know."""


class Task(NamedTuple):
    """One attempt of a step: which, under which credential, with what."""

    step: int
    """The `id` of its `Step`, which both processes have in the same place."""
    name: str
    attempt: int
    key: tuple[str, str]
    given: Mapping[str, Any]


Become = Callable[[Task], None]
Do = Callable[[Step, Task], Json]
"""Do a step and say how it went, as a journal entry has it."""


@dataclass
class Process:
    """One of the worker's processes, as the worker sees it."""

    pid: int
    line: socket.socket
    log: int
    knows: frozenset[int]
    """The steps that there were when it was forked."""
    task: Task | None = None
    began: float = 0.0
    deadline: float | None = None
    kill_at: float | None = None
    timed_out: bool = False
    spent: bool = False
    """It does no further step."""
    is_outside: bool = False
    """Its step was let out."""
    shown: int = 0
    since: int = 0
    """Where in its log the present step's begins."""
    received: bytearray = field(default_factory=bytearray)

    def give(self, task: Task) -> bool:
        """Have it do this next; False when it cannot: it does not know the step, what is given does not pickle, or it is
        gone."""
        if task.step not in self.knows:
            return False
        try:
            body = pickle.dumps(tuple(task), pickle.HIGHEST_PROTOCOL)
        except Exception:
            return False
        try:
            self.line.sendall(len(body).to_bytes(4, "big") + body)
        except OSError:
            self.spent = True
            return False
        self.take(task)
        return True

    def take(self, task: Task) -> None:
        self.task, self.began = task, time.time()
        self.since = self.shown

    def said(self) -> list[Json]:
        """What it has said since, oldest first."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.line.recv(1 << 16, socket.MSG_DONTWAIT):
                self.received += data
                if len(data) < 1 << 16:
                    break
        *whole, rest = self.received.split(b"\n")
        self.received = bytearray(rest)
        return [json.loads(line) for line in whole]

    def let_out(self) -> None:
        """Answer a step that wants out."""
        self.is_outside = True
        with contextlib.suppress(OSError):
            self.line.sendall(GO)

    def show_log(self, end: int | None = None) -> None:
        """What its step has written since, to the worker's own log, each line with the step's name."""
        assert self.task is not None
        end = os.fstat(self.log).st_size if end is None else end
        new = bytearray()
        while self.shown < end and (data := os.pread(self.log, min(end - self.shown, 1 << 20), self.shown)):
            self.shown += len(data)
            new += data
        if new:
            for line in new.decode(errors="replace").splitlines():
                print(f"[{self.task.name}] {line}", flush=False)
            sys.stdout.flush()

    def log_of_step(self) -> str:
        """The last of what its step has written."""
        start = max(self.since, self.shown - _LOG_BYTES)
        return (
            os.pread(self.log, self.shown - start, start).decode(errors="replace")
            if self.shown > start
            else ""
        )

    def rest(self) -> None:
        """Its step has ended."""
        self.task = self.deadline = self.kill_at = None
        if self.shown > _MOST_LOG and not self.spent:
            os.ftruncate(self.log, 0)
            os.lseek(self.log, 0, os.SEEK_SET)
            self.shown = 0

    def signal(self, number: int) -> None:
        """To the process and all that it started; to itself alone while it is not a group of its own yet."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def gone(self) -> int | None:
        """How it ended (a signal as a negative number), with all that it started and left behind; None: it has not."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self.signal(signal.SIGKILL)  # while its number is its own
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        self.line.close()
        os.close(self.log)


def forked(
    steps: Mapping[int, Step], task: Task, become: Become, do: Do, others: Sequence[Process]
) -> Process:
    """A process that does `task`, and then what it is given; `become` is what it does before each, of its own accord."""
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        for other in others:
            other.close()
        _live(steps, task, become, do, theirs, log.fileno())
    theirs.close()
    process = Process(pid, ours, os.dup(log.fileno()), frozenset(steps))
    log.close()
    process.take(task)
    return process


def _live(
    steps: Mapping[int, Step], task: Task | None, become: Become, do: Do, line: socket.socket, log: int
) -> None:
    """In the forked process: do steps until one is the last, and never return."""
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        border = _Border(line)
        sys.addaudithook(border.hook)
        while task is not None:
            become(task)
            border.guarding = True
            try:
                told = do(steps[task.step], task)
            finally:
                border.guarding = False
            sys.stdout.flush()
            sys.stderr.flush()
            spent = border.is_spent()
            line.sendall(json.dumps({**told, "log": os.fstat(1).st_size, "spent": spent}).encode() + b"\n")
            task = None if spent else _next(line)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _next(line: socket.socket) -> Task | None:
    """None when the worker has gone. It sends one only when the one before has ended, so nothing follows it."""
    found = line.recv(1 << 16)
    while len(found) < 4 or len(found) < 4 + int.from_bytes(found[:4], "big"):
        more = line.recv(1 << 20)
        if not more:
            return None
        found += more
    return Task(*pickle.loads(found[4:]))  # noqa: S301 (from the process that this one was forked from)


class _Border:
    """What of a step gets out of the process, or stays in it."""

    def __init__(self, line: socket.socket) -> None:
        self.guarding = False
        self._line = line
        self._lasting = False
        self._crossing = threading.Lock()
        self._crossed = False
        self._grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _MOST_GROWN_KB

    def hook(self, event: str, _args: Any) -> None:
        if not self.guarding or self._crossed:
            return
        if event in _OUTSIDE:
            with self._crossing:
                if not self._crossed:
                    self._line.sendall(b'{"outside": true}\n')
                    if not self._line.recv(1):
                        os._exit(70)  # the worker has gone, or was told that the run is not its own any more
                    self._crossed = self._lasting = True
        elif event in _LASTING:
            self._lasting = True

    def is_spent(self) -> bool:
        """Has anything been left behind that the next step could find, or be attributed?"""
        if self._lasting or _TASKS.stat().st_nlink > _ALONE:
            return True
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._grown
