"""Rows to values and back."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Select, func, select

from stratal.ai.sweeps.model import (
    Counted,
    Parameter,
    ParameterKind,
    Sweep,
    SweepState,
    Trial,
    TrialState,
    best_of,
)
from stratal.ai.sweeps.tables import sweep_trials, sweeps
from stratal.compute.model import JobSpec, Source
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import projects
from stratal.kernel.errors import NotFound

_BEYOND = 2**31


def query() -> Select[Any]:
    """Sweeps with the name of their project."""
    return select(sweeps, projects.c.name.label("project")).join(
        projects, projects.c.id == sweeps.c.project_id
    )


def sweep_of(row: Mapping[str, Any]) -> Sweep:
    kind = row["created_by"].partition(":")[0]
    known = kind in list(Kind)
    creator = Principal(
        kind=Kind(kind) if known else Kind.WORKLOAD,
        id=row["creator_id"],
        name=row["creator_name"],
        project_id=row["project_id"],
        project=row["project"],
        role=Role(row["creator_role"]),
        workload=None if known else row["created_by"],
    )
    space = [Parameter(**{**one, "kind": ParameterKind(one["kind"])}) for one in orjson.loads(row["space"])]
    return Sweep(
        id=row["id"],
        project_id=row["project_id"],
        name=row["name"],
        state=SweepState(row["state"]),
        argv=orjson.loads(row["argv"]),
        space=space,
        metric=row["metric"],
        maximize=bool(row["maximize"]),
        trials=row["trials"],
        parallel=row["parallel"],
        prune=bool(row["prune"]),
        seed=row["seed"],
        register_as=row["register_as"],
        experiment=row["experiment"],
        run_id=row["run_id"],
        template=row["template"],
        created_by=row["created_by"],
        creator=creator,
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        best=row["best"],
        version=row["version"],
    )


def trial_of(row: Mapping[str, Any]) -> Trial:
    return Trial(
        number=row["number"],
        state=TrialState(row["state"]),
        params=orjson.loads(row["params"]),
        job_id=row["job_id"],
        run_id=row["run_id"],
        value=row["value"],
        points=[(step, value) for step, value in orjson.loads(row["points"])],
        reason=row["reason"],
        prune_asked_at=row["prune_asked_at"],
        begun_at=row["begun_at"],
        ended_at=row["ended_at"],
    )


def find(c: Connection, project_id: str, sweep_id: int) -> Sweep:
    """Raises `NotFound`, also for a sweep of another project."""
    asked = query().where(sweeps.c.project_id == project_id, sweeps.c.id == sweep_id)
    row = c.execute(asked).mappings().one_or_none() if 0 < sweep_id < _BEYOND else None
    if row is None:
        raise NotFound(
            f"There is no sweep {sweep_id} in this project.",
            hint="List them with: stratal sweep ls",
            reason="no_such_sweep",
        )
    return sweep_of(dict(row))


def trials_of(c: Connection, sweep_id: int) -> list[Trial]:
    """First to last."""
    asked = select(sweep_trials).where(sweep_trials.c.sweep_id == sweep_id).order_by(sweep_trials.c.number)
    return [trial_of(dict(row)) for row in c.execute(asked).mappings()]


def counted(c: Connection, found: Sequence[Sweep]) -> list[Counted]:
    """Each sweep with its trials counted, and the best of them, without its points."""
    ids = [sweep.id for sweep in found]
    states: dict[int, dict[TrialState, int]] = {sweep_id: {} for sweep_id in ids}
    by_state = (
        select(sweep_trials.c.sweep_id, sweep_trials.c.state, func.count())
        .where(sweep_trials.c.sweep_id.in_(ids))
        .group_by(sweep_trials.c.sweep_id, sweep_trials.c.state)
    )
    for sweep_id, state, count in c.execute(by_state):
        states[sweep_id][TrialState(state)] = count
    good: dict[int, list[Trial]] = {sweep_id: [] for sweep_id in ids}
    done = select(sweep_trials).where(
        sweep_trials.c.sweep_id.in_(ids), sweep_trials.c.state == TrialState.SUCCEEDED.value
    )
    for row in c.execute(done).mappings():
        good[row["sweep_id"]].append(trial_of({**row, "points": "[]"}))
    return [
        Counted(sweep, states[sweep.id], best_of(good[sweep.id], maximize=sweep.maximize)) for sweep in found
    ]


def template_json(spec: JobSpec) -> str:
    """The job that each trial is, but for its command and the variables that differ."""
    values = asdict(replace(spec, source=replace(spec.source, diff=b"")))
    values["source"]["diff"] = base64.b64encode(spec.source.diff).decode()
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def template_of(text: str) -> JobSpec:
    values = orjson.loads(text)
    source = values.pop("source")
    return JobSpec(**values, source=Source(**{**source, "diff": base64.b64decode(source["diff"])}))


def space_json(space: Sequence[Parameter]) -> str:
    return orjson.dumps([asdict(parameter) for parameter in space]).decode()


def json_of(value: object) -> str:
    return orjson.dumps(value).decode()
