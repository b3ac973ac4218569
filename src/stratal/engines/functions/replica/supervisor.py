"""The supervisor of a function's workers: one thread, one loop, nothing of what somebody wrote.

A plain handler gets a worker per call at a time, started when there is need for one; an ``async def`` handler one
worker for all. A call that takes too long is ended: by ending its worker, which is nobody else's (plain), or by
cancelling it, and only when that does not help by ending its worker with all that it is at (async).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque

from . import frames, worker
from .channel import Channel
from .failing import told
from .start import say_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG_LIMIT = 256 << 10
"""Of what one call writes, no more is kept."""
_LOAD_SECONDS = 300.0
_CANCEL_SECONDS = 2.0
_SURPLUS_SECONDS = 60.0
_LEAVE_SECONDS = 2.0
_CUT = b"\n[cut: a call's log is at most 256 KiB]\n"


class _Call:
    __slots__ = ("deadline", "ending", "inner", "logged", "number", "opening", "timeout", "worker")

    def __init__(self, number: int, inner: int, opening: bytes, timeout: float) -> None:
        self.number = number
        """The exchange's number on the server's connection; `inner` is the one that workers know."""
        self.inner = inner
        self.opening = opening
        self.timeout = timeout
        self.deadline = float("inf")
        self.ending = ""
        """``timeout`` or ``cancelled`` once it is being ended."""
        self.logged = 0
        self.worker: _Worker | None = None


class _Worker:
    __slots__ = ("born", "calls", "channel", "doomed", "log", "pid", "ready", "used")

    def __init__(self, pid: int, channel: Channel, log: int) -> None:
        self.pid = pid
        self.channel = channel
        self.log = log
        self.ready = False
        self.doomed = False
        """Killed, and not buried yet: it is given nothing more."""
        self.calls: dict[int, _Call] = {}
        self.born = self.used = time.monotonic()

    def kill(self) -> None:
        """End it and what it started."""
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self.pid, signal.SIGKILL)


def serve(listener: socket.socket, plan: dict[str, Any]) -> None:
    """Serve until SIGTERM. Ends this process with 1 when the handler cannot be loaded."""
    wakeup, waker = socket.socketpair()
    for end in (listener, wakeup, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Supervisor(listener, wakeup, plan).run()


class _Supervisor:
    def __init__(self, listener: socket.socket, wakeup: socket.socket, plan: dict[str, Any]) -> None:
        self._listener = listener
        self._wakeup = wakeup
        self._plan = plan
        self._most = int(plan["concurrency"])
        self._selector = selectors.DefaultSelector()
        self._server: Channel | None = None
        self._workers: dict[int, _Worker] = {}
        self._calls: dict[int, _Call] = {}
        """By the number that the server knows."""
        self._queue: deque[_Call] = deque()
        self._next = 0
        self._facts: dict[str, Any] | None = None
        self._greeted = False
        self._loads = True
        self._ending = False

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
        self._selector.register(self._wakeup, selectors.EVENT_READ, lambda _: self._woken())
        self._spawn()
        while not (self._ending and not self._calls):
            for key, mask in self._selector.select(self._pause()):
                key.data(mask)
            self._expire(time.monotonic())
        self._leave()

    def _pause(self) -> float | None:
        """How long nothing needs to be looked at."""
        now = time.monotonic()
        looks = [call.deadline for call in self._calls.values()]
        alive = [worker for worker in self._workers.values() if not worker.doomed]
        looks += [worker.born + _LOAD_SECONDS for worker in alive if not worker.ready]
        if len(alive) > 1:
            looks += [worker.used + _SURPLUS_SECONDS for worker in alive if worker.ready and not worker.calls]
        soonest = min(looks, default=float("inf"))
        return None if soonest == float("inf") else max(soonest - now, 0)

    # -- the server ----------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if self._server is not None:
            self._server.close()
            self._abandon()
        self._server = Channel(connection, self._selector, self._heard, self._lost)
        self._greeted = False
        self._greet()

    def _greet(self) -> None:
        """Say that calls are taken, once the handler is loaded and what an earlier server left behind is dead."""
        if self._server is None or self._greeted or self._facts is None:
            return
        if any(found.doomed for found in self._workers.values()):
            return
        self._greeted = True
        facts = {**self._facts, "pid": os.getpid()}
        self._server.send(frames.pack(0, frames.HELLO, json.dumps(facts).encode()))

    def _lost(self) -> None:
        """The server is gone (killed, perhaps): it will ask again for whatever it still wants."""
        self._server = None
        self._abandon()

    def _abandon(self) -> None:
        """End every call at once: whoever asks again must not run beside it."""
        self._queue.clear()
        self._calls.clear()
        for found in self._workers.values():
            if found.calls:
                found.doomed = True
                found.kill()

    def _heard(self, number: int, kind: int, body: bytes) -> None:
        if kind == frames.OPEN:
            self._open(number, body)
        elif kind == frames.PING:
            self._say(0, frames.PONG, b"")
        elif number in self._calls:
            call = self._calls[number]
            if kind == frames.CANCEL:
                self._cancel(call)
            elif kind == frames.CREDIT and call.worker is not None:
                call.worker.channel.send(frames.pack(call.inner, kind, body))

    def _open(self, number: int, body: bytes) -> None:
        self._next += 1
        call = _Call(number, self._next & 0xFFFFFFFF, body, float(self._plan["timeout"]))
        self._calls[number] = call
        self._queue.append(call)
        self._assign()

    def _cancel(self, call: _Call) -> None:
        if call.worker is None:
            self._queue.remove(call)
            self._finished(call, frames.END, b'{"cancelled":true}')
        else:
            self._end(call, "cancelled", at_once=False)

    def _say(self, number: int, kind: int, body: bytes) -> None:
        if self._server is not None:
            self._server.send(frames.pack(number, kind, body))

    # -- calls ---------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give waiting calls to workers that may take one."""
        while self._queue:
            free = self._free()
            if free is None:
                return
            call = self._queue.popleft()
            call.worker = free
            free.calls[call.inner] = call
            if free.ready:
                call.deadline = time.monotonic() + call.timeout
            free.channel.send(frames.pack(call.inner, frames.OPEN, call.opening))
            call.opening = b""

    def _free(self) -> _Worker | None:
        workers = [found for found in self._workers.values() if not found.doomed]
        if self._facts is not None and self._facts["async"]:
            return workers[0] if workers else self._spawn()
        idle = [found for found in workers if not found.calls]
        if idle:
            return max(idle, key=lambda found: (found.ready, found.used))
        return self._spawn() if len(workers) < self._most else None

    def _end(self, call: _Call, why: str, *, at_once: bool) -> None:
        """End a call that has a worker."""
        call.ending = call.ending or why
        if call.worker is None:
            return
        if at_once and not (self._facts is not None and self._facts["async"]):
            call.worker.doomed = True
            call.worker.kill()
        call.worker.channel.send(frames.pack(call.inner, frames.CANCEL))
        call.deadline = time.monotonic() + _CANCEL_SECONDS

    def _expire(self, now: float) -> None:
        for call in [found for found in self._calls.values() if now >= found.deadline]:
            if call.ending and call.worker is not None:
                call.worker.doomed = True
                call.worker.kill()
                call.deadline = float("inf")
            else:
                self._end(call, "timeout", at_once=True)
        alive = [found for found in self._workers.values() if not found.doomed]
        for found in alive:
            if not found.ready and now - found.born >= _LOAD_SECONDS:
                self._loads = False
                found.doomed = True
                found.kill()
            elif found.ready and not found.calls and len(alive) > 1 and now - found.used >= _SURPLUS_SECONDS:
                self._dismiss(found)
                return  # the others are looked at anew

    def _finished(self, call: _Call, kind: int, body: bytes) -> None:
        """Tell the server how a call ended, unless that server is gone."""
        if self._calls.get(call.number) is not call:
            return
        del self._calls[call.number]
        if call.ending == "timeout":
            kind, body = (
                frames.ERROR,
                told("timeout", "TimeoutError", f"It was ended after {call.timeout:g} s."),
            )
        self._say(call.number, kind, body)

    def _log(self, call: _Call, text: bytes) -> None:
        if self._calls.get(call.number) is not call:
            return
        room = LOG_LIMIT - call.logged
        call.logged += len(text)
        if room > 0:
            self._say(call.number, frames.LOG, text if len(text) <= room else text[:room] + _CUT)

    # -- workers -------------------------------------------------------------------------------

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                kept = sorted((theirs.fileno(), write))
                os.closerange(3, kept[0])
                os.closerange(kept[0] + 1, kept[1])
                os.closerange(kept[1] + 1, os.sysconf("SC_OPEN_MAX") if kept[1] < 1024 else kept[1] + 1024)
                worker.run(theirs, write, self._plan)
            finally:
                os._exit(1)
        theirs.close()
        os.close(write)
        os.set_blocking(read, False)
        made = _Worker(
            pid,
            Channel(
                ours,
                self._selector,
                lambda inner, kind, body: self._told(made, inner, kind, body),
                lambda: None,  # its end is heard of by SIGCHLD
            ),
            read,
        )
        self._selector.register(read, selectors.EVENT_READ, lambda _: self._drain(made))
        self._workers[pid] = made
        return made

    def _told(self, found: _Worker, inner: int, kind: int, body: bytes) -> None:
        if kind == frames.HELLO:
            self._became_ready(found, json.loads(body))
        elif kind == frames.FAILED:
            self._cannot_load(found, str(json.loads(body)["message"]))
        call = found.calls.get(inner)
        if call is None:
            return
        if kind in (frames.START, frames.DATA):
            if self._calls.get(call.number) is call and call.ending != "timeout":
                self._say(call.number, kind, body)
        elif kind == frames.LOG:
            self._log(call, body)
        elif kind in (frames.END, frames.ERROR):
            self._drain(found)
            del found.calls[inner]
            found.used = time.monotonic()
            self._finished(call, kind, body)
            self._assign()

    def _became_ready(self, found: _Worker, facts: dict[str, Any]) -> None:
        found.ready = True
        self._loads = True
        now = time.monotonic()
        for call in found.calls.values():
            call.deadline = now + call.timeout
        if self._facts is None:
            self._facts = facts
            print(f"loaded {self._plan['target']} in {facts['seconds']:.2f} s", flush=True)
            self._greet()

    def _cannot_load(self, found: _Worker, message: str) -> None:
        self._loads = False
        self._drain(found)
        print(message, flush=True)
        if self._facts is None:
            self._fail(message)
        for call in found.calls.values():
            self._finished(call, frames.ERROR, told("unloadable", "LoadError", message))
        found.calls.clear()

    def _fail(self, message: str) -> None:
        """It never loaded: say so to whoever wakes us, and end."""
        if self._server is not None:
            self._server.last_words(frames.pack(0, frames.FAILED, json.dumps({"message": message}).encode()))
        else:
            say_failed(self._listener, message)
        os._exit(1)

    def _drain(self, found: _Worker) -> None:
        """Take what the worker wrote: the one call's that it is at, or else the replica's own."""
        while True:
            try:
                text = os.read(found.log, 64 << 10)
            except (BlockingIOError, OSError):
                return
            if not text:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(found.log)
                return
            if len(found.calls) == 1:
                self._log(next(iter(found.calls.values())), text)
            else:
                with contextlib.suppress(OSError):
                    os.write(1, text)

    def _dismiss(self, found: _Worker) -> None:
        """Nobody needs it any more: it ends when it hears that nobody listens."""
        found.channel.close()
        found.doomed = True
        found.used = float("inf")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in self._wakeup.recv(4096) and not self._ending:
                self._ending = True
                self._selector.unregister(self._listener)
                self._listener.close()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._workers:
                self._bury(self._workers[pid], status)

    def _bury(self, found: _Worker, status: int) -> None:
        found.channel.drain()
        self._drain(found)
        del self._workers[found.pid]
        found.channel.close()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(found.log)
        os.close(found.log)
        if self._facts is None:
            self._fail(f"The process ended while it was loading {self._plan['target']}: {_how(status)}.")
        for call in found.calls.values():
            message = f"The function's process ended while it was at this call: {_how(status)}."
            self._finished(call, frames.ERROR, told("died", "ProcessEnded", message))
        if not self._workers and self._loads and not self._ending:
            self._spawn()  # so that the next call finds one ready
        self._greet()
        self._assign()

    def _leave(self) -> None:
        """Let the workers end well, for a moment."""
        for found in self._workers.values():
            found.channel.close()
        until = time.monotonic() + _LEAVE_SECONDS
        left = set(self._workers)
        while left and time.monotonic() < until:
            for pid in list(left):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        left.discard(pid)
            time.sleep(0.005)
        print("drained", flush=True)
        sys.stdout.flush()
        os._exit(0)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        more = " (out of memory, perhaps)" if number == signal.SIGKILL else ""
        return f"killed by signal {number}{more}"
    return f"exit code {os.WEXITSTATUS(status)}"
