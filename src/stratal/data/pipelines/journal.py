"""The journal: every step of every run advances here and nowhere else.

A worker tells what its pipeline called, what is ready and what has ended; each is written, and answered with what
to do, in one transaction. Everything may be told twice: what is known already is answered as it stands.

A small step that nothing was left of before is begun by its worker without asking, with a credential from those that
it holds in store, and an end that came of nothing but the step's own arguments is noted by the worker on its disk
before anything goes on from it (see the SDK's `journal`). Both are told here soon after, many in one page, and always
before a step is let out of its process: so nobody else ever sees what this journal does not know. What a worker that
was killed had noted is told by the next when it opens the journal.

Two fences keep out those who do not know that they were replaced. A run's `epoch` rises when a worker opens
its journal, and writes of an older one are refused. A step's `attempt` rises when it is started, and with it the
credential of the attempt before ends, so neither its word nor its writes count any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from stratal.compute.tables import jobs
from stratal.data.pipelines import caching, records, replaying
from stratal.data.pipelines.model import (
    UNENDED_STEPS,
    Json,
    Run,
    RunState,
    Step,
    StepState,
    digest,
    dumped,
    in_parts,
    step_key,
    without_moments,
)
from stratal.data.pipelines.tables import runs, steps, writes
from stratal.identity.keys import Keys
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Conflict, Invalid
from stratal.kernel.events import emit
from stratal.kernel.ids import random_token
from stratal.ledger.past import Pasts
from stratal.ledger.tables import accesses

Entry = Mapping[str, Json]
Decision = dict[str, Json]
MOST_STEPS = 20_000
_LONGEST_PAUSE = 60.0
_MOST_LEFT = 20_000
_DIGITS = 16

# Built once: building costs more than running, and every step asks these.
_INSERT = insert(steps)
_STAGED = (
    select(steps.c.name)
    .join(writes, writes.c.step_id == steps.c.id)
    .where(
        steps.c.run_id == bindparam("of_run"),
        steps.c.name.in_(bindparam("names", expanding=True)),
        writes.c.state == "staged",
    )
)
_LOCK = select(jobs.c.environment_id).where(jobs.c.id == bindparam("this"))
_ROWS: Select[Any] = select(
    *(steps.c.id, steps.c.name, steps.c.code, steps.c.state, steps.c.attempt, steps.c.workload),
    *(steps.c.cacheable, steps.c.reason),
).where(steps.c.run_id == bindparam("of_run"), steps.c.name.in_(bindparam("names", expanding=True)))
_COUNT = select(func.count()).where(steps.c.run_id == bindparam("of_run"))
_LEFT = (
    select(steps.c.given)
    .where(
        steps.c.project_id == bindparam("project"),
        steps.c.step == bindparam("called"),
        steps.c.code == bindparam("with_code"),
        steps.c.state == StepState.SUCCEEDED.value,
    )
    .order_by(steps.c.id.desc())
    .limit(_MOST_LEFT + 1)
)
_EVER = (
    select(steps.c.id)
    .join(runs, runs.c.id == steps.c.run_id)
    .where(
        runs.c.project_id == bindparam("project"),
        runs.c.pipeline == bindparam("of_pipeline"),
        runs.c.replay_of.is_(None),
        steps.c.state == StepState.SUCCEEDED.value,
    )
    .limit(1)
)
_READ = select(accesses.c.workload, accesses.c.kind, accesses.c.version, accesses.c.name).where(
    accesses.c.workload.in_(bindparam("whose", expanding=True)), accesses.c.mode == "read"
)
_WRITTEN = select(writes.c.table_id, writes.c.snapshot_id).where(writes.c.step_id == bindparam("this"))


_HOW = (
    *("cpus", "memory_bytes", "gpus", "gpu_type", "requirements", "network", "timeout_seconds"),
    "replay",
)
"""What of a call says how it is to be run."""
_UNBEGUN: Mapping[str, Any] = {
    "state": StepState.WAITING.value,
    "reason": "",
    "attempt": 0,
    **dict.fromkeys(
        ("arguments", "given", "environment", "key", "workload", "output", "log", "reads", "writes")
    ),
    **dict.fromkeys(("checks", "started_at", "ended_at")),
}
"""The columns of a step that has only been called: all that `_ended_at_once` fills."""


_MADE_BY = (
    update(writes)
    .where(
        writes.c.step_id == bindparam("of_step"),
        writes.c.attempt == bindparam("of_attempt"),
        writes.c.table_name == bindparam("made"),
    )
    .values(sql=bindparam("by"))
)


class Journal:
    """Write functions: each runs inside a transaction of the database's writer."""

    def __init__(self, keys: Keys, clock: Clock, pasts: Pasts) -> None:
        self._keys = keys
        self._clock = clock
        self._pasts = pasts

    # -- whose journal it is -------------------------------------------------------------------

    def open(
        self, c: Connection, run_id: int, job_id: int, noted: Sequence[Entry] = ()
    ) -> tuple[Run, list[Step]]:
        """Begin, or go on, as the worker that is job `job_id`: raises the epoch and gives all steps there are.

        `noted` is what an earlier attempt of the job had noted and perhaps not told: that counts. Small steps that it was
        doing are taken from it; the credentials that it had are ended.
        """
        run = records.find_run(c, None, run_id)
        if run.job_id != job_id or run.state.ended:
            raise superseded(run_id)
        self._note(c, run, noted)
        values: dict[str, Any] = {"epoch": run.epoch + 1, "state": RunState.RUNNING.value, "reason": ""}
        if run.started_at is None:
            values["started_at"] = self._clock()
        c.execute(update(runs).where(runs.c.id == run_id).values(values))
        self._keys.end_parts(c, f"job:{job_id}")
        found = [records.step_of(row) for row in _rows(c, run_id)]
        for step in found:
            if step.small and step.state is StepState.RUNNING:
                self._end_credential(c, run, step)
                records.change_step(c, step, {"state": StepState.WAITING.value})
        if run.replay_of is not None:
            found = [
                replace(step, output=self._told(c, run, step)["output"]) if step.state.ended else step
                for step in found
            ]
        return records.find_run(c, None, run_id), found

    def store(self, c: Connection, run: Run, count: int) -> list[list[str]]:
        """Credentials for steps that the worker will begin without asking: of each its part's name, id and secret."""
        parts = [random_token(10) for _ in range(count)]
        workloads = [f"job:{run.job_id}/{part}" for part in parts]
        made = self._keys.insert_for_workloads(c, records.creator(run), run.project_id, workloads)
        return [[part, one.id, one.secret] for part, one in zip(parts, made, strict=True)]

    def left(self, c: Connection, run: Run, pairs: Sequence[tuple[str, str]]) -> list[list[str] | None]:
        """Of each step by its name and code: what results of it are left from before, as the beginnings of the digests of
        what those were given; None where they are too many to tell. Whoever is given anything else has nothing to ask."""
        told: list[list[str] | None] = []
        for step, code in pairs if run.use_cache else ():
            asked = {"project": run.project_id, "called": step, "with_code": code}
            found = c.execute(_LEFT, asked).scalars().all()
            given = sorted({text[:_DIGITS] for text in found if text is not None})
            told.append(given if len(found) <= _MOST_LEFT else None)
        return told or [[] for _ in pairs]

    def write(
        self,
        c: Connection,
        project_id: str,
        run_id: int,
        workload: str | None,
        epoch: int,
        entries: Sequence[Entry],
        watch: Sequence[str],
    ) -> tuple[list[Decision], list[Entry]]:
        """Note `entries` in their order; what to do about each, and about those of `watch` that have ended since.

        Ends that are `settled` are noted first, and not answered: their worker has gone on from them. The ends of steps
        that have staged something are not noted but given back: see `Stage.finish`. Workers of pipelines that were deployed
        with an earlier SDK start steps `upon` the ends that the same page tells: they are, unless one came out otherwise.
        Raises `Conflict`: ``not_the_worker`` unless `workload` is the run's worker; ``superseded`` for one that was
        replaced or whose run has ended.
        """
        run = worker_of(records.find_run(c, project_id, run_id), workload)
        if run.epoch != epoch or run.state.ended:
            raise superseded(run_id)
        self._note(c, run, entries)
        entries = [entry for entry in entries if not entry.get("settled")]
        staged = self._staged(c, run, entries)
        staging = [entry for entry in entries if entry["do"] == "finish" and entry["name"] in staged]
        entries = [entry for entry in entries if entry["do"] != "finish" or entry["name"] not in staged]
        decisions: list[Decision] = []
        names = {str(entry["name"]) for entry in entries if entry["do"] in {"start", "finish", "skip"}}
        known = records.find_steps(c, run_id, sorted(names)) if len(names) > 1 else {}

        def present(entry: Entry) -> Step:
            # What was read for all of them is good until the step is changed: so it is taken once.
            name = str(entry["name"])
            return known.pop(name, None) or records.find_step(c, run_id, name)

        as_told: set[str] = set()
        starts: list[tuple[Step, Entry]] = []
        for entry in entries:
            match entry["do"]:
                case "call":
                    decisions.append({"name": entry["name"], "decision": "noted"})
                case "begin":
                    told = {"pipeline": str(entry["pipeline"])[:200], "doc": str(entry.get("doc", ""))[:2000]}
                    c.execute(update(runs).where(runs.c.id == run.id).values(told))
                    run = records.find_run(c, None, run_id)
                    decisions.append({"name": "", "decision": "begun", "ask": self._looks_back(c, run)})
                case "start" if not as_told.issuperset(entry.get("upon") or ()):
                    decisions.append({"name": entry["name"], "decision": "wait"})
                case "start":
                    starts.append((present(entry), entry))
                case "finish":
                    decision = self.finish(c, run, entry, (), present(entry))
                    decisions.append(decision)
                    if decision.get("state") == "succeeded" and decision["output"] == entry.get("output"):
                        as_told.add(str(entry["name"]))
                case "skip":
                    decisions.append(self._skip(c, run, present(entry), entry))
                case "end":
                    self.end(
                        c, run, RunState(entry["state"]), str(entry.get("reason", "")), entry.get("output")
                    )
                case other:
                    raise Invalid(f"The journal knows no {other!r}.", reason="bad_entry")
        decisions += self._start_all(c, run, starts)
        if any(entry["do"] in {"start", "finish", "skip"} for entry in entries):
            emit(c, "pipeline.advanced", str(run_id), actor="system", project_id=run.project_id)
        for name in watch:
            step = records.find_step(c, run_id, name)
            if step.state.ended:
                decisions.append(self._told(c, run, step))
            elif step.state is StepState.WAITING:
                decisions.append({"name": name, "decision": "again", "seconds": 0.0})
        return decisions, staging

    def _staged(self, c: Connection, run: Run, entries: Sequence[Entry]) -> set[str]:
        """The steps among finished ones that have staged something."""
        names = [str(entry["name"]) for entry in entries if entry["do"] == "finish"]
        if not names:
            return set()
        return set(c.execute(_STAGED, {"of_run": run.id, "names": names}).scalars())

    # -- entries -------------------------------------------------------------------------------

    def _note(self, c: Connection, run: Run, entries: Sequence[Entry]) -> None:
        """Note the calls among these, and the ends that their worker has gone on from."""
        settled = {str(entry["name"]): entry for entry in entries if entry.get("settled")}
        written = self._note_calls(c, run, [entry for entry in entries if entry["do"] == "call"], settled)
        self._note_ends(c, run, [entry for name, entry in settled.items() if name not in written])
        if settled:
            emit(c, "pipeline.advanced", str(run.id), actor="system", project_id=run.project_id)

    def _note_calls(
        self, c: Connection, run: Run, calls: Sequence[Entry], ends: Mapping[str, Entry]
    ) -> Collection[str]:
        """Note what was called. Those of which the same page tells the `ends` are rows that have ended, written once: of
        these the names."""
        if not calls:
            return ()
        count = c.execute(_COUNT, {"of_run": run.id}).scalar_one()
        known = _known(c, run, [entry["name"] for entry in calls])
        new = [entry for entry in calls if entry["name"] not in known]
        if count + len(new) > MOST_STEPS:
            raise Invalid(f"A run may have {MOST_STEPS} steps.", reason="too_many_steps")
        ended = self._ended_at_once(c, run, [e for e in new if _is_first(ends.get(str(e["name"])))], ends)
        now = self._clock()
        rows = [
            {
                **_UNBEGUN,
                "run_id": run.id,
                "project_id": run.project_id,
                "name": entry["name"],
                "step": entry["step"],
                "kind": entry["kind"],
                "doc": entry.get("doc", ""),
                "after": dumped(entry["after"]),
                "call": dumped({name: entry.get(name) for name in _HOW}),
                "small": int(bool(entry["small"])),
                "cacheable": int(bool(entry["cache"])),
                "retries": entry["retries"],
                "code": entry["code"],
                "created_at": now,
                **ended.get(str(entry["name"]), {}),
            }
            for entry in new
        ]
        if rows:
            c.execute(_INSERT, rows)
        return ended

    def _ended_at_once(
        self, c: Connection, run: Run, calls: Sequence[Entry], ends: Mapping[str, Entry]
    ) -> dict[str, dict[str, Any]]:
        """Of steps that are not known yet, by name: their columns, as their ends tell."""
        if not calls:
            return {}
        lock = self._lock(c, run)
        now = self._clock()
        told: dict[str, dict[str, Any]] = {}
        asked: list[tuple[bool, caching.Asked]] = []
        for call in calls:
            name, end = str(call["name"]), ends[str(call["name"])]
            one = _asked(run, name, str(call["code"]), end["arguments"], lock)
            asked.append((bool(call["cache"]), one))
            told[name] = {**self._end_of(run, end, now), **_given(one), "workload": _workload(run, end)}
        self._tell_why(c, run, told, asked)
        return told

    def _tell_why(
        self,
        c: Connection,
        run: Run,
        told: Mapping[str, dict[str, Any]],
        asked: Sequence[tuple[bool, caching.Asked]],
    ) -> None:
        """Into the columns of steps that have ended: what they read; and of those `asked` about, why they ran. Their
        credentials end."""
        seen: dict[str, list[Any]] = {}
        for some in in_parts([values["workload"] for values in told.values()]):
            for access in c.execute(_READ, {"whose": some}):
                seen.setdefault(access.workload, []).append(access)
            self._keys.end_workloads(c, some)
        for values in told.values():
            reads = seen.get(values["workload"])
            values["reads"] = dumped(caching.seen_reads(reads, set())) if reads else "[]"
        for name, reason in self._reasons(c, run, asked).items():
            told[name]["reason"] = reason

    def _looks_back(self, c: Connection, run: Run) -> bool:
        """May anything be taken from earlier runs of this pipeline?"""
        if not run.use_cache:
            return False
        asked = {"project": run.project_id, "of_pipeline": run.pipeline}
        return c.execute(_EVER, asked).first() is not None

    def _note_ends(self, c: Connection, run: Run, entries: Sequence[Entry]) -> None:
        """Note what steps came to that their worker has gone on from: all of a page in a few statements."""
        if not entries:
            return
        told = {str(entry["name"]): entry for entry in entries}
        lock = self._lock(c, run)
        now = self._clock()
        begun, unbegun = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        asked: list[tuple[bool, caching.Asked]] = []
        for row in _known(c, run, list(told)).values():
            entry = told[row.name]
            if StepState(row.state).ended or not self._is_its_attempt(row, entry):
                continue
            values = {**self._end_of(run, entry, now), "this": row.id, "workload": row.workload}
            if row.state == StepState.RUNNING.value:
                begun[row.name] = values
            else:
                one = _asked(run, row.name, row.code, entry["arguments"], lock)
                asked.append((bool(row.cacheable), one))
                unbegun[row.name] = {**values, **_given(one), "workload": _workload(run, entry)}
        self._tell_why(c, run, begun | unbegun, asked)
        records.change_steps(c, list(begun.values()))
        records.change_steps(c, list(unbegun.values()))

    def _end_of(self, run: Run, entry: Entry, now: int) -> dict[str, Any]:
        """The columns that say how a step ended that its worker has gone on from."""
        ended = _moment(run, entry.get("ended"), now)
        return {
            "state": StepState.SUCCEEDED.value,
            "output": dumped(entry.get("output")),
            "log": str(entry.get("log") or "")[-64 * 1024 :],
            "checks": dumped(entry["checks"]) if entry.get("checks") else None,
            "writes": "[]",
            "started_at": _moment(run, entry.get("began"), ended),
            "ended_at": ended,
            "attempt": entry["attempt"],
        }

    def _is_its_attempt(self, row: Row[Any], entry: Entry) -> bool:
        """Is what is told of the step's present attempt, or of its first, which was begun without asking?"""
        if row.state == StepState.RUNNING.value:
            return bool(row.attempt == entry["attempt"])
        return row.attempt == 0 and _is_first(entry)

    def _reasons(
        self, c: Connection, run: Run, asked: Sequence[tuple[bool, caching.Asked]]
    ) -> dict[str, str]:
        """Why steps run that were begun without asking, of each whether it may be taken from earlier runs."""
        if not run.use_cache:
            return {one.name: "this run takes nothing from earlier ones" for _, one in asked}
        told = {one.name: "it runs each time (cache=False)" for cacheable, one in asked if not cacheable}
        rest = [one for _, one in asked if one.name not in told]
        return told | caching.differences(c, run.project_id, run.pipeline, rest)

    def _start_all(self, c: Connection, run: Run, starts: Sequence[tuple[Step, Entry]]) -> list[Decision]:
        """Their inputs are there: for each, take what was left before, or have it run."""
        decisions: dict[str, Decision] = {}
        asked: list[tuple[Step, caching.Asked]] = []
        own: list[tuple[Step, caching.Asked, Entry]] = []
        for step, entry in starts:
            if step.state.ended:
                decisions[step.name] = self._told(c, run, step)
            elif not step.small and step.state is StepState.RUNNING:
                decisions[step.name] = {"name": step.name, "decision": "job"}
            else:
                lock = self._environment(c, run, step)
                one = _asked(run, step.name, step.code, entry["arguments"], lock)
                if run.replay_of is not None:
                    decisions[step.name] = self._start_replayed(c, run, step, one)
                elif entry.get("part"):
                    own.append((step, one, entry))
                else:
                    asked.append((step, one))
        self._begin_own(c, run, own)
        decisions |= {step.name: {"name": step.name, "decision": "noted"} for step, _, _ in own}
        decisions |= self._decide(c, run, asked)
        return [decisions[step.name] for step, _ in starts]

    def _begin_own(self, c: Connection, run: Run, own: Sequence[tuple[Step, caching.Asked, Entry]]) -> None:
        """The worker has begun these without asking."""
        rows = _known(c, run, [step.name for step, _, _ in own])  # the same page may have told their ends
        first = [
            (rows[step.name], one, entry)
            for step, one, entry in own
            if rows[step.name].state == StepState.WAITING.value and rows[step.name].attempt == 0
        ]
        reasons = self._reasons(c, run, [(bool(row.cacheable), one) for row, one, _ in first])
        now = self._clock()
        changes = [
            {
                **_given(one),
                "this": row.id,
                "state": StepState.RUNNING.value,
                "reason": reasons[row.name],
                "attempt": 1,
                "workload": _workload(run, entry),
                "started_at": _moment(run, entry.get("began"), now),
            }
            for row, one, entry in first
        ]
        records.change_steps(c, changes)

    def _decide(
        self, c: Connection, run: Run, asked: Sequence[tuple[Step, caching.Asked]]
    ) -> dict[str, Decision]:
        """Take what earlier runs left of these, and begin the others."""
        decisions: dict[str, Decision] = {}
        rows = _known(c, run, [step.name for step, _ in asked])
        new = [(rows[step.name], one) for step, one in asked if step.attempt == 0]
        looking = [one for row, one in new if run.use_cache and row.cacheable]
        found = caching.reusable(c, run.project_id, looking)
        called = {step.name: step.step for step, _ in asked}
        found |= caching.alike(c, run, called, [one for one in looking if found[one.name] == (None, "")])
        unlike = [
            (bool(row.cacheable), one) for row, one in new if found.get(one.name, (None, "")) == (None, "")
        ]
        reasons = self._reasons(c, run, unlike)
        now = self._clock()
        taken, run_now = list[dict[str, Any]](), list[tuple[Step, caching.Asked]]()
        for step, one in asked:
            source, against = found.get(step.name, (None, ""))
            if source is None:
                reasons.setdefault(step.name, against or rows[step.name].reason)
                run_now.append((step, one))
                continue
            why = f"nothing it depends on has changed since run {source.run_id}"
            why += "" if source.name == step.name else f", where it was {source.name}"
            taken.append(
                {
                    **_given(one),
                    "this": step.id,
                    "state": StepState.CACHED.value,
                    "reason": why,
                    "output": source.output,
                    "taken_from": source.id,
                    "started_at": now,
                    "ended_at": now,
                }
            )
            output = None if source.output is None else orjson.loads(source.output)
            decisions[step.name] = {
                "name": step.name,
                "decision": "ended",
                "state": StepState.CACHED.value,
                "reason": why,
                "output": output,
            }
        records.change_steps(c, taken)
        return decisions | self._begin(c, run, run_now, reasons)

    def _begin(
        self,
        c: Connection,
        run: Run,
        chosen: Sequence[tuple[Step, caching.Asked]],
        reasons: Mapping[str, str],
    ) -> dict[str, Decision]:
        """Have them run: the small by the worker, each with a new credential, the big as jobs."""
        small = [(step, one) for step, one in chosen if step.small]
        self._keys.end_workloads(c, [step.workload for step, _ in small if step.workload is not None])
        workloads = [f"job:{run.job_id}/{step.id}.{step.attempt + 1}" for step, _ in small]
        made = self._keys.insert_for_workloads(c, records.creator(run), run.project_id, workloads)
        common = {"state": StepState.RUNNING.value, "error": None, "started_at": self._clock()}
        records.change_steps(
            c,
            [
                {
                    **_given(one), **common, "this": step.id, "reason": reasons[step.name],
                    "attempt": step.attempt + 1, "workload": workload,
                }
                for (step, one), workload in zip(small, workloads, strict=True)
            ],
        )  # fmt: skip
        records.change_steps(
            c,
            [
                {**_given(one), **common, "this": step.id, "reason": reasons[step.name], "job_id": None}
                for step, one in chosen
                if not step.small
            ],
        )
        decisions: dict[str, Decision] = {
            step.name: {"name": step.name, "decision": "job"} for step, _ in chosen if not step.small
        }
        for (step, _), credential in zip(small, made, strict=True):
            decisions[step.name] = {
                "name": step.name,
                "decision": "run",
                "attempt": step.attempt + 1,
                "key": [credential.id, credential.secret],
            }
        return decisions

    def _start_replayed(self, c: Connection, run: Run, step: Step, one: caching.Asked) -> Decision:
        """Have a step of a replay repeat the one that it is of."""
        why = f"repeats run {run.replay_of}"
        then = replaying.original(c, run, step.name)
        told = {**_given(one), "started_at": self._clock(), "reason": why}
        if then is None or not then.state.good:
            return self._not_replayed(c, run, step, told)
        if then.call.get("replay") is False:
            return self._take(c, step, then, told, "a replay does not do it again (replay=False)")
        decision = self._begin(c, run, [(step, one)], {step.name: why})[step.name]
        if step.small:
            workload = f"job:{run.job_id}/{step.id}.{step.attempt + 1}"
            if step.workload is not None:
                self._pasts.release(c, step.workload)
            self._pasts.hold(c, run.project_id, workload, replaying.past(c, then))
        return decision

    def _environment(self, c: Connection, run: Run, step: Step) -> str:
        own = step.call.get("requirements")
        return self._lock(c, run) if own is None else "requirements " + digest(own)

    def _lock(self, c: Connection, run: Run) -> str:
        return f"lock {c.execute(_LOCK, {'this': run.job_id}).scalar()}"

    def _take(self, c: Connection, step: Step, source: Step, told: dict[str, Any], why: str) -> Decision:
        told |= {
            "state": StepState.CACHED.value,
            "reason": why,
            "output": dumped(source.output),
            "taken_from": source.id,
            "ended_at": self._clock(),
        }
        records.change_step(c, step, told)
        return {
            "name": step.name,
            "decision": "ended",
            "state": StepState.CACHED.value,
            "reason": why,
            "output": source.output,
        }

    def _not_replayed(self, c: Connection, run: Run, step: Step, told: dict[str, Any]) -> Decision:
        why = f"run {run.replay_of} did no such step"
        told |= {"state": StepState.FAILED.value, "reason": why, "error": why, "ended_at": self._clock()}
        records.change_step(c, step, told)
        return _ended(records.find_step(c, run.id, step.name))

    def _told(self, c: Connection, run: Run, step: Step) -> Decision:
        """That a step has ended. A replay's worker goes on with what the repeated step returned."""
        decision = _ended(step)
        if run.replay_of is not None and step.state.good:
            then = replaying.original(c, run, step.name)
            decision["output"] = None if then is None else then.output
        return decision

    def finish(
        self,
        c: Connection,
        run: Run,
        entry: Entry,
        published: Sequence[Mapping[str, Json]],
        step: Step | None = None,
    ) -> Decision:
        """An attempt has ended. `published` are the writes that become visible in this very transaction; `step` is as it
        stands in it, when that is known."""
        step = step or records.find_step(c, run.id, str(entry["name"]))
        if step.state.ended:
            return self._told(c, run, step)
        if entry.get("part") and step.state is StepState.WAITING and step.attempt == 0:
            one = _asked(run, step.name, step.code, entry["arguments"], self._environment(c, run, step))
            self._begin_own(c, run, [(step, one, entry)])
            step = records.find_step(c, run.id, step.name)
        if step.state is not StepState.RUNNING or step.attempt != entry["attempt"]:
            return {"name": step.name, "decision": "noted"}
        self._end_credential(c, run, step)
        now = self._clock()
        values: dict[str, Any] = {"ended_at": now}
        if entry.get("began") is not None:
            values["started_at"] = _moment(run, entry["began"], now)
        elif entry.get("seconds_ago") is not None and step.started_at is not None:  # as earlier SDKs tell it
            values["started_at"] = max(step.started_at, min(now, now - round(1000 * entry["seconds_ago"])))
        if entry.get("checks"):
            values["checks"] = dumped(entry["checks"])
        if entry.get("models"):
            values["models"] = dumped([{**one, "sql": None} for one in entry["models"]])
            self._tell_queries(c, step, entry["models"])
        if entry.get("log"):
            values["log"] = str(entry["log"])[-64 * 1024 :]
        if entry["state"] == StepState.SUCCEEDED.value:
            own = {f"{write['table_id']}@{write['snapshot']}" for write in published}
            seen = c.execute(_READ, {"whose": [step.workload]}).all()
            staged = c.execute(_WRITTEN, {"this": step.id}).all()
            own |= {f"{row.table_id}@{row.snapshot_id}" for row in staged}
            output = dumped(entry.get("output"))
            values |= {
                "state": StepState.SUCCEEDED.value,
                "output": output,
                "reads": dumped(caching.seen_reads(seen, own)),
                "writes": dumped(list(published)),
            }
            records.change_step(c, step, values)
            return self._told(c, run, replace(step, state=StepState.SUCCEEDED, output=orjson.loads(output)))
        return self._fail(c, run, step, str(entry.get("error", "")), values, again=entry.get("again"))

    def _tell_queries(self, c: Connection, step: Step, models: Sequence[Mapping[str, Any]]) -> None:
        """Which queries made the tables that a project of dbt has staged."""
        told = [
            {"made": one["table"], "by": one["sql"], "of_step": step.id, "of_attempt": step.attempt}
            for one in models
            if one["table"] and one["sql"]
        ]
        if told:
            c.execute(_MADE_BY, told)

    def _fail(
        self, c: Connection, run: Run, step: Step, error: str, values: dict[str, Any], *, again: Json = None
    ) -> Decision:
        """Record a failed attempt; it is tried again while it has tries left, and by `again` without counting one."""
        row = c.execute(select(steps.c.failures, steps.c.retries).where(steps.c.id == step.id)).one()
        failures = row.failures + (0 if again is not None else 1)
        values |= {"error": error[:2000], "failures": failures}
        if again is not None or failures <= row.retries:
            pause = float(again) if again is not None else min(2.0 ** (failures - 1), _LONGEST_PAUSE)
            values["state"] = StepState.WAITING.value  # why it runs stays as it was
            records.change_step(c, step, values)
            return {"name": step.name, "decision": "again", "seconds": pause}
        values |= {"state": StepState.FAILED.value, "reason": error[:500]}
        records.change_step(c, step, values)
        return _ended(records.find_step(c, run.id, step.name))

    def _skip(self, c: Connection, run: Run, step: Step, entry: Entry) -> Decision:
        if not step.state.ended:
            state = StepState.FAILED if entry.get("failed") else StepState.SKIPPED
            told = {"state": state.value, "reason": str(entry["reason"])[:500], "ended_at": self._clock()}
            records.change_step(c, step, told)
            step = records.find_step(c, run.id, step.name)
        return _ended(step)

    # -- steps that are jobs of their own --------------------------------------------------------

    def begin_job(self, c: Connection, run_id: int, name: str, job_id: int) -> tuple[Run, Step]:
        """The step's job has started: raises the attempt. Raises `Conflict` (``superseded``)."""
        run = records.find_run(c, None, run_id)
        step = records.find_step(c, run_id, name)
        if run.state.ended or step.state is not StepState.RUNNING or step.job_id != job_id:
            raise superseded(run_id)
        then = None if run.replay_of is None else replaying.original(c, run, name)
        if then is not None:
            self._pasts.hold(c, run.project_id, f"job:{job_id}", replaying.past(c, then))
        told = {"attempt": step.attempt + 1, "workload": f"job:{job_id}"}
        records.change_step(c, step, told)
        return run, records.find_step(c, run_id, name)

    def job_ended(self, c: Connection, step: Step, error: str) -> None:
        """The step's job has ended and said nothing."""
        run = records.find_run(c, None, step.run_id)
        present = records.find_step(c, step.run_id, step.name)
        if present.state is StepState.RUNNING and present.job_id == step.job_id and not run.state.ended:
            self._fail(c, run, present, error, {"ended_at": self._clock()})

    # -- ends ----------------------------------------------------------------------------------

    def end(self, c: Connection, run: Run, state: RunState, reason: str, output: Json = None) -> None:
        """The run has ended: whatever has not, is cancelled, its credentials with it."""
        now = self._clock()
        if run.job_id is not None:
            self._keys.end_parts(c, f"job:{run.job_id}")
        if run.replay_of is not None:
            unended = select(steps).where(steps.c.run_id == run.id, steps.c.state.in_(UNENDED_STEPS))
            for row in c.execute(unended).mappings().all():
                self._end_credential(c, run, records.step_of(row))
        c.execute(
            update(steps)
            .where(steps.c.run_id == run.id, steps.c.state.in_(UNENDED_STEPS))
            .values(state=StepState.CANCELLED.value, reason=f"the run {state.value}", ended_at=now)
        )
        told = {"state": state.value, "reason": reason[:2000], "ended_at": now, "epoch": run.epoch + 1}
        c.execute(update(runs).where(runs.c.id == run.id).values({**told, "output": dumped(output)}))
        kind = f"pipeline.{state.value}" if run.replay_of is None else f"pipeline.replay_{state.value}"
        emit(
            c, kind, str(run.id), actor="system", project_id=run.project_id,
            name=run.pipeline, reason=reason[:500],
        )  # fmt: skip

    def _end_credential(self, c: Connection, run: Run, step: Step) -> None:
        if step.small and step.workload is not None:
            self._keys.end_workload(c, step.workload)
            if run.replay_of is not None:  # no others are held to a past
                self._pasts.release(c, step.workload)


def worker_of(run: Run, workload: str | None) -> Run:
    """The run, for the workload that is its worker. Raises `Conflict` (``not_the_worker``) for anybody else."""
    if run.job_id is None or workload != f"job:{run.job_id}":
        raise Conflict(
            f"Only the worker of run {run.id} writes its journal.",
            hint="Look at it with: stratal pipeline show",
            reason="not_the_worker",
        )
    return run


def superseded(run_id: int) -> Conflict:
    return Conflict(
        f"Run {run_id} has ended, or another worker does it now.",
        hint="Nothing is left to do here.",
        reason="superseded",
    )


def _known(c: Connection, run: Run, names: Sequence[str]) -> dict[str, Row[Any]]:
    """Those of these steps that there are, by name, as far as beginning and ending them needs."""
    asked = {"of_run": run.id}
    return {row.name: row for some in in_parts(names) for row in c.execute(_ROWS, {**asked, "names": some})}


def _moment(run: Run, at: int | None, latest: int) -> int:
    """When something was, by its worker's clock (epoch milliseconds): within the run's time, whatever that clock says."""
    return min(max(run.started_at or run.created_at, latest if at is None else at), latest)


def _workload(run: Run, entry: Entry) -> str:
    """Under which a step ran that its worker began without asking."""
    return f"job:{run.job_id}/{entry['part']}"


def _is_first(end: Entry | None) -> bool:
    """Is it the end of a first attempt, which was begun without asking?"""
    return end is not None and end["attempt"] == 1 and bool(end.get("part"))


def _asked(run: Run, name: str, code: str, arguments: Json, environment: str) -> caching.Asked:
    key = step_key(run.pipeline, name, code, arguments, environment)
    return caching.Asked(name, code, key, arguments, digest(without_moments(arguments)), environment)


def _given(one: caching.Asked) -> dict[str, Any]:
    """What a step was asked to do, as columns of its row."""
    return {
        "arguments": dumped(one.arguments),
        "given": one.given,
        "environment": one.environment,
        "key": one.key,
    }


def _rows(c: Connection, run_id: int) -> list[Any]:
    return list(c.execute(select(steps).where(steps.c.run_id == run_id).order_by(steps.c.id)).mappings())


def _ended(step: Step) -> Decision:
    return {
        "name": step.name,
        "decision": "ended",
        "state": step.state.value,
        "reason": step.reason,
        "output": step.output,
    }
