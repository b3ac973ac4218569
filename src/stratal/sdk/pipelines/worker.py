"""The worker of a run: executes the pipeline function, asks the journal about steps, does the small ones.

One thread. It calls the pipeline function, which notes calls; whenever the function waits for a result, and at its
end, `_pump` brings the run forward: it tells the platform's journal what was called, what is ready and what has
ended (all that has gathered, in one request and one transaction), and does what the journal decides. Small steps
are done in processes forked from here (`processes`), each step under a credential of its own; big ones are jobs that
the platform starts.

Where nothing can be left of a small step from before, there is nothing to ask: it is begun at once, under one of the
credentials that the worker holds in store. What it came to, when it came of its arguments alone, is noted on this
machine's disk (`journal`), and what comes after it goes on from there; the platform is told a moment later. A step that
reaches out of its process is let out once the platform knows that it has begun, and of all that came before it; its
end is the platform's to decide.

Nothing here is remembered beyond the journals. A worker that was killed is started again, gives the platform what is left in
its own, executes the function again, and is answered for everything that has ended.
"""

import os
import re
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines import authoring, journal, lake, loading
from stratal.sdk.pipelines.authoring import Handle, Pipeline, Step, StepFailed, typed
from stratal.sdk.pipelines.doors import Doors, PlatformLake, Refused
from stratal.sdk.pipelines.execution import CheckFailed, checked, refs
from stratal.sdk.pipelines.fingerprint import fingerprint, text_fingerprint
from stratal.sdk.pipelines.local import filled
from stratal.sdk.pipelines.processes import Process, Task, forked
from stratal.sdk.pipelines.telling import Untold
from stratal.sdk.pipelines.values import Table, decode, digest, dumped, encode, moments, without_moments

Json = dict[str, Any]
_AT_ONCE = 400
"""So many ends do not gather any longer."""
_MOST_LOOKED_FOR = 250
_ASKED_AHEAD = 250
_LOOK_SECONDS = 0.4
_MOST_BYTES = 4 * 1024 * 1024
_GATHER_SECONDS = 0.2
"""So long what is to be told may gather while there is enough to do."""
_SYNC_SECONDS = 0.02
"""So long ends may gather that are noted on the disk with one sync."""
_TICK_SECONDS = 0.2
_MOST_IN_STORE = 400
_LEAST_IN_STORE = 8
_GRACE_SECONDS = 5.0
_ENDED = frozenset({"succeeded", "cached", "failed", "skipped", "cancelled"})
_GOOD = frozenset({"succeeded", "cached"})
_TEXTUAL = frozenset({"sql", "report"})
"""Steps whose text names tables."""


@dataclass(eq=False, slots=True)
class Node:
    """A call and how it stands. `state` is the journal's, but for ``called``: not told to the journal yet."""

    name: str
    step: Step
    arguments: Mapping[str, Any]
    after: list[str]
    code: str = ""
    state: str = "called"
    value: Any = None
    reason: str = ""
    named: frozenset[str] = frozenset()
    """Tables of its text that some of `after` may write; what else those give is nothing to it."""
    waits: set[str] = field(default_factory=set)
    """Those of `after` that have not ended."""
    ask: bool = False
    """Whether it is done, and under which credential, is the platform's to say."""
    given: Mapping[str, Any] = field(default_factory=dict)
    encoded: Json = field(default_factory=dict)
    attempt: int = 0
    key: tuple[str, str] = ("", "")
    part: str = ""
    """The credential from the store under which it was begun without asking."""
    shown: bool = False
    """Was the platform told that it has begun?"""
    opened: bool = False


@dataclass
class Worker:
    """`run` drives the pipeline to its end."""

    doors: Doors
    run_id: str
    epoch: int
    parallel: int
    known: dict[str, Json]
    root: Path
    journal: journal.Journal
    asks: bool = False
    """Is everything asked about? (A replay's worker does.)"""
    looks_back: bool = True
    """May anything be left of an earlier run of this pipeline?"""
    tried: frozenset[str] = frozenset()
    """Steps that an earlier worker of the run began: so another attempt is asked for."""
    nodes: dict[str, Node] = field(default_factory=dict)
    unended: dict[str, Node] = field(default_factory=dict)
    open: deque[Node] = field(default_factory=deque)
    """Those that nothing is waited for any more, and that have not been begun or asked about."""
    untold: Untold = field(default_factory=Untold)
    ready: deque[Node] = field(default_factory=deque)
    """To be done as soon as there is a process for it."""
    processes: list[Process] = field(default_factory=list)
    store: deque[tuple[str, str, str]] = field(default_factory=deque)
    remote: set[str] = field(default_factory=set)
    later: list[tuple[float, Node]] = field(default_factory=list)
    """To be tried again, and when."""
    looked: float = 0.0
    gathering: float | None = None
    """Since when entries wait to be told."""
    partition: str | None = None
    """The one whose steps are being called."""
    _counts: dict[str, int] = field(default_factory=dict)
    _codes: dict[int, str] = field(default_factory=dict)
    _told: dict[int, Json] = field(default_factory=dict)
    _written: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each partition, the tables that a step's text says it writes, and that step."""
    _others: dict[str, list[str]] = field(default_factory=dict)
    """Of each partition, the steps that may write any table."""
    _dependents: dict[str, list[Node]] = field(default_factory=dict)
    _steps: dict[int, Step] = field(default_factory=dict)
    _left: dict[tuple[str, str], frozenset[str] | None] = field(default_factory=dict)
    """Of what results are left from before, by step and code: what those steps were given. None: of too many to tell."""
    _looked_for: set[tuple[str, str]] = field(default_factory=set)
    """Of which that is to be asked."""
    _unsynced: set[str] = field(default_factory=set)
    """Steps whose ends are noted and may not be on the disk yet."""
    _noted: float = 0.0
    """Since when there are such."""
    _awaited: str | None = None
    _opened: int = 0
    """How many of the unended were asked about, or may be done."""
    _taken: int = 0
    _urgent: bool = False
    """Does anything to be told wait for its answer?"""
    _weight: int = 0
    """Bytes of what is noted and not told."""
    _held: dict[str, str] = field(default_factory=dict)
    """The variables that hold the worker's credential, with marks in its place."""

    # -- what the pipeline function calls ------------------------------------------------------

    def call(self, step: Step, arguments: Mapping[str, Any], index: int | None) -> Handle:
        place = "" if self.partition is None else f"@{self.partition}"
        number = self._counts.get(step.name + place, 0)
        self._counts[step.name + place] = number + 1
        name = (step.name if number == 0 and index is None else f"{step.name}[{number}]") + place
        after = list(dict.fromkeys(_handles(dict(arguments))))
        named: frozenset[str] = frozenset()
        if step.kind in _TEXTUAL:
            named = self._named(step, place, after)
        elif step.into is None:
            self._others.setdefault(place, []).append(name)
        if step.into is not None:
            self._written.setdefault(place, {})[step.into] = name
        node = Node(name, step, arguments, after, self._code(step), named=named)
        self.nodes[name] = node
        self._steps[id(step)] = step
        known = self.known.get(name)
        self.unended[name] = node
        if known is not None and known["state"] in _ENDED:
            self._learn(node, known)
            return Handle(self, name, step.into)
        node.waits = {before for before in after if before in self.unended}
        for before in node.waits:
            self._dependents.setdefault(before, []).append(node)
        if not node.waits:
            self.open.append(node)
        self.untold.call(
            {**self._told_of(step), "name": name, "after": after, "code": node.code, "index": index}
        )
        return Handle(self, name, step.into)

    def _named(self, step: Step, place: str, after: list[str]) -> frozenset[str]:
        """Add to `after` who may write what the text refers to; the tables of which nothing more is known.

        Where no handle says so, a step of Python that was called before may have been meant to write it.
        """
        written, is_told = self._written.get(place, {}), bool(after)
        named = [ref for ref in refs(step.text) if ref not in written]
        after += [written[ref] for ref in refs(step.text) if ref in written and written[ref] not in after]
        if is_told or not named:
            return frozenset()
        before = set(after)
        after += [other for other in self._others.get(place, ()) if other not in before]
        return frozenset(named)

    def result(self, handle: Handle) -> Any:
        node = self.nodes[handle.name]
        self._awaited = node.name
        while not self._is_answered():
            self._pump()
        self._awaited = None
        if node.state not in _GOOD:
            raise StepFailed(f"Step {node.name} {node.state}: {node.reason}")
        return node.value

    def finish(self) -> None:
        """Until every call has ended, and the platform's journal knows."""
        while self.unended or self.untold:
            self._pump()

    def _told_of(self, step: Step) -> Json:
        """What each call of a step tells of it, but for what the journal takes for granted."""
        told = self._told.get(id(step))
        if told is None:
            options = step.options
            own = {
                "doc": step.doc[:2000],
                "timeout_seconds": options.timeout,
                "cpus": options.cpus,
                "memory_bytes": options.memory_bytes,
                "gpus": options.gpus,
                "gpu_type": options.gpu_type,
                "requirements": options.requirements,
                "network": options.network,
                "retries": options.retries,
            }
            told = {"do": "call", "step": step.name, "kind": step.kind}
            told |= {name: value for name, value in own.items() if value}
            flags = {"small": options.is_small, "cache": options.cache, "replay": options.replay}
            told |= {name: False for name, value in flags.items() if not value}
            self._told[id(step)] = told
        return told

    def _code(self, step: Step) -> str:
        known = self._codes.get(id(step))
        if known is None:
            if step.function is not None:
                known = fingerprint(step.function, self.root)
            else:
                known = text_fingerprint(step.kind, step.text, step.into or "", step.mode, *step.keys)
            if step.checks:
                known = text_fingerprint(known, *[repr(check) for check in step.checks])
            self._codes[id(step)] = known
        return known

    # -- bringing the run forward ------------------------------------------------------------------

    def _pump(self) -> None:
        self._open_later()
        self._open_all()
        self._launch()  # before the disk is waited for
        self._settle()
        if not self._is_answered() and not self._tell():
            self._hear()

    def _is_answered(self) -> bool:
        """Does the pipeline function go on?"""
        name = self._awaited
        return name is not None and self.nodes[name].state in _ENDED and name not in self._unsynced

    def _open_later(self) -> None:
        now = time.monotonic()
        if self.later and any(at <= now for at, _ in self.later):
            self.open.extend(node for at, node in self.later if at <= now)
            self.later = [(at, node) for at, node in self.later if at > now]

    def _open_all(self) -> None:
        """Begin, or ask about, every step whose inputs are there, and pass over those that can never start."""
        undecided: list[Node] = []
        while self.open and self._opened < _ASKED_AHEAD:
            node = self.open.popleft()
            before = [self.nodes[name] for name in node.after]
            bad = next((one for one in before if one.state not in _GOOD), None)
            if bad is not None:
                why = f"{bad.name} {bad.state} before it"
                self._ask({"do": "skip", "name": node.name, "reason": why})
                continue
            if not self._is_decided(node):
                undecided.append(node)
                self._looked_for.add((node.step.name, node.code))
                continue
            node.given, _ = filled(dict(node.arguments), {one.name: one.value for one in before})
            if node.step.kind in _TEXTUAL:  # what came before by its name alone pins its table too
                node.given = {**node.given, "after": [*node.given.get("after", []), *_pinned(node, before)]}
            try:
                node.encoded = encode(node.given)
                dumped(node.encoded)
            except TypeError as error:
                self._ask({"do": "skip", "name": node.name, "reason": str(error), "failed": True})
                continue
            node.ask, node.opened = self._is_asked_about(node), True
            self._opened += 1
            if node.ask:
                self._ask({"do": "start", "name": node.name, "arguments": node.encoded})
            else:
                self.ready.append(node)
        self.open.extend(undecided)

    def _is_decided(self, node: Node) -> bool:
        """Is it known who says whether it is done? Where something may be left of it, that is asked first."""
        return (
            self._must_ask(node) or not self._may_be_left(node) or (node.step.name, node.code) in self._left
        )

    def _must_ask(self, node: Node) -> bool:
        return self.asks or node.ask or node.name in self.tried or not node.step.options.is_small

    def _may_be_left(self, node: Node) -> bool:
        return self.looks_back and node.step.options.cache

    def _is_asked_about(self, node: Node) -> bool:
        """Is it the platform's to say whether it is done?"""
        if self._must_ask(node) or not self._may_be_left(node):
            return self._must_ask(node)
        left = self._left[node.step.name, node.code]
        return left is None or is_among(left, node.encoded)

    def _ask(self, entry: Json) -> None:
        self.untold.add(entry)
        self._urgent = True

    def _tell(self) -> bool:
        """Give the journal what has gathered, and take its decisions."""
        looking = bool(self.remote) and time.monotonic() - self.looked > _LOOK_SECONDS
        short = bool(self.ready) and not self.store and not self.ready[0].ask
        short = short or bool(self._looked_for)
        due = bool(self.untold) and not self._may_gather()
        if not looking and not short and not due and not self._unseen():
            return False
        self._tell_now(calls=due and not short)
        return True

    def _tell_now(self, *, calls: bool = False) -> None:
        for process in self._unseen():
            self._tell_begun(process)
        self.gathering = None
        some = self.untold.page(calls=calls)
        self._urgent = self._urgent and self.untold.entries > 0
        pairs = sorted(self._looked_for)[:_MOST_LOOKED_FOR]
        asked = {"watch": sorted(self.remote), "want": self._wanted(), "look": pairs}
        body = {"epoch": self.epoch, "entries": some, **asked}
        answer = self.doors.json("POST", self.doors.path(f"/pipelines/runs/{self.run_id}/journal"), body)
        self.looked = time.monotonic()
        if not self.untold.entries:  # what was noted is in the platform's journal now
            self._unsynced.clear()
            if self.journal.told():
                self.untold.note_again()
            self._weight = 0
        for decision in answer["decisions"]:
            self._decide(self.nodes[decision["name"]], decision)
        for pair, left in zip(pairs, answer["left"], strict=True):
            self._left[pair] = None if left is None else frozenset(left)
        self._looked_for.difference_update(pairs)
        self.store.extend((part, id_, secret) for part, id_, secret in answer["store"])

    def _wanted(self) -> int:
        """How many credentials the store is to be filled up with, when it is half empty."""
        if self.asks:
            return 0
        full = min(_MOST_IN_STORE, max(_LEAST_IN_STORE, len(self.unended), self._taken))
        return full - len(self.store) if 2 * len(self.store) < full else 0

    def _unseen(self) -> list[Process]:
        """Those that have done something for a while of which whoever looks at the run does not see that it has begun."""
        since = time.time() - _GATHER_SECONDS
        return [
            process
            for process in self.processes
            if process.task is not None and process.began < since and self._is_hidden(process.task)
        ]

    def _is_hidden(self, task: Task) -> bool:
        node = self.nodes[task.name]
        return bool(node.part) and not node.shown

    def _tell_begun(self, process: Process) -> None:
        assert process.task is not None
        node = self.nodes[process.task.name]
        if self._is_hidden(process.task):
            began = {"part": node.part, "began": round(1000 * process.began)}
            self.untold.add({"do": "start", "name": node.name, "arguments": node.encoded, **began})
            node.shown = True

    def _may_gather(self) -> bool:
        """May entries wait for others, to be one request and one transaction with them? Nothing waits for their answers
        while there is something to do without."""
        if self.untold.entries >= _AT_ONCE or self._weight > _MOST_BYTES:
            return False
        busy = sum(process.task is not None for process in self.processes)
        if not busy or (self._urgent and busy < self.parallel and not self.ready):
            return False
        now = time.monotonic()
        if self.gathering is None:
            self.gathering = now
        return now < self.gathering + _GATHER_SECONDS

    def _decide(self, node: Node, decision: Json) -> None:
        if node.state in _ENDED:
            return
        match decision["decision"]:
            case "run":
                node.state = "running"
                node.attempt, node.key = decision["attempt"], tuple(decision["key"])
                self.ready.append(node)
            case "job":
                node.state = "running"
                self.remote.add(node.name)
            case "again":
                node.state, node.ask, node.part, node.opened = "waiting", True, "", False
                self._opened -= 1
                self.later.append((time.monotonic() + decision["seconds"], node))
                self.remote.discard(node.name)
            case "ended":
                self._learn(node, decision)
            case "noted":
                node.state = "waiting" if node.state == "called" else node.state

    def _learn(self, node: Node, told: Json) -> None:
        self._end(node, told["state"], told.get("reason") or "", decode(told.get("output")))
        if node.state == "cached":
            print(f"[{node.name}] cached: {node.reason}", flush=True)
        elif node.state != "succeeded":
            print(f"[{node.name}] {node.state}: {node.reason}", flush=True)

    def _end(self, node: Node, state: str, reason: str, value: Any) -> None:
        node.state, node.reason, node.value = state, reason, value
        node.given, node.encoded = {}, {}
        self.unended.pop(node.name, None)
        self._opened -= node.opened
        self.remote.discard(node.name)
        for other in self._dependents.pop(node.name, ()):
            other.waits.discard(node.name)
            if not other.waits:
                self.open.append(other)

    # -- small steps ---------------------------------------------------------------------------

    def _launch(self) -> None:
        while self.ready and sum(process.task is not None for process in self.processes) < self.parallel:
            node = self.ready[0]
            if not node.ask and not node.attempt:
                if not self.store:
                    return
                node.part, *key = self.store.popleft()
                node.attempt, node.key, node.state = 1, (key[0], key[1]), "running"
                self._taken += 1
            self.ready.popleft()
            task = Task(id(node.step), node.name, node.attempt, node.key, node.given)
            process = self._process(task)
            limit = node.step.options.timeout
            process.deadline = None if limit is None else time.monotonic() + limit

    def _process(self, task: Task) -> Process:
        """One that does the task."""
        idle = [process for process in self.processes if process.task is None and not process.spent]
        for process in idle:
            if process.give(task):
                return process
        if sum(not process.spent for process in self.processes) >= self.parallel and idle:
            idle[0].spent = True  # it does not know what there is to do: another takes its place
            idle[0].signal(signal.SIGKILL)
        process = forked(self._steps, task, self._become, _be_done, self.processes)
        self.processes.append(process)
        return process

    def _become(self, task: Task) -> None:
        """In a process of its own: be the step, for everything that is asked of the platform from now on."""
        if not self._held:
            own = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
            for name, value in os.environ.items():
                if own[0] in value or own[1] in value:
                    self._held[name] = value.replace(own[0], _MARKS[0]).replace(own[1], _MARKS[1])
            authoring._running.clear()
        for name, value in self._held.items():
            os.environ[name] = value.replace(_MARKS[0], task.key[0]).replace(_MARKS[1], task.key[1])
        os.environ["STRATAL_STEP"] = task.name
        os.environ["STRATAL_STEP_ATTEMPT"] = str(task.attempt)
        lake.use(PlatformLake(Doors.of_environment(), self.run_id, task.name, task.attempt))

    def _hear(self) -> None:
        """Wait until something happens, for a moment, and take it in."""
        busy = [process for process in self.processes if process.task is not None]
        lines = {process.line.fileno(): process for process in busy}  # closed when a process ends
        heard = {
            line for line in select.select(list(lines), [], [], self._pause())[0] if self._listen(lines[line])
        }
        for process in list(self.processes):
            if process.line.fileno() not in heard:  # whoever speaks is there
                self._watch(process)

    def _pause(self) -> float:
        now = time.monotonic()
        pause = _LOOK_SECONDS if self.remote or not self.processes else _TICK_SECONDS
        if self.gathering is not None:
            pause = min(pause, max(0.0, self.gathering + _GATHER_SECONDS - now))
        if self._unsynced:
            pause = min(pause, max(0.0, self._noted + _SYNC_SECONDS - now))
        for at, _ in self.later:
            pause = min(pause, max(0.0, at - now))
        return pause

    def _listen(self, process: Process) -> bool:
        """Take in what it says; False when that is nothing."""
        said = process.said()
        for told in said:
            if "outside" in told:
                self._let_out(process)
            else:
                self._came(process, told)
        return bool(said)

    def _let_out(self, process: Process) -> None:
        """A step reaches out of its process: all that came before it, and that it has begun, is told first."""
        self._tell_begun(process)
        while self.untold.entries:
            self._tell_now()
        process.let_out()

    def _came(self, process: Process, how: Json) -> None:
        """An attempt has ended."""
        assert process.task is not None
        node = self.nodes[process.task.name]
        process.show_log(how.pop("log", None))
        process.spent = how.pop("spent", True) or process.timed_out
        entry: Json = {"do": "finish", "name": node.name, "attempt": node.attempt, **how}
        if process.timed_out:
            entry |= {"state": "failed", "error": f"it took longer than {node.step.options.timeout:g} s"}
            process.signal(signal.SIGKILL)
        entry |= {"began": round(1000 * process.began), "ended": round(1000 * time.time())}
        if log := process.log_of_step():
            entry["log"] = log
        if node.part:
            entry |= {"part": node.part, "arguments": node.encoded}
        if entry["state"] == "succeeded" and not process.is_outside and not self.asks:
            entry["settled"] = True
            self._weight += self.journal.note(self.untold.to_note(entry))
            self.untold.add(entry)
            if not self._unsynced:
                self._noted = time.monotonic()
            self._unsynced.add(node.name)
            self._end(node, "succeeded", "", decode(entry.get("output")))
        else:
            self._ask(entry)
        process.rest()

    def _settle(self) -> None:
        """What is noted is on the disk a moment later, and before the pipeline function, which may do anything with it, is
        given it. A step may begin with it before: it is not let out of its process until the platform has it."""
        if not self._unsynced:
            return
        if self._awaited in self._unsynced or time.monotonic() > self._noted + _SYNC_SECONDS:
            self.journal.sync()
            self._unsynced.clear()

    def _watch(self, process: Process) -> None:
        """Whether it is still there, and for how long yet."""
        if process.task is not None and time.time() > process.began + _GATHER_SECONDS:
            process.show_log()
        now = time.monotonic()
        if process.deadline is not None and now > process.deadline and not process.timed_out:
            process.timed_out = True
            process.kill_at = now + _GRACE_SECONDS
            process.signal(signal.SIGTERM)
        if process.kill_at is not None and now > process.kill_at:
            process.signal(signal.SIGKILL)
        code = process.gone()
        if code is None:
            return
        if process.task is not None:
            self._listen(process)  # it may have said how it went
        if process.task is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._came(process, {"state": "failed", "error": f"its process ended with {how}"})
        self.processes.remove(process)
        process.close()

    def kill_all(self) -> None:
        while self.processes:
            process = self.processes.pop()
            process.signal(signal.SIGKILL)
            os.waitpid(process.pid, 0)
            process.close()


_DIGITS = 16
_EXPONENT = re.compile(r"\de[+-]?\d")


def is_among(left: frozenset[str], arguments: Any) -> bool:
    """May these arguments be what one of those was given, of which the digests begin so? (The platform writes numbers with
    an exponent another way.)"""
    plain = without_moments(arguments)
    return digest(plain)[:_DIGITS] in left or (bool(left) and _EXPONENT.search(dumped(plain)) is not None)


_MARKS = ("\1key\1", "\1secret\1")


def _be_done(step: Step, task: Task) -> Json:
    return outcome(step, task.given)


def _handles(value: Any) -> list[str]:
    if isinstance(value, Handle):
        return [value.name]
    if isinstance(value, dict):
        return [name for item in value.values() for name in _handles(item)]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _handles(item)]
    return []


def _pinned(node: Node, before: Sequence[Node]) -> Iterator[Any]:
    """What came before it, or only the tables of it that the text refers to, where nobody said that it is needed."""
    for one in before:
        if node.named and one.step.into is None:
            found = moments(encode(one.value))
            yield from (Table(at["$table"], at["snapshot"]) for at in found if at.get("$table") in node.named)
        else:
            yield one.value


def outcome(step: Step, given: Mapping[str, Any]) -> Json:
    """Do the step and say how it went, as a journal entry has it. A failure's traceback goes to stderr."""
    models: list[Json] = []
    how = _outcome(step, given, models)
    return {**how, "models": models} if models else how


def _outcome(step: Step, given: Mapping[str, Any], models: list[Json]) -> Json:
    try:
        value, checks = checked(step, given, models)
        output = encode(value)
        dumped(output)
        return {"state": "succeeded", "output": output, "checks": checks}
    except KeyboardInterrupt:
        raise
    except CheckFailed as error:
        return {"state": "failed", "error": str(error)[:2000], "checks": error.results}
    except BaseException as error:
        shown = traceback.TracebackException.from_exception(error)
        kept = [frame for frame in shown.stack if "/stratal/sdk/pipelines/" not in frame.filename]
        shown.stack = traceback.StackSummary.from_list(kept)
        print("".join(shown.format()), file=sys.stderr, end="", flush=True)
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}


# -- the whole run -----------------------------------------------------------------------------------


def main() -> int:
    """Run the run that the environment names. Ends with 0 once its end is in the journal."""
    loading.settle_paths()
    doors = Doors.of_environment()
    run_id = os.environ["STRATAL_PIPELINE_RUN"]
    place = doors.path(f"/pipelines/runs/{run_id}")
    folder = Path(os.environ["STRATAL_CHECKPOINT_DIR"])
    try:
        opened = doors.json("POST", f"{place}/open", {"noted": journal.left_in(folder)})
    except Refused as error:
        print(f"This run is not ours to do: {error}", file=sys.stderr)
        return 0
    epoch = opened["epoch"]
    journal.forget(folder)
    try:
        module = loading.load(opened["file"])
        pipeline = loading.pipeline_of(module, opened["pipeline"])
        worker = Worker(
            doors=doors,
            run_id=run_id,
            epoch=epoch,
            parallel=opened["parallel"] or pipeline.parallel or max(2, len(os.sched_getaffinity(0))),
            known={step["name"]: step for step in opened["steps"]},
            root=loading.root_of(module),
            journal=journal.Journal(folder, epoch),
            asks=opened["ask"],
            tried=frozenset(opened["tried"]),
        )
        page = {"epoch": epoch, "entries": [_begun(pipeline)], "watch": []}
        (begun,) = doors.json("POST", f"{place}/journal", page)["decisions"]
        worker.looks_back = begun["ask"]
        end = _carry_out(worker, pipeline, opened["parameters"], opened["partitions"])
    except Refused as error:
        print(f"This run is not ours any more: {error}", file=sys.stderr)
        return 0 if error.status in {401, 403, 409} else 1
    except Exception as error:
        traceback.print_exc()
        end = {"do": "end", "state": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}
    try:
        doors.json("POST", f"{place}/journal", {"epoch": epoch, "entries": [end], "watch": []})
    except Refused as error:
        print(f"This run is not ours any more: {error}", file=sys.stderr)
    return 0


def _begun(pipeline: Pipeline) -> Json:
    return {"do": "begin", "pipeline": pipeline.name, "doc": pipeline.doc[:2000]}


def _carry_out(
    worker: Worker, pipeline: Pipeline, parameters: Mapping[str, Any], partitions: Sequence[str] | None
) -> Json:
    """Execute the pipeline function, once for each partition, and all that it called; the journal's last entry."""
    broken: dict[str | None, str] = {}
    value: Any = None
    authoring._running.append(worker)
    try:
        for partition in partitions if partitions is not None else [None]:
            worker.partition = partition
            try:
                more = {} if partition is None else pipeline.of_partition(partition)
                value = pipeline.function(**_parameters(pipeline, {**parameters, **more}))
            except Refused:
                raise
            except StepFailed as error:
                broken[partition] = str(error)
            except Exception as error:
                traceback.print_exc()
                broken[partition] = f"{pipeline.name}() raised {type(error).__name__}: {error}"
        worker.finish()
    finally:
        worker.kill_all()
        authoring._running.pop()
    bad = [node for node in worker.nodes.values() if node.state not in _GOOD]
    if partitions is not None:
        return _end_of_partitions(partitions, bad, broken)
    if None in broken:
        return {"do": "end", "state": "failed", "reason": broken[None][:2000]}
    if bad:
        causes = [node.name for node in bad if node.state == "failed"] or [node.name for node in bad]
        return {"do": "end", "state": "failed", "reason": f"{_listed(causes)} failed"}
    output, _ = filled(value, {node.name: node.value for node in worker.nodes.values()})
    try:
        encoded = encode(output)
        dumped(encoded)
    except TypeError as error:
        print(f"What {pipeline.name}() returned is not kept: {error}")
        encoded = None
    return {"do": "end", "state": "succeeded", "output": encoded, "reason": ""}


def _end_of_partitions(
    partitions: Sequence[str], bad: Sequence[Node], broken: Mapping[str | None, str]
) -> Json:
    """The end of a run over partitions: which of them failed is its output, and said in its reason."""
    failed = {node.name.rpartition("@")[2] for node in bad} | {str(name) for name in broken}
    named = [name for name in partitions if name in failed]
    if not named:
        return {"do": "end", "state": "succeeded", "output": {"failed_partitions": []}, "reason": ""}
    reason = f"{len(named)} of {len(partitions)} partitions failed: {_listed(named)}"
    return {"do": "end", "state": "failed", "output": {"failed_partitions": named}, "reason": reason[:2000]}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _parameters(pipeline: Pipeline, parameters: Mapping[str, Any]) -> dict[str, Any]:
    import inspect

    wanted = inspect.signature(pipeline.function).parameters
    unknown = [name for name in parameters if name not in wanted]
    if unknown:
        raise TypeError(
            f"{pipeline.name}() has no parameter {', '.join(unknown)}; it has {', '.join(wanted) or 'none'}."
        )
    missing = [name for name, one in wanted.items() if one.default is one.empty and name not in parameters]
    if missing:
        raise TypeError(
            f"{pipeline.name}() needs {', '.join(missing)}: give it with --set {missing[0]}=VALUE."
        )
    return typed(pipeline.function, {name: decode(value) for name, value in parameters.items()})


if __name__ == "__main__":
    sys.exit(main())
