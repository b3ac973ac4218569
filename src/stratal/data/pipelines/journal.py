"""The journal: every step of every run advances here and nowhere else.

A worker tells what its pipeline called, what is ready and what has ended; each is written, and answered with what
to do, in one transaction. Everything may be told twice: what is known already is answered as it stands.
Two fences keep out those who do not know that they were replaced. A run's `epoch` rises when a worker opens
its journal, and writes of an older one are refused. A step's `attempt` rises when it is started, and with it the
credential of the attempt before ends, so neither its word nor its writes count any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, insert, select, update

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
    step_key,
    without_moments,
)
from stratal.data.pipelines.tables import runs, steps, writes
from stratal.identity.keys import Keys
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Conflict, Invalid
from stratal.kernel.events import emit
from stratal.ledger.past import Pasts
from stratal.ledger.tables import accesses

Entry = Mapping[str, Json]
Decision = dict[str, Json]
MOST_STEPS = 20_000
_LONGEST_PAUSE = 60.0

# Built once: building costs more than running, and every step asks these.
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
_CACHEABLE = select(steps.c.cacheable).where(steps.c.id == bindparam("this"))
_READ = select(accesses.c.kind, accesses.c.version, accesses.c.name).where(
    accesses.c.workload == bindparam("whose"), accesses.c.mode == "read"
)
_WRITTEN = select(writes.c.table_id, writes.c.snapshot_id).where(writes.c.step_id == bindparam("this"))


class Journal:
    """Write functions: each runs inside a transaction of the database's writer."""

    def __init__(self, keys: Keys, clock: Clock, pasts: Pasts) -> None:
        self._keys = keys
        self._clock = clock
        self._pasts = pasts

    # -- whose journal it is -------------------------------------------------------------------

    def open(self, c: Connection, run_id: int, job_id: int) -> tuple[Run, list[Step]]:
        """Begin, or go on, as the worker that is job `job_id`: raises the epoch and gives all that has ended.

        Small steps that an earlier worker was doing are taken from it, their credentials ended.
        """
        run = records.find_run(c, None, run_id)
        if run.job_id != job_id or run.state.ended:
            raise superseded(run_id)
        values: dict[str, Any] = {"epoch": run.epoch + 1, "state": RunState.RUNNING.value, "reason": ""}
        if run.started_at is None:
            values["started_at"] = self._clock()
        c.execute(update(runs).where(runs.c.id == run_id).values(values))
        found = [records.step_of(row) for row in _rows(c, run_id)]
        for step in found:
            if step.small and step.state is StepState.RUNNING:
                self._end_credential(c, run, step)
                records.change_step(c, step, {"state": StepState.WAITING.value})
        ended = [step for step in found if step.state.ended]
        if run.replay_of is not None:
            ended = [replace(step, output=self._told(c, run, step)["output"]) for step in ended]
        return records.find_run(c, None, run_id), ended

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

        A step may be started upon the ends of others that this very page tells: it is, unless one of these came out
        otherwise than told. The ends of steps that have staged something are not noted but given back: see `Stage.finish`.
        Raises `Conflict`: ``not_the_worker`` unless `workload` is the run's worker; ``superseded`` for one that was
        replaced or whose run has ended.
        """
        run = worker_of(records.find_run(c, project_id, run_id), workload)
        if run.epoch != epoch or run.state.ended:
            raise superseded(run_id)
        staged = self._staged(c, run, entries)
        staging = [entry for entry in entries if entry["do"] == "finish" and entry["name"] in staged]
        entries = [entry for entry in entries if entry["do"] != "finish" or entry["name"] not in staged]
        decisions: list[Decision] = []
        self._note_calls(c, run, [entry for entry in entries if entry["do"] == "call"])
        names = {str(entry["name"]) for entry in entries if entry["do"] in {"start", "finish", "skip"}}
        known = records.find_steps(c, run_id, sorted(names)) if len(names) > 1 else {}

        def present(entry: Entry) -> Step:
            # What was read for all of them is good until the step is changed: so it is taken once.
            name = str(entry["name"])
            return known.pop(name, None) or records.find_step(c, run_id, name)

        as_told: set[str] = set()
        for entry in entries:
            match entry["do"]:
                case "call":
                    decisions.append({"name": entry["name"], "decision": "noted"})
                case "begin":
                    told = {"pipeline": str(entry["pipeline"])[:200], "doc": str(entry.get("doc", ""))[:2000]}
                    c.execute(update(runs).where(runs.c.id == run.id).values(told))
                    run = records.find_run(c, None, run_id)
                case "start" if not as_told.issuperset(entry.get("upon") or ()):
                    decisions.append({"name": entry["name"], "decision": "wait"})
                case "start":
                    decisions.append(self.start(c, run, present(entry), entry))
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

    def _note_calls(self, c: Connection, run: Run, calls: Sequence[Entry]) -> None:
        if not calls:
            return
        known = set(c.execute(select(steps.c.name).where(steps.c.run_id == run.id)).scalars())
        new = [entry for entry in calls if entry["name"] not in known]
        if len(known) + len(new) > MOST_STEPS:
            raise Invalid(f"A run may have {MOST_STEPS} steps.", reason="too_many_steps")
        now = self._clock()
        how = (
            *("cpus", "memory_bytes", "gpus", "gpu_type", "requirements", "network", "timeout_seconds"),
            "replay",
        )
        if new:
            c.execute(
                insert(steps),
                [
                    {
                        "run_id": run.id,
                        "project_id": run.project_id,
                        "name": entry["name"],
                        "step": entry["step"],
                        "kind": entry["kind"],
                        "doc": entry.get("doc", ""),
                        "after": dumped(entry["after"]),
                        "call": dumped({name: entry.get(name) for name in how}),
                        "small": int(bool(entry["small"])),
                        "cacheable": int(bool(entry["cache"])),
                        "retries": entry["retries"],
                        "code": entry["code"],
                        "state": StepState.WAITING.value,
                        "reason": "",
                        "created_at": now,
                    }
                    for entry in new
                ],
            )

    def start(self, c: Connection, run: Run, step: Step, entry: Entry) -> Decision:
        """Its inputs are there: take what was left before, or have it run."""
        if step.state.ended:
            return self._told(c, run, step)
        if not step.small and step.state is StepState.RUNNING:
            return {"name": step.name, "decision": "job"}
        arguments = entry["arguments"]
        environment = self._environment(c, run, step)
        key = step_key(run.pipeline, step.name, step.code, arguments, environment)
        told: dict[str, Any] = {
            "arguments": dumped(arguments),
            "given": digest(without_moments(arguments)),
            "environment": environment,
            "key": key,
            "started_at": self._clock(),
        }
        then = None if run.replay_of is None else replaying.original(c, run, step.name)
        if run.replay_of is not None:
            told["reason"] = f"repeats run {run.replay_of}"
            if then is None or not then.state.good:
                return self._not_replayed(c, run, step, told)
            if then.call.get("replay") is False:
                return self._take(c, step, then, told, "a replay does not do it again (replay=False)")
        elif step.attempt == 0:
            source, told["reason"] = self._look_back(c, run, step, key, arguments, environment)
            if source is not None:
                why = f"nothing it depends on has changed since run {source.run_id}"
                return self._take(c, step, records.step_of(source._mapping), told, why)
        told |= {"state": StepState.RUNNING.value, "error": None}
        if not step.small:
            records.change_step(c, step, {**told, "job_id": None})
            return {"name": step.name, "decision": "job"}
        self._end_credential(c, run, step)
        attempt = step.attempt + 1
        workload = f"job:{run.job_id}/{step.id}.{attempt}"
        credential = self._keys.insert_for_workload(c, records.creator(run), run.project_id, workload)
        if then is not None:
            self._pasts.hold(c, run.project_id, workload, replaying.past(c, then))
        told |= {"attempt": attempt, "workload": workload}
        records.change_step(c, step, told)
        return {
            "name": step.name,
            "decision": "run",
            "attempt": attempt,
            "key": [credential.id, credential.secret],
        }

    def _environment(self, c: Connection, run: Run, step: Step) -> str:
        own = step.call.get("requirements")
        if own is not None:
            return "requirements " + digest(own)
        lock = c.execute(_LOCK, {"this": run.job_id}).scalar()
        return f"lock {lock}"

    def _look_back(
        self, c: Connection, run: Run, step: Step, key: str, arguments: Json, environment: str
    ) -> tuple[Any, str]:
        if not run.use_cache:
            return None, "this run takes nothing from earlier ones"
        if not c.execute(_CACHEABLE, {"this": step.id}).scalar():
            return None, "it runs each time (cache=False)"
        source, against = caching.reusable(c, run.project_id, key, arguments)
        if source is not None or against:
            return source, against
        return None, caching.difference(
            c, run.project_id, run.pipeline, step.name,
            code=step.code, arguments=arguments, environment=environment,
        )  # fmt: skip

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
        if step.state is not StepState.RUNNING or step.attempt != entry["attempt"]:
            return {"name": step.name, "decision": "noted"}
        self._end_credential(c, run, step)
        now = self._clock()
        values: dict[str, Any] = {"ended_at": now}
        if entry.get("seconds_ago") is not None and step.started_at is not None:
            # It was granted ahead, and waited for one of its worker's places.
            values["started_at"] = max(step.started_at, min(now, now - round(1000 * entry["seconds_ago"])))
        if entry.get("checks"):
            values["checks"] = dumped(entry["checks"])
        if entry.get("log"):
            values["log"] = str(entry["log"])[-64 * 1024 :]
        if entry["state"] == StepState.SUCCEEDED.value:
            own = {f"{write['table_id']}@{write['snapshot']}" for write in published}
            seen = c.execute(_READ, {"whose": step.workload}).all()
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
