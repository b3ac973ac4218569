"""``impact``: everything downstream of a table, a snapshot or an object, to the predictions that were answered with it.

The edges are those that doors recorded (who read what, and wrote what after that), that a step was given what a step
before it returned, and that a snapshot carries the rows of the one it was built on. A replay makes nothing that
others see, so replays are left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, select

from stratal.ai.endpoints.tables import endpoint_revisions, endpoints
from stratal.ai.predictions.service import Predictions
from stratal.ai.replays.tables import replays
from stratal.compute.tables import jobs
from stratal.data.lake.model import SEPARATOR, no_such_table, parse_table_name, split_location
from stratal.data.lake.tables import lakes, snapshots, tables
from stratal.data.objects.tables import object_versions
from stratal.data.pipelines.tables import runs as pipeline_runs
from stratal.data.pipelines.tables import steps
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.ledger.tables import accesses

_SOME = 500
_MOST = 100_000
Json = dict[str, Any]
Version = tuple[str, str]
"""A kind of the lineage and a version."""


@dataclass(frozen=True, slots=True)
class AffectedStep:
    run: int
    pipeline: str
    name: str
    state: str


@dataclass(frozen=True, slots=True)
class AffectedTable:
    name: str
    snapshots: Sequence[str]
    """Those that are affected, oldest first."""
    current: bool
    """Is what the table shows now among them?"""


@dataclass(frozen=True, slots=True)
class AffectedEndpoint:
    name: str
    revision: int
    model: str
    active: bool
    predictions: int


@dataclass(slots=True)
class Affected:
    """What is downstream, each kind by name. `jobs` are those that are no steps."""

    of: str
    steps: list[AffectedStep] = field(default_factory=list)
    jobs: list[tuple[int, str]] = field(default_factory=list)
    tables: list[AffectedTable] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    endpoints: list[AffectedEndpoint] = field(default_factory=list)

    @property
    def predictions(self) -> int:
        return sum(one.predictions for one in self.endpoints)


class Impact:
    """Tells what is downstream. Reading it changes nothing."""

    def __init__(self, database: Database, predictions: Predictions) -> None:
        self._database = database
        self._predictions = predictions

    async def of(self, who: Principal, project_id: str, asked: str) -> Affected:
        """What came of ``ns.table``, ``ns.table@snapshot`` or ``s3://bucket/key`` (all of its versions).

        Raises `NotFound`, `Invalid` for what names nothing of these.
        """
        require(who, "tables.read", project_id)
        require(who, "predictions.read", project_id)
        affected, revisions = await self._database.read(lambda c: _Walk(c, project_id).walk(asked))
        counts = await self._predictions.counted(list(revisions))
        affected.endpoints = [
            AffectedEndpoint(name, number, model, active, counts[seq])
            for seq, (name, number, model, active) in revisions.items()
        ]
        return affected


class _Walk:
    """One look at the graph, from a beginning downwards."""

    def __init__(self, c: Connection, project_id: str) -> None:
        self._c = c
        self._project_id = project_id
        self._buckets = set(c.execute(select(lakes.c.bucket)).scalars())
        self._versions: dict[Version, str] = {}
        self._workloads: dict[str, int] = {}
        """Workload to the moment from which on what it wrote counts."""
        self._steps: dict[int, AffectedStep] = {}
        self._after: dict[int, Mapping[str, Sequence[int]]] = {}
        self._models: dict[str, list[Json]] = {}
        """Of projects of dbt, by workload: what each model is made of."""
        self._replaying = self._replays()

    def walk(self, asked: str) -> tuple[Affected, dict[int, tuple[str, int, str, bool]]]:
        begun = self._beginning(asked)
        waiting = dict(begun)
        while waiting:
            self._versions |= waiting
            if len(self._versions) > _MOST:
                raise Invalid(
                    f"More than {_MOST:,} versions are downstream of it.",
                    hint="Ask for one snapshot: ns.table@snapshot",
                    reason="too_much",
                )
            found = dict(self._carried(waiting))
            reached = dict.fromkeys([*self._readers(waiting), *self._within(waiting)])
            for workload in {**reached, **self._models}:
                found |= dict(self._made(workload, {*self._versions.values(), *found.values()}))
            waiting = {version: name for version, name in found.items() if version not in self._versions}
        return self._told(asked, set(begun)), self._revisions()

    # -- beginnings ----------------------------------------------------------------------------

    def _beginning(self, asked: str) -> dict[Version, str]:
        place = split_location(asked)
        if place is not None:
            return self._object(asked, *place)
        text, _, snapshot = asked.partition("@")
        name = parse_table_name(text)
        query = select(tables.c.id).where(
            tables.c.project_id == self._project_id,
            tables.c.namespace == SEPARATOR.join(name.namespace),
            tables.c.name == name.name,
        )
        ids = list(self._c.execute(query).scalars())
        if not ids:
            raise no_such_table(name)
        rows = self._c.execute(select(snapshots).where(snapshots.c.table_id.in_(ids))).all()
        chosen = [row for row in rows if not snapshot or str(row.snapshot_id) == snapshot]
        if snapshot and not chosen:
            raise NotFound(
                f"Table {name} has no snapshot {snapshot[:40]!r}.",
                hint=f"List them with: stratal tables show {name}",
                reason="no_such_snapshot",
            )
        return {("snapshot", f"{row.table_id}@{row.snapshot_id}"): str(name) for row in chosen}

    def _object(self, asked: str, bucket: str, key: str) -> dict[Version, str]:
        query = select(object_versions.c.id).where(
            object_versions.c.project_id == self._project_id,
            object_versions.c.bucket == bucket,
            object_versions.c.key == key.encode(),
        )
        found = list(self._c.execute(query).scalars())
        if not found:
            raise NotFound(f"There is no object {asked[:300]!r} in this project.", reason="no_such_key")
        return {("object", version): f"{bucket}/{key}" for version in found}

    def _replays(self) -> set[str]:
        """The workloads that are replays."""
        job = select(replays.c.by_id).where(replays.c.kind == "job", replays.c.by_id.is_not(None))
        step = (
            select(steps.c.workload)
            .join(pipeline_runs, pipeline_runs.c.id == steps.c.run_id)
            .where(pipeline_runs.c.replay_of.is_not(None), steps.c.workload.is_not(None))
        )
        return {f"job:{id_}" for id_ in self._c.execute(job).scalars()} | set(self._c.execute(step).scalars())

    # -- steps of the walk ---------------------------------------------------------------------

    def _carried(self, versions: Iterable[Version]) -> Iterator[tuple[Version, str]]:
        """Later snapshots that hold rows of these."""
        for kind, version in versions:
            if kind != "snapshot":
                continue
            table_id, _, snapshot_id = version.partition("@")
            here = (snapshots.c.table_id == table_id, snapshots.c.parent_id == int(snapshot_id))
            for row in self._c.execute(select(snapshots).where(*here)):
                summary = orjson.loads(row.summary)
                total, added = summary.get("total-records"), summary.get("added-records", "0")
                if row.workload in self._replaying or (total is not None and int(total) <= int(added)):
                    continue  # nothing of what was before is in it
                yield ("snapshot", f"{table_id}@{row.snapshot_id}"), self._versions[kind, version]

    def _readers(self, versions: Iterable[Version]) -> list[str]:
        """The workloads that read one of these and were not known to."""
        wanted: list[Version] = list(versions)
        wanted += [("object", found) for found in self._manifest_lists(wanted)]
        new: dict[str, int] = {}
        for kind in {kind for kind, _ in wanted}:
            for some in _parts([version for of, version in wanted if of == kind]):
                query = select(accesses.c.workload, accesses.c.first_at).where(
                    accesses.c.project_id == self._project_id,
                    accesses.c.mode == "read",
                    accesses.c.kind == kind,
                    accesses.c.version.in_(some),
                )
                for row in self._c.execute(query):
                    new[row.workload] = min(row.first_at, new.get(row.workload, row.first_at))
        return self._reached(new)

    def _within(self, versions: Mapping[Version, str]) -> list[str]:
        """The projects of dbt that made one of these and, within the same step, made others of it."""
        new: dict[str, int] = {}
        for some in _parts([version for kind, version in versions if kind == "snapshot"]):
            query = (
                select(accesses.c.workload, accesses.c.name, steps.c.models)
                .join(steps, steps.c.workload == accesses.c.workload)
                .where(
                    accesses.c.project_id == self._project_id,
                    accesses.c.mode == "write",
                    accesses.c.kind == "snapshot",
                    accesses.c.version.in_(some),
                    steps.c.models.is_not(None),
                )
            )
            for row in self._c.execute(query):
                if _of_models(orjson.loads(row.models), {row.name}):
                    new[row.workload] = 0
        return self._reached(new)

    def _reached(self, new: dict[str, int]) -> list[str]:
        """Note workloads as affected, with the steps that took their results or were given them; those that are new."""
        fresh = {
            workload: at
            for workload, at in new.items()
            if workload not in self._replaying and at < self._workloads.get(workload, at + 1)
        }
        self._workloads |= fresh
        found = list(fresh)
        waiting = [row.id for row in self._step_rows(steps.c.workload, found)]
        while waiting:
            rows = self._step_rows(steps.c.id, waiting)
            waiting = []
            for row in rows:
                if row.id in self._steps:
                    continue
                self._steps[row.id] = AffectedStep(row.run_id, row.pipeline, row.name, row.state)
                if row.models and row.workload is not None:
                    self._models[row.workload] = orjson.loads(row.models)
                if row.workload is not None and row.workload not in self._workloads:
                    self._workloads[row.workload] = 0
                    found.append(row.workload)
                waiting += [other.id for other in self._step_rows(steps.c.taken_from, [row.id])]
                waiting += self._given(row.run_id).get(row.name, ())
        return found

    def _given(self, run_id: int) -> Mapping[str, Sequence[int]]:
        """The steps of a run by what they were given: of each name of a step the ids of those after it."""
        if run_id not in self._after:
            after: dict[str, list[int]] = {}
            for row in self._step_rows(steps.c.run_id, [run_id]):
                for name in orjson.loads(row.after):
                    after.setdefault(name, []).append(row.id)
            self._after[run_id] = after
        return self._after[run_id]

    def _step_rows(self, column: ColumnElement[Any], values: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for some in _parts(values):
            query = (
                select(
                    steps.c.id, steps.c.run_id, steps.c.name, steps.c.state, steps.c.after, steps.c.workload,
                    steps.c.models, pipeline_runs.c.pipeline,
                )
                .join(pipeline_runs, pipeline_runs.c.id == steps.c.run_id)
                .where(
                    column.in_(some),
                    steps.c.project_id == self._project_id,
                    pipeline_runs.c.replay_of.is_(None),
                )
                .order_by(steps.c.id)
            )  # fmt: skip
            found += self._c.execute(query).all()
        return found

    def _manifest_lists(self, versions: Iterable[Version]) -> Iterator[str]:
        """The objects that an Iceberg client reads when it reads these snapshots."""
        for kind, version in versions:
            if kind == "snapshot":
                table_id, _, snapshot_id = version.partition("@")
                here = (snapshots.c.table_id == table_id, snapshots.c.snapshot_id == int(snapshot_id))
                found = self._c.execute(select(snapshots.c.manifest_list_version).where(*here)).scalar()
                if found is not None:
                    yield found

    def _made(self, workload: str, affected: set[str]) -> Iterator[tuple[Version, str]]:
        """What it wrote; of a project of dbt only what its models made of the tables that are `affected`."""
        kept = _of_models(self._models[workload], affected) if workload in self._models else None
        query = select(accesses).where(
            accesses.c.workload == workload,
            accesses.c.mode == "write",
            accesses.c.first_at >= self._workloads[workload],
        )
        for row in self._c.execute(query):
            if kept is not None and row.kind == "snapshot" and row.name not in kept:
                continue
            if row.kind != "object" or row.name.partition("/")[0] not in self._buckets:
                yield (row.kind, row.version), row.name

    # -- telling -------------------------------------------------------------------------------

    def _told(self, asked: str, begun: set[Version]) -> Affected:
        affected = Affected(asked, steps=[self._steps[id_] for id_ in sorted(self._steps)])
        found = {version: name for version, name in self._versions.items() if version not in begun}
        affected.objects = sorted({f"s3://{name}" for (kind, _), name in found.items() if kind == "object"})
        affected.runs = sorted((version, name) for (kind, version), name in found.items() if kind == "run")
        affected.models = sorted({name for (kind, _), name in found.items() if kind == "model"})
        affected.tables = self._tables([version for kind, version in found if kind == "snapshot"])
        plain = {int(w[4:]) for w in self._workloads if w.startswith("job:") and w[4:].isdigit()}
        of_steps = select(steps.c.job_id).where(steps.c.job_id.is_not(None))
        query = select(jobs.c.id, jobs.c.name).where(
            jobs.c.project_id == self._project_id, jobs.c.id.in_(plain), jobs.c.id.not_in(of_steps)
        )
        affected.jobs = [(row.id, row.name) for row in self._c.execute(query.order_by(jobs.c.id))]
        return affected

    def _tables(self, versions: Sequence[str]) -> list[AffectedTable]:
        by_table: dict[str, list[int]] = {}
        for version in versions:
            table_id, _, snapshot_id = version.partition("@")
            by_table.setdefault(table_id, []).append(int(snapshot_id))
        found: list[AffectedTable] = []
        for table_id, ids in by_table.items():
            row = self._c.execute(select(tables).where(tables.c.id == table_id)).one()
            order = select(snapshots.c.snapshot_id).where(
                snapshots.c.table_id == table_id, snapshots.c.snapshot_id.in_(ids)
            )
            ordered = self._c.execute(order.order_by(snapshots.c.committed_at)).scalars()
            name = ".".join([*row.namespace.split(SEPARATOR), row.name])
            current = row.dropped_at is None and row.snapshot_id in ids
            found.append(AffectedTable(name, [str(id_) for id_ in ordered], current))
        return sorted(found, key=lambda table: table.name)

    def _revisions(self) -> dict[int, tuple[str, int, str, bool]]:
        """seq → endpoint, revision, model version, and whether it answers now."""
        ids = [version for kind, version in self._versions if kind == "model"]
        found: dict[int, tuple[str, int, str, bool]] = {}
        for some in _parts(ids):
            query = (
                select(
                    endpoint_revisions.c.seq, endpoint_revisions.c.number, endpoint_revisions.c.model_name,
                    endpoint_revisions.c.model_version, endpoints.c.name, endpoints.c.active_revision,
                    endpoints.c.shares, endpoints.c.removed_at,
                )
                .join(endpoints, endpoints.c.id == endpoint_revisions.c.endpoint_id)
                .where(
                    endpoint_revisions.c.model_version_id.in_(some), endpoints.c.project_id == self._project_id
                )
                .order_by(endpoint_revisions.c.seq)
            )  # fmt: skip
            for row in self._c.execute(query):
                answers = row.seq == row.active_revision or str(row.seq) in orjson.loads(row.shares)
                model = f"{row.model_name}/{row.model_version}"
                found[row.seq] = (row.name, row.number, model, answers and row.removed_at is None)
        return found


def _of_models(models: Sequence[Json], affected: set[str]) -> set[str]:
    """The tables of the models that are made of these, of what these made, and so on."""
    found = set[str]()
    reached = set(affected)
    while True:
        new = {
            one["table"] for one in models if one["table"] and not reached.isdisjoint(one["reads"])
        } - found
        if not new:
            return found
        found |= new
        reached |= new


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _SOME):
        yield values[start : start + _SOME]
