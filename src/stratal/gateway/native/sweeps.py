"""``/api/v1/projects/{project}/sweeps``: searches for parameters, and their trials."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from stratal.ai.sweeps.model import Counted, Parameter, ParameterKind, Trial, TrialState
from stratal.ai.sweeps.service import NewSweep, Sweeps
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.gateway.native.jobs import MAX_JOB_BODY, NewJob, spec_of
from stratal.gateway.native.runs import plain
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


class NewParameter(Strict):
    name: str
    kind: ParameterKind
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: list[str] = Field(default_factory=list)


class SweepBody(Strict):
    job: NewJob = Field(description="What each trial runs; {name} in its command stands for a parameter.")
    space: list[NewParameter]
    metric: str = Field(description="As the script logs it with MLflow.")
    direction: Literal["maximize", "minimize"] = "maximize"
    name: str | None = None
    trials: int = 20
    parallel: int = 1
    prune: bool = Field(
        default=False, description="End a trial whose metric falls behind the others' median."
    )
    seed: int | None = None
    register_as: str | None = Field(
        default=None, description="Register the best trial's model under this name."
    )
    experiment: str | None = None


def router(sweeps: Sweeps, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["sweeps"])

    @api.get("/projects/{project}/sweeps")
    async def list_sweeps(
        who: Who, project: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, object]:
        """The project's sweeps, newest first."""
        place = await projects.get(who, project)
        return {"sweeps": [_sweep(one) for one in await sweeps.list(who, place.id, limit=limit)]}

    @api.post("/projects/{project}/sweeps", status_code=201, openapi_extra=body_of(SweepBody))
    async def begin_sweep(request: Request, who: Who, project: str) -> dict[str, object]:
        """Begin a search. Durable once this answers."""
        place = await projects.get(who, project)
        body = await read_model(request, SweepBody, MAX_JOB_BODY)
        new = NewSweep(
            job=spec_of(body.job),
            space=[Parameter(**parameter.model_dump()) for parameter in body.space],
            maximize=body.direction == "maximize",
            **body.model_dump(exclude={"job", "space", "direction"}),
        )
        return _sweep(await sweeps.create(who, place.id, new))

    @api.get("/projects/{project}/sweeps/{sweep_id}")
    async def get_sweep(who: Who, project: str, sweep_id: int) -> dict[str, object]:
        """A sweep with its trials, first to last."""
        place = await projects.get(who, project)
        found, trials = await sweeps.get(who, place.id, sweep_id)
        return {**_sweep(found), "tried": [_trial(trial) for trial in trials]}

    @api.post("/projects/{project}/sweeps/{sweep_id}/stop")
    async def stop_sweep(who: Who, project: str, sweep_id: int) -> dict[str, object]:
        """Begin no more trials and stop those that run; one that has ended stays as it is."""
        place = await projects.get(who, project)
        return _sweep(await sweeps.stop(who, place.id, sweep_id))

    return api


def _sweep(found: Counted) -> dict[str, object]:
    sweep = found.sweep
    return {
        "id": sweep.id,
        "name": sweep.name,
        "state": sweep.state,
        "reason": sweep.reason,
        "argv": list(sweep.argv),
        "space": [_parameter(parameter) for parameter in sweep.space],
        "metric": sweep.metric,
        "direction": "maximize" if sweep.maximize else "minimize",
        "trials": sweep.trials,
        "parallel": sweep.parallel,
        "prune": sweep.prune,
        "seed": sweep.seed,
        "states": {state.value: found.states.get(state, 0) for state in TrialState},
        "best": None if found.best is None else _trial(found.best),
        "register_as": sweep.register_as,
        "version": sweep.version,
        "experiment": sweep.experiment,
        "run": sweep.run_id,
        "created_by": sweep.created_by,
        "created_at": iso(sweep.created_at),
        "ended_at": None if sweep.ended_at is None else iso(sweep.ended_at),
    }


def _parameter(parameter: Parameter) -> dict[str, object]:
    return {
        "name": parameter.name,
        "kind": parameter.kind,
        "low": parameter.low,
        "high": parameter.high,
        "step": parameter.step,
        "choices": list(parameter.choices),
    }


def _trial(trial: Trial) -> dict[str, object]:
    return {
        "number": trial.number,
        "state": trial.state,
        "params": dict(trial.params),
        "value": None if trial.value is None else plain(trial.value),
        "job": trial.job_id,
        "run": trial.run_id,
        "reason": trial.reason,
        "begun_at": iso(trial.begun_at),
        "ended_at": None if trial.ended_at is None else iso(trial.ended_at),
    }
