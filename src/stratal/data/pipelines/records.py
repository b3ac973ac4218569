"""Rows of runs and steps and what they mean: the one place that turns the one into the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Select, bindparam, func, select, update

from stratal.data.pipelines.model import Run, RunState, Step, StepState
from stratal.data.pipelines.tables import runs, steps
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import projects
from stratal.kernel.errors import NotFound


def query() -> Select[Any]:
    """SELECT of runs with their project's name."""
    return select(runs, projects.c.name.label("project")).join(projects, runs.c.project_id == projects.c.id)


# Built once: building costs more than running, and the journal asks these of every step.
_ONE_RUN = query().where(runs.c.id == bindparam("this"))
_ONE_STEP = select(steps).where(steps.c.run_id == bindparam("of_run"), steps.c.name == bindparam("named"))
_SOME_STEPS = select(steps).where(
    steps.c.run_id == bindparam("of_run"), steps.c.name.in_(bindparam("names", expanding=True))
)
_CHANGE = update(steps).where(steps.c.id == bindparam("this"))

_RUN = (
    *("id", "project_id", "project", "pipeline", "doc", "file", "trigger", "reason", "snapshot_id", "cwd"),
    *("requirements", "network", "parallel", "created_by", "creator_id", "creator_name", "creator_role"),
    *("created_at", "started_at", "ended_at", "job_id", "epoch", "replay_of", "environment"),
)
_STEP = (
    *("id", "run_id", "project_id", "name", "step", "kind", "doc", "code", "environment", "key", "reason"),
    *("attempt", "job_id", "workload", "error", "taken_from", "created_at", "started_at", "ended_at"),
)


def run_of(row: Mapping[Any, Any], states: Mapping[str, int] | None = None) -> Run:
    """The run in a row of `query()`."""
    return Run(
        **{name: row[name] for name in _RUN},
        parameters=orjson.loads(row["parameters"]),
        state=RunState(row["state"]),
        output=None if row["output"] is None else orjson.loads(row["output"]),
        source=orjson.loads(row["source"]),
        use_cache=bool(row["use_cache"]),
        partitions=_json(row["partitions"]),
        states=states or {},
    )


def step_of(row: Mapping[Any, Any]) -> Step:
    """The step in a row of `steps`."""
    return Step(
        **{name: row[name] for name in _STEP},
        after=orjson.loads(row["after"]),
        call=orjson.loads(row["call"]),
        small=bool(row["small"]),
        arguments=_json(row["arguments"]),
        state=StepState(row["state"]),
        output=_json(row["output"]),
        reads=_json(row["reads"]) or [],
        writes=_json(row["writes"]) or [],
        checks=_json(row["checks"]) or [],
        models=_json(row["models"]) or [],
    )


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def find_run(c: Connection, project_id: str | None, run_id: int, *, counts: bool = False) -> Run:
    """Raises `NotFound`, also for a run of another project; None asks for any project's. With `counts` it says how many
    of its steps are in which state, which is not free: the journal asks for a run at every turn."""
    row = c.execute(_ONE_RUN, {"this": min(run_id, 2**62)}).mappings().one_or_none()
    if row is None or project_id not in {None, row["project_id"]}:
        raise NotFound(
            f"There is no pipeline run {run_id} in this project.",
            hint="List them with: stratal pipeline ls",
            reason="no_such_run",
        )
    return run_of(row, counted(c, [run_id])[run_id] if counts else None)


def counted(c: Connection, run_ids: list[int]) -> dict[int, dict[str, int]]:
    """How many steps of each run are in which state."""
    found: dict[int, dict[str, int]] = {run_id: {} for run_id in run_ids}
    for start in range(0, len(run_ids), 500):
        rows = c.execute(
            select(steps.c.run_id, steps.c.state, func.count())
            .where(steps.c.run_id.in_(run_ids[start : start + 500]))
            .group_by(steps.c.run_id, steps.c.state)
        )
        for run_id, state, count in rows:
            found[run_id][state] = count
    return found


def find_step(c: Connection, run_id: int, name: str) -> Step:
    """Raises `NotFound`."""
    row = c.execute(_ONE_STEP, {"of_run": run_id, "named": name}).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Run {run_id} has no step {name[:200]!r}.", reason="no_such_step")
    return step_of(row)


def find_steps(c: Connection, run_id: int, names: Sequence[str]) -> dict[str, Step]:
    """Those of these steps that there are, by name."""
    rows = c.execute(_SOME_STEPS, {"of_run": run_id, "names": list(names)}).mappings()
    return {row["name"]: step_of(row) for row in rows}


def change_step(c: Connection, step: Step, told: Mapping[str, Any]) -> None:
    """Write columns of a step."""
    c.execute(_CHANGE, {"this": step.id, **told})


def change_steps(c: Connection, told: Sequence[Mapping[str, Any]]) -> None:
    """Write columns of many steps, the same of each, in one statement; `this` is a step's id."""
    if told:
        c.execute(_CHANGE, list(told))


def creator(run: Run, workload: str | None = None) -> Principal:
    """Who asked for the run, as the maker of its credentials; with `workload` as that workload, never above editor."""
    kind = run.created_by.partition(":")[0]
    role = Role(run.creator_role)
    if workload is not None and role in {Role.OWNER, Role.ADMIN}:
        role = Role.EDITOR
    return Principal(
        kind=Kind.WORKLOAD if workload is not None or kind not in list(Kind) else Kind(kind),
        id=run.creator_id,
        name=run.creator_name,
        project_id=run.project_id,
        project=run.project,
        role=role,
        workload=workload,
    )
