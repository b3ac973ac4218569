"""Brings each replay from its asking to its end: checks its inputs, has the work done again, compares.

Where a replay stands is in its row, and each of its stages may be begun anew: a server killed in one goes
on with it. What repeats the work is queued in the transaction that notes it, so there is one, or none.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select, update

from stratal.ai.replays import records
from stratal.ai.replays.comparing import Comparing, Pair
from stratal.ai.replays.inputs import Inputs, Stood, read_beside
from stratal.ai.replays.model import Input, InputState, Limits, Replay, Result, State, Verdict
from stratal.ai.replays.tables import replays
from stratal.collab.runs import Batch, Runs
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobSpec, JobState, Source
from stratal.compute.reconciler import Bell
from stratal.compute.tables import jobs as job_rows
from stratal.data.lake import held
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Change, Place, parse_table_name
from stratal.data.pipelines import records as pipeline_records
from stratal.data.pipelines.model import RunState, Step, StepState
from stratal.data.pipelines.replaying import doer
from stratal.data.pipelines.service import Pipelines
from stratal.data.pipelines.tables import runs as pipeline_runs
from stratal.data.pipelines.tables import steps
from stratal.identity.model import system_principal
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError
from stratal.kernel.events import emit
from stratal.ledger.past import Past, Pasts

log = logging.getLogger("stratal.replays")

REPLAY_TAG = "stratal.replay_of"
_LOOK_SECONDS = 0.5
_IDLE_SECONDS = 30.0
_JOB_ENDED = {state.value for state in JobState if state.ended}
_RUN_ENDED = {state.value for state in RunState if state.ended}
_LOST = {InputState.BROKEN, InputState.GONE}
_NOT_PASSED_ON = ("MLFLOW_RUN_ID",)
"""Variables that would have a replay write to the run of the work that it repeats."""


class _Superseded(Exception):
    """The replay stands elsewhere by now, or is gone."""


class Conductor:
    """`start` before use; `kick` when a replay was asked for."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        pipelines: Pipelines,
        runs: Runs,
        lake: Lake,
        inputs: Inputs,
        comparing: Comparing,
        pasts: Pasts,
        clock: Clock,
    ) -> None:
        self.changed = Bell()
        self._database = database
        self._jobs = jobs
        self._pipelines = pipelines
        self._runs = runs
        self._lake = lake
        self._inputs = inputs
        self._comparing = comparing
        self._pasts = pasts
        self._clock = clock
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="replays")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kick(self) -> None:
        self._kicked.set()

    async def _run(self) -> None:
        while True:
            self._kicked.clear()
            busy = True
            try:
                busy = await self._look()
            except Exception:
                log.exception("looking after replays failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if busy else _IDLE_SECONDS):
                    await self._kicked.wait()

    async def _look(self) -> bool:
        """Bring every replay as far as it goes now; False when all have ended."""
        unended = records.query().where(replays.c.state != State.ENDED.value).order_by(replays.c.id)
        found = await self._database.read(
            lambda c: [records.replay_of(row) for row in c.execute(unended).mappings()]
        )
        for replay in found:
            try:
                await self._advance(replay)
            except _Superseded:
                continue
            except StratalError as error:
                if error.status >= 500:
                    log.warning("replay %d cannot go on right now: %s", replay.id, error)
                    continue
                await self._end(replay, Verdict.FAILED, f"{error}")
            except Exception as error:
                log.exception("replay %d failed", replay.id)
                await self._end(replay, Verdict.FAILED, f"a defect: {type(error).__name__}")
        return bool(found)

    async def _advance(self, replay: Replay) -> None:
        match replay.state:
            case State.CHECKING:
                await self._check(replay)
            case State.RUNNING:
                await self._watch(replay)
            case State.COMPARING:
                await self._compare(replay)

    # -- checking and starting ---------------------------------------------------------------------

    async def _check(self, replay: Replay) -> None:
        stood = await self._stood(replay)
        found = await self._inputs.check(stood)
        lost = [one for one in found if one.state in _LOST]
        noted = update(replays).where(replays.c.id == replay.id).values(inputs=records.dumped(found))
        await self._database.write(lambda c: c.execute(noted))
        replay = replace(replay, inputs=found)
        if lost:
            words = "; ".join(f"{one.kind} {one.name}: {one.note}" for one in lost[:5])
            await self._end(replay, Verdict.ALTERED, words)
        elif replay.kind == "job":
            await self._repeat_job(replay)
        else:
            await self._repeat_run(replay)

    async def _stood(self, replay: Replay) -> Stood:
        def work(c: Connection) -> Stood:
            if replay.kind == "job":
                row = c.execute(select(job_rows).where(job_rows.c.id == replay.of_id)).one()
                locks = [row.environment_id] if row.environment_id else []
                return Stood(replay.project_id, row.snapshot_id, locks, [f"job:{replay.of_id}"])
            run = pipeline_records.find_run(c, replay.project_id, replay.of_id)
            done = [doer(c, step) for step in _steps(c, run.id)]
            ids = [run.job_id, *(step.job_id for step in done if not step.small)]
            lock = select(job_rows.c.environment_id).where(job_rows.c.id.in_([id_ for id_ in ids if id_]))
            locks = [found for found in c.execute(lock).scalars() if found]
            workloads = [step.workload for step in done if step.workload is not None]
            return Stood(replay.project_id, run.snapshot_id, locks, workloads)

        return await self._database.read(work)

    async def _repeat_job(self, replay: Replay) -> None:
        who = records.creator(replay)
        job = await self._jobs.get(who, replay.project_id, replay.of_id)
        shown = await self._database.read(lambda c: held.past_of(c, job.workload))

        def also(c: Connection, job_id: int) -> None:
            self._pasts.hold(c, replay.project_id, f"job:{job_id}", shown)
            self._move(c, replay, State.RUNNING, by_id=job_id)

        await self._jobs.submit(who, replay.project_id, _spec_of(replay, job), also=also)
        self.changed.ring()

    async def _repeat_run(self, replay: Replay) -> None:
        who = records.creator(replay)
        spec = await self._pipelines.to_repeat(who, replay.project_id, replay.of_id)

        def also(c: Connection, run_id: int) -> None:
            self._move(c, replay, State.RUNNING, by_id=run_id)

        await self._pipelines.run(who, replay.project_id, spec, also=also)
        self.changed.ring()

    def _move(self, c: Connection, replay: Replay, state: State, **values: Any) -> None:
        here = (replays.c.id == replay.id, replays.c.state == replay.state.value)
        if c.execute(update(replays).where(*here).values(state=state.value, **values)).rowcount != 1:
            raise _Superseded

    # -- watching and comparing --------------------------------------------------------------------

    async def _watch(self, replay: Replay) -> None:
        table, ended = (job_rows, _JOB_ENDED) if replay.kind == "job" else (pipeline_runs, _RUN_ENDED)
        query = select(table.c.state).where(table.c.id == replay.by_id)
        state = await self._database.read(lambda c: c.execute(query).scalar())
        if state is None or state in ended:
            await self._database.write(lambda c: self._move(c, replay, State.COMPARING))
            self._kicked.set()

    async def _compare(self, replay: Replay) -> None:
        place = Place(replay.project_id, replay.project)
        limits = Limits(replay.tolerance, replay.ignored)
        pairs, problem = await self._database.read(lambda c: _pairs(c, replay))
        results: list[Result] = []
        inputs = list(replay.inputs)
        for pair in pairs:
            results += await self._comparing.compare(place, pair, limits)
            inputs += await self._database.read(lambda c, p=pair: _others(c, p))  # type: ignore[misc]
            await self._tag(replay, pair)
        differing = [one for one in results if not one.same]
        replay = replace(replay, inputs=inputs, results=results)
        if problem:
            await self._end(replay, Verdict.FAILED, problem)
        elif differing or any(one.state is InputState.OTHER for one in inputs):
            names = [f"{one.kind} {one.name}" for one in differing]
            names += [f"it also read {one.name}" for one in inputs if one.state is InputState.OTHER]
            await self._end(replay, Verdict.DIFFERS, "; ".join(names[:10]))
        else:
            await self._end(replay, Verdict.REPRODUCED, "")
        if replay.kind == "job":
            await self._clear_away(place, pairs)

    async def _tag(self, replay: Replay, pair: Pair) -> None:
        """Mark the tracked runs of the replay as what they are."""
        who = system_principal(replay.project_id, replay.project)
        before = await self._runs.of_workload(who, replay.project_id, pair.before)
        after = await self._runs.of_workload(who, replay.project_id, pair.after)
        for one, other in zip(before, after, strict=False):
            await self._runs.log(who, replay.project_id, other.id, Batch(tags=[(REPLAY_TAG, one.id)]))

    async def _end(self, replay: Replay, verdict: Verdict, reason: str) -> None:
        told = {
            "verdict": verdict.value,
            "reason": reason[:4000],
            "inputs": records.dumped(replay.inputs),
            "results": records.dumped(replay.results),
            "ended_at": self._clock(),
        }

        def work(c: Connection) -> None:
            self._move(c, replay, State.ENDED, **told)
            if replay.kind == "pipeline" and replay.by_id is not None:
                self._pipelines.let_go(c, replay.by_id)
            if replay.kind == "job" and replay.by_id is not None:
                self._pasts.release(c, f"job:{replay.by_id}")
            emit(
                c, "replay.ended", str(replay.id), actor="system", project_id=replay.project_id,
                name=replay.asked, verdict=verdict.value,
            )  # fmt: skip

        await self._database.write(work)
        self.changed.ring()

    async def _clear_away(self, place: Place, pairs: Sequence[Pair]) -> None:
        """Remove the branches on which the replay's own commits were kept aside; what stays behind is only unused."""
        who = system_principal(place.id, place.name)
        for pair in pairs:
            branch = held.branch_of(Past(pair.after))
            names = await self._database.read(lambda c, p=pair: held.tables_written(c, p.after))  # type: ignore[misc]
            for name in names:
                gone = [{"action": "remove-snapshot-ref", "ref-name": branch}]
                try:
                    await self._lake.catalog.commit(who, place, [Change(parse_table_name(name), [], gone)])
                except StratalError as error:
                    log.debug("removing %s of %s: %s", branch, name, error)


def _spec_of(replay: Replay, job: Job) -> JobSpec:
    env = {name: value for name, value in job.env.items() if name not in _NOT_PASSED_ON}
    if job.array_index is not None:
        env["STRATAL_ARRAY_INDEX"] = str(job.array_index)
    known = ("kind", "commit", "branch", "remote", "dirty", "untracked", "submodules")
    return JobSpec(
        argv=job.argv,
        name=f"replay-{replay.id}",
        env=env,
        cpus=job.cpus,
        memory_bytes=job.memory_bytes,
        gpus=job.gpus,
        gpu_type=job.gpu_type,
        nodes=job.nodes,
        procs_per_node=job.procs_per_node,
        network=job.network,
        timeout_seconds=job.timeout_seconds,
        grace_seconds=job.grace_seconds,
        requirements=job.requirements,
        pinned_environment=job.environment_id,
        snapshot_id=job.snapshot_id,
        cwd=job.cwd,
        source=Source(**{name: job.source[name] for name in known if name in job.source}),  # type: ignore[arg-type]
    )


def _steps(c: Connection, run_id: int) -> list[Step]:
    found = select(steps).where(steps.c.run_id == run_id).order_by(steps.c.id)
    return [pipeline_records.step_of(row) for row in c.execute(found).mappings()]


def _pairs(c: Connection, replay: Replay) -> tuple[list[Pair], str]:
    """What is to be compared with what, and why not all of it can be."""
    if replay.kind == "job":
        row = c.execute(
            select(job_rows.c.state, job_rows.c.reason).where(job_rows.c.id == replay.by_id)
        ).first()
        pair = Pair("", f"job:{replay.of_id}", f"job:{replay.by_id}")
        if row is None or row.state != JobState.SUCCEEDED.value:
            how = "is gone" if row is None else f"{row.state}: {row.reason}".rstrip(": ")
            return [], f"job {replay.by_id}, which repeats it, {how}"
        return [pair], ""
    then = {step.name: step for step in _steps(c, replay.of_id)}
    now = {step.name: step for step in _steps(c, replay.by_id or 0)}
    pairs: list[Pair] = []
    problems: list[str] = []
    for name, before in then.items():
        after = now.get(name)
        if after is None or not after.state.good:
            why = "was not called" if after is None else f"{after.state.value}: {after.error or after.reason}"
            problems.append(f"step {name} {why}")
            continue
        done = doer(c, before)
        if after.state is StepState.CACHED or done.workload is None or after.workload is None:
            continue  # it is not done again by its author's wish
        pairs.append(Pair(name, done.workload, after.workload, (done.output, after.output)))
    problems += [f"step {name} is new" for name in now if name not in then]
    query = select(pipeline_runs.c.state, pipeline_runs.c.reason).where(pipeline_runs.c.id == replay.by_id)
    run = c.execute(query).first()
    if not problems and (run is None or run.state != RunState.SUCCEEDED.value):
        problems.append(
            "its run is gone" if run is None else f"its run {run.state}: {run.reason}".rstrip(": ")
        )
    return pairs, "; ".join(problems[:5])


def _others(c: Connection, pair: Pair) -> list[Input]:
    """What the replay read that the work it repeats had not."""
    return [
        Input(
            "table" if kind == "snapshot" else kind, name, version, InputState.OTHER, "it was not read then"
        )
        for kind, name, version in read_beside(c, pair.after, pair.before)
    ]
