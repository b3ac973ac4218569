"""The worker of a run: executes the pipeline function, asks the journal about every step, does the small ones.

One process, one thread. It calls the pipeline function, which notes calls; whenever the function waits for
a result, and at its end, `_pump` brings the run forward: it tells the journal what was called, what
is ready and what has ended (all that has gathered, in one request and one transaction), and does what the
journal decides. Small steps are forked from here, each with a credential of its own; big ones
are jobs that the platform starts.

Nothing here is remembered beyond the journal. A worker that was killed is started again, executes the function again,
and is answered from the journal for everything that has ended.
"""

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines import authoring, lake, loading
from stratal.sdk.pipelines.authoring import Handle, Pipeline, Step, StepFailed
from stratal.sdk.pipelines.doors import Doors, PlatformLake, Refused
from stratal.sdk.pipelines.execution import CheckFailed, checked, refs
from stratal.sdk.pipelines.fingerprint import fingerprint, text_fingerprint
from stratal.sdk.pipelines.local import filled
from stratal.sdk.pipelines.values import decode, dumped, encode

Json = dict[str, Any]
_AT_ONCE = 250
_ASKED_AHEAD = 100
_LOOK_SECONDS = 0.4
_GATHER_SECONDS = 0.1
"""So long what is to be told may gather while there is enough to do."""
_LOG_BYTES = 64 * 1024
_GRACE_SECONDS = 5.0
_ENDED = frozenset({"succeeded", "cached", "failed", "skipped", "cancelled"})
_GOOD = frozenset({"succeeded", "cached"})
_TEXTUAL = frozenset({"sql", "report"})
"""Steps whose text names tables."""


@dataclass
class Node:
    """A call and how it stands. `state` is the journal's, but for ``called``: not told to the journal yet."""

    name: str
    step: Step
    arguments: Mapping[str, Any]
    after: list[str]
    state: str = "called"
    value: Any = None
    reason: str = ""
    attempt: int = 0
    started: bool = False
    not_before: float = 0.0
    foreseen: bool = False
    """Its process has ended well with `value`: what the journal will say, unless it was asked for something else."""


@dataclass
class Child:
    """A small step that is being done."""

    node: Node
    attempt: int
    pid: int
    folder: Path
    deadline: float | None
    began: float
    told: int = 0
    timed_out: bool = False
    kill_at: float | None = None


@dataclass
class Credential:
    id: str
    secret: str


@dataclass
class Worker:
    """`run` drives the pipeline to its end."""

    doors: Doors
    run_id: str
    epoch: int
    parallel: int
    known: dict[str, Json]
    root: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    entries: deque[Json] = field(default_factory=deque)
    ready: deque[tuple[Node, int, Credential]] = field(default_factory=deque)
    children: dict[int, Child] = field(default_factory=dict)
    remote: set[str] = field(default_factory=set)
    unended: dict[str, Node] = field(default_factory=dict)
    looked: float = 0.0
    gathering: float | None = None
    """Since when entries wait to be told."""
    partition: str | None = None
    """The one whose steps are being called."""
    _counts: dict[str, int] = field(default_factory=dict)
    _codes: dict[int, str] = field(default_factory=dict)
    _written: dict[str, dict[str, str]] = field(default_factory=dict)

    # -- what the pipeline function calls ------------------------------------------------------

    def call(self, step: Step, arguments: Mapping[str, Any], index: int | None) -> Handle:
        place = "" if self.partition is None else f"@{self.partition}"
        number = self._counts.get(step.name + place, 0)
        self._counts[step.name + place] = number + 1
        name = (step.name if number == 0 and index is None else f"{step.name}[{number}]") + place
        after = list(dict.fromkeys(_handles(dict(arguments))))
        if step.kind in _TEXTUAL:
            written = self._written.setdefault(place, {})
            after += [written[ref] for ref in refs(step.text) if ref in written and written[ref] not in after]
        if step.into is not None:
            self._written.setdefault(place, {})[step.into] = name
        node = Node(name, step, arguments, after)
        self.nodes[name] = node
        self.unended[name] = node
        known = self.known.get(name)
        if known is not None and known["state"] in _ENDED:
            self._learn(node, known)
        else:
            self.entries.append(self._called(node, index))
        return Handle(self, name, step.into)

    def result(self, handle: Handle) -> Any:
        node = self.nodes[handle.name]
        while node.state not in _ENDED:
            self._pump()
        if node.state not in _GOOD:
            raise StepFailed(f"Step {node.name} {node.state}: {node.reason}")
        return node.value

    def finish(self) -> None:
        """Until every call has ended."""
        while self.unended:
            self._pump()

    def _called(self, node: Node, index: int | None) -> Json:
        step, options = node.step, node.step.options
        return {
            "do": "call",
            "name": node.name,
            "step": step.name,
            "kind": step.kind,
            "doc": step.doc[:2000],
            "after": node.after,
            "index": index,
            "code": self._code(step),
            "small": options.is_small,
            "cache": options.cache,
            "replay": options.replay,
            "retries": options.retries,
            "timeout_seconds": options.timeout,
            "cpus": options.cpus,
            "memory_bytes": options.memory_bytes,
            "gpus": options.gpus,
            "gpu_type": options.gpu_type,
            "requirements": options.requirements,
            "network": options.network,
        }

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
        self._mark_ready()
        moved = self._tell()
        moved = self._launch() or moved
        moved = self._reap() or moved
        if not moved:
            pause = _LOOK_SECONDS if self.remote or not self.children else 0.2
            if self.gathering is not None:
                pause = min(pause, max(0.0, self.gathering + _GATHER_SECONDS - time.monotonic()))
            _sleep(pause)

    def _mark_ready(self) -> None:
        """Note the start of every step whose inputs are there, and pass over those that can never start."""
        now = time.monotonic()
        room = _ASKED_AHEAD - sum(node.started for node in self.unended.values())
        for node in list(self.unended.values()):
            if room <= 0:
                return
            if node.started or node.state in _ENDED or now < node.not_before:
                continue
            before = [self.nodes[name] for name in node.after]
            if any(one.state not in _ENDED and not one.foreseen for one in before):
                continue
            upon = [one.name for one in before if one.state not in _ENDED]
            bad = next((one for one in before if one.state in _ENDED and one.state not in _GOOD), None)
            node.started = True
            room -= 1
            if bad is not None:
                why = f"{bad.name} {bad.state} before it"
                self.entries.append({"do": "skip", "name": node.name, "reason": why})
                continue
            values = {one.name: one.value for one in before}
            given, _ = filled(dict(node.arguments), values)
            if node.step.kind in _TEXTUAL:  # what came before by its name alone pins its table too
                implied = [one.value for one in before]
                given = {**given, "after": [*given.get("after", []), *implied]}
            try:
                encoded = encode(given)
                dumped(encoded)
            except TypeError as error:
                self.entries.append({"do": "skip", "name": node.name, "reason": str(error), "failed": True})
                continue
            entry: Json = {"do": "start", "name": node.name, "arguments": encoded}
            self.entries.append({**entry, "upon": upon} if upon else entry)

    def _tell(self) -> bool:
        """Give the journal what has gathered, and take its decisions."""
        looking = bool(self.remote) and time.monotonic() - self.looked > _LOOK_SECONDS
        if not looking and (not self.entries or self._may_gather()):
            return False
        self.gathering = None
        some = [self.entries.popleft() for _ in range(min(_AT_ONCE, len(self.entries)))]
        now = time.monotonic()
        for entry in some:
            if "began" in entry:
                entry["seconds_ago"] = round(max(0.0, now - entry.pop("began")), 3)
        body = {"epoch": self.epoch, "entries": some, "watch": sorted(self.remote)}
        answer = self.doors.json("POST", self.doors.path(f"/pipelines/runs/{self.run_id}/journal"), body)
        self.looked = time.monotonic()
        for decision in answer["decisions"]:
            self._decide(self.nodes[decision["name"]], decision)
        return bool(some)

    def _may_gather(self) -> bool:
        """May entries wait for others, to be one request and one transaction with them? Nothing waits for their answers
        while all children are at work or have their next."""
        if len(self.entries) >= _AT_ONCE or not (self.ready or len(self.children) >= self.parallel):
            return False
        now = time.monotonic()
        if self.gathering is None:
            self.gathering = now
        return now < self.gathering + _GATHER_SECONDS

    def _decide(self, node: Node, decision: Json) -> None:
        node.foreseen = False
        match decision["decision"]:
            case "run":
                node.state = "running"
                self.ready.append((node, decision["attempt"], Credential(*decision["key"])))
            case "job":
                node.state = "running"
                self.remote.add(node.name)
            case "again":
                node.started = False
                node.state = "waiting"
                node.not_before = time.monotonic() + decision["seconds"]
                self.remote.discard(node.name)
            case "ended":
                self._learn(node, decision)
            case "wait":
                node.started = False
            case "noted":
                node.state = "waiting" if node.state == "called" else node.state

    def _learn(self, node: Node, told: Json) -> None:
        node.state, node.reason = told["state"], told.get("reason") or ""
        node.value = decode(told.get("output"))
        self.unended.pop(node.name, None)
        self.remote.discard(node.name)
        if node.state == "cached":
            print(f"[{node.name}] cached: {node.reason}", flush=True)
        elif node.state != "succeeded":
            print(f"[{node.name}] {node.state}: {node.reason}", flush=True)

    # -- small steps: a process each -----------------------------------------------------------

    def _launch(self) -> bool:
        launched = False
        while self.ready and len(self.children) < self.parallel:
            node, attempt, credential = self.ready.popleft()
            folder = Path(tempfile.mkdtemp(prefix="step-"))
            before = [self.nodes[name] for name in node.after]
            given, _ = filled(dict(node.arguments), {one.name: one.value for one in before})
            if node.step.kind in _TEXTUAL:
                given = {**given, "after": [*given.get("after", []), *[one.value for one in before]]}
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _be_step(self, node, attempt, credential, given, folder)
            began, limit = time.monotonic(), node.step.options.timeout
            deadline = None if limit is None else began + limit
            self.children[pid] = Child(node, attempt, pid, folder, deadline, began)
            launched = True
        return launched

    def _reap(self) -> bool:
        reaped = False
        now = time.monotonic()
        for child in list(self.children.values()):
            _forward(child)
            if child.deadline is not None and now > child.deadline and not child.timed_out:
                child.timed_out = True
                child.kill_at = now + _GRACE_SECONDS
                _signal(child.pid, signal.SIGTERM)
            if child.kill_at is not None and now > child.kill_at:
                _signal(child.pid, signal.SIGKILL)
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            _signal(child.pid, signal.SIGKILL)  # what it started and left behind
            del self.children[child.pid]
            self._foresee(child.node, _finished(child, status))
            shutil.rmtree(child.folder, ignore_errors=True)
            reaped = True
        return reaped

    def _foresee(self, node: Node, entry: Json) -> None:
        """Note the end of an attempt, so that what comes after it can be asked for in the same page."""
        staged = entry.pop("staged", False)
        if entry["state"] == "succeeded" and not staged:  # what was staged may meet others' writes on its way
            node.foreseen, node.value = True, decode(entry.get("output"))
        self.entries.append(entry)

    def kill_all(self) -> None:
        for child in self.children.values():
            _signal(child.pid, signal.SIGKILL)


def _handles(value: Any) -> list[str]:
    if isinstance(value, Handle):
        return [value.name]
    if isinstance(value, dict):
        return [name for item in value.values() for name in _handles(item)]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _handles(item)]
    return []


def _signal(pid: int, number: int) -> None:
    """To the process and all that it started; to itself alone while it is not a group of its own yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


_waker: list[int] = []


def _sleep(seconds: float) -> None:
    """Until a child ends, at most so long."""
    if not _waker:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        _waker.append(reader)
        return  # one that ended before is found by looking first
    if select.select(_waker, [], [], seconds)[0]:
        os.read(_waker[0], 4096)


def _forward(child: Child) -> None:
    """What the step has written since, to the worker's own log, each line with the step's name."""
    try:
        with (child.folder / "log").open("rb") as log:
            log.seek(child.told)
            new = log.read()
    except OSError:
        return
    if not new:
        return
    child.told += len(new)
    for line in new.decode(errors="replace").splitlines():
        print(f"[{child.node.name}] {line}", flush=False)
    sys.stdout.flush()


def _finished(child: Child, status: int) -> Json:
    _forward(child)
    entry: Json = {"do": "finish", "name": child.node.name, "attempt": child.attempt, "began": child.began}
    try:
        entry |= json.loads((child.folder / "result").read_bytes())
    except (OSError, ValueError):
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        entry |= {"state": "failed", "error": f"its process ended with {how}"}
    if child.timed_out:
        entry |= {"state": "failed", "error": f"it took longer than {child.node.step.options.timeout:g} s"}
    try:
        with (child.folder / "log").open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _LOG_BYTES))
            entry["log"] = log.read().decode(errors="replace")
    except OSError:
        entry["log"] = ""
    return entry


def _be_step(
    worker: Worker, node: Node, attempt: int, credential: Credential, given: Mapping[str, Any], folder: Path
) -> None:
    """In the forked process: become the step, do it, leave the result in a file, and never return."""
    code = 70
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        own = Credential(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        for name, value in list(os.environ.items()):
            if own.id in value or own.secret in value:
                os.environ[name] = value.replace(own.id, credential.id).replace(own.secret, credential.secret)
        os.environ["STRATAL_STEP"] = node.name
        os.environ["STRATAL_STEP_ATTEMPT"] = str(attempt)
        authoring._running.clear()
        place = PlatformLake(Doors.of_environment(), worker.run_id, node.name, attempt)
        lake.use(place)
        result = outcome(node.step, given)
        _write_result(folder, {**result, "staged": place.has_written})
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(step: Step, given: Mapping[str, Any]) -> Json:
    """Do the step and say how it went, as a journal entry has it. A failure's traceback goes to stderr."""
    try:
        value, checks = checked(step, given)
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


def _write_result(folder: Path, result: Json) -> None:
    scratch = folder / "result.new"
    scratch.write_text(json.dumps(result))
    scratch.rename(folder / "result")


# -- the whole run -----------------------------------------------------------------------------------


def main() -> int:
    """Run the run that the environment names. Ends with 0 once its end is in the journal."""
    loading.settle_paths()
    doors = Doors.of_environment()
    run_id = os.environ["STRATAL_PIPELINE_RUN"]
    place = doors.path(f"/pipelines/runs/{run_id}")
    try:
        opened = doors.json("POST", f"{place}/open", {})
    except Refused as error:
        print(f"This run is not ours to do: {error}", file=sys.stderr)
        return 0
    epoch = opened["epoch"]
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
        )
        doors.json("POST", f"{place}/journal", {"epoch": epoch, "entries": [_begun(pipeline)], "watch": []})
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
    except Refused:
        worker.kill_all()
        raise
    finally:
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
    return {name: decode(value) for name, value in parameters.items()}


if __name__ == "__main__":
    sys.exit(main())
