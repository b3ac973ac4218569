"""Carries sweeps on: begins trials, sees what they came to, ends hopeless ones, and closes the search.

The rows are the study. A trial's row and its job's are written in one transaction, so a server killed
anywhere finds each trial with its job or neither; what the next parameters are is asked with all the rows,
from whoever searches, and nothing is remembered outside of them. Every step may be taken again: what is
logged of an ended trial carries the time of its job's end, and a registered version its sweep's tag.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import orjson
from sqlalchemy import Connection, insert, select, update

from stratal.ai.models.pinning import NewVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.ai.sweeps import rows
from stratal.ai.sweeps.advisor import Advisor
from stratal.ai.sweeps.model import (
    HOPELESS,
    MOST_POINTS,
    Study,
    Sweep,
    SweepState,
    Trial,
    TrialState,
    Value,
    best_of,
    command_of,
    text_of,
    variable_of,
)
from stratal.ai.sweeps.service import PARENT_TAG, SWEEP_TAG, TRIAL_TAG, end_parent
from stratal.ai.sweeps.tables import sweep_trials, sweeps
from stratal.collab.metrics import Column
from stratal.collab.model import Metric, Run
from stratal.collab.runs import Batch, Runs
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobSpec, JobState
from stratal.identity.model import Principal, system_principal
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Conflict, NotFound, OverBudget, StratalError, Unavailable
from stratal.kernel.events import emit

log = logging.getLogger("stratal.sweeps")

_TICK_SECONDS = 15.0
_JUDGE_SECONDS = 1.0
"""How often the metrics of running trials are looked at, where trials may be pruned."""
_PASSING = (Unavailable, Busy, OverBudget)
_GOING_ON = [SweepState.RUNNING.value, SweepState.STOPPING.value]


class _Superseded(Exception):
    """The sweep was stopped or removed meanwhile, or this trial was begun already."""


class Conductor:
    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        runs: Runs,
        models: Models,
        registered: RegisteredModels,
        advisor: Advisor,
        clock: Clock,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._runs = runs
        self._models = models
        self._registered = registered
        self._advisor = advisor
        self._clock = clock
        self._kicked = asyncio.Event()
        self._goes_on = False
        """There are sweeps whose trials the next change of a job may concern."""
        self._judged: dict[tuple[int, int], int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="sweeps"),
            asyncio.create_task(self._listen(), name="sweeps: jobs"),
        ]

    async def close(self) -> None:
        """Let go; trials go on, and the search is taken up at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._advisor.close()

    def kick(self) -> None:
        self._kicked.set()

    async def _listen(self) -> None:
        while True:
            await self._jobs.changed.wait(_TICK_SECONDS)
            if self._goes_on:
                self.kick()

    async def _run(self) -> None:
        going_on = rows.query().where(sweeps.c.state.in_(_GOING_ON)).order_by(sweeps.c.id)
        while True:
            self._kicked.clear()
            found: list[Sweep] = []
            try:
                found = await self._database.read(
                    lambda c: [rows.sweep_of(dict(row)) for row in c.execute(going_on).mappings()]
                )
            except Exception:
                log.exception("sweeps cannot be looked at")
            for sweep in found:
                try:
                    await self._carry_on(sweep)
                except _Superseded:
                    pass
                except StratalError as error:
                    log.warning("sweep %d has to wait: %s", sweep.id, error)
                    await self._explain(sweep, f"waits: {error}")
                except Exception:
                    log.exception("carrying on sweep %d failed", sweep.id)
            self._goes_on = bool(found)
            pause = _JUDGE_SECONDS if any(sweep.prune for sweep in found) else _TICK_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kicked.wait()

    async def _carry_on(self, sweep: Sweep) -> None:
        trials = await self._database.read(lambda c: rows.trials_of(c, sweep.id))
        running = [trial for trial in trials if not trial.state.ended]
        for trial in running:
            job = await self._jobs.by_workload(f"job:{trial.job_id}")
            if job.state.ended:
                await self._settle(sweep, trial, job)
            elif sweep.state is SweepState.STOPPING or trial.prune_asked_at is not None:
                await self._jobs.stop(self._system(sweep), sweep.project_id, job.id)
            elif sweep.prune and job.state is JobState.RUNNING:
                await self._judge(sweep, trial, trials)
        trials = await self._database.read(lambda c: rows.trials_of(c, sweep.id))
        running = [trial for trial in trials if not trial.state.ended]
        if sweep.state is SweepState.STOPPING:
            if not running:
                await self._close(sweep, trials, SweepState.STOPPED, sweep.reason)
            return
        if _never_works(trials):
            if not running:
                last = trials[-1]
                why = f"the first {len(trials)} trials failed; the last, job {last.job_id}: {last.reason}"
                await self._close(sweep, trials, SweepState.FAILED, why)
            return
        while len(running) < sweep.parallel and len(trials) < sweep.trials:
            begun = await self._begin(sweep, trials)
            trials.append(begun)
            running.append(begun)
        if not running:
            await self._finish(sweep, trials)

    # -- trials ----------------------------------------------------------------------------------

    async def _begin(self, sweep: Sweep, trials: Sequence[Trial]) -> Trial:
        number = len(trials) + 1
        params = await self._advisor.ask(Study(sweep.space, sweep.maximize, sweep.seed, tuple(trials)))
        trial = Trial(number, TrialState.RUNNING, params, 0, None, None, (), "", None, self._clock(), None)

        def also(c: Connection, job_id: int) -> None:
            now = rows.find(c, sweep.project_id, sweep.id)
            there = select(sweep_trials.c.number).where(
                sweep_trials.c.sweep_id == sweep.id, sweep_trials.c.number == number
            )
            if now.state is not SweepState.RUNNING or c.execute(there).first() is not None:
                raise _Superseded
            c.execute(
                insert(sweep_trials).values(
                    sweep_id=sweep.id,
                    number=number,
                    project_id=sweep.project_id,
                    state=trial.state.value,
                    params=rows.json_of(dict(params)),
                    job_id=job_id,
                    points="[]",
                    reason="",
                    begun_at=trial.begun_at,
                )
            )
            if now.reason:
                c.execute(update(sweeps).where(sweeps.c.id == sweep.id).values(reason=""))
            emit(
                c,
                "sweep.tried",
                str(sweep.id),
                actor=sweep.created_by,
                project_id=sweep.project_id,
                name=sweep.name,
                trial=number,
            )

        try:
            job = await self._jobs.submit(
                sweep.creator, sweep.project_id, spec_of(sweep, number, params), also=also
            )
        except _PASSING:
            raise
        except StratalError as error:
            await self._cannot_begin(sweep, f"trial {number} could not be begun: {error}")
            raise _Superseded from error
        return replace(trial, job_id=job.id)

    async def _settle(self, sweep: Sweep, trial: Trial, job: Job) -> None:
        """Record what a trial came to, first in the runs, then, which makes it so, in its row."""
        run = await self._run_of(sweep, job)
        points = await self._points(sweep, run)
        value = points[-1][1] if points else None
        state, reason = _outcome(sweep, trial, job, value)
        if state not in {TrialState.SUCCEEDED, TrialState.PRUNED}:
            value = None  # what a script that failed had logged says nothing of its parameters
        ended_at = job.ended_at or self._clock()
        if run is not None:
            await self._tell_child(sweep, trial, run)
        ended = replace(trial, state=state, value=value, points=points, reason=reason, ended_at=ended_at)
        if state is TrialState.SUCCEEDED:
            await self._tell_parent(sweep, ended)
        values = {
            "state": state.value,
            "run_id": None if run is None else run.id,
            "value": value,
            "points": orjson.dumps(points).decode(),
            "reason": reason,
            "ended_at": ended_at,
        }
        mine = update(sweep_trials).where(
            sweep_trials.c.sweep_id == sweep.id,
            sweep_trials.c.number == trial.number,
            sweep_trials.c.state == TrialState.RUNNING.value,
        )

        def work(c: Connection) -> None:
            if c.execute(mine.values(values)).rowcount:
                emit(
                    c,
                    "sweep.learned",
                    str(sweep.id),
                    actor="system",
                    project_id=sweep.project_id,
                    name=sweep.name,
                    trial=trial.number,
                    state=state.value,
                )

        await self._database.write(work)
        self._judged.pop((sweep.id, trial.number), None)

    async def _judge(self, sweep: Sweep, trial: Trial, trials: Sequence[Trial]) -> None:
        """Have a running trial stopped when its metric, so far, is worse than others' was at the same step."""
        runs = await self._runs.of_workload(self._system(sweep), sweep.project_id, f"job:{trial.job_id}")
        points = await self._points(sweep, _telling(runs, sweep.metric))
        if not points or self._judged.get((sweep.id, trial.number)) == len(points):
            return
        self._judged[sweep.id, trial.number] = len(points)
        others = [one for one in trials if one.number != trial.number]
        study = Study(sweep.space, sweep.maximize, sweep.seed, others)
        if not await self._advisor.hopeless(study, points):
            return
        change = update(sweep_trials).where(
            sweep_trials.c.sweep_id == sweep.id, sweep_trials.c.number == trial.number
        )
        await self._database.write(lambda c: c.execute(change.values(prune_asked_at=self._clock())))
        await self._jobs.stop(self._system(sweep), sweep.project_id, trial.job_id)

    # -- runs ------------------------------------------------------------------------------------

    async def _run_of(self, sweep: Sweep, job: Job) -> Run | None:
        """The run that a trial's script logged the metric into; the last it made where it logged none."""
        found = await self._runs.of_workload(self._system(sweep), sweep.project_id, job.workload)
        return _telling(found, sweep.metric) or (found[-1] if found else None)

    async def _points(self, sweep: Sweep, run: Run | None) -> list[tuple[int, float]]:
        """The metric's course as (step, value), one a step, numbered where the script gave no steps."""
        if run is None:
            return []
        column = await self._runs.series(self._system(sweep), sweep.project_id, run.id, sweep.metric)
        return course(column)

    async def _tell_child(self, sweep: Sweep, trial: Trial, run: Run) -> None:
        """What the script did not say itself: whose child its run is, and with which parameters."""
        said = {SWEEP_TAG: str(sweep.id), TRIAL_TAG: str(trial.number), PARENT_TAG: sweep.run_id}
        tags = [(key, value) for key, value in said.items() if key not in run.tags]
        params = [(name, text_of(value)) for name, value in trial.params.items() if name not in run.params]
        if tags or params:
            with contextlib.suppress(StratalError):  # the run was deleted meanwhile
                await self._runs.log(
                    self._system(sweep), sweep.project_id, run.id, Batch(params=params, tags=tags)
                )

    async def _tell_parent(self, sweep: Sweep, trial: Trial) -> None:
        assert trial.value is not None
        assert trial.ended_at is not None
        metric = Metric(sweep.metric, trial.value, trial.ended_at, trial.number)
        tags = [(SWEEP_TAG, str(sweep.id))]
        with contextlib.suppress(StratalError):
            await self._runs.log(
                self._system(sweep), sweep.project_id, sweep.run_id, Batch(metrics=[metric], tags=tags)
            )

    # -- the end ---------------------------------------------------------------------------------

    async def _finish(self, sweep: Sweep, trials: Sequence[Trial]) -> None:
        best = best_of(trials, maximize=sweep.maximize)
        if best is None:
            last = trials[-1]
            why = f"no trial came to a value of {sweep.metric}; the last, job {last.job_id}: {last.reason}"
            await self._close(sweep, trials, SweepState.FAILED, why)
            return
        version, reason = None, ""
        if sweep.register_as is not None:
            try:
                version = await self._register(sweep, sweep.register_as, best)
            except _PASSING:
                raise
            except StratalError as error:
                reason = f"the best was not registered: {error}"
        await self._close(sweep, trials, SweepState.SUCCEEDED, reason, version)

    async def _register(self, sweep: Sweep, name: str, best: Trial) -> int:
        """The version that the best trial's model is registered as. Raises `NotFound` when it logged none."""
        who, project_id = sweep.creator, sweep.project_id
        with contextlib.suppress(Conflict):
            await self._registered.create(who, project_id, name, tags={})
        for version in await self._models.of_model(who, project_id, name):
            if version.tags.get(SWEEP_TAG) == str(sweep.id):
                return version.version
        run = await self._runs.get(who, project_id, best.run_id or "")
        if not run.output_models:
            raise NotFound(
                f"the best trial, {best.number} (job {best.job_id}), logged no model.",
                hint="Log one in the script, e.g. mlflow.sklearn.log_model(model, name='model').",
            )
        model_id = max(run.output_models, key=lambda made: made[1])[0]
        new = NewVersion(
            source=f"models:/{model_id}",
            run_id=run.id,
            logged_model_id=model_id,
            description=f"The best of sweep {sweep.id} ({sweep.name}): {sweep.metric} {best.value:g}.",
            tags={SWEEP_TAG: str(sweep.id), TRIAL_TAG: str(best.number)},
        )
        return (await self._models.create(who, project_id, name, new)).version

    async def _close(
        self,
        sweep: Sweep,
        trials: Sequence[Trial],
        state: SweepState,
        reason: str,
        version: int | None = None,
    ) -> None:
        best = best_of(trials, maximize=sweep.maximize)
        now = self._clock()
        who = self._system(sweep)
        with contextlib.suppress(NotFound):
            if best is not None:
                params = [(name, text_of(value)) for name, value in best.params.items()]
                tags = [("stratal.best", str(best.number)), ("stratal.best_run", best.run_id or "")]
                with contextlib.suppress(StratalError):
                    await self._runs.log(who, sweep.project_id, sweep.run_id, Batch(params=params, tags=tags))
            await end_parent(self._runs, who, sweep.project_id, sweep.run_id, state, now)
        values = {
            "state": state.value,
            "ended_at": now,
            "reason": reason[:2000],
            "best": None if best is None else best.number,
            "version": version,
        }
        mine = update(sweeps).where(sweeps.c.id == sweep.id, sweeps.c.state.in_(_GOING_ON))

        def work(c: Connection) -> None:
            if c.execute(mine.values(values)).rowcount:
                emit(
                    c,
                    f"sweep.{state.value}",
                    str(sweep.id),
                    actor="system",
                    project_id=sweep.project_id,
                    name=sweep.name,
                )

        await self._database.write(work)

    async def _cannot_begin(self, sweep: Sweep, why: str) -> None:
        """What runs goes on to its end; then, when no trial can be begun still, the sweep ends as failed."""
        trials = await self._database.read(lambda c: rows.trials_of(c, sweep.id))
        if all(trial.state.ended for trial in trials):
            await self._close(sweep, trials, SweepState.FAILED, why)
        else:
            await self._explain(sweep, why)

    async def _explain(self, sweep: Sweep, why: str) -> None:
        mine = update(sweeps).where(sweeps.c.id == sweep.id, sweeps.c.state == SweepState.RUNNING.value)
        await self._database.write(lambda c: c.execute(mine.values(reason=why[:2000])))

    @staticmethod
    def _system(sweep: Sweep) -> Principal:
        return system_principal(sweep.project_id, sweep.creator.project)


def spec_of(sweep: Sweep, number: int, params: Mapping[str, Value]) -> JobSpec:
    """The job of a trial: the sweep's, with its parameters as arguments and as variables."""
    template = rows.template_of(sweep.template)
    told = {variable_of(name): text_of(value) for name, value in params.items()}
    context = {PARENT_TAG: sweep.run_id, SWEEP_TAG: str(sweep.id), TRIAL_TAG: str(number)}
    env = {
        "MLFLOW_EXPERIMENT_NAME": sweep.experiment,
        **template.env,
        **told,
        "STRATAL_PARAMS": rows.json_of(dict(params)),
        "STRATAL_SWEEP_ID": str(sweep.id),
        "STRATAL_TRIAL": str(number),
        "MLFLOW_RUN_CONTEXT": rows.json_of(context),  # MLflow's client gives these tags to the runs it begins
    }
    return replace(template, argv=command_of(sweep.argv, params), env=env, name=f"{sweep.name[:90]}-{number}")


def course(column: Column) -> list[tuple[int, float]]:
    """A metric's points as (step, value): the last value of each step, numbered from 0 where all steps are the same."""
    points = list(column.points())
    if len(points) > 1 and all(point.step == points[0].step for point in points):
        found = list(enumerate(point.value for point in points))
    else:
        by_step = {point.step: point.value for point in sorted(points, key=lambda p: (p.step, p.timestamp))}
        found = sorted(by_step.items())
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    if len(finite) > MOST_POINTS:
        stride = (len(finite) - 1) / (MOST_POINTS - 1)
        finite = [finite[round(index * stride)] for index in range(MOST_POINTS)]
    return finite


def _telling(found: Sequence[Run], metric: str) -> Run | None:
    """Of a job's runs the one that the metric was logged into last."""
    logged = [(m.timestamp, n, run) for n, run in enumerate(found) for m in run.metrics if m.key == metric]
    return max(logged, key=lambda one: one[:2])[2] if logged else None


def _outcome(sweep: Sweep, trial: Trial, job: Job, value: float | None) -> tuple[TrialState, str]:
    if job.state is JobState.SUCCEEDED:
        if value is None:
            return TrialState.FAILED, f"it logged no finite value of the metric {sweep.metric!r}"
        return TrialState.SUCCEEDED, ""
    if trial.prune_asked_at is not None and job.state is JobState.STOPPED:
        return TrialState.PRUNED, "others did better at the same point"
    if job.state is JobState.STOPPED:
        return TrialState.STOPPED, job.reason or "its job was stopped"
    code = f"exit code {job.exit_code}" if job.exit_code else ""
    return TrialState.FAILED, job.reason or code or "nobody saw how its job ended"


def _never_works(trials: Sequence[Trial]) -> bool:
    ended = [trial for trial in trials if trial.state.ended]
    failed = list(takewhile(lambda trial: trial.state is TrialState.FAILED, ended))
    return len(failed) >= HOPELESS and len(failed) == len(ended)
