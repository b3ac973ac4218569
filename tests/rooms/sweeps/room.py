"""Sweeps over real rows, jobs that end when the test says so, and an advisor that says what it was told to."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rooms.compute.room import HandEngine
from rooms.compute.room import Room as ComputeRoom
from stratal.ai.models.logged import LoggedModels, LoggedStatus, NewLoggedModel
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.ai.sweeps.model import Counted, Parameter, ParameterKind, Study, Trial, Value
from stratal.ai.sweeps.room import furnish
from stratal.ai.sweeps.service import NewSweep
from stratal.collab.artifacts import Artifacts
from stratal.collab.experiments import Experiments
from stratal.collab.model import Metric, Run
from stratal.collab.runs import Batch, NewRun, Runs
from stratal.compute.model import JobSpec
from stratal.identity.model import Kind, Principal, Role
from stratal.ledger.lineage import Lineage

LR = Parameter("lr", ParameterKind.LOG, 1e-4, 1e-1)


class Scripted:
    """An `Advisor` that gives trial n the value n / 100; a trial is hopeless once its last value is below `least`."""

    def __init__(self) -> None:
        self.asked: list[Study] = []
        self.least = float("-inf")

    def require(self) -> None:
        pass

    async def ask(self, study: Study) -> Mapping[str, Value]:
        self.asked.append(study)
        return {parameter.name: (len(study.trials) + 1) / 100 for parameter in study.space}

    async def hopeless(self, study: Study, points: Sequence[tuple[int, float]]) -> bool:
        return points[-1][1] < self.least

    async def close(self) -> None:
        pass


class Room(ComputeRoom):
    def __init__(self, home: Path) -> None:
        super().__init__(home, HandEngine(cpus=4))
        self.lineage = Lineage(self.database, lambda: self.now)
        self.experiments = Experiments(self.database, lambda: self.now)
        self.runs = Runs(self.database, self.experiments, self.lineage, lambda: self.now)
        self.artifacts = Artifacts(self.database, self.blobs, self.lineage, lambda: self.now)
        self.models = Models(self.database, self.artifacts, self.lineage, lambda: self.now)
        self.registered = RegisteredModels(self.database, self.models, lambda: self.now)
        self.logged = LoggedModels(self.database, self.experiments, lambda: self.now)
        self.advisor = Scripted()

    async def start(self) -> None:
        await super().start()
        made = furnish(
            self.database,
            self.jobs,
            self.experiments,
            self.runs,
            self.models,
            self.registered,
            self.advisor,
            lambda: self.now,
        )
        self.sweeps, self.conductor = made.sweeps, made.conductor
        await self.conductor.start()

    async def kill(self) -> None:
        await self.conductor.close()
        await super().kill()

    # -- shorthands ------------------------------------------------------------------------------

    async def begin(self, **asked: object) -> int:
        job = JobSpec(("python", "t.py"), cpus=0.1, memory_bytes=1 << 26, env={"MINE": "1"})
        new = NewSweep(**{"job": job, "space": [LR], "metric": "auc", **asked})  # type: ignore[arg-type]
        return (await self.sweeps.create(self.ann, "prj_a", new)).sweep.id

    async def look(self, sweep_id: int) -> tuple[Counted, Sequence[Trial]]:
        return await self.sweeps.get(self.ann, "prj_a", sweep_id)

    async def has(self, sweep_id: int, *, state: str = "", **states: int) -> tuple[Counted, Sequence[Trial]]:
        """The sweep once it is in `state`, or has so many trials in these states."""
        async with asyncio.timeout(20):
            while True:
                found, trials = await self.look(sweep_id)
                if (not state or found.sweep.state == state) and all(
                    found.states.get(name, 0) == count  # type: ignore[call-overload]
                    for name, count in states.items()
                ):
                    return found, trials
                self.conductor.kick()
                await self.reconciler.changed.wait(0.01)

    async def runs_now(self, trial: Trial) -> None:
        """The trial's job has been started."""
        async with asyncio.timeout(20):
            while f"job-{trial.job_id}-1" not in self.engine.specs:
                await self.reconciler.changed.wait(0.01)

    async def log(self, trial: Trial, *values: float, metric: str = "auc", model: bool = False) -> Run:  # type: ignore[override]
        """What the trial's script logs, each value one step on."""
        await self.runs_now(trial)
        script = Principal(
            Kind.WORKLOAD, "ann", "ann", "prj_a", "a", Role.EDITOR, workload=f"job:{trial.job_id}"
        )
        made = await self.runs.of_workload(script, "prj_a", f"job:{trial.job_id}")
        run = made[0] if made else await self.runs.create(script, "prj_a", "0", NewRun())
        points = [Metric(metric, value, self.now + step, step) for step, value in enumerate(values)]
        await self.runs.log(script, "prj_a", run.id, Batch(metrics=points))
        if model:
            new = NewLoggedModel("model", source_run_id=run.id)
            logged = await self.logged.create(script, "prj_a", "0", new)

            async def body() -> object:
                yield b"flavors: {}\n"

            await self.artifacts.put(script, "prj_a", f"{logged.location}/MLmodel", body())  # type: ignore[arg-type]
            await self.logged.finalize(script, "prj_a", logged.id, LoggedStatus.READY)
            await self.runs.log_outputs(script, "prj_a", run.id, [(logged.id, 0)])
        return run

    async def end(self, trial: Trial, code: int = 0) -> None:
        await self.runs_now(trial)
        self.engine.end(f"job-{trial.job_id}-1", code)
