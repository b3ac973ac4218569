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
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, bindparam, func, select

from stratal.data.lake.tables import snapshots, tables
from stratal.data.objects.tables import object_versions
from stratal.data.pipelines.model import Json, Run, StepState, in_parts, moments, without_moments
from stratal.data.pipelines.tables import runs, steps

_CANDIDATES = 5
_FURTHEST = 10_000
_LOOKS = (1, 4, 45)
"""How many runs are looked at, newest first, for when a step last went well: at once, then further back."""

# Built once: building costs more than running, and every page of the journal asks these.
_newest = (
    select(
        steps.c.id,
        func.row_number().over(partition_by=steps.c.key, order_by=steps.c.id.desc()).label("place"),
    )
    .join(runs, runs.c.id == steps.c.run_id)
    .where(
        steps.c.project_id == bindparam("project"),
        steps.c.key.in_(bindparam("same", expanding=True)),
        steps.c.state == StepState.SUCCEEDED.value,
        runs.c.replay_of.is_(None),
    )
    .subquery()
)
_SAME_KEY: Select[Any] = (
    select(
        *(steps.c.id, steps.c.run_id, steps.c.name, steps.c.key, steps.c.arguments, steps.c.output),
        *(steps.c.reads, steps.c.writes),
    )
    .join(_newest, _newest.c.id == steps.c.id)
    .where(_newest.c.place <= _CANDIDATES)
    .order_by(steps.c.id.desc())
)
_ALIKE: Select[Any] = (
    select(
        *(steps.c.id, steps.c.run_id, steps.c.name, steps.c.arguments, steps.c.output),
        *(steps.c.reads, steps.c.writes),
    )
    .join(runs, runs.c.id == steps.c.run_id)
    .where(
        steps.c.given == bindparam("same"),
        steps.c.step == bindparam("called"),
        steps.c.project_id == bindparam("project"),
        steps.c.code == bindparam("with_code"),
        steps.c.environment == bindparam("with_environment"),
        steps.c.state == StepState.SUCCEEDED.value,
        steps.c.run_id != bindparam("but_run"),
        runs.c.pipeline == bindparam("of_pipeline"),
        runs.c.replay_of.is_(None),
    )
    .order_by(steps.c.id.desc())
    .limit(bindparam("most"))
)
_TAKEN = select(steps.c.taken_from).where(
    steps.c.taken_from.in_(bindparam("those", expanding=True)), steps.c.run_id == bindparam("of_run")
)
_RUNS = (
    select(runs.c.id)
    .where(
        runs.c.project_id == bindparam("project"),
        runs.c.pipeline == bindparam("of_pipeline"),
        runs.c.replay_of.is_(None),
    )
    .order_by(runs.c.id.desc())
    .limit(sum(_LOOKS))
)
_GOOD_IN: Select[Any] = (
    select(steps.c.name, steps.c.code, steps.c.arguments, steps.c.environment)
    .where(
        steps.c.run_id.in_(bindparam("of_runs", expanding=True)),
        steps.c.name.in_(bindparam("named", expanding=True)),
        steps.c.state.in_([StepState.SUCCEEDED.value, StepState.CACHED.value]),
    )
    .order_by(steps.c.run_id.desc())
)
_TABLES_NOW: Select[Any] = select(tables.c.id, tables.c.snapshot_id, tables.c.dropped_at).where(
    tables.c.id.in_(bindparam("those", expanding=True))
)
_OBJECTS_NOW = select(object_versions.c.id).where(
    object_versions.c.id.in_(bindparam("those", expanding=True)), object_versions.c.ended_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A step whose inputs are there."""

    name: str
    code: str
    key: str
    arguments: Json
    given: str
    """A digest of the arguments, whatever moments of tables and objects they name."""
    environment: str


def reusable(
    c: Connection, project_id: str, asked: Sequence[Asked]
) -> dict[str, tuple[Row[Any] | None, str]]:
    """Of each of these, by name: an earlier step whose result may be taken, or None and what stands against the newest
    ("": there is none). However many they are, they are looked up together."""
    candidates: dict[str, list[Row[Any]]] = {}
    keys = sorted({one.key for one in asked})
    for some in in_parts(keys):
        for row in c.execute(_SAME_KEY, {"project": project_id, "same": some}):
            candidates.setdefault(row.key, []).append(row)
    now = _Now.of(c, [row for rows in candidates.values() for row in rows])
    found: dict[str, tuple[Row[Any] | None, str]] = {}
    for one in asked:
        against = ""
        for candidate in candidates.get(one.key, ()):
            problem = _stale(c, now, candidate, one.arguments)
            if problem is None:
                found[one.name] = candidate, ""
                break
            against = against or problem
        else:
            found[one.name] = None, against
    return found


def alike(
    c: Connection, run: Run, called: Mapping[str, str], asked: Sequence[Asked]
) -> dict[str, tuple[Row[Any], str]]:
    """Of steps that were never done under their names, as `reusable` has it: what was the same under another one. The third
    of a fan-out is the second when the first is gone, and a day is the same day whichever run made it. `called` has their
    steps' names. What another step of the run took is left to that one: two calls that are alike are done twice.
    """
    found: dict[str, tuple[Row[Any], str]] = {}
    wanted: dict[tuple[str, str, str, str], list[Asked]] = {}
    for one in asked:
        wanted.setdefault((called[one.name], one.code, one.environment, one.given), []).append(one)
    place = {"project": run.project_id, "of_pipeline": run.pipeline, "but_run": run.id}
    candidates: dict[tuple[str, str, str, str], list[Row[Any]]] = {}
    for what, waiting in wanted.items():
        step, code, environment, given = what
        kind = {"called": step, "with_code": code, "with_environment": environment, "same": given}
        rows = c.execute(_ALIKE, {**place, **kind, "most": _CANDIDATES + len(waiting)}).all()
        if rows:
            candidates[what] = list(rows)
    every = [row for rows in candidates.values() for row in rows]
    taken: set[int] = set()
    for some in in_parts([row.id for row in every]):
        taken |= set(c.execute(_TAKEN, {"those": some, "of_run": run.id}).scalars())
    now = _Now.of(c, every)
    for what, rows in candidates.items():
        waiting = wanted[what]
        for row in rows:
            if waiting and row.id not in taken and _stale(c, now, row, waiting[0].arguments) is None:
                found[waiting.pop(0).name] = row, ""
    return found


def differences(c: Connection, project_id: str, pipeline: str, asked: Sequence[Asked]) -> dict[str, str]:
    """Why steps with keys of their own have to run, by name: what is other than the last time that each went well."""
    told: dict[str, str] = {}
    missing = {one.name: one for one in asked}
    looked = list(c.execute(_RUNS, {"project": project_id, "of_pipeline": pipeline}).scalars())
    for many in _LOOKS:
        some, looked = looked[:many], looked[many:]
        if not missing or not some:
            break
        for names in in_parts(list(missing)):
            for last in c.execute(_GOOD_IN, {"of_runs": some, "named": names}):
                one = missing.pop(last.name, None)
                if one is not None:
                    told[one.name] = _difference(last, one)
    return told | dict.fromkeys(missing, "it has not run before")


def _difference(last: Row[Any], one: Asked) -> str:
    changed = []
    if last.code != one.code:
        changed.append("its code changed")
    before = without_moments(orjson.loads(last.arguments))
    now = without_moments(one.arguments)
    if before != now:
        changed.append(f"its arguments changed ({_names_of_changed(before, now)})")
    if last.environment != one.environment:
        changed.append("its environment changed")
    return ", ".join(changed) or "its last result is not kept any more"


@dataclass(frozen=True, slots=True)
class _Now:
    """How the tables and objects stand that earlier steps read or wrote."""

    tables: Mapping[str, Row[Any]]
    objects: set[str]

    @classmethod
    def of(cls, c: Connection, candidates: Sequence[Row[Any]]) -> "_Now":
        wanted_tables, wanted_objects = set(), set()
        for row in candidates:
            for read in _listed(row.reads):
                if read["kind"] == "object":
                    wanted_objects.add(read["version"])
                else:
                    wanted_tables.add(read["version"].partition("@")[0])
            wanted_tables |= {write["table_id"] for write in _listed(row.writes)}
        found: dict[str, Row[Any]] = {}
        for some in in_parts(sorted(wanted_tables)):
            found |= {row.id: row for row in c.execute(_TABLES_NOW, {"those": some})}
        living: set[str] = set()
        for some in in_parts(sorted(wanted_objects)):
            living |= set(c.execute(_OBJECTS_NOW, {"those": some}).scalars())
        return cls(found, living)


def _listed(text: str | None) -> list[dict[str, Any]]:
    return list(orjson.loads(text)) if text else []


def _names_of_changed(before: Json, now: Json) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "their form"
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _stale(c: Connection, now: _Now, candidate: Row[Any], arguments: Json) -> str | None:
    then = sorted(moments(orjson.loads(candidate.arguments)), key=str)
    present = sorted(moments(arguments), key=str)
    for (name, before), (_, after) in zip(then, present, strict=False):
        if before != after:
            return f"{name} has changed"
    pinned = set(present)
    writes = _listed(candidate.writes)
    written = {write["table_id"] for write in writes}
    for read in _listed(candidate.reads):
        problem = _read_problem(now, read, pinned, written)
        if problem:
            return problem
    for write in writes:
        problem = _write_problem(c, now, write)
        if problem:
            return problem
    return None


def _read_problem(
    now: _Now, read: Mapping[str, Any], pinned: set[tuple[str, str | None]], written: set[str]
) -> str | None:
    if read["kind"] == "object":
        return None if read["version"] in now.objects else f"{read['name']} has changed"
    table_id, _, snapshot_id = read["version"].partition("@")
    if (read["name"], snapshot_id) in pinned or table_id in written:
        return None  # of a table that it wrote itself, what counts is that this is still there
    row = now.tables.get(table_id)
    if row is None or row.dropped_at is not None:
        return f"{read['name']} was dropped"
    return None if str(row.snapshot_id) == snapshot_id else f"{read['name']} has changed"


def _write_problem(c: Connection, now: _Now, write: Mapping[str, Any]) -> str | None:
    name = write["table"]
    row = now.tables.get(write["table_id"])
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
