"""Replays as others use them: ask for one, look at it, wait for it."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, delete, insert, select

from stratal.ai.replays import records
from stratal.ai.replays.conductor import Conductor
from stratal.ai.replays.model import Replay, State
from stratal.ai.replays.tables import replays
from stratal.collab.runs import Runs
from stratal.compute.jobs import Jobs
from stratal.compute.model import JobState
from stratal.data.pipelines.service import Pipelines
from stratal.data.pipelines.tables import runs as pipeline_runs
from stratal.data.pipelines.tables import steps
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid
from stratal.kernel.events import emit

_MOST_IGNORED = 100


@dataclass(frozen=True, slots=True)
class What:
    """What is to be repeated: the job, or the run of a pipeline, with this number."""

    kind: str
    id: int


class Replays:
    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        pipelines: Pipelines,
        runs: Runs,
        conductor: Conductor,
        clock: Clock,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._pipelines = pipelines
        self._runs = runs
        self._conductor = conductor
        self._clock = clock

    async def ask(
        self,
        who: Principal,
        project_id: str,
        asked: str,
        *,
        tolerance: float = 0.0,
        ignored: Sequence[str] = (),
    ) -> Replay:
        """Have earlier work repeated and compared: a pipeline's run (``12``), a tracked run (its id), a job (``job:7``).

        Durable when this returns. Raises `NotFound`, `Invalid`, and `Conflict` for work that cannot be repeated:
        it did not succeed, or no job of this platform did it.
        """
        require(who, "replays.run", project_id)
        if not 0 <= tolerance < 1:
            raise Invalid("A tolerance is a part of a number, from 0 to below 1.", reason="bad_tolerance")
        if len(ignored) > _MOST_IGNORED or any(not 0 < len(name) <= 300 for name in ignored):
            raise Invalid(f"At most {_MOST_IGNORED} names may be passed over.", reason="bad_ignored")
        what = await self._what(who, project_id, asked)
        values = {
            "project_id": project_id,
            "asked": asked,
            "kind": what.kind,
            "of_id": what.id,
            "tolerance": tolerance,
            "ignored": orjson.dumps(list(ignored)).decode(),
            "state": State.CHECKING.value,
            "created_at": self._clock(),
            "created_by": who.actor,
            "creator_id": who.id,
            "creator_name": who.name,
            "creator_role": who.role.value,
        }

        def work(c: Connection) -> Replay:
            made = c.execute(insert(replays).values(values).returning(replays.c.id)).scalar_one()
            emit(c, "replay.asked", str(made), actor=who.actor, project_id=project_id, name=asked)
            return records.find(c, project_id, made)

        replay = await self._database.write(work)
        self._conductor.kick()
        return replay

    async def _what(self, who: Principal, project_id: str, asked: str) -> What:
        job = re.fullmatch(r"job:(\d{1,15})", asked, re.ASCII)
        if re.fullmatch(r"\d{1,15}", asked, re.ASCII):
            await self._pipelines.to_repeat(who, project_id, int(asked))
            return What("pipeline", int(asked))
        if job is not None:
            return await self._job(who, project_id, int(job[1]))
        if re.fullmatch(r"[0-9a-f]{32}", asked, re.ASCII):
            return await self._tracked(who, project_id, asked)
        raise Invalid(
            f"{asked[:60]!r} names nothing that can be repeated.",
            hint="Give the number of a pipeline's run (12), the id of a tracked run (32 hex digits), or job:7.",
            reason="bad_replay",
        )

    async def _tracked(self, who: Principal, project_id: str, run_id: str) -> What:
        run = await self._runs.get(who, project_id, run_id)
        if run.workload is None:
            raise Conflict(
                f"Run {run_id} was made outside of the platform's jobs: its code, data and environment are not known here.",
                hint="Train it in a job: stratal run -- python train.py",
                reason="nothing_to_replay",
            )
        step = select(steps.c.run_id).where(
            steps.c.workload == run.workload, steps.c.project_id == project_id
        )
        of_pipeline = await self._database.read(lambda c: c.execute(step).scalar())
        if of_pipeline is not None:
            await self._pipelines.to_repeat(who, project_id, of_pipeline)
            return What("pipeline", of_pipeline)
        job = await self._jobs.by_workload(run.workload)
        return await self._job(who, project_id, job.id)

    async def _job(self, who: Principal, project_id: str, job_id: int) -> What:
        job = await self._jobs.get(who, project_id, job_id)
        if job.state is not JobState.SUCCEEDED:
            raise Conflict(
                f"Job {job_id} is {job.state.value}: only jobs that succeeded are replayed.",
                reason="nothing_to_replay",
            )

        def belongs(c: Connection) -> int | None:
            worker = select(pipeline_runs.c.id).where(pipeline_runs.c.job_id == job_id)
            step = select(steps.c.run_id).where(steps.c.job_id == job_id)
            found = c.execute(worker).scalar() or c.execute(step).scalar()
            return None if found is None else int(found)

        of_pipeline = await self._database.read(belongs)
        if of_pipeline is not None:
            await self._pipelines.to_repeat(who, project_id, of_pipeline)
            return What("pipeline", of_pipeline)
        return What("job", job_id)

    async def get(self, who: Principal, project_id: str, replay_id: int) -> Replay:
        """Raises `NotFound`, also for a replay of another project."""
        require(who, "replays.read", project_id, what=f"replay {replay_id}")
        return await self._database.read(lambda c: records.find(c, project_id, replay_id))

    async def list(self, who: Principal, project_id: str, *, limit: int = 100) -> Sequence[Replay]:
        """The project's replays, newest first."""
        require(who, "replays.read", project_id)
        wanted = records.query().where(replays.c.project_id == project_id)
        wanted = wanted.order_by(replays.c.id.desc()).limit(limit)
        return await self._database.read(
            lambda c: [records.replay_of(row) for row in c.execute(wanted).mappings()]
        )

    async def wait(self, who: Principal, project_id: str, replay_id: int, seconds: float) -> Replay:
        """The replay once it has ended, or as it is after `seconds`. Raises `NotFound`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            replay = await self.get(who, project_id, replay_id)
            left = deadline - asyncio.get_running_loop().time()
            if replay.state is State.ENDED or left <= 0:
                return replay
            await self._conductor.changed.wait(min(left, 1.0))

    async def purge(self, project_id: str) -> None:
        """Forget a project's replays. May be repeated."""
        await self._database.write(
            lambda c: c.execute(delete(replays).where(replays.c.project_id == project_id))
        )
