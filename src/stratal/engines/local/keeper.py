"""The keeper: starts launchers, watches them, tells who asks. One per run directory; outlives the server.

It may be killed at any moment: all it knows is on disk, written by the launchers, and a new keeper
reads it back (`attempts.Attempt.load`). A start is safe against that too. The intent (`spec.json`) is there
before a launcher is spawned, and only who creates `pid.json` may go on: a launcher to run the
workload, or a new keeper to declare that nothing was started. The latter is durable before the
workload's program runs, since that must be known after a power cut.

Protocol: lines of JSON over a unix stream socket that only the same user may reach, opened by the
token in the run directory. ``{"id": 1, "op": "start", …}`` is answered by ``{"id": 1, "ok": …}`` or
``{"id": 1, "error": [kind, message]}``; after ``watch`` come ``{"event": status}`` lines, unasked.
Standard library only; holds some ten megabytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time

from stratal.engines.local import launcher, process, sandbox
from stratal.engines.local.attempts import Attempt, Folder
from stratal.engines.local.nursery import Nursery, Offer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from stratal.engines.local.spares import Spare

PROTOCOL = 3
BUSY = 75
"""Exit code of a keeper that found another one in its place (EX_TEMPFAIL)."""
_LINE_LIMIT = 32 << 20
_POLL_SECONDS = 0.2
_STUCK_SECONDS = 20.0


def main(arguments: Sequence[str]) -> None:
    """``keeper --dir <run directory>``: returns (in the parent) once a keeper listens there."""
    run_dir = os.path.abspath(arguments[arguments.index("--dir") + 1])
    os.umask(0o077)
    os.makedirs(f"{run_dir}/attempts", mode=0o700, exist_ok=True)
    os.chmod(run_dir, 0o700)
    lock = os.open(f"{run_dir}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(BUSY)
    os.chdir("/")
    listener = _listen(run_dir)
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    log = os.open(f"{run_dir}/keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDWR)
    for fd, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, target)
    os.close(log)
    os.close(null)
    process.become_subreaper()
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    Keeper(run_dir, listener).run()


def _listen(run_dir: str) -> socket.socket:
    """Bind by way of the directory's descriptor: a socket's own path may have 107 bytes at most."""
    folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
    name = f"/proc/self/fd/{folder}/keeper.sock"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(name)
    os.chmod(name, 0o600)
    os.close(folder)
    process.write_json(f"{run_dir}/keeper.token", {"token": os.urandom(24).hex()}, durable=False)
    listener.listen(64)
    listener.setblocking(False)
    return listener


class _Refusal(Exception):
    """What a request is answered with when it cannot be done: a kind that the client knows, and why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Client:
    """A connection: what came in and is no whole line yet, what is to go out."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.trusted = False
        self.watching = False
        self.gone = False


class Keeper:
    def __init__(self, run_dir: str, listener: socket.socket) -> None:
        token = process.read_json(f"{run_dir}/keeper.token")
        assert token is not None
        self._token = token["token"]
        self._run_dir = run_dir
        self._folder = Folder(run_dir)
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._attempts: dict[str, Attempt] = {}
        self._clients: list[_Client] = []
        self._waiting: dict[str, list[tuple[_Client, int]]] = {}
        self._helpers: set[int] = set()
        self._leaving: tuple[_Client, int] | None = None
        self._stuck_at = 0.0
        self._done = False
        self._nursery = Nursery(run_dir, self._on, self._off, self._dozing)

    def run(self) -> None:
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        self._on(wake, lambda: self._signalled(os.read(wake, 512)))
        self._on(self._listener.fileno(), self._accept)
        for attempt in self._folder.load():
            self._attempts[attempt.id] = attempt
            if attempt.alive:
                self._watch_launcher(attempt)
        self._nursery.load()
        self._end_abandoned()
        gc.freeze()  # launchers are forks: what they share is not to be touched
        while not self._done:
            polled = [a for a in self._attempts.values() if a.alive and (a.pidfd < 0 or a.starting)]
            pause = self._nursery.tick()
            if polled or self._leaving:
                pause = _POLL_SECONDS
            for key, _ in self._selector.select(pause):
                if self._selector.get_map().get(key.fd) is key:  # else another of this round ended it
                    key.data()
            for attempt in polled:
                self._look(attempt)
            if self._leaving is not None:
                self._leave()

    def _on(self, fd: int, callback: Callable[[], None], events: int = selectors.EVENT_READ) -> None:
        self._selector.register(fd, events, callback)

    def _off(self, fd: int) -> None:
        self._selector.unregister(fd)

    def _signalled(self, signals: bytes) -> None:
        if set(signals) & {signal.SIGTERM, signal.SIGINT}:
            self._done = True  # workloads go on; the next keeper takes them over
        if signal.SIGCHLD in signals:
            self._reap()

    # -- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            channel, _ = self._listener.accept()
            peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", peer)[1] != os.getuid():
                channel.close()
                return
            channel.setblocking(False)
            client = _Client(channel)
            self._clients.append(client)
            self._on(channel.fileno(), lambda: self._serve(client))

    def _serve(self, client: _Client) -> None:
        try:
            if client.outgoing:
                self._flush(client)
            data = client.channel.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.incoming += data
        if not data or len(client.incoming) > _LINE_LIMIT:
            self._drop(client)
            return
        *lines, rest = client.incoming.split(b"\n")
        client.incoming = rest
        for line in lines:
            if not client.gone:
                self._handle(client, bytes(line))

    def _handle(self, client: _Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            number, operation = int(request["id"]), str(request["op"])
        except (ValueError, TypeError, KeyError):
            self._drop(client)
            return
        try:
            if operation == "hello":
                answer = self._hello(client, request)
            elif not client.trusted:
                raise _Refusal("denied", "say hello with the token of this directory first")
            else:
                handler = _OPERATIONS.get(operation)
                if handler is None:
                    raise _Refusal("invalid", f"no such operation: {operation}")
                answer = handler(self, client, number, request)
        except _Refusal as error:
            self._send(client, {"id": number, "error": [error.kind, str(error)]})
        except (KeyError, TypeError, ValueError) as error:
            self._send(client, {"id": number, "error": ["invalid", f"bad request: {error!r}"]})
        except OSError as error:
            self._send(client, {"id": number, "error": ["unavailable", str(error)]})
        else:
            if answer is not None:
                self._send(client, {"id": number, "ok": answer})

    def _send(self, client: _Client, message: dict[str, Any]) -> None:
        client.outgoing += json.dumps(message).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        if client.gone:
            return
        try:
            while client.outgoing:
                del client.outgoing[: client.channel.send(client.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.outgoing) > _LINE_LIMIT:
            self._drop(client)  # it does not read: it will connect again and be told all
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
        fd = client.channel.fileno()
        if self._selector.get_key(fd).events != events:
            self._selector.modify(fd, events, self._selector.get_key(fd).data)

    def _drop(self, client: _Client) -> None:
        if not client.gone:
            client.gone = True
            self._selector.unregister(client.channel.fileno())
            client.channel.close()
            self._clients.remove(client)

    def _broadcast(self, attempt: Attempt) -> None:
        for client in list(self._clients):
            if client.watching:
                self._send(client, {"event": attempt.status()})

    # -- operations ----------------------------------------------------------------------------

    def _hello(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("token") != self._token:
            raise _Refusal("denied", "this is not the token of this directory")
        client.trusted = True
        return {"pid": os.getpid(), "protocol": PROTOCOL}

    def _ping(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "protocol": PROTOCOL}

    def _list(self, client: _Client, number: int, request: dict[str, Any]) -> list[dict[str, Any]]:
        return [attempt.status() for attempt in self._attempts.values() if not attempt.starting]

    def _watch(self, client: _Client, number: int, request: dict[str, Any]) -> list[dict[str, Any]]:
        client.watching = True
        return self._list(client, number, request)

    def _start(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any] | None:
        spec = request["spec"]
        name = self._folder.check(spec["attempt_id"])
        attempt = self._attempts.get(name)
        if attempt is not None and not attempt.starting:
            return attempt.status()
        if attempt is None:
            if self._leaving is not None:
                raise _Refusal("unavailable", "the engine is shutting down")
            attempt = self._folder.intend(spec, self._free_processors(spec["cpus"]))
            self._attempts[name] = attempt
            try:
                attempt.seed = self._nursery.seed(spec)
                if attempt.seed is not None and spec.get("durable", True):
                    attempt.standing = sandbox.standing(spec)
                spare = self._nursery.spare(attempt.seed, spec)
                if spare is None or not self._order(attempt, spare):
                    self._spawn(attempt, self._nursery.offer(attempt.seed))
            except OSError:
                del self._attempts[name]
                self._clear(attempt)
                raise
        self._waiting.setdefault(name, []).append((client, number))
        return None

    def _warm(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
        """See that a zygote is there for workloads like this one, and stays."""
        spec = request["spec"]
        seed = None if self._leaving is not None else self._nursery.seed(spec)
        if seed is not None:
            self._nursery.want(seed, spec["imports"], renew=bool(request.get("renew")))
        return {"possible": seed is not None, "warm": self._nursery.is_warm(seed)}

    def _doze(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
        attempt = self._attempts.get(request["attempt_id"])
        if attempt is not None and attempt.alive and not attempt.starting:
            if request["dozing"]:
                attempt.dozing = True
            else:
                attempt.wake()
        return {}

    def _dozing(self) -> list[Attempt]:
        return [attempt for attempt in self._attempts.values() if attempt.dozing and attempt.alive]

    def _stop(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
        attempt = self._attempts.get(request["attempt_id"])
        if attempt is not None and attempt.alive:
            attempt.ask_to_stop(float(request["grace_seconds"]), str(request.get("reason", "stopped")))
        return {}

    def _release(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
        attempt = self._attempts.get(request["attempt_id"])
        if attempt is not None:
            if attempt.alive:
                raise _Refusal("conflict", f"{attempt.id} still runs: stop it first")
            del self._attempts[attempt.id]
            self._clear(attempt)
        return {}

    def _shutdown(self, client: _Client, number: int, request: dict[str, Any]) -> dict[str, Any] | None:
        if not request["kill"]:
            self._done = True
            return {}
        grace = float(request["grace_seconds"])
        self._leaving = (client, number)
        self._stuck_at = time.monotonic() + grace + _STUCK_SECONDS
        for attempt in self._attempts.values():
            if attempt.alive:
                attempt.ask_to_stop(grace, "stopped with the platform")
        self._leave()
        return None

    def _leave(self) -> None:
        assert self._leaving is not None
        alive = [attempt for attempt in self._attempts.values() if attempt.alive]
        if not alive and not self._nursery.end():
            client, number = self._leaving
            self._send(client, {"id": number, "ok": {}})
            self._done = True
        elif time.monotonic() > self._stuck_at:
            process.signal_all([attempt.pid for attempt in alive], signal.SIGKILL)

    # -- launchers -----------------------------------------------------------------------------

    def _free_processors(self, cpus: float | None) -> list[int]:
        """The processors to pin to: as many as asked for, those with the fewest workloads. Empty: all."""
        mine = sorted(os.sched_getaffinity(0))
        if cpus is None or cpus > len(mine) - 1:
            return []
        taken = dict.fromkeys(mine, 0)
        for attempt in self._attempts.values():
            if attempt.alive:
                for processor in attempt.processors:
                    taken[processor] = taken.get(processor, 0) + 1
        return sorted(mine, key=lambda processor: taken[processor])[: max(1, -int(-cpus // 1))]

    def _spawn(self, attempt: Attempt, offer: Offer | None) -> None:
        """Fork a launcher: it has all that it needs loaded, which a new interpreter would spend 50 ms on."""
        news, teller = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_launcher(attempt, teller, offer)
        except OSError:
            os.close(news)
            raise
        finally:
            os.close(teller)
            if offer is not None:
                offer.channel.close()
        self._launched(attempt, pid, process.start_time(pid) or 0, news)

    def _order(self, attempt: Attempt, spare: Spare) -> bool:
        """Have a launcher that waits take the attempt on; False when it has just ended."""
        news, teller = os.pipe2(os.O_CLOEXEC)
        try:
            spare.order(attempt.path, attempt.nonce, teller)
        except OSError:
            os.close(news)
            return False
        finally:
            os.close(teller)
            spare.channel.close()
        attempt.spare = spare.path
        self._launched(attempt, spare.pid, spare.started, news)
        return True

    def _order_again(self, attempt: Attempt) -> bool:
        """The launcher that waited for it was killed before it took it on: have a new one do so. False: there is none."""
        for which in ("news", "pidfd"):
            self._close(attempt, which)
        for left in (attempt.spare, f"{attempt.path}/private"):
            process.remove_tree(left)
        attempt.spare = ""
        try:
            self._spawn(attempt, self._nursery.offer(attempt.seed))
        except OSError as error:
            print(f"{attempt.id} has no launcher: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _launched(self, attempt: Attempt, pid: int, started: int, news: int) -> None:
        os.set_blocking(news, False)
        attempt.pid, attempt.started, attempt.news = pid, started, news
        self._on(news, lambda: self._told(attempt))
        self._watch_launcher(attempt)

    def _become_launcher(self, attempt: Attempt, teller: int, offer: Offer | None) -> None:
        """In the fork. Does not return."""
        code = 1
        try:
            kept = {teller, *(() if offer is None else (offer.channel.fileno(), *offer.box))}
            launcher.detach(kept, f"{attempt.path}/launcher.log")
            launcher.launch(attempt.path, attempt.nonce, teller, offer)
            code = 0
        except SystemExit as end:
            print(end, file=sys.stderr, flush=True)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _watch_launcher(self, attempt: Attempt) -> None:
        try:
            attempt.pidfd = os.pidfd_open(attempt.pid)
        except OSError as error:
            attempt.pidfd = -1  # no pidfd here, or it is gone already: looked at now and then
            if error.errno not in (errno.ESRCH, errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise
        else:
            self._on(attempt.pidfd, lambda: self._look(attempt))

    def _told(self, attempt: Attempt) -> None:
        """News over the launcher's pipe: sooner than its death, and only a hint to look at the record."""
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(attempt.news, 512)
            if not said:
                self._close(attempt, "news")
        self._look(attempt)
        if b"imports" in said and attempt.seed is not None and self._leaving is None:
            told = attempt.imports()
            self._nursery.learn(attempt.seed, told.pop("imports", ()), told)
            if attempt.standing is not None:
                self._nursery.keep_spare(attempt.seed, attempt.standing)

    def _look(self, attempt: Attempt) -> None:
        """See what the record says by now, and tell whoever waits for it."""
        if not attempt.alive:
            self._close(attempt, "pidfd")
            return
        was = attempt.starting
        dead = not process.lives(attempt.pid, attempt.started)
        if dead and attempt.was_never_taken() and self._order_again(attempt):
            return
        if not attempt.refresh(dead=dead):
            return
        if attempt.ended:
            self._close(attempt, "news")
            if attempt.lost:
                self._clear_strays(attempt)
        if attempt.refusal is not None:
            kind, message = attempt.refusal
            self._answer(attempt, {"error": [kind, message]})
            self._attempts.pop(attempt.id, None)
            self._clear(attempt)
            return
        if was:
            self._answer(attempt, {"ok": attempt.status()})
            self._end_orphans()  # left alone while it was starting
        self._broadcast(attempt)

    def _answer(self, attempt: Attempt, answer: dict[str, Any]) -> None:
        for client, number in self._waiting.pop(attempt.id, []):
            if not client.gone:
                self._send(client, {"id": number, **answer})

    def _close(self, attempt: Attempt, which: str) -> None:
        fd = getattr(attempt, which)
        if fd >= 0:
            self._selector.unregister(fd)
            os.close(fd)
            setattr(attempt, which, -1)

    def _clear(self, attempt: Attempt) -> None:
        """Forget its files; removing them may take long and is left to a child."""
        self._close(attempt, "news")
        self._close(attempt, "pidfd")
        trash = self._folder.discard(attempt)
        if os.path.isdir(f"{trash}/private"):
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 4096)  # above all the lock
                with contextlib.suppress(OSError, RecursionError):
                    process.remove_tree(trash)
                os._exit(0)
            self._helpers.add(pid)
        else:
            process.remove_tree(trash)

    # -- orphans -------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._helpers.discard(pid)
        self._end_orphans()

    def _end_orphans(self) -> None:
        """What comes here as a child without being a launcher lost its launcher to a kill: end it."""
        attempts = list(self._attempts.values())
        if any(attempt.starting and attempt.seed is not None for attempt in attempts):
            return  # one of them may be a shepherd whose zygote ended and whose launcher has not named it yet
        known = {attempt.pid for attempt in attempts} | self._helpers | self._nursery.members()
        known |= {attempt.shepherd() for attempt in attempts if attempt.alive}
        process.signal_all([pid for pid in process.children(os.getpid()) if pid not in known], signal.SIGKILL)

    def _clear_strays(self, attempt: Attempt) -> None:
        """After a launcher was killed: whatever the kernel did not end with it."""
        process.signal_all(attempt.strays(), signal.SIGKILL)
        self._end_abandoned()
        self._end_orphans()

    def _end_abandoned(self) -> None:
        """What was left of boxes by a kill in the middle of their building: nobody else would ever end it."""
        process.signal_all(process.abandoned_boxes(f"{self._run_dir}/"), signal.SIGKILL)


_OPERATIONS: dict[str, Callable[[Keeper, _Client, int, dict[str, Any]], Any]] = {
    "ping": Keeper._ping,
    "list": Keeper._list,
    "watch": Keeper._watch,
    "start": Keeper._start,
    "warm": Keeper._warm,
    "doze": Keeper._doze,
    "stop": Keeper._stop,
    "release": Keeper._release,
    "shutdown": Keeper._shutdown,
}
