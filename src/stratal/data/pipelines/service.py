"""Runs: asking for one, looking at it, ending it, trying again, and what its worker says and asks."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.compute.jobs import Jobs
from stratal.compute.reconciler import Bell
from stratal.compute.requirements import canonical
from stratal.compute.snapshots import Snapshots
from stratal.compute.tables import jobs as job_rows
from stratal.data.lake.model import Place, TableName
from stratal.data.pipelines import records
from stratal.data.pipelines.journal import Decision, Entry, Journal, superseded, worker_of
from stratal.data.pipelines.model import (
    UNENDED_STEPS,
    Json,
    Run,
    RunSpec,
    RunState,
    Step,
    StepState,
    dumped,
    partition_states,
)
from stratal.data.pipelines.staging import Stage
from stratal.data.pipelines.tables import runs, steps, writes
from stratal.data.pipelines.upkeep import Upkeep
from stratal.data.queries.loading import Mode
from stratal.data.queries.service import Sourced
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock, iso
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.ledger.tables import usage
from stratal.ledger.units import share

MOST_AT_ONCE = 1000
REPORTS = ("report", "notebook")
"""Kinds of steps whose value is a page."""
MOST_PARAMETERS = 64 * 1024
MOST_PARTITIONS = 5000
_BEYOND = 2**62
_MOST_NAMED = 500
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, newest first; `more_before` is the id to go on from, None when these were the last."""

    runs: Sequence[Run]
    more_before: int | None


class Pipelines:
    """`start` before use; `close` lets go, and what runs goes on running."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        snapshots: Snapshots,
        journal: Journal,
        stage: Stage,
        upkeep: Upkeep,
        clock: Clock,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._snapshots = snapshots
        self._journal = journal
        self._stage = stage
        self._upkeep = upkeep
        self._clock = clock
        self.changed: Bell = upkeep.changed

    async def start(self) -> None:
        await self._upkeep.start()

    async def close(self) -> None:
        await self._upkeep.close()

    # -- asking --------------------------------------------------------------------------------

    async def run(
        self,
        who: Principal,
        project_id: str,
        spec: RunSpec,
        *,
        also: Callable[[Connection, int], None] | None = None,
    ) -> Run:
        """Queue a run; durable when this returns. `also` is given its id in the same write.

        Raises `Invalid`, `NotFound` (snapshot), `Denied`, and what `also` does.
        """
        require(who, "pipelines.run", project_id)
        await self._snapshots.get(project_id, spec.snapshot_id)
        values = {**run_values(spec, who), "project_id": project_id, "created_at": self._clock()}

        def work(c: Connection) -> Run:
            run_id = c.execute(insert(runs).values(values).returning(runs.c.id)).scalar_one()
            emit(
                c, "pipeline.queued", str(run_id), actor=who.actor, project_id=project_id, name=spec.pipeline
            )
            if also is not None:
                also(c, run_id)
            return records.find_run(c, project_id, run_id, counts=True)

        run = await self._database.write(work)
        self._upkeep.kick()
        return run

    async def to_repeat(self, who: Principal, project_id: str, run_id: int) -> RunSpec:
        """What asks for a run that repeats `run_id`: the same code, parameters and environment.

        Raises `NotFound`, `Conflict` for a run that did not succeed.
        """
        run = await self.get(who, project_id, run_id)
        if run.state is not RunState.SUCCEEDED or run.replay_of is not None:
            what = f"is {run.state.value}" if run.replay_of is None else "is a replay itself"
            raise Conflict(
                f"Run {run_id} {what}: only runs that succeeded are replayed.", reason="nothing_to_replay"
            )
        lock = select(job_rows.c.environment_id).where(job_rows.c.id == run.job_id)
        return RunSpec(
            file=run.file,
            snapshot_id=run.snapshot_id,
            pipeline=run.pipeline,
            parameters=run.parameters,
            cwd=run.cwd,
            source=run.source,
            requirements=run.requirements,
            network=run.network,
            parallel=run.parallel,
            use_cache=False,
            partitions=run.partitions,
            trigger="replay",
            replay_of=run_id,
            environment=await self._database.read(lambda c: c.execute(lock).scalar()),
        )

    def let_go(self, c: Connection, run_id: int) -> None:
        """Within a write: what the replay `run_id` staged was compared."""
        self._stage.let_go(c, run_id)

    async def cancel(self, who: Principal, project_id: str, run_id: int) -> Run:
        """End a run: what has not begun never does, what is being done is stopped and leaves nothing. Raises `NotFound`."""
        require(who, "pipelines.run", project_id, what=f"run {run_id}")

        def work(c: Connection) -> tuple[Run, list[int]]:
            run = records.find_run(c, project_id, run_id)
            if run.state.ended:
                return records.find_run(c, project_id, run_id, counts=True), []
            own = select(steps.c.job_id).where(
                steps.c.run_id == run_id, steps.c.job_id.is_not(None), steps.c.state.in_(UNENDED_STEPS)
            )
            found = [run.job_id, *c.execute(own).scalars()]
            self._journal.end(c, run, RunState.CANCELLED, f"cancelled by {who.name}")
            return records.find_run(c, project_id, run_id, counts=True), [
                job for job in found if job is not None
            ]

        run, job_ids = await self._database.write(work)
        for job_id in job_ids:
            await self._jobs.stop(records.creator(run), project_id, job_id)
        self._upkeep.kick()
        return run

    def end(self, c: Connection, run: Run, reason: str) -> None:
        """Within a write: cancel a run whose place another takes. Upkeep stops its worker and the jobs of its steps."""
        self._journal.end(c, run, RunState.CANCELLED, reason)

    async def retry(self, who: Principal, project_id: str, run_id: int) -> Run:
        """Take a run that failed or was cancelled up again: with the same code, what went well is not done again.

        Raises `NotFound`, `Conflict` for a run that has not ended or went well.
        """
        require(who, "pipelines.run", project_id, what=f"run {run_id}")

        def work(c: Connection) -> Run:
            run = records.find_run(c, project_id, run_id)
            if not run.state.ended or run.state is RunState.SUCCEEDED:
                raise Conflict(
                    f"Run {run_id} is {run.state.value}: there is nothing to retry.",
                    reason="nothing_to_retry",
                )
            again = {
                "state": StepState.WAITING.value,
                "reason": "",
                "failures": 0,
                "ended_at": None,
                "job_id": None,
            }
            bad = [state.value for state in StepState if state.ended and not state.good]
            c.execute(update(steps).where(steps.c.run_id == run_id, steps.c.state.in_(bad)).values(again))
            told = {
                "state": RunState.QUEUED.value,
                "reason": "",
                "ended_at": None,
                "job_id": None,
                "output": None,
            }
            c.execute(update(runs).where(runs.c.id == run_id).values(told))
            emit(c, "pipeline.queued", str(run_id), actor=who.actor, project_id=project_id, name=run.pipeline)
            return records.find_run(c, project_id, run_id, counts=True)

        run = await self._database.write(work)
        self._upkeep.kick()
        return run

    # -- looking -------------------------------------------------------------------------------

    async def get(self, who: Principal, project_id: str, run_id: int) -> Run:
        """Raises `NotFound`, also for a run of another project."""
        require(who, "pipelines.read", project_id, what=f"run {run_id}")
        return await self._database.read(lambda c: records.find_run(c, project_id, run_id, counts=True))

    async def steps(self, who: Principal, project_id: str, run_id: int) -> Sequence[Step]:
        """The run's steps in the order they were called. Raises `NotFound`."""
        require(who, "pipelines.read", project_id, what=f"run {run_id}")
        query = select(steps).where(steps.c.run_id == run_id).order_by(steps.c.id)

        def work(c: Connection) -> list[Step]:
            records.find_run(c, project_id, run_id)
            return [records.step_of(row) for row in c.execute(query).mappings()]

        return await self._database.read(work)

    async def report(self, who: Principal, project_id: str, run_id: int, name: str) -> tuple[str, str, str]:
        """Where the page is that a step made: bucket, key and etag. Raises `NotFound`, also for a step that makes none."""
        require(who, "pipelines.read", project_id, what=f"run {run_id}")

        def work(c: Connection) -> Step:
            records.find_run(c, project_id, run_id)
            return records.find_step(c, run_id, name)

        step = await self._database.read(work)
        page = step.output if isinstance(step.output, dict) else {}
        bucket, _, key = str(page.get("$object", "")).removeprefix("s3://").partition("/")
        if step.kind not in REPORTS or not key:
            raise NotFound(
                f"Step {name} of run {run_id} made no report: it is {step.kind}, {step.state.value}.",
                hint="Reports are made by stratal.report_step and stratal.notebook_step.",
                reason="no_such_report",
            )
        return bucket, key, str(page.get("etag", ""))

    async def of_workload(self, workload: str) -> tuple[Run, Step] | None:
        """The step that lineage knows by the name of its workload, for rooms that explain it; they authorise."""
        query = select(steps).where(steps.c.workload == workload).order_by(steps.c.id).limit(1)

        def work(c: Connection) -> tuple[Run, Step] | None:
            row = c.execute(query).mappings().one_or_none()
            return None if row is None else (records.find_run(c, None, row["run_id"]), records.step_of(row))

        return await self._database.read(work)

    async def workloads_before(self, step: Step) -> list[str]:
        """The workloads that did the steps whose results this one was given, also in an earlier run, where they were
        taken from there. For rooms that explain it; they authorise."""
        if not step.after:
            return []
        own, earlier = steps.alias("own"), steps.alias("earlier")
        query = (
            select(func.coalesce(earlier.c.workload, own.c.workload))
            .select_from(own.outerjoin(earlier, earlier.c.id == own.c.taken_from))
            .where(own.c.run_id == step.run_id, own.c.name.in_(step.after[:_MOST_NAMED]))
            .order_by(own.c.id)
        )
        found = await self._database.read(lambda c: c.execute(query).scalars().all())
        return [workload for workload in found if workload is not None]

    async def costs(self, run: Run, found: Sequence[Step]) -> Mapping[str, int]:
        """What each step cost, in billionths, as far as the ledger has it by now: the usage of a job of its own; of the
        worker's, a small step's part by the time that it was at work. For whoever may read the run."""
        own = {step.job_id: step.name for step in found if step.job_id is not None}
        jobs = [job for job in (*own, run.job_id) if job is not None]

        def work(c: Connection) -> dict[str, int]:
            spent: dict[str, int] = {}
            for start in range(0, len(jobs), 500):
                names = [f"job:{job}" for job in jobs[start : start + 500]]
                query = select(usage.c.workload, func.sum(usage.c.amount)).where(
                    usage.c.project_id == run.project_id,
                    usage.c.started_at >= run.created_at - _HOUR_MS,
                    usage.c.workload.in_(names),
                )
                spent |= {name: int(amount) for name, amount in c.execute(query.group_by(usage.c.workload))}
            return spent

        spent = await self._database.read(work)
        told = {name: spent[f"job:{job}"] for job, name in own.items() if f"job:{job}" in spent}
        times: dict[str, int] = {}
        for step in found:
            if step.small and step.workload is not None and step.started_at and step.ended_at:
                times[step.name] = step.ended_at - step.started_at
        whole = spent.get(f"job:{run.job_id}")
        total = sum(times.values())
        if whole is not None and total > 0:
            told |= {name: share(whole, time, total) for name, time in times.items()}
        return told

    async def step_log(
        self, who: Principal, project_id: str, run_id: int, name: str
    ) -> tuple[Step, str | None]:
        """A step and the last 64 KiB of what its last attempt wrote; None: its job's log is its log. Raises `NotFound`."""
        require(who, "pipelines.read", project_id, what=f"run {run_id}")

        def work(c: Connection) -> tuple[Step, str | None]:
            records.find_run(c, project_id, run_id)
            step = records.find_step(c, run_id, name)
            text = c.execute(select(steps.c.log).where(steps.c.id == step.id)).scalar()
            return step, (text or "") if step.small else None

        return await self._database.read(work)

    async def list(
        self,
        who: Principal,
        project_id: str,
        *,
        pipeline: str | None = None,
        states: Sequence[RunState] = (),
        before: int | None = None,
        limit: int = 100,
    ) -> RunPage:
        """The project's runs, newest first."""
        require(who, "pipelines.read", project_id)
        limit = max(1, min(limit, MOST_AT_ONCE))
        query = records.query().where(runs.c.project_id == project_id)
        if pipeline is not None:
            query = query.where(runs.c.pipeline == pipeline)
        if states:
            query = query.where(runs.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(runs.c.id < min(max(before, 0), _BEYOND))
        query = query.order_by(runs.c.id.desc()).limit(limit + 1)

        def work(c: Connection) -> list[Run]:
            rows = list(c.execute(query).mappings())
            counts = records.counted(c, [row["id"] for row in rows])
            return [records.run_of(row, counts[row["id"]]) for row in rows]

        found = await self._database.read(work)
        return RunPage(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def calendar(self, who: Principal, project_id: str, pipeline: str) -> Sequence[dict[str, Json]]:
        """Every partition that the newest runs of a pipeline made, by name: its state, the run that is the newest of it,
        and how often it was made. A run that failed before it came to a partition says nothing of it."""
        require(who, "pipelines.read", project_id)
        query = (
            records.query()
            .where(
                runs.c.project_id == project_id,
                runs.c.pipeline == pipeline,
                runs.c.partitions.is_not(None),
                runs.c.replay_of.is_(None),
            )
            .order_by(runs.c.id.desc())
            .limit(MOST_AT_ONCE)
        )

        def work(c: Connection) -> list[dict[str, Json]]:
            told: dict[str, dict[str, Json]] = {}
            for row in c.execute(query).mappings():
                run = records.run_of(row)
                ran = select(steps).where(steps.c.run_id == run.id).order_by(steps.c.id)
                found = [records.step_of(one) for one in c.execute(ran).mappings()]
                for one in partition_states(run, found):
                    if run.state.ended and one["state"] is StepState.WAITING:
                        continue
                    ended = None if run.ended_at is None else iso(run.ended_at)
                    known = told.setdefault(one["name"], {**one, "run": run.id, "at": ended, "times": 0})
                    known["times"] += 1
                if len(told) >= MOST_PARTITIONS:
                    break
            return [told[name] for name in sorted(told)]

        return await self._database.read(work)

    async def wait(self, who: Principal, project_id: str, run_id: int, seconds: float) -> Run:
        """The run once it has ended, or as it is after `seconds`. Raises `NotFound`."""
        deadline = asyncio.get_running_loop().time() + seconds
        require(who, "pipelines.read", project_id, what=f"run {run_id}")
        while True:
            run = await self._database.read(lambda c: records.find_run(c, project_id, run_id))
            left = deadline - asyncio.get_running_loop().time()
            if run.state.ended or left <= 0:
                return await self.get(who, project_id, run_id)
            await self.changed.wait(min(left, 1.0))

    # -- what the worker says and asks -----------------------------------------------------------

    async def open(
        self, who: Principal, project_id: str, run_id: int, noted: Sequence[Entry] = ()
    ) -> tuple[Run, Sequence[Step]]:
        """Begin or go on as the run's worker; see `Journal.open`. Raises `Conflict` (``not_the_worker``) for anybody else,
        (``superseded``)."""
        require(who, "pipelines.run", project_id, what=f"run {run_id}")
        job_id = await self._worker(who, project_id, run_id)
        assert job_id is not None
        opened = await self._database.write(lambda c: self._journal.open(c, run_id, job_id, noted))
        self.changed.ring()
        return opened

    async def write(
        self,
        who: Principal,
        place: Place,
        run_id: int,
        epoch: int,
        entries: Sequence[Entry],
        watch: Sequence[str],
        want: int = 0,
        look: Sequence[tuple[str, str]] = (),
    ) -> tuple[Sequence[Decision], Sequence[Sequence[str]], Sequence[Sequence[str] | None]]:
        """The journal's next page from the run's worker: what to do, as many credentials in store as it wants, and what is
        left from before of the steps that it looks for (see `Journal.left`). Raises as `open`."""
        require(who, "pipelines.run", place.id, what=f"run {run_id}")

        def work(
            c: Connection,
        ) -> tuple[list[Decision], list[Entry], list[list[str]], list[list[str] | None]]:
            decisions, staging = self._journal.write(c, place.id, run_id, who.workload, epoch, entries, watch)
            run = records.find_run(c, place.id, run_id)
            store = self._journal.store(c, run, 0 if run.state.ended else want)
            return decisions, staging, store, self._journal.left(c, run, look)

        decisions, staging, store, left = await self._database.write(work)
        for entry in staging:
            run = await self._database.read(lambda c: records.find_run(c, place.id, run_id))
            if run.epoch != epoch or run.state.ended:
                raise superseded(run_id)
            decisions.append(await self._stage.finish(place, run, entry))
        if any(decision["decision"] == "job" for decision in decisions):
            self._upkeep.kick()
        elif any(entry["do"] == "end" for entry in entries):  # what those wait for who wait
            self.changed.ring()
        return decisions, store, left

    async def _worker(self, who: Principal, project_id: str, run_id: int) -> int | None:
        """The job that is the run's worker, when `who` is it."""
        run = await self._database.read(lambda c: records.find_run(c, project_id, run_id))
        return worker_of(run, who.workload).job_id

    async def begin_step(self, who: Principal, project_id: str, run_id: int, name: str) -> tuple[Run, Step]:
        """What a step that is a job of its own has to do. Raises as `open`."""
        require(who, "pipelines.run", project_id, what=f"run {run_id}")
        job_id = await self._step_job(who, project_id, run_id, name)
        return await self._database.write(lambda c: self._journal.begin_job(c, run_id, name, job_id))

    async def finish_step(self, who: Principal, place: Place, run_id: int, entry: Entry) -> Decision:
        """How a step that is a job of its own went. Raises as `open`."""
        require(who, "pipelines.run", place.id, what=f"run {run_id}")
        await self._step_job(who, place.id, run_id, str(entry["name"]))
        run = await self.get(who, place.id, run_id)
        if run.state.ended:
            raise superseded(run_id)
        decision = await self._stage.finish(place, run, entry)
        self.changed.ring()
        return decision

    async def _step_job(self, who: Principal, project_id: str, run_id: int, name: str) -> int:
        def work(c: Connection) -> Step:
            records.find_run(c, project_id, run_id)
            return records.find_step(c, run_id, name)

        step = await self._database.read(work)
        if step.job_id is None or who.workload != f"job:{step.job_id}":
            raise Conflict(f"Only the job of step {name[:200]} speaks for it.", reason="not_the_step")
        return step.job_id

    async def write_table(
        self,
        who: Principal,
        place: Place,
        run_id: int,
        step: str,
        attempt: int,
        number: int,
        name: TableName,
        source: Sourced,
        mode: Mode,
        *,
        keys: Sequence[str] = (),
        where: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """A step writes a table; see `Stage.write`."""
        require(who, "tables.write", place.id, what=f"run {run_id}")
        if mode == "upsert" and not keys:
            raise Invalid("An upsert needs its keys.", reason="no_keys")
        if mode == "overwrite" and not where:
            raise Invalid("An overwrite needs the values that are overwritten.", reason="no_where")
        return await self._stage.write(
            who, place, run_id, step, attempt, number, name, source, mode, keys=keys, where=where
        )

    # -- the end of a project ----------------------------------------------------------------------

    async def purge(self, project_id: str) -> None:
        """Forget a project's runs. May be repeated; its jobs are ended by their own room."""

        def work(c: Connection) -> None:
            c.execute(delete(writes).where(writes.c.project_id == project_id))
            c.execute(delete(steps).where(steps.c.project_id == project_id))
            c.execute(delete(runs).where(runs.c.project_id == project_id))

        await self._database.write(work)

    async def job_states(self, found: Sequence[Step]) -> Mapping[int, str]:
        """The states of the jobs that steps are."""
        ids = [step.job_id for step in found if step.job_id is not None and step.state is StepState.RUNNING]
        if not ids:
            return {}
        query = select(job_rows.c.id, job_rows.c.state).where(job_rows.c.id.in_(ids[:500]))
        return await self._database.read(lambda c: {row.id: row.state for row in c.execute(query)})


def run_values(spec: RunSpec, who: Principal) -> dict[str, Any]:
    """The columns of a new run. Raises `Invalid`."""
    parameters = dumped(dict(spec.parameters))
    if len(parameters) > MOST_PARAMETERS:
        raise Invalid(f"A run's parameters may have {MOST_PARAMETERS >> 10} KiB.", reason="bad_parameters")
    if not spec.file.endswith(".py") or spec.file.startswith("/") or ".." in spec.file.split("/"):
        raise Invalid(
            f"{spec.file[:200]!r} is no Python file of the code.",
            hint="For example: nightly.py",
            reason="bad_file",
        )
    if len(spec.pipeline) > 200 or len(spec.file) > 1000 or "\0" in spec.file + spec.pipeline + spec.cwd:
        raise Invalid("The pipeline's name is too long, or holds a NUL.", reason="bad_name")
    if spec.partitions is not None:
        _check_partitions(spec.partitions)
    if spec.parallel is not None and not 1 <= spec.parallel <= 64:
        raise Invalid("At most 64 small steps at once.", reason="bad_parallel")
    return {
        "pipeline": spec.pipeline,
        "file": spec.file,
        "parameters": parameters,
        "trigger": spec.trigger,
        "state": RunState.QUEUED.value,
        "reason": "",
        "snapshot_id": spec.snapshot_id,
        "cwd": spec.cwd,
        "source": dumped(dict(spec.source)),
        "requirements": canonical(spec.requirements),
        "network": spec.network,
        "parallel": spec.parallel,
        "use_cache": int(spec.use_cache),
        "partitions": None if spec.partitions is None else dumped(list(spec.partitions)),
        "replay_of": spec.replay_of,
        "environment": spec.environment,
        "created_by": who.actor,
        "creator_id": who.id,
        "creator_name": who.name,
        "creator_role": who.role.value,
    }


def _check_partitions(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MOST_PARTITIONS:
        raise Invalid(f"A run makes 1 to {MOST_PARTITIONS} partitions.", reason="bad_partitions")
    if len(set(names)) < len(names):
        raise Invalid("A partition is named twice.", reason="bad_partitions")
    for name in names:
        if not 0 < len(name) <= 100 or "@" in name or "\0" in name or not name.isprintable():
            raise Invalid(
                f"{name[:100]!r} cannot name a partition.",
                hint="Use 1 to 100 printable characters without '@'.",
                reason="bad_partitions",
            )
