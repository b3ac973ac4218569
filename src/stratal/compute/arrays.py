"""Arrays as rows: jobs asked for together that differ in their index alone."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from stratal.compute.model import Array, JobState
from stratal.compute.tables import arrays, jobs
from stratal.kernel.errors import NotFound

_BEYOND = 2**62


def insert_members(
    c: Connection, values: dict[str, Any], indices: Sequence[int], parallel: int | None
) -> list[dict[str, Any]]:
    """Make the array's row; returns the rows of its jobs, each `values` with an index."""
    made = {name: values[name] for name in ("project_id", "name", "created_by", "queued_at")}
    row = insert(arrays).values(**made, size=len(indices), parallel=parallel).returning(arrays.c.id)
    array_id = c.execute(row).scalar_one()
    return [{**values, "array_id": array_id, "array_index": index} for index in indices]


def find_array(c: Connection, project_id: str, array_id: int) -> Array:
    """Raises `NotFound`, also for an array of another project."""
    query = select(arrays).where(arrays.c.project_id == project_id, arrays.c.id == array_id)
    row = c.execute(query).one_or_none() if 0 < array_id < _BEYOND else None
    if row is None:
        raise NotFound(f"There is no array a{array_id} in this project.", reason="no_such_array")
    counted = select(jobs.c.state, func.count()).where(jobs.c.array_id == array_id).group_by(jobs.c.state)
    states = {JobState(state): count for state, count in c.execute(counted)}
    return Array(row.id, row.name, row.size, row.parallel, row.created_by, row.queued_at, states)
