"""May a step take what it left before? And when it must run: why?

A step's *key* says what is to be done: code, arguments, environment. It names tables, not their snapshots. A
result with the same key may be taken when besides nothing that it came from, and nothing that it left, has changed:

- each reference among its arguments is at the same snapshot or version as then,
- each table and object that its credential was *seen to read* (lineage, so also what the code reads
  without saying so) still is as it was read,
- each table that it wrote still has what it wrote: not dropped, rolled back or replaced by others.

What a step reads from elsewhere (the network, the clock) is not seen. Such a step says ``cache=False``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, select

from stratal.data.lake.tables import snapshots, tables
from stratal.data.objects.tables import object_versions
from stratal.data.pipelines.model import Json, StepState, moments, without_moments
from stratal.data.pipelines.tables import runs, steps

_CANDIDATES = 5
_FURTHEST = 10_000

# Built once: building costs more than running, and every step asks these.
_SAME_KEY = (
    select(steps)
    .join(runs, runs.c.id == steps.c.run_id)
    .where(
        steps.c.project_id == bindparam("project"),
        steps.c.key == bindparam("same"),
        steps.c.state == StepState.SUCCEEDED.value,
        runs.c.replay_of.is_(None),
    )
    .order_by(steps.c.id.desc())
    .limit(_CANDIDATES)
)
_LAST_GOOD = (
    select(steps.c.code, steps.c.arguments, steps.c.environment)
    .join(runs, runs.c.id == steps.c.run_id)
    .where(
        steps.c.project_id == bindparam("project"),
        steps.c.name == bindparam("named"),
        runs.c.pipeline == bindparam("of_pipeline"),
        runs.c.replay_of.is_(None),
        steps.c.state.in_([StepState.SUCCEEDED.value, StepState.CACHED.value]),
    )
    .order_by(steps.c.id.desc())
    .limit(1)
)


def reusable(c: Connection, project_id: str, key: str, arguments: Json) -> tuple[Row[Any] | None, str]:
    """A step whose result may be taken, or None and what stands against the newest (""; there is none)."""
    against = ""
    for candidate in c.execute(_SAME_KEY, {"project": project_id, "same": key}):
        problem = _stale(c, candidate, arguments)
        if problem is None:
            return candidate, ""
        against = against or problem
    return None, against


def difference(
    c: Connection, project_id: str, pipeline: str, step: str, *, code: str, arguments: Json, environment: str
) -> str:
    """Why a step with a key of its own has to run: what is other than the last time it went well."""
    last = c.execute(_LAST_GOOD, {"project": project_id, "named": step, "of_pipeline": pipeline}).first()
    if last is None:
        return "it has not run before"
    changed = []
    if last.code != code:
        changed.append("its code changed")
    before = without_moments(orjson.loads(last.arguments))
    now = without_moments(arguments)
    if before != now:
        changed.append(f"its arguments changed ({_names_of_changed(before, now)})")
    if last.environment != environment:
        changed.append("its environment changed")
    return ", ".join(changed) or "its last result is not kept any more"


def _names_of_changed(before: Json, now: Json) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "their form"
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _stale(c: Connection, candidate: Row[Any], arguments: Json) -> str | None:
    then = sorted(moments(orjson.loads(candidate.arguments)), key=str)
    now = sorted(moments(arguments), key=str)
    for (name, before), (_, present) in zip(then, now, strict=False):
        if before != present:
            return f"{name} has changed"
    pinned = set(now)
    writes = orjson.loads(candidate.writes or "[]")
    written = {write["table_id"] for write in writes}
    for read in orjson.loads(candidate.reads or "[]"):
        problem = _read_problem(c, read, pinned, written)
        if problem:
            return problem
    for write in writes:
        problem = _write_problem(c, write)
        if problem:
            return problem
    return None


def _read_problem(
    c: Connection, read: Mapping[str, Any], pinned: set[tuple[str, str | None]], written: set[str]
) -> str | None:
    if read["kind"] == "object":
        found = c.execute(
            select(object_versions.c.ended_at).where(object_versions.c.id == read["version"])
        ).first()
        return None if found is not None and found.ended_at is None else f"{read['name']} has changed"
    table_id, _, snapshot_id = read["version"].partition("@")
    if (read["name"], snapshot_id) in pinned or table_id in written:
        return None  # of a table that it wrote itself, what counts is that this is still there
    row = c.execute(select(tables.c.snapshot_id, tables.c.dropped_at).where(tables.c.id == table_id)).first()
    if row is None or row.dropped_at is not None:
        return f"{read['name']} was dropped"
    return None if str(row.snapshot_id) == snapshot_id else f"{read['name']} has changed"


def _write_problem(c: Connection, write: Mapping[str, Any]) -> str | None:
    name = write["table"]
    row = c.execute(
        select(tables.c.snapshot_id, tables.c.dropped_at).where(tables.c.id == write["table_id"])
    ).first()
    if row is None or row.dropped_at is not None:
        return f"{name}, which it writes, was dropped"
    wanted = int(write["snapshot"])
    if row.snapshot_id == wanted:
        return None
    if write["mode"] == "replace":
        return f"{name}, which it writes, was changed by others"
    return None if _descends(c, write["table_id"], row.snapshot_id, wanted) else f"{name} was rolled back"


def _descends(c: Connection, table_id: str, from_: int | None, wanted: int) -> bool:
    """Is `wanted` among the snapshots that the snapshot `from_` was built on?"""
    rows = c.execute(
        select(snapshots.c.snapshot_id, snapshots.c.parent_id).where(snapshots.c.table_id == table_id)
    )
    parents = {row.snapshot_id: row.parent_id for row in rows}
    for _ in range(_FURTHEST):
        if from_ is None or from_ == wanted:
            return from_ == wanted
        from_ = parents.get(from_)
    return False


def seen_reads(accesses: Sequence[Any], written: set[str]) -> list[dict[str, str]]:
    """What a step's credential read, without what it had written itself: rows of the lineage as kept with the step."""
    return [
        {"kind": row.kind, "version": row.version, "name": row.name}
        for row in accesses
        if row.kind in {"snapshot", "object"} and row.version not in written
    ]
