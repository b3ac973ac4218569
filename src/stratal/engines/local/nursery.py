"""The keeper's zygotes: which are there, who may fork from them, and when they go.

One per environment and start variables, in a box of its own (without bubblewrap there are none), started when a
workload asked for it in vain, with what workloads of that environment import. `offer` gives a launcher what it
needs to have its workload forked; a zygote that is not warm yet offers nothing, and the workload starts cold.
One that lacks modules is replaced once the next is warm, so that nothing starts cold meanwhile.

Zygotes go when they were not used for a while, when all together hold more memory than allowed (the longest unused
first), and with the keeper, whose socket is their lifeline. What they forked lives on; but what only dozes, or waits to
become a workload (`spares`), counts as a part of its zygote and goes with it. A folder per zygote, for its log, its
report and its private files, is what the next keeper finds and clears away. Standard library only.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import socket
import struct
import sys
import time

from stratal.engines.local import invocation, namespaces, process, sandbox
from stratal.engines.local.shepherd import MOST_MEMBERS
from stratal.engines.local.spares import Spare, Spares
from stratal.engines.local.zygote import CONTROL_FD, MESSAGE, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from stratal.engines.local.attempts import Attempt

_NAMES_BYTES, _LONGEST_NAME = 100_000, 80
"""All of them fit into one message; beyond that those are forgotten that were not asked for the longest."""
_MOST_ZYGOTES, _MOST_KINDS = 12, 200
_TICK_SECONDS = 5.0
_PATIENCE = 150.0
_REPLACE_SECONDS = 10.0
_GIVE_UP_SECONDS = 600.0
_REST_SECONDS = 3600.0
_WANTED_SECONDS = 300.0
"""So long without a word that one is wanted, and it is not."""
_VARYING = ("STRATAL_", "AWS_", "MLFLOW_", "PYICEBERG_")
"""Variables that every workload gets with values of its own."""
_UNFIT = frozenset(("pyiceberg.catalog",))
"""What is known to read all variables when it is imported, and each workload's are others: found out it would cost the first
zygote of every environment that it is in."""
_STILL = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Keeps libraries from starting threads when they are imported, which no fork would have."""


class Kind:
    """All zygotes of one environment, one after the other: what was learned, and the present one."""

    def __init__(self, seed: dict[str, Any]) -> None:
        self.seed = seed
        self.imports: dict[str, None] = {}
        self.varying: set[str] = set()
        self.mismatched: dict[str, int] = {}
        self.unfit = set(_UNFIT)
        self.zygote: Zygote | None = None
        self.next: Zygote | None = None
        """Loads what the present one lacks, to take its place."""
        self.not_before = 0.0
        self.wanted_until = 0.0
        self._tops: frozenset[str] | None = None
        self.rests_until = 0.0
        """Until then none is started only because one is wanted."""

    def remember(self, names: Iterable[str]) -> None:
        """Workloads import these. What comes along with others is not one of them: it would crowd them out."""
        loaded = self.zygote.loaded if self.zygote is not None else ()
        for name in names:
            if _is_name(name) and (name in self.imports or name not in loaded):
                self.imports.pop(name, None)
                self.imports[name] = None
        spare = _NAMES_BYTES - sum(len(name) + 4 for name in self.imports)
        while spare < 0:
            oldest = next(iter(self.imports))
            del self.imports[oldest]
            spare += len(oldest) + 4

    def lacking(self, names: Iterable[str]) -> bool:
        """Would another zygote have any of these? Modules of the workload's own are in none: the environment has no such."""
        return any(name.partition(":")[0].partition(".")[0] in self._installed() for name in names)

    def _installed(self) -> frozenset[str]:
        """First parts of the names that can be imported in the environment; found when asked for first."""
        if self._tops is None:
            root = os.path.dirname(os.path.dirname(self.seed["python"]))
            found = set(sys.stdlib_module_names)
            for folder in glob.glob(f"{glob.escape(root)}/lib*/python3*/site-packages"):
                with contextlib.suppress(OSError):
                    found.update(name.partition(".")[0] for name in os.listdir(folder))
            self._tops = frozenset(found)
        return self._tops


class Zygote:
    """One process (with its warden and box, where there are boxes), from its start to its end."""

    def __init__(self, kind: Kind, path: str, control: socket.socket, pid: int) -> None:
        self.kind = kind
        self.path = path
        self.control = control
        self.outer = pid
        self.outer_started = process.start_time(pid) or 0
        self.pid = 0
        self.started = 0
        self.asked = tuple(kind.imports)
        self.report: dict[str, Any] | None = None
        self.loaded: frozenset[str] = frozenset()
        """All its modules, those too that came with what it was asked for."""
        self.box: list[int] = []
        self.born = self.used = time.monotonic()
        self.forks = 0
        self.failures = 0
        self.memory = 0


class Offer:
    """What a launcher needs for a fork: descriptors (its own channel, then the zygote's namespaces), and the report."""

    def __init__(self, channel: socket.socket, box: list[int], report: dict[str, Any]) -> None:
        self.channel = channel
        self.box = box
        self.report = report


class Nursery:
    """`dozing` tells which attempts only wait to be needed."""

    def __init__(
        self,
        run_dir: str,
        listen: Callable[[int, Callable[[], None]], None],
        deaf: Callable[[int], None],
        dozing: Callable[[], Iterable[Attempt]] = tuple,
    ) -> None:
        self._root = f"{run_dir}/zygotes"
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        self._listen = listen
        self._deaf = deaf
        self._dozing = dozing
        self._kinds: dict[str, Kind] = {}
        self._leaving: list[tuple[str, int, int]] = []
        """Folder, outer process, its start: let go, to be cleared away once nobody lives there."""
        self._limits: Mapping[str, Any] = {}
        self._next = 0.0
        self._spares = Spares(f"{run_dir}/spares", listen, deaf, self._fork)

    # -- asking ----------------------------------------------------------------------------------

    def seed(self, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a zygote for this workload would be made from; None when it is to be started cold."""
        engine = spec["engine"]
        box = engine["bubblewrap"]
        if not engine.get("zygotes") or not box or spec.get("devices"):
            return None  # without a box of its own a fork could not be fenced as strictly as a cold start
        gang = spec.get("gang")
        if gang and (gang.get("part") or gang["nodes"] * gang["procs_per_node"] > MOST_MEMBERS):
            return None
        if not (box["users"] and box["network"] and spec["network"] == "platform"):
            return None  # an open network cannot be entered from a closed one
        if invocation.parse(spec) is None:
            return None
        env = invocation.at_start(spec["env"])
        varying = [name for name in spec["env"] if name.startswith(_VARYING) and name not in env]
        made = {"python": spec["python"], "env": env, "varying": varying, "engine": engine}
        return {**made, "folder": _identity(spec["python"])}

    def offer(self, seed: dict[str, Any] | None) -> Offer | None:
        """A fork of the zygote of this kind, when one is warm."""
        zygote = self._of(seed)
        if zygote is None:
            return None
        zygote.used = time.monotonic()
        return self._fork(zygote)

    def spare(self, seed: dict[str, Any] | None, spec: dict[str, Any]) -> Spare | None:
        """One that waits and that this workload can be; it is the caller's then."""
        zygote = self._of(seed)
        spare = None if zygote is None else self._spares.take(zygote, spec)
        if zygote is not None and spare is not None:
            zygote.used = time.monotonic()
        return spare

    def keep_spare(self, seed: dict[str, Any], standing: dict[str, Any]) -> None:
        """See that one waits for the next workload that gets such a box."""
        zygote = self._of(seed)
        if zygote is not None:
            self._spares.want(zygote, standing)

    def _of(self, seed: dict[str, Any] | None) -> Zygote | None:
        """The warm zygote of this kind."""
        kind = None if seed is None else self._kinds.get(_key(seed))
        zygote = None if kind is None else kind.zygote
        return None if zygote is None or zygote.report is None else zygote

    def _fork(self, zygote: Zygote) -> Offer | None:
        assert zygote.report is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # who wrote is noted as it is written
        with theirs:
            try:
                socket.send_fds(zygote.control, [b"fork"], [theirs.fileno()])
            except OSError:
                ours.close()
                self._dismiss(zygote)
                return None
        zygote.forks += 1
        return Offer(ours, zygote.box, zygote.report)

    def is_warm(self, seed: dict[str, Any] | None) -> bool:
        kind = None if seed is None else self._kinds.get(_key(seed))
        if kind is None or kind.zygote is None or kind.zygote.report is None:
            return False
        return kind.next is None  # else a better one is nearly there

    def want(self, seed: dict[str, Any], names: Iterable[str], *, renew: bool) -> None:
        """See that a zygote is there and stays for workloads that may be started, importing `names`."""
        now = time.monotonic()
        kind = self._kinds.get(_key(seed))
        if not renew or kind is None or (kind.zygote is None and now >= kind.rests_until):
            self.learn(seed, names, {}, patient=False)
        if renew:
            self._kinds[_key(seed)].wanted_until = now + _WANTED_SECONDS

    def learn(
        self, seed: dict[str, Any], names: Iterable[str], told: Mapping[str, Any], *, patient: bool = True
    ) -> None:
        """A workload of this kind was started, importing `names`: see that a zygote is there for the next.

        `told`: what its launcher says of a fork that was offered (``differs``: a variable, ``failed``: why). `patient`:
        there may soon be more to learn.
        """
        self._limits = seed["engine"]["zygotes"]
        key = _key(seed)
        names = list(names)
        kind = self._kinds.setdefault(key, Kind(seed))
        for old in [k for k, other in self._kinds.items() if other is not kind and other.zygote is None][
            :-_MOST_KINDS
        ]:
            del self._kinds[old]
        kind.remember(names)
        self._heed(kind, told)
        zygote = kind.zygote
        if zygote is not None and zygote.report is not None:
            zygote.used = time.monotonic()
            settled = zygote.used - zygote.born > _REPLACE_SECONDS
            wanted = set(kind.imports) if settled else set() if patient else set(names) & set(kind.imports)
            if kind.next is None and kind.lacking(wanted - set(zygote.asked) - zygote.loaded):
                self._start(kind)
        if kind.zygote is None:
            self._start(kind)

    def _heed(self, kind: Kind, told: Mapping[str, Any]) -> None:
        differs = told.get("differs")
        if told.get("forked"):
            kind.mismatched.clear()
        if differs:
            kind.mismatched[differs] = kind.mismatched.get(differs, 0) + 1
            if kind.mismatched[differs] == 2 and kind.zygote is not None:  # no single odd one
                kind.varying.add(differs)
                for zygote in [kind.zygote, kind.next]:
                    if zygote is not None:
                        self._dismiss(zygote)
        if kind.zygote is None or "failed" not in told:
            return
        kind.zygote.failures += 1
        print(f"zygote of {kind.seed['python']}: a fork failed: {told['failed']}", flush=True)
        if kind.zygote.failures > 2:
            self._dismiss(kind.zygote)
            kind.not_before = time.monotonic() + _GIVE_UP_SECONDS

    # -- starting --------------------------------------------------------------------------------

    def _start(self, kind: Kind) -> None:
        now = time.monotonic()
        living = self._all()
        if now < kind.not_before or not os.path.exists(kind.seed["python"]):
            return
        if len(living) >= _MOST_ZYGOTES:
            self._dismiss(min(living, key=lambda zygote: zygote.used))
        path = f"{self._root}/{os.urandom(6).hex()}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            try:
                pid = _spawn(kind.seed, path, theirs)
            except OSError as error:
                ours.close()
                process.remove_tree(path)
                kind.not_before = now + _GIVE_UP_SECONDS
                print(f"zygote of {kind.seed['python']}: {error}", flush=True)
                return
        zygote = Zygote(kind, path, ours, pid)
        if kind.zygote is None:
            kind.zygote = zygote
        else:
            kind.next = zygote
        self._record(zygote)
        names = [name for name in kind.imports if not _is_part_of(name, kind.unfit)]
        varying = [*kind.varying, *kind.seed["varying"]]
        ours.send(json.dumps({"imports": names, "varying": varying}).encode())
        ours.setblocking(False)
        self._listen(ours.fileno(), lambda: self._told(zygote))
        self._next = min(self._next or now, now) + _TICK_SECONDS

    def _told(self, zygote: Zygote) -> None:
        try:
            data, ancillary, _, _ = zygote.control.recvmsg(MESSAGE, socket.CMSG_SPACE(64))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        kind, why = zygote.kind, ""
        unfit: list[str] | None = None
        try:  # what it has imported may tell anything
            report = json.loads(data) if data else None
            if report is not None and "unfit" not in report:
                self._warm(zygote, report, ancillary)
                return
            if report is not None:
                unfit, why = [str(name) for name in report["unfit"]], str(report["why"])
        except (ValueError, TypeError, LookupError, RecursionError, OSError) as error:
            unfit = None
            print(f"zygote of {kind.seed['python']}: {error}", flush=True)
        ready = zygote.report is not None
        self._dismiss(zygote)
        if unfit is not None:
            print(f"zygote of {kind.seed['python']}: without {', '.join(unfit)}: {why}", flush=True)
            is_news = not kind.unfit.issuperset(unfit)
            kind.unfit.update(unfit)
            if is_news:
                self._start(kind)
            else:
                kind.not_before = time.monotonic() + _GIVE_UP_SECONDS
        elif not ready:
            kind.not_before = time.monotonic() + _GIVE_UP_SECONDS

    def _warm(self, zygote: Zygote, report: dict[str, Any], ancillary: list[Any]) -> None:
        """It is ready to fork. Who it is comes from the kernel, what it says of itself is only compared with."""
        credentials = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
        zygote.pid = struct.unpack("3i", credentials[0])[0]
        zygote.started = process.start_time(zygote.pid) or 0
        kind = zygote.kind
        lists = {name: [str(word) for word in report[name]] for name in ("imports", "reads", "modules")}
        zygote.loaded = unpacked(str(report["loaded"]))
        zygote.box = namespaces.above(zygote.pid)
        zygote.report = {**lists, "env": {**kind.seed["env"], "HOME": sandbox.HOME}}
        zygote.used = time.monotonic()
        self._record(zygote)
        if kind.next is zygote and kind.zygote is not None:
            self._dismiss(kind.zygote)
        self._weigh()

    def _record(self, zygote: Zygote) -> None:
        """For the next keeper, and for people: `stratal status` shows it."""
        record = {
            "python": zygote.kind.seed["python"],
            "outer": [zygote.outer, zygote.outer_started],
            "zygote": [zygote.pid, zygote.started],
            "imports": [] if zygote.report is None else zygote.report["imports"],
            "warm": zygote.report is not None,
        }
        with contextlib.suppress(OSError):
            process.write_json(f"{zygote.path}/zygote.json", record, durable=False)

    # -- ending ----------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Let go of what is idle, too large or gone. Returns the seconds until the next call; None: none is needed."""
        now = time.monotonic()
        zygotes = self._all()
        if not zygotes and not self._leaving:
            self._next = 0.0
            return None
        if now >= self._next:
            self._next = now + _TICK_SECONDS
            for zygote in zygotes:
                if zygote.report is None and now - zygote.born > _PATIENCE:
                    zygote.kind.not_before = now + _GIVE_UP_SECONDS
                    self._dismiss(zygote)
                elif now - zygote.used > self._limits["idle_seconds"] and now > zygote.kind.wanted_until:
                    self._dismiss(zygote)
            self._weigh()
            self._rest()
            self._clear()
        soon = self._spares.tick(self._limits.get("idle_seconds", 0.0))
        return max(0.0, self._next - now) if soon is None else min(soon, max(0.0, self._next - now))

    def _weigh(self) -> None:
        """Measure the zygotes, and let the longest unused go while they hold too much in all; first what only waits."""
        zygotes = self._all()
        self._measure(zygotes)
        if self._spares.living() and sum(z.memory for z in zygotes) > self._limits["memory_bytes"]:
            self._spares.rest()
            self._measure(zygotes)
        zygotes.sort(key=lambda zygote: zygote.used)
        total = sum(zygote.memory for zygote in zygotes)
        for zygote in zygotes:
            if total <= self._limits["memory_bytes"]:
                return
            total -= zygote.memory
            if zygote.memory > self._limits["memory_bytes"]:
                zygote.kind.not_before = time.monotonic() + _GIVE_UP_SECONDS
            self._dismiss(zygote)

    def _measure(self, zygotes: Iterable[Zygote]) -> None:
        """What each holds, with all that dozes or waits and counts as a part of it."""
        for zygote in zygotes:
            pids = [zygote.pid] if zygote.pid else _family(zygote.outer)
            for attempt in self._dozing_of(zygote):
                pids += _family(attempt.pid) + (_family(attempt.shepherd()) if attempt.shepherd() else [])
            pids += self._spares.of(zygote)
            zygote.memory = sum(process.proportional(pid) for pid in pids)

    def _rest(self) -> None:
        """Of those that are wanted but were not used for a while, keep as many as a part of the memory holds."""
        now = time.monotonic()
        resting = [zygote for zygote in self._all() if now - zygote.used > self._limits["idle_seconds"]]
        resting.sort(key=lambda zygote: -zygote.used)
        held = 0
        for zygote in resting:
            held += zygote.memory
            if held > self._limits["resting_bytes"]:
                held -= zygote.memory
                zygote.kind.rests_until = now + _REST_SECONDS
                self._dismiss(zygote)

    def _dismiss(self, zygote: Zygote) -> None:
        """Let it go: it ends by itself as its socket closes, and is made to by the next look."""
        self._spares.dismiss(zygote)
        self._deaf(zygote.control.fileno())
        zygote.control.close()
        for fd in zygote.box:
            os.close(fd)
        zygote.box = []
        for attempt in self._dozing_of(zygote):  # without it, it would hold that memory alone
            attempt.ask_to_stop(0, "let go with what it was forked from")
        kind = zygote.kind
        if kind.zygote is zygote:
            kind.zygote, kind.next = kind.next, None
        elif kind.next is zygote:
            kind.next = None
        if zygote.report is None:  # it may be importing for long, and hear nothing
            process.signal_all(_family(zygote.outer), signal.SIGKILL)
        else:
            process.signal_all(
                [zygote.pid] if process.lives(zygote.pid, zygote.started) else [], signal.SIGKILL
            )
        self._leaving.append((zygote.path, zygote.outer, zygote.outer_started))
        self._next = time.monotonic() + min(_TICK_SECONDS, 0.5)

    def _all(self) -> list[Zygote]:
        pairs = [(kind.zygote, kind.next) for kind in self._kinds.values()]
        return [zygote for pair in pairs for zygote in pair if zygote is not None]

    def _dozing_of(self, zygote: Zygote) -> list[Attempt]:
        if zygote.kind.zygote is not zygote:
            return []  # nothing was forked from it yet
        return [a for a in self._dozing() if a.seed is not None and _key(a.seed) == _key(zygote.kind.seed)]

    def _clear(self) -> None:
        still = []
        for path, outer, started in self._leaving:
            if process.lives(outer, started):
                still.append((path, outer, started))
            else:
                process.remove_tree(path)
        self._leaving = still

    def load(self) -> None:
        """What an earlier keeper left: end its zygotes, and wait for the rest to go by itself."""
        self._spares.load()
        for name in os.listdir(self._root):
            path = f"{self._root}/{name}"
            record = process.read_json(f"{path}/zygote.json") or {}
            outer, started = record.get("outer", (0, 0))
            pid, since = record.get("zygote", (0, 0))
            if process.lives(pid, since):
                process.signal_all([pid], signal.SIGKILL)
            elif not pid and process.lives(outer, started):
                process.signal_all(_family(outer), signal.SIGKILL)
            self._leaving.append((path, outer, started))
        self._clear()

    def end(self) -> list[int]:
        """End all, with everything that lives in their boxes; returns the processes to wait for."""
        for zygote in self._all():
            self._dismiss(zygote)
        living = [outer for _, outer, started in self._leaving if process.lives(outer, started)]
        for outer in living:
            process.signal_all(reversed(_family(outer)), signal.SIGKILL)
        self._clear()
        return living + self._spares.living()

    def members(self) -> set[int]:
        """The keeper's own children among them."""
        outer = {zygote.outer for zygote in self._all()} | {outer for _, outer, _ in self._leaving}
        return outer | set(self._spares.living())


def _is_name(name: object) -> bool:
    """True for ``a.b`` and ``a.b:c`` of a reasonable length."""
    return (
        isinstance(name, str)
        and len(name) <= _LONGEST_NAME
        and all(part.isidentifier() for part in name.replace(":", ".").split("."))
    )


def _is_part_of(name: str, modules: set[str]) -> bool:
    """True when `name` (``a.b`` or ``a.b:c``) is one of these, or cannot be imported without importing one."""
    parts = name.partition(":")[0].split(".")
    return name in modules or any(".".join(parts[:count]) in modules for count in range(1, len(parts) + 1))


def _key(seed: Mapping[str, Any]) -> str:
    engine = seed["engine"]
    said = [seed["python"], seed.get("folder"), seed["env"], engine["bubblewrap"], engine["landlock"]]
    return json.dumps(said, sort_keys=True)


def _identity(python: str) -> list[int] | None:
    """Which folder the interpreter's environment is: one that was removed and built again at its place is another.

    A zygote's box holds on to the folder that it was made of, so its number is nobody else's meanwhile.
    """
    try:
        folder = os.stat(os.path.dirname(os.path.dirname(python)))
    except OSError:
        return None
    return [folder.st_dev, folder.st_ino]


def _family(pid: int) -> list[int]:
    return [pid, *process.descendants(pid)]


def _spawn(seed: Mapping[str, Any], path: str, control: socket.socket) -> int:
    """Start a zygote with its end of the socket, fenced as a workload of its own without any folder but its own."""
    python = seed["python"]
    private = f"{path}/private"
    work = f"{path}/work"
    os.makedirs(work, mode=0o700)
    spec = {
        "argv": [python],
        "env": {},
        "cwd": work,
        "python": python,
        "read_only": [os.path.dirname(os.path.dirname(python))],
        "read_write": [],
        "memory_bytes": None,
        "network": "platform",
        "isolate": True,
        "engine": seed["engine"],
    }
    sandbox.write_private(spec, private)
    argv = sandbox.nest(spec, private, {**seed["env"], **_STILL, "HOME": sandbox.HOME})
    log = os.open(f"{path}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd, target in ((null, 0), (log, 1), (log, 2), (control.fileno(), CONTROL_FD)):
            os.dup2(fd, target)
        os.set_inheritable(CONTROL_FD, True)
        os.closerange(CONTROL_FD + 1, 4096)
        process.start_afresh()
        process.volunteer()
        os.umask(0o022)
        os.chdir(work)
        os.execve(argv[0], argv, {})
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"stratal: {type(error).__name__}: {error}\n".encode())
    os._exit(125)
