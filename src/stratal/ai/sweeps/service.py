"""Sweeps: asking for a search, looking at it, stopping it. The `conductor` carries it on."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, delete, insert, select, update

from stratal.ai.models.registered import check_model_name
from stratal.ai.sweeps import rows
from stratal.ai.sweeps.advisor import Advisor
from stratal.ai.sweeps.model import (
    MOST_PARALLEL,
    MOST_TRIALS,
    Counted,
    Parameter,
    SweepState,
    Trial,
    check_space,
    command_of,
)
from stratal.ai.sweeps.tables import sweep_trials, sweeps
from stratal.collab.experiments import Experiments
from stratal.collab.model import RunStatus
from stratal.collab.rules import check_key, check_title
from stratal.collab.runs import NewRun, Runs
from stratal.compute.jobs import Jobs
from stratal.compute.model import JobSpec
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.names import check_name

SWEEP_TAG = "stratal.sweep"
TRIAL_TAG = "stratal.trial"
PARENT_TAG = "mlflow.parentRunId"
_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class NewSweep:
    """What somebody asks to be searched. `job` is what each trial runs; its command may hold ``{name}`` of parameters."""

    job: JobSpec
    space: Sequence[Parameter]
    metric: str
    name: str | None = None
    maximize: bool = True
    trials: int = 20
    parallel: int = 1
    prune: bool = False
    seed: int | None = None
    register_as: str | None = None
    experiment: str | None = None
    """Where the runs of trials go that name no experiment themselves; None: one called like the sweep."""


class Sweeps:
    """`kick` wakes whoever carries sweeps on."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        experiments: Experiments,
        runs: Runs,
        advisor: Advisor,
        kick: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._experiments = experiments
        self._runs = runs
        self._advisor = advisor
        self._kick = kick
        self._clock = clock

    async def create(self, who: Principal, project_id: str, new: NewSweep) -> Counted:
        """Begin a search. When this returns it is durable and goes on to its end, whatever dies meanwhile.

        Raises `Invalid` and `TooLarge` for what makes no sense, could not be searched, or is no job that
        could ever run; `Unavailable` when nothing that can search is installed; `NotFound`, `Denied`.
        """
        require(who, "sweeps.run", project_id)
        self._advisor.require()
        _check(new)
        job = await self._jobs.check(who, project_id, new.job)
        name = check_name("sweep", new.name or job.name or "sweep")
        experiment = check_title("an experiment", new.experiment or name)
        seed = secrets.randbelow(2**31) if new.seed is None else new.seed
        parent = await self._begin_parent(who, project_id, experiment, name)
        now = self._clock()
        values = {
            "project_id": project_id,
            "name": name,
            "state": SweepState.RUNNING.value,
            "argv": rows.json_of(list(new.job.argv)),
            "space": rows.space_json(new.space),
            "metric": new.metric,
            "maximize": int(new.maximize),
            "trials": new.trials,
            "parallel": min(new.parallel, new.trials),
            "prune": int(new.prune),
            "seed": seed,
            "register_as": new.register_as,
            "experiment": experiment,
            "run_id": parent,
            "template": rows.template_json(replace(job, name=name)),
            "created_by": who.actor,
            "creator_id": who.id,
            "creator_name": who.name,
            "creator_role": who.role.value,
            "created_at": now,
            "reason": "",
        }

        def work(c: Connection) -> Counted:
            sweep_id = c.execute(insert(sweeps).values(values).returning(sweeps.c.id)).scalar_one()
            emit(c, "sweep.begun", str(sweep_id), actor=who.actor, project_id=project_id, name=name)
            return Counted(rows.find(c, project_id, sweep_id), {})

        made = await self._database.write(work)
        self._kick()
        return made

    async def list(self, who: Principal, project_id: str, *, limit: int = 100) -> Sequence[Counted]:
        """The project's sweeps, newest first."""
        require(who, "sweeps.read", project_id)
        asked = rows.query().where(sweeps.c.project_id == project_id).order_by(sweeps.c.id.desc())
        asked = asked.limit(max(1, min(limit, _MOST_LISTED)))
        return await self._database.read(
            lambda c: rows.counted(c, [rows.sweep_of(dict(row)) for row in c.execute(asked).mappings()])
        )

    async def get(self, who: Principal, project_id: str, sweep_id: int) -> tuple[Counted, Sequence[Trial]]:
        """A sweep and its trials, first to last. Raises `NotFound`."""
        require(who, "sweeps.read", project_id, what=f"sweep {sweep_id}")

        def work(c: Connection) -> tuple[Counted, Sequence[Trial]]:
            sweep = rows.find(c, project_id, sweep_id)
            return rows.counted(c, [sweep])[0], rows.trials_of(c, sweep_id)

        return await self._database.read(work)

    async def stop(self, who: Principal, project_id: str, sweep_id: int) -> Counted:
        """Begin no more trials and stop those that run; one that has ended stays as it is. Raises `NotFound`, `Denied`."""
        require(who, "sweeps.stop", project_id, what=f"sweep {sweep_id}")

        def work(c: Connection) -> Counted:
            sweep = rows.find(c, project_id, sweep_id)
            if sweep.state is SweepState.RUNNING:
                change = update(sweeps).where(sweeps.c.id == sweep_id)
                c.execute(change.values(state=SweepState.STOPPING.value, reason=f"stopped by {who.actor}"))
                emit(
                    c,
                    "sweep.stopping",
                    str(sweep_id),
                    actor=who.actor,
                    project_id=project_id,
                    name=sweep.name,
                )
            return rows.counted(c, [rows.find(c, project_id, sweep_id)])[0]

        found = await self._database.write(work)
        self._kick()
        return found

    async def purge(self, project_id: str) -> None:
        """Remove the project's sweeps, so that none begins a job any more. May be repeated."""
        mine = select(sweeps.c.id).where(sweeps.c.project_id == project_id)

        def work(c: Connection) -> None:
            c.execute(delete(sweep_trials).where(sweep_trials.c.sweep_id.in_(mine)))
            c.execute(delete(sweeps).where(sweeps.c.project_id == project_id))

        await self._database.write(work)

    async def _begin_parent(self, who: Principal, project_id: str, experiment: str, name: str) -> str:
        """The run above the trials'. One whose sweep was never recorded stays behind, and harms nobody."""
        try:
            found = await self._experiments.get_by_name(who, project_id, experiment)
        except NotFound:
            try:
                found = await self._experiments.create(who, project_id, experiment, {})
            except Conflict:
                found = await self._experiments.get_by_name(who, project_id, experiment)
        run = await self._runs.create(who, project_id, found.id, NewRun(name=name))
        return run.id


async def end_parent(
    runs: Runs, who: Principal, project_id: str, run_id: str, state: SweepState, at: int
) -> None:
    """Say in the parent run how the search ended."""
    status = {
        SweepState.SUCCEEDED: RunStatus.FINISHED,
        SweepState.FAILED: RunStatus.FAILED,
        SweepState.STOPPED: RunStatus.KILLED,
    }[state]
    await runs.update(who, project_id, run_id, status=status, end_time=at)


def _check(new: NewSweep) -> None:
    check_space(new.space)
    check_key("the metric", new.metric)
    if not 1 <= new.trials <= MOST_TRIALS:
        raise Invalid(f"A sweep has 1 to {MOST_TRIALS} trials.", reason="bad_trials")
    if not 1 <= new.parallel <= MOST_PARALLEL:
        raise Invalid(f"A sweep runs 1 to {MOST_PARALLEL} trials at once.", reason="bad_parallel")
    if new.seed is not None and not 0 <= new.seed < 2**31:
        raise Invalid("A seed is a whole number from 0 to 2147483647.", reason="bad_seed")
    if new.register_as is not None:
        check_model_name(new.register_as)
    if new.job.array is not None or new.job.after:
        raise Invalid(
            "A sweep's trials are neither an array nor do they wait for other jobs.", reason="bad_sweep"
        )
    command_of(new.job.argv, {parameter.name: "" for parameter in new.space})
