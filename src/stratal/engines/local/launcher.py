"""One attempt's guardian: starts it, holds its limits, ends its whole tree, writes how it ended.

It is a fork of the keeper outside of the sandbox, in its own session, and so outlives the keeper and
the server. Its files in the attempt's folder are the record:

    pid.json      it took the attempt on (created once: whoever fails to create it must not start);
                  durable, while the box is being built, before the workload's program runs
    started.json  the workload's program runs, so fenced
    imports.json  what the workload's program imports, and whether it was forked, for the keeper's zygotes
    usage.json    consumption and members of the tree, from time to time
    log           what the workload wrote to stdout and stderr
    exit.json     how it ended; written last, durably

If it is killed itself, the kernel kills the workload (PDEATHSIG, or bubblewrap's likewise), and nobody
can know an exit code. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time

from stratal.engines.local import (
    attempts,
    entry,
    forked,
    invocation,
    process,
    sandbox,
    shepherd,
    wire,
)
from stratal.engines.local.census import Census
from stratal.engines.local.cgroup import Group
from stratal.engines.local.gang import FIRST_LOG_FD
from stratal.engines.local.relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from stratal.engines.local.nursery import Offer

WALL_GRACE = 10.0
_SETUP_SECONDS = 30.0
_REPORT_EVERY = 5.0
_SHORTLY = 0.02
_LAST_WORDS_SECONDS = 5.0
_FILES = 65536
_SHELLS = frozenset(("sh", "dash", "bash", "zsh", "ash", "ksh", "busybox"))
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO, signal.SIGUSR1}


def launch(
    folder: str, nonce: str, status: int, offer: Offer | None, standing: forked.Fork | None = None
) -> None:
    """In a fork of the keeper, telling it on the descriptor `status`: be the launcher, until it is all over.

    `offer`: a zygote's fork may be had; `standing`: it is there already, with a box.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    spec = process.read_json(f"{folder}/spec.json")
    if spec is None or spec["nonce"] != nonce:
        sys.exit("the attempt is not mine")
    me = {"pid": os.getpid(), "started": process.start_time(os.getpid()), "boot": process.boot_id()}
    if not process.claim_json(f"{folder}/pid.json", me, durable=False):
        sys.exit("the attempt was taken on before")
    Launcher(folder, spec, status, offer, standing).run()


def detach(kept: Collection[int], log: str) -> None:
    """In a fork of the keeper: hold nothing of it but what is `kept`, and write to `log`."""
    os.setsid()
    tell_errors(log)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    for name in os.listdir("/proc/self/fd"):  # above all the lock
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    process.start_afresh()


def tell_errors(log: str) -> None:
    """Write to `log` from now on."""
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for target in (1, 2):
        os.dup2(errors, target)
    os.close(errors)


def title(folder: str, nonce: str) -> list[str]:
    """The command line that a launcher shows."""
    return [sys.executable, *sandbox.program("launcher"), folder, nonce]


class _Refused(Exception):
    """The workload's program was never started: for good (`final`), or because a fence could not be built."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Launcher:
    def __init__(
        self,
        folder: str,
        spec: dict[str, Any],
        status: int,
        offer: Offer | None,
        standing: forked.Fork | None = None,
    ) -> None:
        self.folder = folder
        self.teller = status
        self.offer = offer
        self.standing = standing
        self.fork: forked.Fork | None = None
        self.told: dict[str, Any] = {}
        self.workload = 0
        self.private = f"{folder}/private"
        self.spec = spec
        self.boxed = bool(spec["isolate"] and spec["engine"]["bubblewrap"])
        self.group: Group | None = None
        self.child = 0
        self.landlocked = False
        self.listener: socket.socket | None = None
        self.reason = ""
        self.kill_at: float | None = None
        self.frozen = 0
        self.status: int | None = None
        self.started_at = 0
        self.isolation: dict[str, Any] = {}
        self.secured = not spec.get("durable", True)

    def run(self) -> None:
        process.become_subreaper()
        self.log = os.open(f"{self.folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if self.spec["isolate"] and self.standing is None:
                sandbox.write_private(self.spec, self.private)
            self._make_group()
            if not self._fork():
                self._start()
        except _Refused as error:
            self._end_tree()
            self._refuse(str(error), final=error.final)
            return
        except OSError as error:
            self._end_tree()
            self._refuse(f"{error.strerror}: {error.filename}" if error.filename else str(error), final=False)
            return
        self._announce()
        process.rename(title(self.folder, self.spec["nonce"]))
        if self.listener is not None:
            Relay(self.listener, self.spec["engine"]["platform_socket"]).start()
        self._tell_imports()
        self._supervise()
        self._finish()

    # -- start ---------------------------------------------------------------------------------

    def _make_group(self) -> None:
        place = self.spec["engine"]["cgroup"]
        if not place or not (self.spec["memory_bytes"] or (self.spec["cpus"] and place["version"] == 2)):
            return
        group = Group(place["version"], place["path"], self.spec["attempt_id"])
        try:
            group.create(self.spec["memory_bytes"], self.spec["cpus"])
        except OSError:
            group.remove()
        else:
            self.group = group

    def _fork(self) -> bool:
        """Have a zygote fork the workload, when one is offered and that comes to the same as a start of its own."""
        if self.offer is not None:
            fork = forked.Fork(self.offer)
        elif self.standing is not None:
            fork = self.standing
        else:
            return False
        try:
            if self.offer is not None:
                order = self._order_of(fork)
                fork.stand(self.spec, self.private, self.group, self._secure)
            else:
                if self.group is not None:
                    fork.move(self.group)
                with fork.lending(sandbox.own_folders(self.spec)):
                    order = self._order_of(fork)
                    self._secure()
            self._give(fork, order)
        except forked.Differs as difference:
            self.told = {"differs": str(difference)}
        except (OSError, ValueError, IndexError) as error:
            self.told = {"failed": str(error)}
        else:
            self.child, self.fork, self.told = fork.box, fork, {"forked": True}
            self.workload, self.listener = fork.workload, fork.listener
            fork.attend()
            return True
        fork.undo()
        self._end_tree()
        self.landlocked = False
        return False

    def _order_of(self, fork: forked.Fork) -> list[list[str]]:
        """Raises `forked.Differs`."""
        run = forked.fit(self.spec, fork.report)
        plan = sandbox.plan(self.spec, self.private, boxed=True)
        return shepherd.plan(run, plan, _FILES, self.spec["processors"], sandbox.gang_words(self.spec))

    def _give(self, fork: forked.Fork, order: list[list[str]]) -> None:
        logs = list(self._rank_logs())
        self.landlocked = fork.order(order, [self.log, *logs])
        for fd in logs:
            os.close(fd)

    def _secure(self) -> None:
        if not self.secured:
            attempts.secure(self.folder)
            self.secured = True

    def _start(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        launcher = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            self._become(there, launcher)
        there.close()
        with here:
            here.settimeout(_SETUP_SECONDS)
            plan = sandbox.plan(self.spec, self.private, boxed=self.boxed)
            self._secure()
            with contextlib.suppress(BrokenPipeError):
                here.sendall(wire.pack(plan))
            try:
                self._hear(here, listens=bool(plan[2][1]))
            except (OSError, ValueError, IndexError) as error:
                raise _Refused(
                    f"the workload could not be set up: {error} {self._tail()}", final=False
                ) from error

    def _become(self, channel: socket.socket, launcher: int) -> None:
        """In the fork: take on what the workload inherits, then be `entry` or bubblewrap. Does not return."""
        try:
            process.die_with_parent(launcher)
            os.setsid()
            if self.group is not None:
                self.group.enter()
            null = os.open("/dev/null", os.O_RDWR)
            for fd, target in ((null, 0), (self.log, 1), (self.log, 2)):
                os.dup2(fd, target)
            if channel.fileno() != entry.CHANNEL_FD:
                os.dup2(channel.fileno(), entry.CHANNEL_FD)
            os.set_inheritable(entry.CHANNEL_FD, True)
            self._hand_over_logs()
            self._limit()
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            if self.boxed:
                argv = sandbox.command(self.spec, self.private)
                os.execve(argv[0], argv, {})
            entry.main([])
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(2, f"stratal: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(125)

    def _hand_over_logs(self) -> None:
        """Close all but what a gang's members write to: files of their own, in the order of their ranks."""
        os.closerange(entry.CHANNEL_FD + 1, 1024)
        for rank, opened in enumerate(self._rank_logs()):
            if opened != FIRST_LOG_FD + rank:
                os.dup2(opened, FIRST_LOG_FD + rank)
                os.close(opened)
            os.set_inheritable(FIRST_LOG_FD + rank, True)

    def _rank_logs(self) -> Iterator[int]:
        """Open what each of a gang's members writes to, one after the other."""
        gang = self.spec.get("gang") or {"nodes": 0, "procs_per_node": 0}
        for rank in range(gang["nodes"] * gang["procs_per_node"]):
            yield os.open(f"{self.folder}/log.{rank}", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def _limit(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        process.volunteer()
        if self.spec["processors"]:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self.spec["processors"])
        os.umask(0o022)

    def _hear(self, channel: socket.socket, *, listens: bool) -> None:
        """Follow `entry` until the workload's program took over. Raises `_Refused` when it did not."""
        if listens:
            head, descriptors, _, _ = socket.recv_fds(channel, 8, 1)
            if descriptors:
                self.listener = socket.socket(fileno=descriptors[0])
            message = wire.receive(channel, head)
            if message is None or message[0][0] != "listening":
                self._give_up(message)
        ready = wire.receive(channel)
        if ready is None or ready[0][0] != "ready":
            self._give_up(ready)
        else:
            self.landlocked = ready[0][1] == "landlock"
        refused = wire.receive(channel)
        if refused is not None:
            self._give_up(refused)
        self.workload = self.child

    def _give_up(self, message: list[list[str]] | None) -> None:
        if message is None or message[0][0] != "refused":
            said = self._tail() or "it said nothing"
            raise _Refused(f"the sandbox could not be built: {said}", final=False)
        raise _Refused(f"{self.spec['argv'][0]}: {message[0][2]}", final=True)

    def _tail(self) -> str:
        with open(f"{self.folder}/log", "rb") as file:
            return file.read()[-500:].decode(errors="replace").strip()

    def _refuse(self, message: str, *, final: bool) -> None:
        """Nothing was started: say so in the record and to the keeper, which then forgets the attempt."""
        if self.group is not None:
            self.group.remove()
        process.remove_tree(self.private)
        kind = "invalid" if final else "unavailable"
        process.write_json(f"{self.folder}/exit.json", {"refused": kind, "message": message})

    def _announce(self) -> None:
        self.started_at = time.time_ns() // 1_000_000
        self.isolation = self._isolation()
        started: dict[str, Any] = {
            "started_at": self.started_at,
            "isolation": self.isolation,
            "workload": self.workload,
            "workload_started": process.start_time(self.workload) if self.workload else None,
        }
        if self.fork is not None:
            started["shepherd"] = [self.fork.pid, self.fork.started]
        if self.group is not None:
            started["cgroup"] = self.group.path
        process.write_json(f"{self.folder}/started.json", started, durable=False)
        self._tell("started")

    def _tell(self, news: str) -> None:
        with contextlib.suppress(OSError):  # the keeper may be gone; the next one reads the record
            os.write(self.teller, news.encode() + b"\n")

    def _tell_imports(self) -> None:
        """Let the keeper's zygotes know what this workload imports, and how a fork went."""
        if not self.spec["engine"].get("zygotes"):
            return
        run = invocation.parse(self.spec)
        if run is not None:
            told = {"imports": [*self.spec["imports"], *invocation.imports(self.spec, run)], **self.told}
            with contextlib.suppress(OSError):
                process.write_json(f"{self.folder}/imports.json", told, durable=False)
                self._tell("imports")

    def _isolation(self) -> dict[str, Any]:
        memory = "none"
        if self.spec["memory_bytes"]:
            memory = f"cgroup{self.group.version}" if self.group is not None else "watchdog"
        closed = self.boxed and self.spec["network"] == "platform"
        closed = closed and self.spec["engine"]["bubblewrap"]["network"]
        others = [] if self.boxed else ["the machine's files"]
        others += [] if closed else ["the network"]
        return {
            "sandbox": "bubblewrap" if self.boxed else "none",
            "network": "platform" if closed else "open",
            "memory": memory,
            "landlock": self.landlocked,
            "start": "cold" if self.fork is None else "forked",
            "other_inputs": others,
        }

    # -- supervise -----------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Until the workload's first process ended and what it left behind is gone."""
        watched = self.spec["memory_bytes"] if self.group is None else None
        self.census = census = Census(self._members, watched)
        wall = self.spec["wall_seconds"]
        wall_at = time.monotonic() + wall if wall else None
        report_at = time.monotonic() + _REPORT_EVERY
        members: list[int] = []
        while self._reap():
            now = time.monotonic()
            if self.fork is not None and self.fork.gone:
                break
            if self.status is not None and (self.boxed or self.kill_at is None or now >= self.kill_at):
                break
            if now >= census.due:
                census.look()
                if census.over_limit() or (self.group is not None and self.group.ran_out()):
                    self._kill_for_memory()
                    continue
            if census.members != members or now >= report_at:
                members, report_at = census.members, now + _REPORT_EVERY
                self._report(census)
            if wall_at is not None and now >= wall_at:
                wall_at = None
                grace = float(self.spec.get("grace_seconds", WALL_GRACE))
                self._ask(f"wall time limit of {wall:g} s exceeded", grace)
            if self.kill_at is not None and now >= self.kill_at:
                self.kill_at = None
                self._end_tree()
                continue
            if self.frozen:
                self._thaw_shell()
            alarms = [
                census.due,
                *([now + _SHORTLY] if self.frozen else []),
                *(t for t in (wall_at, self.kill_at) if t is not None),
            ]
            told = signal.sigtimedwait(_SIGNALS, max(0.0, min(alarms) - time.monotonic()))
            if told is not None and told.si_signo == signal.SIGUSR1:
                census.begin_again()  # it dozed until now
                self._report(census)
            elif told is not None and told.si_signo not in (signal.SIGCHLD, signal.SIGIO):
                self._asked_to_stop()
        self._end_tree()

    def _reap(self) -> bool:
        """Collect what ended; False when no process of the tree is left."""
        herd = False
        if self.fork is not None:
            self.fork.hear()
            self.status = self.fork.status
            herd = self.fork.lives()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return herd
            if pid == 0:
                return True
            if pid == self.child and self.fork is None:
                self.status = status

    def _report(self, census: Census) -> None:
        members = [[pid, process.start_time(pid)] for pid in census.members]
        usage = {"usage": census.usage(ended=False), "members": members}
        with contextlib.suppress(OSError):  # a full disk must not end the workload
            process.write_json(f"{self.folder}/usage.json", usage, durable=False)

    def _asked_to_stop(self) -> None:
        order = process.read_json(f"{self.folder}/stop.json") or {}
        self._ask(str(order.get("reason", "stopped")), float(order.get("grace_seconds", WALL_GRACE)))

    def _ask(self, reason: str, grace: float) -> None:
        """SIGTERM to the whole tree once; SIGKILL when the (shortest) grace is over."""
        kill_at = time.monotonic() + grace
        first = self.kill_at is None
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        if first:
            self.reason = self.reason or reason
            workload = self._workload()
            self._freeze_shell(workload)
            process.signal_all([pid for pid in workload if pid != self.frozen], signal.SIGTERM)

    def _freeze_shell(self, workload: list[int]) -> None:
        """A shell dies of SIGTERM at once, and its end would cut short what it waits for (a box dies with its
        first process): hold it until its children have used their grace, and ask it then.
        """
        first = workload[0] if workload else 0
        if first and process.program_name(first) in _SHELLS and process.children(first):
            self.frozen = first
            process.signal_all([first], signal.SIGSTOP)

    def _thaw_shell(self) -> None:
        if self.frozen and not any(process.start_time(child) for child in process.children(self.frozen)):
            process.signal_all([self.frozen], signal.SIGTERM)
            process.signal_all([self.frozen], signal.SIGCONT)
            self.frozen = 0

    def _members(self) -> list[int]:
        """Every process of the tree but the shepherd, the workload's own first."""
        own = process.descendants(os.getpid())
        return own if self.fork is None else [*self.fork.members(), *own]

    def _workload(self) -> list[int]:
        """The workload's processes, without those that make its box, whose end would be everybody's at once."""
        members = self._members()
        if not self.boxed:
            return members
        wrapping = {self.child, *process.children(self.child)}
        if self.fork is not None:
            wrapping |= {self.fork.held}
        return [pid for pid in members if pid not in wrapping]

    def _kill_for_memory(self) -> None:
        self.reason = f"memory limit of {_size(self.spec['memory_bytes'])} exceeded"
        self._end_tree()

    def _end_tree(self) -> None:
        """SIGKILL until nothing is left. Orphans come to this process, so nothing can slip away."""
        patience = time.monotonic() + _LAST_WORDS_SECONDS
        while self._reap():
            if self.group is not None and self.group.version == 2 and self.fork is None:
                self.group.kill()
            process.signal_all(self._members(), signal.SIGKILL)
            if self.fork is not None:
                if time.monotonic() > patience:
                    self.fork.undo()
                elif self.fork.status is not None:
                    self.fork.let_go()
            signal.sigtimedwait({signal.SIGCHLD, signal.SIGIO}, 0.02 if self.fork is not None else 0.05)

    # -- finish --------------------------------------------------------------------------------

    def _finish(self) -> None:
        ended_at = time.time_ns() // 1_000_000
        code = _exit_code(self.status)
        if self.group is not None:
            if self.group.ran_out() and code != 0:
                self.reason = f"memory limit of {_size(self.spec['memory_bytes'])} exceeded"
            self.group.remove()
        reason = self.reason
        if not reason and code is not None and code > 128:
            with contextlib.suppress(ValueError):
                reason = f"exit code {code} stands for {signal.Signals(code - 128).name}"
        with contextlib.suppress(OSError):
            if self.reason:
                os.write(self.log, self._last_line(self.reason))
            os.fsync(self.log)
        fork = self.fork
        usage = self.census.usage(
            ended=True, apart=None if fork is None else (fork.cpu_seconds, fork.peak_bytes)
        )
        record: dict[str, Any] = {
            "started_at": self.started_at,
            "ended_at": ended_at,
            "exit_code": code,
            "reason": reason,
            "usage": usage,
            "isolation": self.isolation,
        }
        if code is None:
            record["lost"] = True
            record["reason"] = reason or "what watched over it was killed: nobody saw how it ended"
        self._write_record(record)
        self._tell("ended")  # now: clearing a large /tmp away takes its time
        process.remove_tree(self.private)

    def _write_record(self, record: dict[str, Any]) -> None:
        """The exit code must not be lost to a disk that is full for a while: try for as long as it takes."""
        while True:
            try:
                process.write_json(f"{self.folder}/exit.json", record)
            except FileNotFoundError:
                return  # the folder was taken away: nobody asks any more
            except OSError:
                select.select([], [], [], 1.0)
            else:
                return

    def _last_line(self, reason: str) -> bytes:
        size = os.fstat(self.log).st_size
        with open(f"{self.folder}/log", "rb") as file:
            file.seek(max(0, size - 1))
            broken = file.read(1) not in (b"", b"\n")
        return (b"\n" if broken else b"") + f"stratal: {reason}\n".encode()


def _exit_code(status: int | None) -> int | None:
    if status is None:
        return None
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count * 10 % unit == 0:
            return f"{count / unit:g} {name}"
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count} bytes"
